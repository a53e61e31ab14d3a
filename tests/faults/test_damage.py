"""`verify` finds a change of any byte that it vouches for, and says where it lies."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from faulty import MODULES, command, flip, image, payloads, run_serial, tree

from irv2data import Dataset
from irv2data.convert import ConvertConfig, Problem, convert, verify
from irv2data.errors import DatasetError
from irv2data.tfrecord import HEADER_BYTES, read_frames


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A dataset of one shard of two records, a JPEG and a PNG: small enough to break each of its bytes."""
    root = tmp_path_factory.mktemp("tiny")
    for name in ("ant/1.jpg", "bee/2.png"):
        (root / "source" / name).parent.mkdir(parents=True)
        image(len(name), 9, 12).save(root / "source" / name)
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(sys.modules[f"irv2data.convert.{module}"], "run_local", run_serial)
        convert(root / "source", root / "dataset", ConvertConfig(splits=(("train", 1.0),)))
    return root / "dataset"


def flips(path: Path, every: int = 1, seed: int = 0):
    """Breaks one byte after another, each once, in an order of no pattern; every so many of them."""
    data = path.read_bytes()
    rng = np.random.default_rng(seed)
    for position in rng.permutation(len(data))[::every].tolist():
        flip(path, position, int(rng.integers(1, 256)))
        yield position
        path.write_bytes(data)


def test_each_byte_of_a_shard(serial, tiny, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "dataset"))
    (path,) = map(Path, Dataset(folder).split("train").paths)
    first, second = payloads(folder)["train"]
    bounds = [len(first) + HEADER_BYTES + 4, len(first) + len(second) + 2 * (HEADER_BYTES + 4)]
    for position in flips(path):
        (problem,) = verify(str(folder), deep=True)
        record = int(position >= bounds[0])
        assert (problem.file, problem.record) == (path.name, record), position
        within = position - (0, bounds[0])[record]
        expected = "checksum of the length" if within < HEADER_BYTES else "checksum of the record"
        assert problem.reason == f"{expected} at byte {(0, bounds[0])[record]} is wrong", position
    assert verify(str(folder), deep=True) == []


def test_each_part_of_the_index(serial, tiny, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "dataset"))
    files = sorted(folder.glob("index/train/*.npy"))
    assert {path.stem for path in files} == {
        *("shard", "offset", "length", "height", "width", "format", "content", "filename", "filename_end", "label")
    }
    for number, path in enumerate(files):
        for position in flips(path, every=4, seed=number):
            found = verify(str(folder), deep=True)
            assert str(path.relative_to(folder)) in {problem.file for problem in found}, (path, position)
            verify(str(folder))  # may or may not see it; must not fail


def test_each_part_of_the_manifest(serial, tiny, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "dataset"))
    for position in flips(folder / "dataset.json", every=3):
        found = verify(str(folder), deep=True)
        assert "dataset.json" in {problem.file for problem in found}, position
        with suppress(DatasetError):
            Dataset(folder)


def test_a_manifest_of_the_same_meaning_in_other_words_is_a_change(serial, tiny, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "dataset"))
    text = (folder / "dataset.json").read_text()
    changed = Problem(file="dataset.json", record=None, reason="was changed: its own digest differs")
    for other in (text + "\n", text.replace("\n ", "\n  ", 1), json.dumps(json.loads(text))):
        (folder / "dataset.json").write_text(other)
        assert verify(str(folder)) == []
        assert verify(str(folder), deep=True) == [changed]
    content = json.loads(text)
    content["source"]["options"]["seed"] = 1
    (folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")
    assert verify(str(folder), deep=True) == [changed]


def test_missing_extra_truncated_resized_shards_and_a_damaged_array_are_all_named_at_once(serial, folder):
    train, validation = (sorted(folder.glob(f"{split}-*")) for split in ("train", "validation"))
    size = train[1].stat().st_size
    train[0].unlink()
    os.truncate(train[1], size - 1)
    with validation[0].open("ab") as file:
        file.write(b"12")
    shutil.copy(train[2], folder / "train-00009-of-00010.tfrecord")
    flip(folder / "index" / "train" / "width.npy", -1, 0x80)
    longer = validation[0].stat().st_size
    found = verify(str(folder))
    assert found == [
        Problem(file=train[0].name, record=None, reason="missing"),
        Problem(file=train[1].name, record=None, reason=f"has {size - 1} bytes, the manifest says {size}"),
        Problem(file=validation[0].name, record=None, reason=f"has {longer} bytes, the manifest says {longer - 2}"),
        Problem(file="train-00009-of-00010.tfrecord", record=None, reason="a shard that the manifest does not name"),
    ]
    deep = verify(str(folder), deep=True)
    assert set(found) < set(deep)
    more = {(problem.file, problem.reason.split(" at byte")[0]) for problem in deep if problem not in found}
    assert more == {
        ("index/train/width.npy", "its SHA-256 differs from the manifest's"),
        (train[1].name, "ends inside the record"),
        (validation[0].name, "ends inside a record header"),
    }
    code, printed, errors = command("verify", folder, "--json")
    assert (code, errors) == (1, "")
    told = json.loads(printed)
    assert (told["sound"], [Problem(**problem) for problem in told["problems"]]) == (False, found)


def test_a_cut_at_a_record_boundary_reads_as_a_clean_end_and_is_found_all_the_same(serial, folder):
    splits = Dataset(folder).splits.values()
    shards = [pair for split in splits for pair in zip(split.paths, split.shards, strict=True)]
    path = next(path for path, shard in shards if shard.records > 1)
    records = [payload for _, payload in payloads_of(path)]
    whole = sum(len(payload) + 16 for payload in records)
    cut = whole - len(records[-1]) - 16
    os.truncate(path, cut)
    size = Problem(file=Path(path).name, record=None, reason=f"has {cut} bytes, the manifest says {whole}")
    count = f"holds {len(records) - 1} records, the manifest says {len(records)}"
    assert verify(str(folder)) == [size]
    assert verify(str(folder), deep=True) == [size, Problem(file=Path(path).name, record=None, reason=count)]
    with pytest.raises(DatasetError, match=f"has {cut} bytes, the manifest says {whole}"):
        Dataset(folder)


def payloads_of(path: str):
    with open(path, "rb") as file:
        return list(read_frames(file, path))


@pytest.mark.parametrize("name", ["offset", "length", "shard", "label", "filename_end"])
def test_an_index_that_contradicts_itself_is_found_without_reading_a_shard(serial, folder, name):
    path = folder / "index" / "train" / f"{name}.npy"
    array = np.load(path)
    array[1] = -5
    np.save(path, array)
    assert verify(str(folder)) != []


def test_a_dataset_behind_a_file_or_without_a_manifest_is_an_error_of_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    for place, said in ((tmp_path / "none", "no such folder"), (tmp_path / "file", "no such folder")):
        code, printed, errors = command("verify", place, "--repair")
        assert (code, printed, errors.count("\n")) == (1, "", 1)
        assert f"irv2data verify: {place}: {said}" in errors
    assert not (tmp_path / "none").exists()
    (folder / "dataset.json").unlink()
    before = tree(folder)
    code, printed, errors = command("verify", folder, "--repair", "--json")
    assert (code, json.loads(printed)["error"]["type"]) == (1, "DatasetError")
    assert tree(folder) == before
