"""The dataset folder as it is read: whatever is missing, foreign or changed is one line that names it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from irv2data import Dataset, index, manifest
from irv2data.errors import DatasetError, UsageError
from irv2data.manifest import Contents, Shard, manifest_text, shard_name

CLASSES = ("ant", "bee", "caf\udce9")
SHARDS = {"train": (b"first shard", b"second"), "validation": (b"",)}
RECORDS = {"train": (3, 2), "validation": (0,)}
CONTENTS = Contents(classes=CLASSES, columns={"age": "int64", "note": "string"})
ARRAYS = index.spec("class", ("int64", "string"))
RAGGED = {
    "train": {
        "filename": list(b"abbccc\xff"),
        "filename_end": [1, 3, 6, 6, 7],
        "column1": list(b"hi"),
        "column1_end": [0, 2, 2, 2, 2],
    },
    "validation": {"filename": [], "filename_end": [], "column1": [], "column1_end": []},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder with five records in two shards, and an empty split; the shards hold no real records."""
    folder = tmp_path / "dataset"
    splits = {}
    for split, contents in SHARDS.items():
        shards = []
        for number, content in enumerate(contents):
            name = shard_name(split, number, len(contents))
            (folder / "index" / split).mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            shards.append(Shard(file=name, records=RECORDS[split][number], bytes=len(content), sha256=digest))
        digests = {}
        count = sum(RECORDS[split])
        for name, (dtype, _) in ARRAYS.items():
            path = manifest.array_path(folder, split, name)
            array = np.arange(count).astype(dtype)
            if name == "shard":
                array = np.repeat(np.arange(len(contents)), RECORDS[split]).astype(dtype)
            if name == index.CONTENT:
                array = np.zeros((count, 32), dtype)
            elif name in RAGGED[split]:
                array = np.array(RAGGED[split][name], dtype)
            np.save(path, array)
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        splits[split] = shards, digests
    source = {"sources": 6, "rejected": 1, "dropped": 0}
    (folder / "dataset.json").write_text(manifest_text(contents=CONTENTS, splits=splits, source=source))
    return folder


def edit(folder: Path, change) -> None:
    """Applies a change to the manifest's content."""
    content = json.loads((folder / "dataset.json").read_text())
    change(content)
    (folder / "dataset.json").write_text(json.dumps(content))


def test_a_dataset_says_what_it_holds(folder):
    dataset = Dataset(folder)
    train = dataset.split("train")
    assert dataset.classes == CLASSES
    assert list(dataset.splits) == ["train", "validation"]
    assert (train.num_records, train.num_bytes) == (5, 17)
    assert train.paths == (
        str(folder / "train-00000-of-00002.tfrecord"),
        str(folder / "train-00001-of-00002.tfrecord"),
    )
    assert dataset.source["sources"] == 6
    assert dataset.split("validation").num_records == 0


def test_columns_have_their_dtypes_and_are_mapped_read_only(folder):
    dataset = Dataset(str(folder))
    for name, dtype in {**index.PLACE_COLUMNS, "label": np.int32, "age": np.int64}.items():
        column = dataset.split("train").column(name)
        assert (column.dtype, column.tolist()) == (dtype, [0, 0, 0, 1, 1] if name == "shard" else [0, 1, 2, 3, 4])
        assert isinstance(column, np.memmap)
        assert not column.flags.writeable
        assert dataset.split("validation").column(name).shape == (0,)


def test_columns_of_strings_and_file_names_are_rows_of_any_length(folder):
    train = Dataset(folder).split("train")
    assert list(train.column("note")) == [b"", b"hi", b"", b"", b""]
    assert [train.source(row) for row in range(5)] == ["a", "bb", "ccc", "", "\udcff"]
    assert list(Dataset(folder).split("validation").column("note")) == []


def test_an_unknown_column_names_those_there_are(folder):
    for name in ("weight", "filename", "content_end"):
        with pytest.raises(UsageError, match=f"has no column '{name}'; it has age, note$"):
            Dataset(folder).split("train").column(name)


def test_a_record_is_located_by_its_row(folder):
    train = Dataset(folder).split("train")
    assert train.locate(2) == ("train-00000-of-00002.tfrecord", 2, 2)
    assert train.locate(4) == ("train-00001-of-00002.tfrecord", 1, 4)
    for row in (-1, 5):
        with pytest.raises(UsageError, match=f"train has records 0 to 4, got {row}$"):
            train.locate(row)


def test_an_unknown_split_names_those_there_are(folder):
    with pytest.raises(UsageError, match=r"has no split 'test'; it has train, validation$"):
        Dataset(folder).split("test")


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_bytes(text)


def put(**values):
    return lambda folder: edit(folder, lambda content: content.update(values))


def drop(key):
    return lambda folder: edit(folder, lambda content: content.pop(key))


def reach(file):
    """A shard's name that lies elsewhere."""
    return lambda folder: edit(folder, lambda content: content["splits"]["train"]["shards"][0].update(file=file))


SHARD = "train-00001-of-00002.tfrecord"


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (shutil.rmtree, "", "no such folder; make a dataset with `irv2data convert SOURCE "),
        (remove("dataset.json"), "", "not a dataset, it has no dataset.json; make one with "),
        (write("dataset.json", b"{}"), "dataset.json", "not a manifest of irv2data (KeyError('format'))"),
        (write("dataset.json", b"[1, 2]"), "dataset.json", "not a manifest of irv2data (TypeError("),
        (write("dataset.json", b'{"format": "irv'), "dataset.json", "not a manifest of irv2data (JSONDecodeError("),
        (write("dataset.json", b"\xff\xfe"), "dataset.json", "cannot be read ("),
        (put(format="coco"), "dataset.json", "not a manifest of irv2data (KeyError('format'))"),
        (put(version=1), "dataset.json", "written in format version 1, this release reads 2 and 3; convert again"),
        (put(classes=["ant", "cow", "bee"]), "dataset.json", "the class list was changed by hand"),
        (drop("classes_sha256"), "dataset.json", "not a manifest of irv2data (KeyError('classes_sha256'))"),
        (drop("splits"), "dataset.json", "not a manifest of irv2data (KeyError('splits'))"),
        (drop("source"), "dataset.json", "not a manifest of irv2data (KeyError('source'))"),
        (put(splits={"train": {"shards": [{"name": "x"}]}}), "dataset.json", "not a manifest of irv2data (KeyError("),
        (put(labels="hats"), "dataset.json", "not a manifest of irv2data (KeyError('hats'))"),
        (put(columns=[{"name": "a", "type": "int8"}]), "dataset.json", "not a manifest of irv2data (KeyError('int8'))"),
        (put(index_folder="../index"), "dataset.json", "not a manifest of irv2data (KeyError("),
        (put(splits={"a/b": {}}), "dataset.json", "not a manifest of irv2data (KeyError("),
        (reach("/etc/passwd"), "dataset.json", "not a manifest of irv2data (KeyError("),
        (reach("../other/train.tfrecord"), "dataset.json", "not a manifest of irv2data (KeyError("),
        (reach(".."), "dataset.json", "not a manifest of irv2data (KeyError("),
        (
            lambda folder: edit(folder, lambda content: content["splits"]["train"].update(records=6)),
            "dataset.json",
            "not a manifest of irv2data (KeyError('train does not add up'))",
        ),
        (remove(SHARD), SHARD, "the shard is missing (No such file or directory)"),
        (write(SHARD, b"secon"), SHARD, "has 5 bytes, the manifest says 6; restore it or convert again"),
        (write(SHARD, b"seconds"), SHARD, "has 7 bytes, the manifest says 6; restore it or convert again"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(folder, damage, name, reason):
    damage(folder)
    with pytest.raises(DatasetError) as caught:
        Dataset(folder)
    assert str(caught.value).startswith(f"{folder / name}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_path_that_cannot_exist_is_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        Dataset(tmp_path / ("x" * 300))


def save(array):
    return lambda path: np.save(path, array)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "the index cannot be read ([Errno 2] No such file or directory"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "the index cannot be read "),
        (lambda path: path.write_bytes(b""), "the index cannot be read "),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "the index cannot be read "),
        (save(np.arange(4, dtype=np.int32)), "holds int32 [4], the manifest says int32 [5]; `irv2data verify"),
        (save(np.arange(5, dtype=np.int64)), "holds int64 [5], the manifest says int32 [5]; `irv2data verify"),
    ],
)
def test_a_damaged_column_is_one_line_that_names_its_file(folder, damage, reason):
    path = manifest.array_path(folder, "train", "height")
    damage(path)
    with pytest.raises(DatasetError) as caught:
        Dataset(folder).split("train").column("height")
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(caught.value)


def change_classes(content):
    content["classes"][0] = "aardvark"
    content["classes_sha256"] = manifest.classes_sha256(content["classes"])


def fewer_records(content):
    content["splits"]["train"]["shards"][0]["records"] -= 1
    content["splits"]["train"]["records"] -= 1


@pytest.mark.parametrize(
    "change",
    [
        change_classes,
        lambda content: content["splits"]["train"]["shards"][0].update(sha256="0" * 64),
        lambda content: content["splits"]["train"]["index"].update(label="0" * 64),
        fewer_records,
        lambda content: content["splits"].update(test=content["splits"].pop("validation")),
    ],
)
def test_the_fingerprint_changes_with_the_content(folder, change):
    before = Dataset(folder).fingerprint
    edit(folder, change)
    assert Dataset(folder).fingerprint != before


def test_the_fingerprint_is_of_the_content_alone(folder, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    edit(moved, lambda content: content["source"].update(sources=7))
    assert Dataset(moved).fingerprint == Dataset(folder).fingerprint
    assert len(Dataset(folder).fingerprint) == 64


def test_class_lists_have_the_same_digest_exactly_when_they_are_equal():
    assert manifest.classes_sha256(["a", "b"]) == manifest.classes_sha256(("a", "b"))
    others = [["b", "a"], ["a"], ["ab"], ["a,b"], ["a", "b", ""]]
    assert len({manifest.classes_sha256(classes) for classes in [["a", "b"], *others]}) == 6


def test_shard_names_are_those_of_tfds():
    assert shard_name("train", 3, 16) == "train-00003-of-00016.tfrecord"
