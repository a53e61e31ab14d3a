"""The Croissant reference library accepts `croissant.json`, and reads from it what we know."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlcroissant
import pytest
import tensorflow as tf

from irv2data import Dataset
from irv2data.convert import ConvertConfig, adopt, convert, repair, verify
from irv2data.convert.croissant import CROISSANT, croissant_text
from irv2data.convert.folder import NEAR_DUPLICATES
from irv2data.manifest import Contents, Shard, shard_name

# What only the owner of a dataset knows, and mlcroissant would like to hear.
ONLY_THE_OWNER_KNOWS = {"license", "citeAs", "datePublished"}
NAMES = (
    '<script>alert("x")</script>', "été", "e\u0301te\u0301", "a\\b", "line\nbreak", "1", " ", "null", "it's", "😀",
    "{{ x }}", "a/b", "\uff46ull", "\u202eright to left",
)  # fmt: skip


def shard(split: str, number: int = 0, of: int = 1, records: int = 3) -> Shard:
    digest = hashlib.sha256(f"{split}{number}".encode()).hexdigest()
    return Shard(file=shard_name(split, number, of), records=records, bytes=100 + number, sha256=digest)


def checked(path: Path) -> mlcroissant.Dataset:
    """The file, once the library has found no error and no warning that we could avoid."""
    dataset = mlcroissant.Dataset(jsonld=str(path))
    issues = dataset.metadata.issues
    assert issues.errors == set()
    missing = {text.split('Property "')[1].split('"')[0].rsplit("/", 1)[1] for text in issues.warnings}
    assert missing <= ONLY_THE_OWNER_KNOWS
    return dataset


def written(folder: Path, text: str | None) -> Path:
    assert text is not None
    (folder / CROISSANT).write_text(text)
    return folder / CROISSANT


def test_a_converted_folder(small_dataset):
    known, dataset = checked(small_dataset / CROISSANT), Dataset(small_dataset)
    assert [row["classes/name"] for row in known.records("classes")] == list(dataset.classes) == ["ant", "bee", "cow"]
    assert [row["classes/label"] for row in known.records("classes")] == [0, 1, 2]
    assert list(known.records("splits")) == [
        {"splits/name": name, "splits/records": split.num_records, "splits/url": url}
        for (name, split), url in zip(dataset.splits.items(), ("cr:TrainingSplit", "cr:ValidationSplit"), strict=True)
    ]
    files = {file.name: file for file in known.metadata.file_objects}
    assert files.keys() == {shard.file for split in dataset.splits.values() for shard in split.shards}
    for name, file in files.items():
        content = (small_dataset / file.content_url).read_bytes()
        assert (file.content_url, file.content_size) == (name, f"{len(content)} B")
        assert file.sha256 == hashlib.sha256(content).hexdigest()
    present = sorted(path.name for path in small_dataset.iterdir())
    for each in known.metadata.file_sets:
        matched = {name for name in present for pattern in each.includes if fnmatch.fnmatchcase(name, pattern)}
        split = each.id.removeprefix("shards").removeprefix("-")
        splits = [dataset.split(split)] if split else list(dataset.splits.values())
        assert matched == {shard.file for split in splits for shard in split.shards}
    assert [each.id for each in known.metadata.file_sets] == ["shards", "shards-train", "shards-validation"]
    assert verify(str(small_dataset), deep=True) == []


def test_the_fields_are_the_keys_of_a_record(small_dataset):
    fields = {field.id: field for field in fields_of(checked(small_dataset / CROISSANT))}
    name = Dataset(small_dataset).split("train").paths[0]
    example = tf.train.Example.FromString(next(tf.data.TFRecordDataset(name).as_numpy_iterator()))
    assert {field.source.extract.column for field in fields.values()} == set(example.features.feature)
    assert {field.source.file_set for field in fields.values()} == {"shards"}
    assert fields["records/label"].references.field == "classes/label"
    types = {"int64_list": int, "bytes_list": str}
    for name, field in fields.items():
        kind = example.features.feature[field.source.extract.column].WhichOneof("kind")
        if name != "records/image":
            assert field.data_type is (bytes if types[kind] is str else int)
    assert str(fields["records/image"].data_type) == "https://schema.org/ImageObject"


def fields_of(dataset: mlcroissant.Dataset) -> list:
    return next(each for each in dataset.metadata.record_sets if each.id == "records").fields


@pytest.mark.parametrize("labels", ["class", "classes", "number", "none"])
def test_any_names_come_back_as_they_are(tmp_path, labels):
    classed = labels in ("class", "classes")
    contents = Contents(
        classes=NAMES if classed else (),
        labels=labels,
        columns={"age": "int64", 'a "b" / c': "string", "weight (kg)": "float32"},
    )
    splits = {"fold_1": [shard("fold_1"), shard("fold_1_append1")], "fold_2": []}
    known = checked(written(tmp_path, croissant_text(contents, splits, appended=1)))
    assert known.metadata.version == "1.1.0"
    if classed:
        assert [row["classes/name"] for row in known.records("classes")] == list(NAMES)
    assert list(known.records("splits")) == [
        {"splits/name": "fold_1", "splits/records": 6}, {"splits/name": "fold_2", "splits/records": 0}
    ]  # fmt: skip
    columns = {field.source.extract.column: field.data_type for field in fields_of(known)}
    assert {name: columns.get(name) for name in contents.columns} == {
        "age": int, 'a "b" / c': bytes, "weight (kg)": float
    }  # fmt: skip
    assert ("image/target" in columns) == (labels == "number")
    assert {"classes"} & {each.id for each in known.metadata.record_sets} == ({"classes"} if classed else set())
    assert [field.repeated for field in fields_of(known) if field.id == "records/label"] == {
        "class": [None], "classes": [True]
    }.get(labels, [])  # fmt: skip


def test_what_mlcroissant_refuses_would_be_seen(tmp_path):
    text = croissant_text(Contents(classes=("a",)), {"train": [shard("train")]})
    broken = text.replace(
        '"@type": "cr:Field",\n     "@id": "classes/name"', '"@type": "cr:Field",\n     "@id": "other"'
    )
    assert broken != text
    with pytest.raises(mlcroissant.ValidationError):
        checked(written(tmp_path, broken))
    with pytest.raises(AssertionError):
        checked(written(tmp_path, text.replace('"version": "1.0.0",\n', "")))


def test_bytes_that_are_not_utf_8_are_escaped(tmp_path):
    contents = Contents(classes=("b\udcffd", "bad"), adopted=True, label_key="l", encoded_key="i")
    known = checked(written(tmp_path, croissant_text(contents, {"train": [replace(shard("x"), file="x\udcfe[1]")]})))
    assert [row["classes/name"] for row in known.records("classes")] == ["b\\xffd", "bad"]
    assert known.metadata.file_objects[0].content_url == "x\\xfe[1]"
    assert fnmatch.fnmatchcase("x\\xfe[1]", known.metadata.file_sets[0].includes[0])


def test_a_dataset_without_records(tmp_path):
    known = checked(written(tmp_path, croissant_text(Contents(classes=("a",)), {"train": [], "test": []})))
    assert known.metadata.distribution == []
    assert [each.id for each in known.metadata.record_sets] == ["splits", "classes"]


def test_a_thousand_shards_take_less_than_half_a_mebibyte():
    shards = [shard("train", number, 1000) for number in range(1000)]
    text = croissant_text(Contents(classes=("a", "b")), {"train": shards})
    assert 300_000 < len(text) < 1 << 19
    assert sum(part["@type"] == "cr:FileObject" for part in json.loads(text)["distribution"]) == 1000


def test_what_the_owner_adds_stays(tmp_path):
    contents, splits = Contents(classes=("a",)), {"train": [shard("train")]}
    first = croissant_text(contents, splits)
    edited = json.loads(first) | {
        "name": "flowers", "description": "Mine.", "license": "https://spdx.org/licenses/CC0-1.0.html",
        "citeAs": "Me, 2026", "datePublished": "2026-01-02", "version": "7.0.0",
    }  # fmt: skip
    more = {"train": [*splits["train"], shard("train_append1")]}
    text = croissant_text(replace(contents, classes=("a", "b")), more, appended=1, present=json.dumps(edited).encode())
    known = mlcroissant.Dataset(jsonld=str(written(tmp_path, text)))
    assert (known.metadata.issues.errors, known.metadata.issues.warnings) == (set(), set())
    assert (known.metadata.name, known.metadata.description, known.metadata.version) == ("flowers", "Mine.", "1.1.0")
    assert known.metadata.license == ["https://spdx.org/licenses/CC0-1.0.html"]
    assert [row["classes/name"] for row in known.records("classes")] == ["a", "b"]
    assert len(known.metadata.file_objects) == 2
    assert croissant_text(contents, splits, present=first.encode()) == first
    for damaged in (b"", b"\xff", b"[1]", first.encode()[:-40]):
        assert croissant_text(contents, splits, present=damaged) == first
    assert croissant_text(contents, splits, present=b'{"@type": "sc:Dataset", "name": "theirs"}') is None


def test_append_and_repair_keep_it_current(serial, tmp_path, small_source, small_dataset, picture):
    source, folder = tmp_path / "source", tmp_path / "out"
    shutil.copytree(small_source, source)
    shutil.copytree(small_dataset, folder)
    (folder / CROISSANT).unlink()  # a dataset of before there was one
    assert verify(str(folder), deep=True) == []
    (source / "dog").mkdir()
    picture(30, 30, 99).save(source / "dog" / "new.png")
    convert(source, folder, append=True)
    known = checked(folder / CROISSANT)
    assert known.metadata.version == "1.1.0"
    assert [row["classes/name"] for row in known.records("classes")] == ["ant", "bee", "cow", "dog"]
    assert described(folder) == committed(folder)
    (folder / CROISSANT).write_text("{")
    assert verify(str(folder), deep=True) == []
    before = committed(folder)
    path = Path(Dataset(folder).split("train").paths[0])
    path.write_bytes(path.read_bytes()[:-10])
    repair(str(folder))
    assert described(folder) == committed(folder) != before
    checked(folder / CROISSANT)


def committed(folder: Path) -> dict[str, str]:
    return {shard.file: shard.sha256 for split in Dataset(folder).splits.values() for shard in split.shards}


def described(folder: Path) -> dict[str, str]:
    files = json.loads((folder / CROISSANT).read_text())["distribution"]
    return {file["contentUrl"]: file["sha256"] for file in files if file["@type"] == "cr:FileObject"}


def test_adopted_shards(serial, tmp_path, small_dataset):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in Dataset(small_dataset).split("train").paths:
        shutil.copy(path, theirs / f"my[1] {Path(path).name}")
    files = sorted(theirs.iterdir())
    adopt(files, tmp_path / "out", split="train")
    known = checked(tmp_path / "out" / CROISSANT)
    assert [row["classes/name"] for row in known.records("classes")] == list(Dataset(tmp_path / "out").classes)
    assert [field.source.extract.column for field in fields_of(known)] == ["image/encoded", "image/class/label"]
    assert described(tmp_path / "out") == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    includes = known.metadata.file_sets[0].includes
    assert all(any(fnmatch.fnmatchcase(path.name, pattern) for pattern in includes) for path in files)
    # In the folder of others, which has a file of that name.
    (theirs / CROISSANT).write_text('{"@type": "sc:Dataset", "name": "theirs"}')
    (theirs / NEAR_DUPLICATES).write_text("theirs, too")
    adopt(files, theirs, split="train")
    assert (theirs / NEAR_DUPLICATES).read_text() == "theirs, too"
    assert (theirs / CROISSANT).read_text() == '{"@type": "sc:Dataset", "name": "theirs"}'
    assert verify(str(theirs), deep=True) == []


def test_overwriting_begins_anew(serial, tmp_path, small_source):
    config = ConvertConfig(splits=(("train", 1.0),))
    convert(small_source, tmp_path / "out", config)
    first = (tmp_path / "out" / CROISSANT).read_bytes()
    (tmp_path / "out" / CROISSANT).write_text(json.dumps(json.loads(first) | {"license": "mine"}))
    convert(small_source, tmp_path / "out", config, overwrite=True)
    assert (tmp_path / "out" / CROISSANT).read_bytes() == first
