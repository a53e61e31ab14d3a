"""One shard, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from irv2data import schema
from irv2data.convert import ConvertConfig
from irv2data.convert.transcode import RejectError
from irv2data.convert.writer import Task, atomic_file, load_result, read_source, write_shard
from irv2data.errors import SourceError
from irv2data.manifest import BASELINE, COLUMNS, PNG


@pytest.fixture
def task(tmp_path, picture, saved) -> Task:
    """Three sources: a JPEG, a text and a PNG."""
    root = tmp_path / "source"
    (root / "a").mkdir(parents=True)
    contents = {"a/1.jpg": saved(picture(10, 20)), "a/2.jpg": b"text", "a/3.png": saved(picture(30, 15), "PNG")}
    for name, content in contents.items():
        (root / name).write_bytes(content)
    digests = b"".join(hashlib.sha256(content).digest() for content in contents.values())
    return Task(
        root=str(root),
        paths=tuple(contents),
        labels=np.array([1, 0, 1], np.int32),
        digests=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        classes=("ant", "bee"),
        shard=tmp_path / "train-00004-of-00009.tfrecord",
        shard_number=4,
        result=tmp_path / "result.npz",
        config=ConvertConfig(),
    )


def test_a_shard_its_index_rows_and_its_rejects(task):
    advanced = []
    result = write_shard(task, lambda: advanced.append(1))
    data = task.shard.read_bytes()
    assert (result.records, result.bytes, result.sha256) == (2, len(data), hashlib.sha256(data).hexdigest())
    assert result.rejects == (("a/2.jpg", "not_an_image", "no image signature"),)
    assert len(advanced) == 3
    records = [schema.decode(raw) for raw in tf.data.TFRecordDataset(str(task.shard)).as_numpy_iterator()]
    assert [(r.filename, r.label, r.text, r.format, r.height, r.width) for r in records] == [
        (b"a/1.jpg", 1, "bee", "JPEG", 10, 20),
        (b"a/3.png", 1, "bee", "PNG", 30, 15),
    ]
    assert [r.sha256 for r in records] == [hashlib.sha256(r.encoded).hexdigest() for r in records]
    second = len(schema.encode(records[0])) + 16
    assert {name: column.tolist() for name, column in result.columns.items()} == {
        "shard": [4, 4],
        "offset": [0, second],
        "length": [second, len(data) - second],
        "height": [10, 30],
        "width": [20, 15],
        "format": [BASELINE, PNG],
        "label": [1, 1],
    }
    assert {name: column.dtype for name, column in result.columns.items()} == COLUMNS


def test_the_committed_result_is_read_back(task):
    paths = ("a/1.jpg", "a/\udcff\n.jpg", "a/3.png")  # a name that is not UTF-8, of a file that is not there
    written = write_shard(replace(task, paths=paths))
    read = load_result(task.result)
    assert read is not None
    assert (read.records, read.bytes, read.sha256) == (written.records, written.bytes, written.sha256)
    assert read.rejects == written.rejects == (("a/\udcff\n.jpg", "unreadable", "No such file or directory"),)
    for name in COLUMNS:
        np.testing.assert_array_equal(read.columns[name], written.columns[name], strict=True)
    assert load_result(task.result.with_name("other.npz")) is None


def test_content_that_changed_since_it_was_hashed_is_rejected(task):
    Path(task.root, "a/1.jpg").write_bytes(Path(task.root, "a/3.png").read_bytes())
    assert write_shard(task).rejects[0][:2] == ("a/1.jpg", "changed_while_reading")


def test_on_error_fail_leaves_nothing(task, tmp_path):
    with pytest.raises(SourceError, match=r"a/2\.jpg: not_an_image: no image signature; --on_error=reject goes on$"):
        write_shard(replace(task, config=ConvertConfig(on_error="fail")))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_cannot_be_read_is_unreadable(tmp_path, kind):
    if kind == "folder":
        (tmp_path / "x.jpg").mkdir()
    with pytest.raises(RejectError) as caught:
        read_source(str(tmp_path), "x.jpg")
    reasons = {"missing": "No such file or directory", "folder": "Is a directory"}
    assert (caught.value.code, caught.value.detail) == ("unreadable", reasons[kind])


def test_an_atomic_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with atomic_file(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])
    with atomic_file(path) as file:
        file.write(b"new")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"new", ["file"])
