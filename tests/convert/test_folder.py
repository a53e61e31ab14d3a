"""The output folder: what is refused before any work, and what is removed when a dataset is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from irv2data.convert import ConvertConfig, convert
from irv2data.convert.folder import check_output, prepare, remove_partial
from irv2data.errors import DatasetError, UsageError

pytestmark = pytest.mark.usefixtures("serial")
ONE = ConvertConfig(splits=(("train", 1.0),))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


FOREIGN = [
    {"thesis.txt": b"x"},
    {"dataset.json": b'{"images": []}', "index/train/a.npy": b"x", "train-00000-of-00001.tfrecord": b"x"},
    {"dataset.json": b'{"format": "coco"}', "features.json": b"x"},
    {"dataset.json": b"not json", "rejects.jsonl": b"x"},
    {"dataset.json": b"[]", ".x.partial": b"x"},
    {".hidden": b""},
]


@pytest.mark.parametrize("files", FOREIGN)
@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}, {"overwrite": True, "dry_run": True}])
def test_a_foreign_folder_is_never_touched(tmp_path, small_source, files, flags):
    for name, content in files.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"out: is not empty and no dataset of irv2data; choose another folder$"):
        convert(small_source, tmp_path / "out", ONE, **flags)
    assert everything(tmp_path / "out") == files


def test_an_empty_folder_is_used(tmp_path, small_source):
    assert convert(small_source, tmp_path, ONE).splits["train"]["records"] == 24


def test_a_dataset_is_replaced_only_when_asked(tmp_path, small_source):
    out = tmp_path / "out"
    convert(small_source, out, ConvertConfig(shard_mib=0.002))
    before = everything(out)
    with pytest.raises(
        UsageError, match="out: exists; --overwrite replaces it, --append adds to it, --resume finishes an interrupted"
    ):
        convert(small_source, out, ONE)
    with pytest.raises(UsageError, match="out: is a finished dataset, there is nothing to resume; --overwrite"):
        convert(small_source, out, ONE, resume=True)
    with pytest.raises(UsageError, match="give one of them"):
        convert(small_source, out, ONE, resume=True, overwrite=True)
    assert everything(out) == before
    (out / "notes.txt").write_text("mine")
    convert(small_source, out, ONE, overwrite=True)
    (tmp_path / "fresh").mkdir()
    convert(small_source, tmp_path / "fresh" / "out", ONE)
    assert everything(out) == {**everything(tmp_path / "fresh" / "out"), "notes.txt": b"mine"}


def test_a_failed_replacement_keeps_the_dataset(tmp_path, small_source):
    out = tmp_path / "out"
    convert(small_source, out, ONE)
    before = everything(out)
    with pytest.raises(Exception, match="no such folder"):
        convert(tmp_path / "missing", out, ONE, overwrite=True)
    assert everything(out) == before


@pytest.mark.parametrize("inside", ["", "out", "a/b/out", "../source/out"])
def test_an_output_inside_the_source_is_refused(tmp_path, inside):
    (tmp_path / "source" / "a").mkdir(parents=True)
    with pytest.raises(UsageError, match="lies inside the source folder"):
        check_output(
            str(tmp_path / "source" / inside), str(tmp_path / "source"), resume=False, overwrite=True, append=False
        )


def test_an_output_inside_the_source_by_a_link_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "source")
    with pytest.raises(UsageError, match="lies inside the source folder"):
        check_output(
            str(tmp_path / "link" / "out"), str(tmp_path / "source"), resume=False, overwrite=False, append=False
        )


def test_a_file_as_output_is_refused(tmp_path, small_source):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="file: is a file; DATASET is a folder to make"):
        convert(small_source, tmp_path / "file", ONE, overwrite=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/out", r"file/out: cannot be used \(Not a directory\)$"),
        ("x" * 300, r"x: cannot be used \(File name too long\)$"),
    ],
)
def test_an_output_that_cannot_be_made_is_one_line(tmp_path, small_source, name, reason):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DatasetError, match=reason) as caught:
        convert(small_source, tmp_path / name, ONE)
    assert "\n" not in str(caught.value)


def test_prepare_refuses_another_plan_and_keeps_the_same(tmp_path):
    prepare(str(tmp_path), "one", overwrite=False, appended=0)
    finished = tmp_path / ".convert" / "train-00000-of-00001.tfrecord.npz"
    finished.write_bytes(b"x")
    prepare(str(tmp_path), "one", overwrite=False, appended=0)
    assert finished.exists()
    with pytest.raises(DatasetError, match="sources or options changed since the conversion began; --overwrite starts"):
        prepare(str(tmp_path), "two", overwrite=False, appended=0)
    assert finished.exists()
    prepare(str(tmp_path), "two", overwrite=True, appended=0)
    assert [path.name for path in (tmp_path / ".convert").iterdir()] == ["plan.json"]
    assert json.loads((tmp_path / ".convert" / "plan.json").read_text())["digest"] == "two"


def test_half_written_files_of_a_killed_run_go(tmp_path):
    names = [".a.tfrecord.1.partial", ".convert/.a.npz.1.partial", "index/train/.label.npy.1.partial"]
    for name in [*names, "a.tfrecord", "index/train/label.npy", "mine.partial"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    remove_partial(str(tmp_path))
    assert sorted(everything(tmp_path)) == ["a.tfrecord", "index/train/label.npy", "mine.partial"]
