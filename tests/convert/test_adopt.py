"""Shards that others wrote become a dataset without a byte of them changed."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

import irv2data
from irv2data.convert import adopt, verify
from irv2data.convert.adopt import split_of
from irv2data.errors import DatasetError, RecordError, SourceError, UsageError

pytestmark = pytest.mark.usefixtures("serial")


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    values = value if isinstance(value, list) else [value]
    if values and isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write(path: Path, *records, options=None) -> Path:
    """A TFRecord file of examples, written by TensorFlow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            example = tf.train.Example(
                features=tf.train.Features(feature={key: feature(value) for key, value in record.items()})
            )
            writer.write(example.SerializeToString())
    return path


def state(*paths: Path) -> list:
    return [(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in paths]


def batch_of(folder: Path, split="train") -> dict[str, np.ndarray]:
    records = irv2data.Dataset(folder).split(split).num_records
    pipeline = irv2data.Pipeline(folder, split=split, batch_size=records, image_size=(8, 8), shuffle=None, buckets=1)
    (batch,) = pipeline.batches().as_numpy_iterator()
    order = np.argsort(batch["record"])
    return {name: value[order] for name, value in batch.items()}


@pytest.fixture
def model_garden(tmp_path, picture, saved):
    """Two shards as TensorFlow Model Garden names and fills them: labels from 1, class texts, further keys."""
    paths = []
    for number in range(2):
        records = [
            {
                "image/encoded": saved(picture(20 + 3 * number + row, 30, row)),
                "image/format": b"JPEG",
                "image/height": 20 + 3 * number + row,
                "image/width": 30,
                "image/class/label": 1 + (number + row) % 2,
                "image/class/text": (b"tench", b"goldfish")[(number + row) % 2],
                "image/filename": f"n0{number}_{row}.JPEG".encode(),
                "image/object/bbox/xmin": [0.1, 0.2],
            }
            for row in range(3)
        ]
        paths.append(write(tmp_path / "imagenet" / f"train-{number:05d}-of-00002", *records))
    return paths


def test_model_garden(tmp_path, model_garden):
    before = state(*model_garden)
    adoption = adopt(model_garden, tmp_path / "out")
    assert state(*model_garden) == before
    assert adoption.splits == {
        "train": {"records": 6, "shards": 2, "bytes": sum(path.stat().st_size for path in model_garden)}
    }
    assert (adoption.image_key, adoption.label_key, adoption.labels) == ("image/encoded", "image/class/label", "class")
    dataset = irv2data.Dataset(tmp_path / "out")
    assert dataset.classes == ("0", "tench", "goldfish")  # number 0 is Model Garden's background
    train = dataset.split("train")
    assert train.array("label").tolist() == [1, 2, 1, 2, 1, 2]
    assert train.array("height").tolist() == [20, 21, 22, 23, 24, 25]
    assert train.source(4) == "n01_1.JPEG"
    batch = batch_of(tmp_path / "out")
    assert batch["label"].tolist() == [1, 2, 1, 2, 1, 2]
    assert batch["size"].shape == (6, 2)
    assert batch["canvas"].any(axis=(1, 2, 3)).all()
    assert verify(str(tmp_path / "out"), deep=True) == []
    links = [path for path in (tmp_path / "out").iterdir() if path.is_symlink()]
    assert sorted(os.path.realpath(path) for path in links) == sorted(map(str, model_garden))


def test_where_the_shards_lie_nothing_is_linked(tmp_path, model_garden):
    folder = model_garden[0].parent
    adopt([str(path) for path in model_garden], folder)
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert irv2data.Dataset(folder).split("train").num_records == 6
    with pytest.raises(UsageError, match="is a dataset already; --overwrite replaces its index and manifest"):
        adopt(model_garden, folder)
    before = state(*model_garden)
    adopt(model_garden, folder, overwrite=True, classes=["none", "a", "b"])
    assert irv2data.Dataset(folder).classes == ("none", "a", "b")
    assert state(*model_garden) == before
    with pytest.raises(UsageError, match="its shards were adopted, and replacing it would remove them"):
        irv2data.convert.convert(tmp_path / "other", folder, overwrite=True)
    assert state(*model_garden) == before


class Shapes(tfds.core.GeneratorBasedBuilder):
    """A small dataset that TFDS itself writes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["circle", "square", "triangle"]),
                    "file_name": tfds.features.Text(),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(7), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (10 + number, 12, 3), np.uint8)
            yield number, {"image": pixels, "label": number % 3, "file_name": f"{number}.png"}


def test_tfds(tmp_path):
    builder = Shapes(data_dir=str(tmp_path / "tfds"))
    builder.download_and_prepare()
    folder = Path(builder.data_dir)
    described = (folder / "dataset_info.json").read_bytes()
    shards = sorted(folder.glob("*.tfrecord*"))
    adoption = adopt(shards, folder)
    assert (folder / "dataset_info.json").read_bytes() == described
    assert {name: split["records"] for name, split in adoption.splits.items()} == {"test": 2, "train": 7}
    dataset = irv2data.Dataset(folder)
    assert dataset.classes == ("circle", "square", "triangle")
    theirs = {e["file_name"].decode(): e for e in builder.as_dataset(split="train").as_numpy_iterator()}
    batch = batch_of(folder)
    train = dataset.split("train")
    for row in range(7):
        example = theirs[train.source(row)]
        height, width = batch["size"][row]
        assert batch["label"][row] == example["label"]
        np.testing.assert_array_equal(batch["canvas"][row, :height, :width], example["image"])
    assert verify(str(folder), deep=True) == []


def test_hand_made_records_of_every_kind_of_label(tmp_path, picture, saved):
    image = saved(picture(9, 9))
    for name, labels, kind, expected in (
        ("a", [3, 0], "class", [3, 0]),
        ("b", [[0, 2], [1]], "classes", [[1, 0, 1], [0, 1, 0]]),
        ("c", [0.5, -2.0], "number", [0.5, -2.0]),
        ("d", [None, None], "none", [-1, -1]),
    ):
        records = [{"image_raw": image, **({} if label is None else {"label": label})} for label in labels]
        path = write(tmp_path / name / "data.tfrecord", *records)
        adoption = adopt([path], tmp_path / name / "out")
        assert (adoption.labels, adoption.image_key) == (kind, "image_raw")
        np.testing.assert_array_equal(batch_of(tmp_path / name / "out")["label"], expected)
        assert verify(str(tmp_path / name / "out"), deep=True) == []


def test_what_cannot_be_used_is_left_out_and_said(tmp_path, picture, saved):
    good, other = saved(picture(9, 9, 1)), saved(picture(11, 9, 2))
    gif = io.BytesIO()
    picture(9, 9).save(gif, "GIF")
    records = [
        {"image": good, "label": 0},
        {"image": good[:-20], "label": 1},
        {"image": gif.getvalue(), "label": 1},
        {"label": 2},
        {"image": other, "label": 1},
    ]
    path = write(tmp_path / "x.tfrecord", *records)
    adoption = adopt([path], tmp_path / "out")
    assert (adoption.rejected, adoption.splits["train"]["records"], adoption.classes) == (3, 2, 2)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["x.tfrecord#1", "x.tfrecord#2", "x.tfrecord#3"]
    assert "Premature end" in lines[0]["detail"]
    assert lines[1]["detail"] == "the image is GIF, none of JPEG, PNG, WebP and AVIF"
    assert lines[2]["detail"] == "key 'image' holds no image"
    batch = batch_of(tmp_path / "out")
    assert (batch["label"].tolist(), batch["size"][:, 0].tolist()) == ([0, 1], [9, 11])
    assert verify(str(tmp_path / "out"), deep=True) == []
    assert irv2data.Dataset(tmp_path / "out").source["sources"] == 5


def test_images_stored_lying_down_are_counted(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    picture(9, 12).save(out, "JPEG", exif=exif)
    adoption = adopt([write(tmp_path / "x.tfrecord", {"image": out.getvalue(), "label": 0})], tmp_path / "out")
    assert (adoption.turned, adoption.splits["train"]["records"]) == (1, 1)


def test_what_is_refused(tmp_path, picture, saved):
    image = saved(picture(9, 9))
    whole = write(tmp_path / "whole.tfrecord", {"image": image, "label": 0})
    with pytest.raises(SourceError, match=r"missing: cannot be read \(No such file"):
        adopt([tmp_path / "missing"], tmp_path / "out")
    packed = write(tmp_path / "x.tfrecord.gz", {"image": image}, options=tf.io.TFRecordOptions(compression_type="GZIP"))
    with pytest.raises(SourceError, match=r"x\.tfrecord\.gz: is compressed.*gunzip it first$"):
        adopt([packed], tmp_path / "out")
    with pytest.raises(SourceError, match=r"no key of the first record holds an image; it has a, b$"):
        adopt([write(tmp_path / "n.tfrecord", {"a": b"text", "b": 1})], tmp_path / "out")
    with pytest.raises(UsageError, match=r"the first record has no key 'picture'; it has image, label$"):
        adopt([whole], tmp_path / "out", image_key="picture")
    with pytest.raises(UsageError, match=r"labels go up to 0, but there are 0 class names$"):
        adopt([whole], tmp_path / "out", classes=[])
    empty = tmp_path / "empty.tfrecord"
    empty.write_bytes(b"")
    with pytest.raises(SourceError, match=r"holds no records$"):
        adopt([empty], tmp_path / "out")
    data = whole.read_bytes()
    cut = tmp_path / "cut.tfrecord"
    cut.write_bytes(data + data[:-3])
    with pytest.raises(RecordError, match=r"cut\.tfrecord, record 1: ends inside the record"):
        adopt([cut], tmp_path / "out")
    with pytest.raises(DatasetError, match="not a dataset"):
        irv2data.Dataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-01024", "train"),
        ("validation-00003-of-00128", "validation"),
        ("test-00000-of-00016.tfrecord", "test"),
        ("mnist-train.tfrecord-00000-of-00001", "train"),
        ("oxford_flowers102-validation.tfrecord-00000-of-00002", "validation"),
        ("flowers_test.tfrecord", "test"),
        ("val.tfrecords", "val"),
        ("part-00000-of-00010", "part"),
        ("restrained.tfrecord", "train"),
        ("data.tfrecord", "train"),
    ],
)
def test_the_split_is_told_by_the_name(name, split):
    assert split_of(name) == split
