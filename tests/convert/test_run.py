"""A whole conversion: the same bytes however it ran, and every source counted exactly once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from irv2data import Dataset, storage
from irv2data.convert import ConvertConfig, convert, run, survey, writer
from irv2data.convert.verify import verify
from irv2data.errors import DatasetError, InterruptedRunError, SourceError, UsageError

SHARDS = ConvertConfig(splits=(("train", 0.6), ("validation", 0.4)), shard_mib=0.003)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def trouble(tmp_path, small_source, picture, saved) -> Path:
    """`small_source` with every kind of trouble: 24 sound sources and 2 copies among 36."""
    root = tmp_path / "trouble"
    for path in small_source.rglob("*.*g"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    sound = saved(picture(40, 60, 99))
    files = {
        "stray.jpg": sound,
        "ant/empty.jpg": b"",
        "ant/text.jpg": b"hello",
        "ant/photograph.psd": b"8BPS\x00\x01" + bytes(40),
        "ant/cut.jpg": sound[: len(sound) // 2],
        "bee/corrupt.jpg": b"\xff\xd8\xff" + bytes(99),
        "bee/large.png": saved(picture(101, 100), "PNG"),
        "bee/hidden_image": b"GIF89a......",
        "bee/readme.txt": b"no image",
        "bee/.hidden.jpg": sound,
        "cow/copy.jpg": (root / "ant" / "00.jpg").read_bytes(),
        "cow/again/copy.jpg": (root / "ant" / "00.jpg").read_bytes(),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    with open(os.fsencode(root) + b"/ant/\xff.jpg", "wb") as file:
        file.write(b"no image")
    os.mkfifo(root / "cow" / "pipe.jpg")
    (root / "cow" / "folder.jpg").mkdir()
    os.symlink(root / "stray.jpg", root / "cow" / "link.jpg")
    return root


REJECTED = {
    "stray.jpg": "no_label",
    "ant/empty.jpg": "not_an_image",
    "ant/text.jpg": "not_an_image",
    "ant/photograph.psd": "unsupported",
    "ant/cut.jpg": "truncated",
    "ant/\udcff.jpg": "not_an_image",
    "bee/corrupt.jpg": "corrupt",
    "bee/large.png": "too_large",
    "bee/hidden_image": "corrupt",
    "cow/pipe.jpg": "unreadable",
}


@pytest.mark.parametrize(("keep", "dropped"), [("keep", 0), ("drop", 2)])
def test_every_source_is_a_record_a_reject_or_a_dropped_copy(serial, tmp_path, trouble, records_of, keep, dropped):
    config = ConvertConfig(duplicates=keep, max_megapixels=0.01, max_bad_fraction=0.2)
    report = convert(trouble, tmp_path / "out", config)
    records = [record for split in records_of(tmp_path / "out").values() for record in split]
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {reject["path"]: reject["code"] for reject in rejects} == REJECTED
    assert [os.fsencode(reject["path"]) for reject in rejects] == sorted(map(os.fsencode, REJECTED))
    assert (report.sources, report.rejected, report.dropped) == (36, 10, dropped)
    assert report.sources == report.rejected + report.dropped + sum(s["records"] for s in report.splits.values())
    assert report.ignored == {"(hidden)": 1, "(symbolic link)": 1, ".txt": 1}
    assert report.over_budget
    copies = {b"cow/copy.jpg", b"cow/again/copy.jpg"}
    assert copies.isdisjoint(r.filename for r in records) == (keep == "drop")
    assert len({r.filename for r in records}) == len(records) == 26 - dropped
    assert Dataset(tmp_path / "out").source["rejected"] == 10
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_the_report_counts_what_the_folder_holds(serial, tmp_path, small_source, records_of):
    report = convert(small_source, tmp_path / "out", SHARDS)
    dataset = Dataset(tmp_path / "out")
    assert report.splits == {
        name: {"records": s.num_records, "shards": len(s.shards), "bytes": sum(os.path.getsize(p) for p in s.paths)}
        for name, s in dataset.splits.items()
    }
    assert all(split["shards"] > 1 for split in report.splits.values())
    assert sum(split["records"] for split in report.splits.values()) == report.sources == 24
    assert (report.classes, report.rejected, report.over_budget) == (3, 0, False)
    for name, records in records_of(tmp_path / "out").items():
        assert [r.label for r in records] == dataset.split(name).column("label").tolist()
        assert [dataset.classes[r.label] for r in records] == [r.filename.decode().split("/")[0] for r in records]


def test_any_number_of_workers_gives_the_same_bytes_in_every_file(tmp_path, trouble, monkeypatch, request):
    config = ConvertConfig(shard_mib=0.003, duplicates="drop", max_short_side=30, max_megapixels=0.01)
    folders = [tmp_path / str(workers) / "out" for workers in range(4)]
    for workers, folder in enumerate(folders[1:], start=1):
        folder.parent.mkdir()
        convert(trouble, folder, config, workers=workers)
    request.getfixturevalue("serial")
    folders[0].parent.mkdir()
    convert(trouble, folders[0], config)
    expected = hashes(folders[0])
    assert len([name for name in expected if name.endswith(".tfrecord")]) > 3
    assert {"dataset.json", "rejects.jsonl", "index/train/label.npy", "features.json"} <= expected.keys()
    assert not [name for name in expected if name.startswith(".")]
    for folder in folders[1:]:
        assert hashes(folder) == expected


def test_the_seed_decides_the_split_and_a_new_file_moves_no_other(serial, tmp_path, trouble, small_source, records_of):
    def split_of(source, name, seed):
        convert(source, tmp_path / name, ConvertConfig(splits=(("a", 0.5), ("b", 0.5)), seed=seed))
        return {r.filename: split for split, records in records_of(tmp_path / name).items() for r in records}

    first, second = split_of(small_source, "1", 0), split_of(small_source, "2", 1)
    assert first.keys() == second.keys()
    assert first != second
    more = split_of(trouble, "3", 0)
    assert first == {name: more[name] for name in first}
    assert more[b"cow/copy.jpg"] == more[b"ant/00.jpg"]


def test_split_folders_decide_the_split(serial, tmp_path, picture):
    for name in ("train/a/1", "train/b/2", "test/b/3"):
        (tmp_path / "source" / name).parent.mkdir(parents=True)
        picture(9, 9, int(name[-1])).save(tmp_path / "source" / f"{name}.png")
    report = convert(tmp_path / "source", tmp_path / "out", ConvertConfig(splits="folders"))
    assert {name: split["records"] for name, split in report.splits.items()} == {"test": 1, "train": 2}
    dataset = Dataset(tmp_path / "out")
    assert (dataset.classes, dataset.split("test").column("label").tolist()) == (("a", "b"), [1])


@pytest.mark.parametrize(("fraction", "over"), [(0.27, True), (0.28, False), (0, True), (1, False)])
def test_the_budget_is_a_share_of_the_sources(serial, tmp_path, trouble, fraction, over):
    report = convert(trouble, tmp_path / "out", ConvertConfig(max_bad_fraction=fraction, max_megapixels=0.01))
    assert (report.rejected, report.over_budget) == (10, over)


def test_on_error_fail_stops_at_the_first_and_leaves_no_dataset(serial, tmp_path, trouble):
    (trouble / "cow" / "pipe.jpg").unlink()
    with pytest.raises(SourceError, match=r"stray\.jpg: no_label: lies in no class folder; --on_error=reject"):
        convert(trouble, tmp_path / "out", ConvertConfig(on_error="fail"))
    assert not (tmp_path / "out").exists()
    (trouble / "stray.jpg").unlink()
    with pytest.raises(SourceError, match=r"; --on_error=reject goes on$"):
        convert(trouble, tmp_path / "out", ConvertConfig(on_error="fail"))
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_a_dry_run_writes_nothing(serial, tmp_path, trouble):
    report = convert(trouble, tmp_path / "out", ConvertConfig(duplicates="drop"), dry_run=True)
    assert not (tmp_path / "out").exists()
    assert report.dry_run
    # Only what can be known without decoding is rejected: the stray file and the pipe.
    assert (report.sources, report.rejected, report.dropped) == (36, 2, 2)
    assert sum(split["records"] for split in report.splits.values()) == 32


def test_a_file_that_goes_or_changes_during_the_run_is_a_reject(serial, tmp_path, small_source, trouble, monkeypatch):
    real = survey.hash_sources

    def lose(listing, **rest):
        (trouble / "ant" / "03.jpg").unlink()  # after the listing
        hashed = real(listing, **rest)
        (trouble / "ant" / "06.jpg").unlink()  # after hashing
        (trouble / "ant" / "09.jpg").write_bytes(b"new")
        return hashed

    monkeypatch.setattr(survey, "hash_sources", lose)
    report = convert(trouble, tmp_path / "out", ConvertConfig(max_megapixels=0.01))
    rejects = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    found = {reject["path"]: reject["code"] for reject in rejects}
    changed = {"ant/03.jpg": "unreadable", "ant/06.jpg": "unreadable", "ant/09.jpg": "changed_while_reading"}
    assert found == {**REJECTED, **changed}
    assert report.sources == report.rejected + sum(s["records"] for s in report.splits.values())


@pytest.fixture
def interrupted(serial, tmp_path, small_source, monkeypatch):
    """A conversion of `small_source` into `tmp_path/out` stopped in its third shard, and what is left."""
    source = tmp_path / "source"
    for path in small_source.rglob("*.*g"):
        (source / path.parent.name).mkdir(parents=True, exist_ok=True)
        (source / path.parent.name / path.name).write_bytes(path.read_bytes())
    written = []

    def stop(task, marker):
        if len(written) == 2:
            with storage.atomic_file(task.shard) as file:
                file.write(b"half")
                raise KeyboardInterrupt
        written.append(Path(task.shard))
        return writer.write_shard(task, marker)

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_shard", stop)
        with pytest.raises(InterruptedRunError, match="interrupted; finished shards are kept, go on with --resume"):
            convert(source, tmp_path / "out", SHARDS)
    return source, written


def test_resume_keeps_finished_shards_and_gives_the_same_bytes(interrupted, tmp_path, monkeypatch):
    source, written = interrupted
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match=r"not a dataset, it has no dataset\.json.*--resume"):
        Dataset(out)
    assert sorted(path.name for path in out.glob("*")) == sorted([".convert", *(path.name for path in written)])
    again = []
    with monkeypatch.context() as patch:
        patch.setattr(
            run, "write_shard", lambda task, marker: again.append(Path(task.shard)) or writer.write_shard(task, marker)
        )
        convert(source, out, SHARDS, resume=True)
    assert set(again).isdisjoint(written)
    (tmp_path / "fresh").mkdir()
    convert(source, tmp_path / "fresh" / "out", SHARDS)
    assert hashes(out) == hashes(tmp_path / "fresh" / "out")


@pytest.mark.parametrize("change", ["content", "new file", "options", "class name"])
def test_resume_refuses_when_anything_changed(interrupted, tmp_path, change):
    source, _ = interrupted
    config = SHARDS
    if change == "content":
        (source / "ant" / "00.jpg").write_bytes((source / "ant" / "03.jpg").read_bytes())
    elif change == "new file":
        (source / "ant" / "new.jpg").write_bytes((source / "ant" / "03.jpg").read_bytes())
    elif change == "options":
        config = ConvertConfig(splits=SHARDS.splits, shard_mib=SHARDS.shard_mib, quality=50)
    else:
        (source / "ant").rename(source / "wasp")
    before = hashes(tmp_path / "out")
    with pytest.raises(DatasetError, match="sources or options changed since the conversion began; --overwrite starts"):
        convert(source, tmp_path / "out", config, resume=True)
    assert hashes(tmp_path / "out") == before
    convert(source, tmp_path / "out", config, overwrite=True)
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_a_finished_shard_that_was_cut_is_written_again(interrupted, tmp_path):
    source, written = interrupted
    written[0].write_bytes(written[0].read_bytes()[:-1])
    convert(source, tmp_path / "out", SHARDS, resume=True)
    assert verify(str(tmp_path / "out"), deep=True) == []


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"splits": (("a", 0.5), ("b", 0.4))}, "split fractions must be positive and add up to 1"),
        ({"splits": (("a", 1.5), ("b", -0.5))}, "split fractions must be positive and add up to 1"),
        ({"splits": (("a", 0.5), ("a", 0.5))}, "splits must be named, each once"),
        ({"splits": ()}, "splits must be named, each once"),
        ({"splits": (("a-b", 1.0),)}, "splits must be named by letters, digits and '_'"),
        ({"splits": (("all", 1.0),)}, "splits must be named by letters, digits and '_', and not 'all'"),
        ({"splits": "files"}, "splits must be 'auto', 'folders', 'column:NAME' or names with fractions"),
        ({"shard_mib": 0}, "shard_mib must be positive, got 0"),
        ({"shard_mib": float("nan")}, "shard_mib must be positive, got nan"),
        ({"max_short_side": -1}, "max_short_side must be 0 or more, got -1"),
        ({"quality": 0}, "quality must be between 1 and 100, got 0"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"duplicates": "merge"}, "duplicates must be one of"),
        ({"on_error": "ignore"}, "on_error must be one of"),
        ({"max_bad_fraction": 1.1}, "max_bad_fraction must be in"),
        ({"max_megapixels": 0}, "max_megapixels must be positive, got 0"),
    ],
)
def test_options_that_make_no_sense_name_their_rule(options, rule):
    with pytest.raises(UsageError, match=f"^{rule}"):
        ConvertConfig(**options)


def test_a_tiny_shard_size_gives_one_record_a_shard(serial, tmp_path, small_source):
    report = convert(small_source, tmp_path / "out", ConvertConfig(splits=(("train", 1.0),), shard_mib=1e-9))
    assert report.splits["train"]["shards"] == 24
    assert np.bincount(Dataset(tmp_path / "out").split("train").column("shard")).tolist() == [1] * 24
