"""One shard, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from irv2data import index, schema, storage
from irv2data.convert import ConvertConfig
from irv2data.convert.writer import Rows, Task, load_arrays, load_result, write_shard
from irv2data.errors import SourceError
from irv2data.index import BASELINE, PNG
from irv2data.packed import Packed


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
        rows=Rows(
            names=Packed.of(name.encode() for name in contents),
            places=None,
            labels=[1, 0, 1],
            columns={"age": [5, 6, 7], "note": [b"x", b"", b"caf\xc3\xa9"]},
            digests=np.frombuffer(digests, np.uint8).reshape(-1, 32),
            checksums=np.array([google_crc32c.value(content) for content in contents.values()], np.uint32),
        ),
        kind="class",
        types=("int64", "string"),
        classes=("ant", "bee"),
        shard=str(tmp_path / "train-00004-of-00009.tfrecord"),
        shard_number=4,
        result=str(tmp_path / "result.npz"),
        config=ConvertConfig(),
    )


class Marks:
    """Notes what a worker tells its parent."""

    def __init__(self):
        self.told = []

    def begin(self, item):
        self.told.append(item)

    def end(self):
        self.told.append("end")

    def advance(self):
        self.told.append("advance")


def test_a_shard_its_index_rows_and_its_rejects(task):
    marks = Marks()
    result = write_shard(task, marks)
    data = Path(task.shard).read_bytes()
    assert (result.records, result.bytes, result.sha256) == (2, len(data), hashlib.sha256(data).hexdigest())
    assert result.rejects == (("a/2.jpg", "not_an_image", "no image signature"),)
    assert result.done == {"kept": 2}
    # The clock runs while an image is decoded, and only then.
    assert marks.told == [item for row in range(3) for item in (row, "end", "advance")]
    columns = {"age": "int64", "note": "string"}
    raw = tf.data.TFRecordDataset(task.shard).as_numpy_iterator()
    records = [schema.decode(payload, "class", columns) for payload in raw]
    assert [record.columns for record in records] == [{"age": 5, "note": b"x"}, {"age": 7, "note": b"caf\xc3\xa9"}]
    assert [(r.filename, r.label, r.text, r.format, r.height, r.width) for r in records] == [
        (b"a/1.jpg", 1, "bee", "JPEG", 10, 20),
        (b"a/3.png", 1, "bee", "PNG", 30, 15),
    ]
    assert [r.sha256 for r in records] == [hashlib.sha256(r.encoded).hexdigest() for r in records]
    second = len(schema.encode(records[0])) + 16
    with load_arrays(task.result) as arrays:
        saved = {name: arrays[name] for name in arrays if name != "head"}
    assert saved["content"].tobytes() == task.rows.digests[[0, 2]].tobytes()
    assert {name: column.tolist() for name, column in saved.items() if name != "content"} == {
        "shard": [4, 4],
        "offset": [0, second],
        "length": [second, len(data) - second],
        "height": [10, 30],
        "width": [20, 15],
        "format": [BASELINE, PNG],
        "filename": list(b"a/1.jpga/3.png"),
        "filename_end": [7, 14],
        "label": [1, 1],
        "column0": [5, 7],
        "column1": list(b"xcaf\xc3\xa9"),
        "column1_end": [1, 6],
    }
    assert {name: array.dtype for name, array in saved.items()} == {
        name: dtype for name, (dtype, _) in index.spec("class", ("int64", "string")).items()
    }


def rows_of(task, **changes):
    return replace(task, rows=replace(task.rows, **changes))


@pytest.mark.parametrize(
    ("kind", "labels", "stored", "arrays"),
    [
        ("classes", [(0, 1), (), (1,)], [((0, 1), ("ant", "bee")), ((1,), ("bee",))], ([0, 1, 1], [2, 3])),
        ("number", [0.5, 1.0, -2.25], [(0.5, None), (-2.25, None)], ([0.5, -2.25], None)),
        ("none", [None] * 3, [(None, None), (None, None)], (None, None)),
    ],
)
def test_labels_of_every_kind(task, kind, labels, stored, arrays):
    write_shard(replace(rows_of(task, labels=labels, columns={}), kind=kind, types=()), Marks())
    raw = tf.data.TFRecordDataset(task.shard).as_numpy_iterator()
    assert [(r.label, r.text) for r in (schema.decode(payload, kind) for payload in raw)] == stored
    with load_arrays(task.result) as saved:
        found = tuple(saved[name].tolist() if name in saved else None for name in ("label", "label_end"))
    assert found == arrays


def test_a_source_that_took_a_worker_down_is_not_decoded_again(task):
    marks = Marks()
    result = write_shard(task.without(2, "timed_out", "took long"), marks)
    assert ("a/3.png", "timed_out", "took long") in result.rejects
    assert (result.records, 2 in marks.told) == (1, False)


def test_a_decoder_that_runs_out_of_memory_costs_one_reject(task, monkeypatch):
    def hungry(content, config):
        raise MemoryError

    monkeypatch.setattr("irv2data.convert.writer.transcode", hungry)
    assert {code for _, code, _ in write_shard(task, Marks()).rejects} == {"out_of_memory"}


def test_the_committed_result_is_read_back(task):
    names = (b"a/1.jpg", b"a/\xff\n.jpg", b"a/3.png")  # a name that is not UTF-8, of a file that is not there
    written = write_shard(rows_of(task, names=Packed.of(names)), Marks())
    read = load_result(task.result)
    assert read is not None
    assert (read.records, read.bytes, read.sha256) == (written.records, written.bytes, written.sha256)
    assert read.rejects == written.rejects == (("a/\udcff\n.jpg", "unreadable", "No such file or directory"),)
    assert read.done == written.done == {"kept": 2}
    assert load_result(task.result + ".other") is None


def test_content_that_changed_since_it_was_hashed_is_rejected(task):
    Path(task.root, "a/1.jpg").write_bytes(Path(task.root, "a/3.png").read_bytes())
    assert write_shard(task, Marks()).rejects[0][:2] == ("a/1.jpg", "changed_while_reading")


def test_on_error_fail_leaves_nothing(task, tmp_path):
    with pytest.raises(SourceError, match=r"a/2\.jpg: not_an_image: no image signature; --on_error=reject goes on$"):
        write_shard(replace(task, config=ConvertConfig(on_error="fail")), Marks())
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_atomic_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half():
        with storage.atomic_file(str(path)) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])
    with storage.atomic_file(str(path)) as file:
        file.write(b"new")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"new", ["file"])
