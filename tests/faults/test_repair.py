"""`verify --repair` keeps every record whose bytes are certain, names the others, and leaves a sound dataset."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faulty import (
    CONFIG,
    accounted,
    command,
    flip,
    inodes,
    make_source,
    payloads,
    tree,
)

from irv2data import Dataset, schema
from irv2data.convert import ConvertConfig, Repair, convert, describe, verify
from irv2data.convert import repair as mend
from irv2data.convert.repair import Lost
from irv2data.errors import DatasetError
from irv2data.tfrecord import read_frames


def sources(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Split to the (shard, source path) of its records, in order."""
    return {
        name: [(split.locate(row)[0], split.source(row)) for row in range(split.num_records)]
        for name, split in Dataset(folder).splits.items()
    }


def spot(folder: Path, split: str = "train", wanted: int = 1) -> tuple[Path, int, bytes, str]:
    """Path of the first shard of several records, and offset, payload and source of one of them."""
    dataset = Dataset(folder)
    part = dataset.split(split)
    number = next(number for number, shard in enumerate(part.shards) if shard.records > wanted)
    with open(part.paths[number], "rb") as file:
        offset, payload = list(read_frames(file, ""))[wanted]
    row = sum(shard.records for shard in part.shards[:number]) + wanted
    return Path(part.paths[number]), offset, payload, part.source(row)


def repaired(folder: Path, lost: list[Lost], quarantined: dict[str, bytes] | None = None) -> Repair:
    """Repairs, and checks all that has to hold whatever was damaged.

    `quarantined`: name in the quarantine to its content.
    """
    quarantined = quarantined or {}
    before, places = payloads_before[folder], sources_before[folder]
    done = mend(str(folder))
    assert verify(str(folder), deep=True) == []
    assert done.lost == lost
    assert done.quarantined == sorted(f"quarantine/{name}" for name in quarantined)
    for name, content in quarantined.items():
        assert (folder / "quarantine" / name).read_bytes() == content
    missing = {(one.split, one.source) for one in lost}
    expected = {
        split: [
            payload
            for payload, (_, source) in zip(before[split], places[split], strict=True)
            if (split, source) not in missing
        ]
        for split in before
    }
    assert payloads(folder) == expected
    accounted(folder)
    lines = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines if line["code"] == "lost_in_storage"} == {one.source for one in lost}
    assert Dataset(folder).source["rejects"] == Counter(line["code"] for line in lines)
    described(folder)
    assert not (folder / ".convert").exists()
    again, there = mend(str(folder)), inodes(folder, "*")
    assert again == Repair(problems=[], recovered=0, lost=[], quarantined=[])
    assert inodes(folder, "*") == there
    return done


def described(folder: Path) -> None:
    """The files for TFDS tell the shards that are there now."""
    dataset = Dataset(folder)
    shards = {name: split.shards for name, split in dataset.splits.items()}
    told = {name: (folder / name).read_text() for name in describe.tfds_files(dataset.contents, shards)}
    assert told == describe.tfds_files(dataset.contents, shards)
    info = {split["name"]: split for split in json.loads(told["dataset_info.json"])["splits"]}
    for name, split in dataset.splits.items():
        assert info[name]["shardLengths"] == [str(shard.records) for shard in split.shards]
        assert int(info[name]["numBytes"]) == sum(os.path.getsize(path) for path in split.paths)


payloads_before: dict[Path, dict[str, list[bytes]]] = {}
sources_before: dict[Path, dict[str, list[tuple[str, str]]]] = {}


@pytest.fixture
def whole(serial, folder) -> Path:
    """A sound dataset, to be damaged; what it holds is remembered for `repaired`."""
    payloads_before[folder], sources_before[folder] = payloads(folder), sources(folder)
    return folder


def test_a_sound_dataset_stays_as_it_is(whole):
    before = tree(whole), inodes(whole, "*")
    code, printed, errors = command("verify", whole, "--repair", "--workers=1")
    assert (code, printed, errors) == (0, "sound; nothing to repair\n", "")
    assert (tree(whole), inodes(whole, "*")) == before


PARTS = {
    "length": lambda payload: 1,
    "length, high": lambda payload: 7,
    "crc of the length": lambda payload: 9,
    "crc of the payload": lambda payload: 12 + len(payload) + 2,
}
INSIDE = {
    "key of the image": b"image/encoded",
    "key of the height": b"image/height",
    "key of the name": b"image/filename",
    "class name": b"ant",
    "digest": None,
    "image": None,
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("record", [0, 1])
def test_a_flip_in_the_framing_loses_nothing(whole, part, record):
    path, offset, payload, _ = spot(whole, wanted=1)
    if record == 0:
        offset, payload = 0, next(read_frames(path.open("rb"), ""))[1]
    sound = tree(whole)
    flip(path, offset + PARTS[part](payload), 0x41)
    damaged = path.read_bytes()
    done = repaired(whole, [], {path.name: damaged})
    assert done.recovered == next(s.records for s in Dataset(whole).split("train").shards if s.file == path.name)
    assert tree(whole)[path.name] == sound[path.name]
    assert [problem.file for problem in done.problems] == [path.name]


@pytest.mark.parametrize("part", INSIDE)
def test_a_flip_in_a_payload_loses_that_record_and_an_append_brings_it_back(whole, source, part):
    path, offset, payload, name = spot(whole)
    record = schema.decode(payload)
    needle = {"digest": record.sha256.encode(), "image": record.encoded, "class name": record.text.encode()}.get(
        part, INSIDE[part]
    )
    flip(path, offset + 12 + payload.index(needle) + len(needle) // 2)
    damaged = path.read_bytes()
    before, counts = payloads_before[whole], stated(whole)
    repaired(whole, [Lost(split="train", shard=path.name, record=1, source=name)], {path.name: damaged})
    assert accounted(whole) == (counts[0], counts[1] + 1, counts[2], counts[3] - 1)
    report = convert(source, whole, CONFIG, append=True)
    assert (report.added, report.rejected) == (1, 1)
    assert verify(str(whole), deep=True) == []
    assert {split: Counter(found) for split, found in payloads(whole).items()} == {
        split: Counter(found) for split, found in before.items()
    }
    assert accounted(whole) == counts
    assert (whole / "quarantine" / path.name).read_bytes() == damaged


def stated(folder: Path) -> tuple[int, int, int, int]:
    """The counts of the manifest, of a dataset whose shards are damaged already."""
    source = Dataset(folder).source
    records = sum(split.num_records for split in Dataset(folder).splits.values())
    return source["sources"], source["rejected"], source["dropped"], records


def test_every_byte_of_a_record(serial, whole, tmp_path):
    """Whatever byte is changed, the record is there as it was or named as lost; never there and different."""
    path, offset, payload, name = spot(whole)
    data = path.read_bytes()
    kept = 0
    for position in range(0, len(payload) + 16, 41):
        copy = Path(shutil.copytree(whole, tmp_path / "copy"))
        flip(copy / path.name, offset + position, 0x10)
        done = mend(str(copy))
        inside = 12 <= position < len(payload) + 12
        lost = [Lost(split="train", shard=path.name, record=1, source=name)] if inside else []
        assert done.lost == lost, position
        assert (copy / path.name).read_bytes() == (data[:offset] + data[offset + len(payload) + 16 :] if lost else data)
        assert verify(str(copy), deep=True) == []
        kept += not lost
        shutil.rmtree(copy)
    assert kept >= 1


def all_of(folder: Path, split: str, shard: str) -> list[Lost]:
    rows = [source for file, source in sources_before[folder][split] if file == shard]
    return [Lost(split=split, shard=shard, record=row, source=source) for row, source in enumerate(rows)]


@pytest.mark.parametrize("cut", ["inside", "at a record", "empty"])
def test_a_truncated_shard(whole, cut):
    path, offset, _, _ = spot(whole)
    at = {"inside": offset + 20, "at a record": offset, "empty": 0}[cut]
    os.truncate(path, at)
    damaged = path.read_bytes()
    lost = [one for one in all_of(whole, "train", path.name) if one.record > 0 or cut == "empty"]
    # What ends with a record stays where it is: each of its bytes is in the dataset.
    done = repaired(whole, lost, {path.name: damaged} if cut == "inside" else {})
    assert (path.read_bytes(), done.recovered) == (damaged[:offset] if at else b"", 1 if at else 0)


def test_bytes_behind_between_and_before_the_records(whole):
    path, offset, _, _ = spot(whole)
    data = path.read_bytes()
    damaged = b"before" + data[:offset] + b"between, more than a header" + data[offset:] + b"behind"
    path.write_bytes(damaged)
    repaired(whole, [], {path.name: damaged})
    assert path.read_bytes() == data


def test_a_record_that_is_there_twice_is_kept_once(whole):
    path, offset, payload, _ = spot(whole)
    data = path.read_bytes()
    damaged = data[: offset + 16 + len(payload)] + data[offset:]
    path.write_bytes(damaged)
    repaired(whole, [], {path.name: damaged})
    assert path.read_bytes() == data


def test_a_missing_and_a_stray_shard(whole):
    train, validation = (sorted(whole.glob(f"{split}-*")) for split in ("train", "validation"))
    stray = whole / "train-00098-of-00099.tfrecord"
    shutil.copy(validation[0], stray)
    content = stray.read_bytes()
    train[0].unlink()
    done = repaired(whole, all_of(whole, "train", train[0].name), {stray.name: content})
    assert [(problem.file, problem.reason) for problem in done.problems] == [
        (train[0].name, "missing"),
        (stray.name, "a shard that the manifest does not name"),
    ]
    assert (train[0].read_bytes(), stray.exists()) == (b"", False)


def test_a_stray_alone(whole):
    before = tree(whole)
    stray = whole / "train-00098-of-00099.tfrecord"
    stray.write_bytes(b"no shard of ours")
    repaired(whole, [], {stray.name: b"no shard of ours"})
    assert {name: tree(whole)[name] for name in before if name.endswith(".tfrecord")} == {
        name: digest for name, digest in before.items() if name.endswith(".tfrecord")
    }


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("splits", [("train", "train"), ("train", "validation")])
def test_swapped_shards_are_put_back(whole, splits, damaged):
    before = tree(whole)
    first = sorted(whole.glob(f"{splits[0]}-*"))[0]
    second = sorted(whole.glob(f"{splits[1]}-*"))[-1]
    contents = first.read_bytes(), second.read_bytes()
    lost = []
    if damaged:  # then it is not their digests that tell
        number = len([file for file, _ in sources_before[whole][splits[1]] if file == second.name]) - 1
        lost = [all_of(whole, splits[1], second.name)[number]]
        contents = contents[0], contents[1][:-20]
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    repaired(whole, lost, {first.name: contents[1], second.name: contents[0]})
    after = tree(whole)
    assert after[first.name] == before[first.name]
    assert (after[second.name] == before[second.name]) != damaged


def test_a_renamed_shard_is_found(whole):
    before = tree(whole)
    path = sorted(whole.glob("train-*"))[0]
    path.rename(stray := whole / "train-00098-of-00099.tfrecord")
    repaired(whole, [], {stray.name: stray.read_bytes()})
    assert tree(whole)[path.name] == before[path.name]


ARRAYS = ["content", "filename", "filename_end", "format", "height", "label", "length", "offset", "shard", "width"]


@pytest.mark.parametrize("how", ["flipped", "missing", "garbage"])
def test_each_array_of_the_index(whole, how, tmp_path):
    shards = inodes(whole)
    old = {path.stem: np.load(path) for path in whole.glob("index/train/*.npy")}
    assert sorted(old) == ARRAYS
    for name in ARRAYS:
        copy = tmp_path / name
        shutil.copytree(whole, copy, copy_function=os.link)
        payloads_before[copy], sources_before[copy] = payloads_before[whole], sources_before[whole]
        path = copy / "index" / "train" / f"{name}.npy"
        data = path.read_bytes()
        path.unlink()
        if how != "missing":
            path.write_bytes(b"garbage" if how == "garbage" else data[:-1] + bytes([data[-1] ^ 1]))
        done = repaired(copy, [])
        assert (done.recovered, inodes(copy)) == (0, shards)
        arrays = {path.stem: np.load(path) for path in copy.glob("index-repair1/train/*.npy")}
        for other in set(ARRAYS) - {"content"} if name == "content" else ARRAYS:
            np.testing.assert_array_equal(arrays[other], old[other])
        assert {path.name for path in copy.glob("index*")} == {"index-repair1"}


@pytest.mark.parametrize("names", [("height",), ("offset",), ("length",), ("offset", "length"), ("label", "content")])
def test_an_array_and_a_shard_at_once(whole, names):
    path, offset, payload, source = spot(whole)
    flip(path, offset + 12 + len(payload) // 2)
    damaged = path.read_bytes()
    for name in names:
        flip(whole / "index" / "train" / f"{name}.npy", -1)
    repaired(whole, [Lost(split="train", shard=path.name, record=1, source=source)], {path.name: damaged})


def test_where_the_names_are_lost_too_the_number_of_the_record_is_told(whole):
    path, offset, payload, _ = spot(whole)
    flip(path, offset + 12 + len(payload) // 2)
    flip(whole / "index" / "train" / "filename.npy", -1)
    before = payloads_before[whole]["train"]
    done = mend(str(whole))
    assert done.lost == [Lost(split="train", shard=path.name, record=1, source="")]
    assert verify(str(whole), deep=True) == []
    assert payloads(whole)["train"] == [other for other in before if other != payload]
    accounted(whole)


def test_without_any_index_all_that_has_right_checksums_is_kept(whole):
    path, offset, payload, _ = spot(whole)
    flip(path, offset + 12 + len(payload) // 2)
    other = sorted(whole.glob("validation-*"))[0]
    flip(other, 2)  # a length
    shutil.rmtree(whole / "index")
    done = mend(str(whole))
    assert done.lost == [Lost(split="train", shard=path.name, record=None, source="")]
    assert verify(str(whole), deep=True) == []
    assert payloads(whole) == {
        split: [other for other in found if other != payload] for split, found in payloads_before[whole].items()
    }
    accounted(whole)


def test_a_changed_manifest_is_written_anew(whole):
    sound = tree(whole)
    text = (whole / "dataset.json").read_text()
    first = Dataset(whole).split("train").shards[0]
    (whole / "dataset.json").write_text(text.replace(first.sha256, "0" * 64))
    repaired(whole, [])
    assert Dataset(whole).split("train").shards[0] == first
    assert {name for name in sound if sound[name] != tree(whole).get(name)} >= {"dataset.json"}
    assert all(tree(whole)[name] == digest for name, digest in sound.items() if name.endswith(".tfrecord"))


def test_a_second_repair_keeps_what_the_first_one_quarantined(whole):
    path, offset, payload, name = spot(whole)
    flip(path, offset + 12 + len(payload) // 2)
    first = path.read_bytes()
    repaired(whole, [Lost(split="train", shard=path.name, record=1, source=name)], {path.name: first})
    flip(path, 30)
    second = path.read_bytes()
    done = mend(str(whole))
    assert done.quarantined == [f"quarantine/{path.name}.1"]
    assert (whole / "quarantine" / path.name).read_bytes() == first
    assert (whole / "quarantine" / f"{path.name}.1").read_bytes() == second
    assert Dataset(whole).contents.index_folder == "index-repair2"
    assert [one.source for one in done.lost] == [sources_before[whole]["train"][0][1]]
    assert verify(str(whole), deep=True) == []
    accounted(whole)


def table(root: Path, kind: str) -> Path:
    """A JSONL table with further columns, also text and empty fields; 12 images."""
    make_source(root, 12)
    lines = []
    for number, path in enumerate(sorted(root.rglob("*.*g"))):
        note = ("", "ä, long " * 9, "z")[number % 3]
        line: dict[str, object] = {"file_name": str(path.relative_to(root)), "note": note, "count": 2**40 + number}
        line["mass"] = number / 7
        if number % 4 == 0:
            del line["mass"]
        if kind == "classes":
            line["labels"] = ["ant", "bee", "cow"][: number % 4]
        elif kind == "number":
            line["label"] = number / 3
        elif kind == "class":
            line["label"] = "ant" if number % 2 else "bee"
        lines.append(json.dumps(line))
    (root / "table.jsonl").write_text("\n".join(lines) + "\n")
    return root / "table.jsonl"


@pytest.mark.parametrize("kind", ["class", "classes", "number", "none"])
@pytest.mark.parametrize("also", ["", "index"])
def test_every_kind_of_label_and_further_columns(serial, tmp_path, kind, also):
    config = ConvertConfig(splits=(("train", 1.0),), shard_mib=0.003, labels=kind, max_bad_fraction=1)
    source = table(tmp_path / "source", kind)
    folder = tmp_path / "dataset"
    convert(source, folder, config)
    contents = Dataset(folder).contents
    assert (contents.labels, set(contents.columns)) == (kind, {"note", "mass", "count"})
    payloads_before[folder], sources_before[folder] = payloads(folder), sources(folder)
    path, offset, payload, name = spot(folder)
    flip(path, offset + 12 + len(payload) // 2)
    damaged = path.read_bytes()
    old = {path.stem: path.read_bytes() for path in folder.glob("index/train/*.npy")}
    if also:
        for array in folder.glob("index/train/*.npy"):
            if array.stem not in ("filename", "filename_end"):
                array.unlink()
    repaired(folder, [Lost(split="train", shard=path.name, record=1, source=name)], {path.name: damaged})
    assert Dataset(folder).contents == replace(contents, index_folder="index-repair1")
    new = {path.stem: path.read_bytes() for path in folder.glob("index-repair1/train/*.npy")}
    assert new.keys() == old.keys()
    convert(source, folder, replace(config, labels=kind), append=True)
    assert verify(str(folder), deep=True) == []
    if not also:  # with the digests of the sources, nothing is added that is there
        assert Counter(payloads(folder)["train"]) == Counter(payloads_before[folder]["train"])


def test_the_command_tells_what_it_did(whole):
    path, offset, payload, name = spot(whole)
    flip(path, offset + 12 + len(payload) // 2)
    copy = Path(shutil.copytree(whole, whole.with_name("copy")))
    code, printed, errors = command("verify", whole, "--repair", "--workers=1", "--json")
    assert (code, errors) == (0, "")
    told = json.loads(printed)
    assert told["lost"] == [{"split": "train", "shard": path.name, "record": 1, "source": name}]
    assert told["quarantined"] == [f"quarantine/{path.name}"]
    code, printed, errors = command("verify", copy, "--repair", "--workers=1")
    assert (code, errors) == (0, "")
    assert f"lost: {path.name}, record 1, made of {name}\n" in printed
    assert tree(copy) == tree(whole)


def test_a_manifest_that_cannot_be_read_is_said_and_nothing_is_touched(whole):
    (whole / "dataset.json").write_text("{")
    before = tree(whole)
    with pytest.raises(DatasetError, match="not a manifest of irv2data"):
        mend(str(whole))
    assert tree(whole) == before


@pytest.mark.parametrize(("kind", "needle"), [("number", b"long"), ("none", b"image/filename"), ("classes", b"label")])
def test_what_no_digest_in_a_record_vouches_for(serial, tmp_path, kind, needle):
    """A further column, and a key that may be missing: without a checksum, only what the index says is believed."""
    config = ConvertConfig(splits=(("train", 1.0),), shard_mib=1, labels=kind, max_bad_fraction=1)
    source = table(tmp_path / "source", kind)
    folder = tmp_path / "dataset"
    convert(source, folder, config)
    payloads_before[folder], sources_before[folder] = payloads(folder), sources(folder)
    (path,) = map(Path, Dataset(folder).split("train").paths)
    decoded = [schema.decode(payload, kind, Dataset(folder).contents.columns) for payload in payloads(folder)["train"]]
    fits = {"number": lambda record: needle in record.columns["note"], "classes": lambda record: record.label == ()}
    wanted = next(row for row, record in enumerate(decoded) if fits.get(kind, lambda record: True)(record))
    offset = int(Dataset(folder).split("train").column("offset")[wanted])
    payload = payloads(folder)["train"][wanted]
    flip(path, offset + 12 + payload.index(needle))
    damaged = path.read_bytes()
    lost = Lost(split="train", shard=path.name, record=wanted, source=sources_before[folder]["train"][wanted][1])
    repaired(folder, [lost], {path.name: damaged})
