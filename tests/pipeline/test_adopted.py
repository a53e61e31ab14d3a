"""Records that others wrote give the batches of our own: the same images, adopted from shards of each kind."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.convert import adopt

LABEL_FROM = {"model_garden": 1, "tfds": 0, "hand_made": 0}


def example(values):
    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    features = tf.train.Features(feature={key: feature(value) for key, value in values.items()})
    return tf.train.Example(features=features).SerializeToString()


def as_others_write_it(kind, record):
    """A record with the keys of Model Garden, of TFDS' image classification, or of a script."""
    if kind == "model_garden":
        return {
            "image/encoded": record.encoded,
            "image/format": b"JPEG",
            "image/colorspace": b"RGB",
            "image/channels": 3,
            "image/height": record.height,
            "image/width": record.width,
            "image/class/label": record.label + 1,
            "image/class/synset": b"n%08d" % record.label,
            "image/filename": record.filename,
        }
    if kind == "tfds":
        return {"image": record.encoded, "label": record.label, "file_name": record.filename}
    return {"jpeg": record.encoded, "target": record.label}


@pytest.fixture(scope="module", params=LABEL_FROM)
def adopted(request, dataset, tmp_path_factory):
    """The train split of `dataset` in three shards of a kind, adopted; and what its labels begin with."""
    folder = tmp_path_factory.mktemp(request.param)
    split = dataset.split("train")
    paths = [folder / f"train-{number:05d}-of-00003" for number in range(3)]
    for number, path in enumerate(paths):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in range(number * split.num_records // 3, (number + 1) * split.num_records // 3):
                writer.write(example(as_others_write_it(request.param, split.read(row))))
    keys = {"image_key": "jpeg", "label_key": "target"} if request.param == "hand_made" else {}
    adopt(paths, folder / "adopted", workers=1, **keys)
    return irv2data.Dataset(folder / "adopted"), LABEL_FROM[request.param]


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "random_resized_crop", "shuffle": "blocks"},
        {"fit": "letterbox", "drop_remainder": False, "batch_size": 32, "resize_on": "host"},
        {"fit": "native", "max_pixels_per_batch": 200_000},
    ],
)
def test_adopted_records_give_the_same_batches(dataset, adopted, options):
    copy, first = adopted
    own, theirs = (
        irv2data.Pipeline(each, **{"image_size": (24, 24), "batch_size": 30, **options}) for each in (dataset, copy)
    )
    assert theirs.steps_per_epoch(1) == own.steps_per_epoch(1) > 0
    pairs = zip(own.batches(1).as_numpy_iterator(), theirs.batches(1).as_numpy_iterator(), strict=True)
    for mine, batch in pairs:
        real = mine["weight"] > 0
        np.testing.assert_array_equal(batch.pop("label"), np.where(real, mine.pop("label") + first, 0))
        assert batch.keys() == mine.keys()
        for name in mine:
            np.testing.assert_array_equal(batch[name], mine[name], err_msg=name)


def test_adopted_records_are_evaluated_exactly_once_on_two_replicas(adopted, cpu_strategy):
    pipeline = irv2data.Pipeline(
        adopted[0], image_size=(24, 24), batch_size=50, shuffle=None, drop_remainder=False, fit="center_crop"
    )
    strategy = cpu_strategy(2)
    records = [
        part["record"].numpy()
        for batch in pipeline.distribute(strategy)
        for part in [
            {name: strategy.experimental_local_results(value)[replica] for name, value in batch.items()}
            for replica in range(2)
        ]
    ]
    seen = np.concatenate(records)
    assert sorted(seen[seen >= 0].tolist()) == list(range(120))
    assert (seen < 0).sum() == 30


def test_a_damaged_adopted_record_is_named(adopted):
    pipeline = irv2data.Pipeline(adopted[0], image_size=(24, 24), batch_size=20)
    place = pipeline.locate(0, 0)[3]
    path = pipeline.dataset.folder / place.shard
    content = bytearray(path.read_bytes())
    content[place.offset + 40] ^= 1
    kept = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"record {place.number} .*byte {place.offset}"):
            next(iter(pipeline.batches()))
    finally:
        path.write_bytes(kept)
