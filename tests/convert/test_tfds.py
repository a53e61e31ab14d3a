"""TensorFlow Datasets reads a dataset folder: splits, counts, label names and the very same images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from irv2data import Dataset
from irv2data.convert import ConvertConfig, convert
from irv2data.convert.describe import tfds_files
from irv2data.manifest import Contents, Shard, shard_name


def test_tfds_reads_every_record_as_we_do(small_dataset, records_of):
    builder = tfds.builder_from_directory(str(small_dataset))
    dataset = Dataset(small_dataset)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        name: split.num_records for name, split in dataset.splits.items()
    }
    assert {name: split.shard_lengths for name, split in builder.info.splits.items()} == {
        name: [shard.records for shard in split.shards] for name, split in dataset.splits.items()
    }
    assert builder.info.features["image"]["class"]["label"].names == ["ant", "bee", "cow"]
    for name, records in records_of(small_dataset).items():
        examples = [example["image"] for example in builder.as_dataset(split=name).as_numpy_iterator()]
        theirs = {example["filename"]: example for example in examples}
        assert len(theirs) == len(examples) == len(records)
        for record in records:
            example = theirs[record.filename]
            decode = {"JPEG": tf.io.decode_jpeg, "PNG": tf.io.decode_png}[record.format]
            np.testing.assert_array_equal(example["encoded"], decode(record.encoded, channels=3).numpy())
            assert (example["height"], example["width"]) == (record.height, record.width)
            assert example["class"] == {"label": record.label, "text": record.text.encode()}
            assert (example["format"], example["key"]["sha256"]) == (record.format.encode(), record.sha256.encode())


def test_tfds_cuts_sub_splits(dataset):
    builder = tfds.builder_from_directory(str(dataset.folder))
    config = tfds.ReadConfig(interleave_cycle_length=1)

    def keys(split):
        examples = builder.as_dataset(split=split, read_config=config, decoders=tfds.decode.PartialDecoding(KEYS))
        return [example["image"]["key"]["sha256"] for example in examples.as_numpy_iterator()]

    halves = keys("train[:50%]"), keys("train[50%:]")
    assert [len(half) for half in halves] == [60, 60]
    assert halves[0] + halves[1] == keys("train")
    assert keys("train[100:]+validation[:7]") == keys("train")[100:] + keys("validation")[:7]


KEYS = {"image": {"key": {"sha256": True}}}


@pytest.mark.parametrize("name", ["2024 Photos!", "été", "a"])
def test_any_folder_name_and_class_name_will_do(serial, tmp_path, picture, name):
    classes = ["b c", "Ä", "x,y", "1"]
    for number, text in enumerate(classes):
        (tmp_path / "source" / text).mkdir(parents=True)
        picture(9, 9, number).save(tmp_path / "source" / text / "1.png")
    convert(tmp_path / "source", tmp_path / name, ConvertConfig(splits=(("test", 1.0),)))
    builder = tfds.builder_from_directory(str(tmp_path / name))
    label = builder.info.features["image"]["class"]["label"]
    assert label.names == list(Dataset(tmp_path / name).classes) == ["1", "b c", "x,y", "Ä"]
    for example in builder.as_dataset(split="test").as_numpy_iterator():
        assert label.int2str(example["image"]["class"]["label"]) == example["image"]["class"]["text"].decode()


def test_the_description_files():
    shards = [
        Shard(file=shard_name(part, 0, 1), records=records, bytes=10 * records, sha256="")
        for part, records in (("train", 3), ("train_append1", 4))
    ]
    files = tfds_files(Contents(classes=("a", "b\nc")), {"train": shards})
    assert sorted(files) == ["dataset_info.json", "features.json", "image-class-label.labels.txt"]
    splits = json.loads(files["dataset_info.json"])["splits"]
    assert [(split["name"], split["shardLengths"], split["numBytes"]) for split in splits] == [
        ("train", ["3"], "30"),
        ("train_append1", ["4"], "40"),
    ]
    assert files["image-class-label.labels.txt"] == "a\nb\\nc\n"
