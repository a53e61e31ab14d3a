"""A dataset that grows: old shards untouched, classes never renumbered, nothing twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from irv2data import Dataset
from irv2data.convert import ConvertConfig, convert, verify
from irv2data.errors import DatasetError, UsageError

pytestmark = pytest.mark.usefixtures("serial")
HALVES = ConvertConfig(splits=(("train", 0.5), ("validation", 0.5)), seed=3)


@pytest.fixture
def source(tmp_path, picture) -> Path:
    """Twelve images in the classes bee and fly, a text with an image's name, and a dataset of them."""
    root = tmp_path / "source"
    for number in range(12):
        path = root / ("bee" if number % 2 else "fly") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(8 + number, 9, number).save(path)
    (root / "bee" / "bad.png").write_bytes(b"text")
    convert(root, tmp_path / "out", HALVES)
    return root


def grow(source: Path, picture) -> None:
    """Adds a class that sorts first, one that sorts between, more of an old one, and a copy."""
    for number, name in enumerate(("ant/1.png", "cow/1.png", "cow/2.png", "fly/new.png")):
        (source / name).parent.mkdir(exist_ok=True)
        picture(30, 20 + number, 100 + number).save(source / name)
    (source / "fly" / "copy.png").write_bytes((source / "bee" / "01.png").read_bytes())


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tfrecord")}


def labelled(folder: Path, records_of) -> dict[str, tuple[int, str]]:
    found = [record for records in records_of(folder).values() for record in records]
    assert len({record.filename for record in found}) == len(found)
    return {record.filename.decode(): (record.label, record.text) for record in found}


def test_new_files_go_to_new_shards_and_old_ones_stay(tmp_path, source, picture, records_of):
    out = tmp_path / "out"
    before, old = digests(out), labelled(out, records_of)
    stats = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    grow(source, picture)
    report = convert(source, out, append=True)
    dataset = Dataset(out)
    assert dataset.classes == ("bee", "fly", "ant", "cow")
    assert {name: digest for name, digest in digests(out).items() if name in before} == before
    assert {name: (out / name).stat().st_mtime_ns for name in stats} == stats
    assert all("_append1-" in name for name in digests(out).keys() - before.keys())
    new = labelled(out, records_of)
    assert {name: new[name] for name in old} == old
    assert {name: new[name] for name in new.keys() - old.keys()} == {
        "ant/1.png": (2, "ant"),
        "cow/1.png": (3, "cow"),
        "cow/2.png": (3, "cow"),
        "fly/new.png": (1, "fly"),
        "fly/copy.png": (1, "fly"),
    }
    assert (report.added, report.present, report.rejected, report.dropped, report.sources) == (5, 12, 1, 0, 18)
    assert report.sources == report.rejected + report.dropped + sum(s["records"] for s in report.splits.values())
    assert (dataset.source["sources"], dataset.source["rejected"], dataset.appended) == (18, 1, 1)
    assert verify(str(out), deep=True) == []
    assert not (out / ".convert").exists()
    assert [path.name for path in out.glob("index*")] == ["index-append1"]


def test_a_copy_of_a_record_is_reported_in_its_split_or_dropped(tmp_path, source, picture, records_of):
    out = tmp_path / "out"
    grow(source, picture)
    report = convert(source, out, ConvertConfig(duplicates="drop"), append=True)
    (line,) = map(json.loads, (out / "duplicates.jsonl").read_text().splitlines())
    assert line == {
        "sha256": hashlib.sha256((source / "bee" / "01.png").read_bytes()).hexdigest(),
        "files": ["bee/01.png", "fly/copy.png"],
        "labels": ["bee", "fly"],
        "conflict": True,
        "dropped": ["fly/copy.png"],
    }
    assert (report.dropped, report.duplicates, report.conflicts) == (1, 1, 1)
    again = convert(source, out, ConvertConfig(duplicates="drop"), append=True)
    assert (again.dropped, again.rejected, again.added, again.sources) == (1, 1, 0, report.sources)
    assert labelled(out, records_of).keys() >= {"ant/1.png", "bee/01.png"}


def test_the_split_is_the_one_a_fresh_conversion_gives(tmp_path, source, picture, records_of):
    grow(source, picture)
    convert(source, tmp_path / "out", append=True)
    convert(source, tmp_path / "fresh", HALVES)

    def split_of(folder):
        return {record.filename: split for split, records in records_of(folder).items() for record in records}

    assert split_of(tmp_path / "out") == split_of(tmp_path / "fresh")


def test_appending_twice_and_nothing(tmp_path, source, picture):
    out = tmp_path / "out"
    first = convert(source, out, append=True)
    assert (first.added, first.present) == (0, 12)
    grow(source, picture)
    convert(source, out, append=True)
    picture(50, 50, 7).save(source / "cow" / "3.png")
    last = convert(source, out, append=True)
    assert (last.added, last.present, Dataset(out).appended) == (
        1,
        17,
        2,
    )  # an append of nothing leaves the dataset as it is
    assert verify(str(out), deep=True) == []


def test_a_reject_that_was_mended_becomes_a_record(tmp_path, source, picture):
    picture(9, 9, 77).save(source / "bee" / "bad.png")
    report = convert(source, tmp_path / "out", append=True)
    assert (report.added, report.rejected, report.sources) == (1, 0, 13)
    assert (tmp_path / "out" / "rejects.jsonl").read_text() == ""


def test_tfds_reads_the_parts(tmp_path, source, picture):
    grow(source, picture)
    convert(source, tmp_path / "out", append=True)
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    parts = [name for name in builder.info.splits if name.startswith("train")]
    names = {example["image"]["filename"] for example in builder.as_dataset(split="+".join(parts)).as_numpy_iterator()}
    train = Dataset(tmp_path / "out").split("train")
    assert names == {train.source(row).encode() for row in range(train.num_records)}
    assert builder.info.features["image"]["class"]["label"].names == ["bee", "fly", "ant", "cow"]


def test_records_of_both_parts_are_read_by_their_number(tmp_path, source, picture):
    grow(source, picture)
    convert(source, tmp_path / "out", append=True)
    for split in Dataset(tmp_path / "out").splits.values():
        for row in range(split.num_records):
            record = split.read(row)
            assert record.filename.decode() == split.source(row)
            assert record.label == split.array("label")[row]
            original = hashlib.sha256((source / split.source(row)).read_bytes()).digest()
            assert bytes(split.array("content")[row]) == original


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, r"was converted with seed=3, an append cannot have 4$"),
        ({"quality": 50}, r"was converted with quality=92, an append cannot have 50$"),
        ({"splits": (("a", 1.0),)}, r"was converted with splits="),
    ],
)
def test_options_that_contradict_the_dataset_are_refused(tmp_path, source, options, message):
    with pytest.raises(UsageError, match=message):
        convert(source, tmp_path / "out", ConvertConfig(**options), append=True)


def test_what_cannot_be_appended_to(tmp_path, source):
    with pytest.raises(UsageError, match=r"new: is no finished dataset, there is nothing to append to"):
        convert(source, tmp_path / "new", append=True)
    with pytest.raises(UsageError, match="give one of them"):
        convert(source, tmp_path / "out", append=True, overwrite=True)
    convert(source, tmp_path / "exact", ConvertConfig(exact_splits=True))
    with pytest.raises(UsageError, match="has exact splits, which appending would have to move"):
        convert(source, tmp_path / "exact", append=True)
    (tmp_path / "out" / "rejects.jsonl").write_text("{")
    with pytest.raises(DatasetError, match=r"rejects\.jsonl: is damaged"):
        convert(source, tmp_path / "out", append=True)


def test_columns_and_labels_must_go_on_as_they_began(tmp_path, picture):
    picture(9, 9, 1).save(tmp_path / "a.png")
    picture(9, 9, 2).save(tmp_path / "b.png")

    def table(name, *rows):
        (tmp_path / name).write_text("\n".join(rows) + "\n")
        return tmp_path / name

    whole = ConvertConfig(splits=(("train", 1.0),))
    convert(table("1.csv", "path,label,age", "a.png,x,5"), tmp_path / "out", whole)
    with pytest.raises(UsageError, match="has no column 'age', which the records of"):
        convert(table("2.csv", "path,label", "b.png,x"), tmp_path / "out", append=True)
    with pytest.raises(UsageError, match="column 'name' is new"):
        convert(table("3.csv", "path,label,age,name", "b.png,x,5,n"), tmp_path / "out", append=True)
    with pytest.raises(UsageError, match="column 'age' holds other values than the dataset's int64"):
        convert(table("4.csv", "path,label,age", "b.png,x,5.5"), tmp_path / "out", append=True)
    convert(table("5.csv", "path,label,age", "b.png,w,6"), tmp_path / "out", append=True)
    train = Dataset(tmp_path / "out").split("train")
    assert (train.column("age").tolist(), train.column("label").tolist()) == ([5, 6], [0, 1])
    assert Dataset(tmp_path / "out").classes == ("x", "w")


def test_what_is_in_one_split_is_not_added_to_another(tmp_path, picture):
    for name in ("train/a/1", "train/a/2", "test/a/3"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(9, 9, int(name[-1])).save(tmp_path / "source" / f"{name}.png")
    convert(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "train/a/3.png").write_bytes((tmp_path / "source" / "test/a/3.png").read_bytes())
    report = convert(tmp_path / "source", tmp_path / "out", append=True)
    assert (report.added, report.dropped, report.present) == (0, 1, 3)
    assert np.array_equal(Dataset(tmp_path / "out").split("train").array("label"), [0, 0])
