"""`cache="host"`: the batches of the uncached pipeline, from images that are decoded once."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data import machine
from irv2data.device import preprocess
from irv2data.errors import UsageError
from irv2data.pipeline import residence
from irv2data.pipeline.cache import HostCache
from irv2data.pipeline.residence import TILE, kept_windows, residence_of


def make(dataset, **options):
    given = {"image_size": (24, 24), "batch_size": 30, "fit": "random_resized_crop", "cache": "host", **options}
    return irv2data.Pipeline(dataset, **given)


def epoch_of(pipeline, epoch=0, step=0):
    return list(pipeline.batches(epoch, step).as_numpy_iterator())


def decibels(found, expected):
    """Peak signal-to-noise ratio of images in [-1, 1]."""
    return 10 * np.log10(4 / np.mean((found - expected) ** 2))


@pytest.fixture
def copy(dataset, tmp_path):
    """An opened copy of the dataset, to be damaged."""
    return irv2data.Dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))


FITS = [
    {"fit": "random_resized_crop"},
    {"fit": "resize", "shuffle": None, "drop_remainder": False, "batch_size": 32},
    {"fit": "center_crop", "shuffle": "blocks", "buckets": 1},
    {"fit": "letterbox", "flip": True, "pad_value": 127},
]


@pytest.mark.parametrize("options", FITS)
def test_batches_are_those_of_the_uncached_pipeline(dataset, options):
    kept, plain = make(dataset, **options), make(dataset, **options, cache="none")
    for epoch in range(2):  # decoded in the first one, gathered in the second
        pairs = list(zip(epoch_of(kept, epoch), epoch_of(plain, epoch), strict=True))
        assert len(pairs) == plain.steps_per_epoch() > 2
        for found, expected in pairs:
            assert found.keys() == expected.keys()
            for name in expected.keys() - {"canvas", "box", "size"}:
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
            images, wanted = (preprocess(batch, kept.output).numpy() for batch in (found, expected))
            assert decibels(images, wanted) > 30
            # Of other records the images are not.
            assert decibels(images[::-1], wanted) < 20
            assert found["canvas"].shape[1:3] in kept.plan.shapes


@pytest.mark.parametrize("options", FITS)
def test_pixels_are_those_of_the_whole_image(dataset, options):
    pipeline = make(dataset, **options, seed=4)
    split, where = dataset.split("train"), pipeline.plan.residence
    compared = 0
    for batch, planned in zip(epoch_of(pipeline), range(pipeline.steps_per_epoch()), strict=True):
        plan = pipeline.plan.batch(0, planned)
        for row, record in enumerate(batch["record"].tolist()):
            if record < 0:
                assert not batch["canvas"][row].any()
                continue
            if (where.reduce[record] > 1).any():  # a panorama, averaged down; see `test_how_large_images_are_kept`
                continue
            compared += 1
            encoded = split.read(record).encoded
            image = tf.io.decode_jpeg(
                encoded, channels=3, ratio=int(where.scale[record]), dct_method="INTEGER_ACCURATE"
            ).numpy()
            y, x, height, width = plan.crop[0, row]
            np.testing.assert_array_equal(batch["canvas"][row, :height, :width], image[y : y + height, x : x + width])
            assert batch["size"][row].tolist() == [height, width]
    assert compared > 80


def test_what_is_kept_is_read_no_more(copy):
    pipeline = make(copy, drop_remainder=False, batch_size=32)
    expected = epoch_of(pipeline, 3)
    assert pipeline.cache.there.sum() == 120
    for path in copy.split("train").paths:
        os.remove(path)
    again = epoch_of(pipeline, 3)
    for found, wanted in zip(again, expected, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    records = np.concatenate([batch["record"] for batch in epoch_of(pipeline, 4)])
    assert sorted(records[records >= 0]) == list(range(120))


def test_an_epoch_can_be_entered_at_every_step(dataset):
    whole = epoch_of(make(dataset), 1)
    for step in range(1, len(whole) + 1):
        late = make(dataset)  # with nothing kept yet
        found = epoch_of(late, 1, step)
        assert len(found) == len(whole) - step
        for a, b in zip(found, whole[step:], strict=True):
            for name in b:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert late.cache.there.sum() == 30 * (len(whole) - step)


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_share_one_cache(dataset, cpu_strategy, replicas):
    strategy = cpu_strategy(replicas)
    with strategy.scope():
        pipeline = make(dataset)
        steps = [
            [strategy.experimental_local_results(batch[name]) for name in ("canvas", "box", "record")]
            for batch in pipeline.distribute(strategy, epochs=2)
        ]
    assert type(pipeline.cache._tiles).__name__ == "ResourceVariable"
    expected = [*epoch_of(pipeline, 0), *epoch_of(pipeline, 1)]
    assert len(steps) == len(expected)
    for parts, batch in zip(steps, expected, strict=True):
        for name, values in zip(("canvas", "box", "record"), parts, strict=True):
            np.testing.assert_array_equal(np.concatenate([value.numpy() for value in values]), batch[name])


def damage(dataset, record):
    """Changes one bit of a record of the split `train`."""
    split = dataset.split("train")
    with open(split.paths[split.array("shard")[record]], "r+b") as file:
        file.seek(int(split.array("offset")[record]) + 300)
        (value,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 1]))


def test_a_damaged_record_is_named_or_replaced(copy):
    damage(copy, 40)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record \d+ \(.*\): cannot be read or decoded"):
        epoch_of(make(copy))
    pipeline = make(copy, max_bad_records=1)
    for epoch in range(2):
        records = np.concatenate([batch["record"] for batch in epoch_of(pipeline, epoch)])
        assert sorted(records) == [-1, *(record for record in range(120) if record != 40)]
    assert [place.number for place in pipeline.bad_records] == [pipeline.bad_records[0].number]


def test_any_window_of_any_image_is_gathered():
    rng = np.random.default_rng(0)
    size = np.concatenate([rng.integers(1, 200, (40, 2)), [[1, 1], [1, TILE], [3, TILE + 1], [150, 2 * TILE]]])
    where = residence_of(size[:, 0], size[:, 1], np.zeros(len(size), bool), short_side=400)
    np.testing.assert_array_equal(where.size, size)
    assert where.tiles == 1 + (size[:, 0] * -(-size[:, 1] // TILE)).sum()
    images = [rng.integers(1, 256, (*each, 3), dtype=np.uint8) for each in size.tolist()]
    cache = HostCache(where)
    record = np.arange(len(size))

    def decode(scale, window, reduce):
        assert scale.numpy().tolist() == [1] * len(size)
        np.testing.assert_array_equal(window[:, 2:], size)
        return tf.data.Dataset.from_generator(lambda: images, output_signature=tf.TensorSpec([None, None, 3], tf.uint8))

    assert cache.missing(tf.constant([-1, 0, 3])).numpy().tolist() == [False, True, True]
    cache.fill(tf.constant(record), decode)
    assert cache.missing(tf.constant([-1, 0, 3])).numpy().tolist() == [False, False, False]
    for _ in range(20):
        start = (rng.random((len(size), 2)) * size).astype(np.int64)
        extent = 1 + (rng.random((len(size), 2)) * (size - start)).astype(np.int64)
        boxes = np.concatenate([start, extent], axis=1)
        crop, needed, box = kept_windows(where, record, boxes)
        assert (crop[:, 1] % TILE == 0).all()
        canvas = cache.gather(tf.constant(record), tf.constant(crop), tf.constant([208, 4 * TILE])).numpy()
        for row, image in enumerate(images):
            y, x, height, width = crop[row]
            np.testing.assert_array_equal(canvas[row, :height, :width], image[y : y + height, x : x + width])
            assert not canvas[row, height:].any()
            assert not canvas[row, :, -(-width // TILE) * TILE :].any()
            y, x, height, width = box[row].astype(int)
            inside = canvas[row, y : y + height, x : x + width]
            np.testing.assert_array_equal(
                inside, image[start[row, 0] :][: extent[row, 0], start[row, 1] :][:, : extent[row, 1]]
            )
        assert (needed == crop[:, 2:]).all()


@pytest.mark.parametrize(
    ("size", "scalable", "scale", "reduce", "kept"),
    [
        ((99, 400), True, 1, (1, 1), (99, 400)),  # the short side is below 100 already
        ((199, 240), True, 1, (1, 1), (199, 240)),
        ((200, 240), True, 2, (1, 1), (100, 120)),
        ((803, 1205), True, 8, (1, 1), (101, 151)),
        ((803, 1205), False, 1, (3, 4), (268, 302)),  # PNG: down to 400 at most
        ((120, 1200), True, 1, (1, 4), (120, 300)),  # a panorama
    ],
)
def test_how_large_images_are_kept(size, scalable, scale, reduce, kept):
    where = residence_of(np.array([size[0]]), np.array([size[1]]), np.array([scalable]), 100)
    assert where.scale.tolist() == [scale]
    assert where.reduce.tolist() == [list(reduce)]
    assert where.size.tolist() == [list(kept)]
    assert where.num_bytes == (1 + kept[0] * -(-kept[1] // TILE)) * TILE * 3


def test_auto_goes_by_the_memory_there_is(dataset, monkeypatch, caplog):
    need = make(dataset).describe()["cache_bytes"]
    mib = -(-need // (1 << 20))
    assert make(dataset, cache="auto", cache_mib=mib).plan.residence is not None
    if mib > 1:
        assert make(dataset, cache="auto", cache_mib=mib - 1).plan.residence is None
    for there, kept in ((2 * need, True), (2 * need - 2, False), (None, False)):
        monkeypatch.setattr(residence, "available_memory", lambda there=there: there)
        with caplog.at_level(logging.INFO):
            caplog.clear()
            pipeline = make(dataset, cache="auto")
        assert (pipeline.plan.residence is not None) == kept
        assert f"cache: {'host' if kept else 'none'}; the decoded images of split 'train' take" in caplog.text
        assert ("give cache_mib" in caplog.text) == (there is None)
        assert len(epoch_of(pipeline)) == 4
        assert (pipeline.cache is not None) == kept


def test_auto_takes_the_fastest_place_with_room(dataset, tmp_path):
    mib = -(-make(dataset).describe()["cache_bytes"] // (1 << 20))
    enough, little = mib, max(1, mib // 2)
    for options, place in (
        ({"cache_mib": enough, "cache_device_mib": enough}, "device"),
        ({"cache_mib": enough, "cache_device_mib": little}, "host"),
        ({"cache_mib": little, "cache_device_mib": enough}, "none"),
        ({"cache_mib": little, "cache_dir": str(tmp_path)}, "disk"),
        ({"cache_mib": enough, "cache_dir": str(tmp_path)}, "host"),
    ):
        plan = make(dataset, cache="auto", **options).plan
        assert plan.cache == place
        assert (plan.residence is None) == (place == "none")


def test_more_than_can_be_numbered_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(residence, "MOST_TILES", 100)
    with pytest.raises(UsageError, match=r"the decoded images of split 'train' take \d+ GiB, more than the"):
        make(dataset)
    assert make(dataset, cache="auto", cache_mib=1 << 30).plan.residence is None


def test_available_memory_is_less_than_the_machine_has():
    there = machine.available_memory()
    assert there is None or 1 << 20 < there <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_state_goes_on_with_or_without_a_cache(dataset):
    state = make(dataset).state(1, 2)
    assert make(dataset, cache="none").resume(state) == (1, 2)
    with pytest.raises(UsageError, match="cache_short_side was None, is 50"):
        make(dataset, cache_short_side=50).resume(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "disc"}, "cache must be one of none, host, device, disk, auto, got 'disc'"),
        ({"resize_on": "host"}, "cache='host' keeps images for the device to resize; use resize_on='device'"),
        ({"fit": "native"}, "cache='host' keeps images that are cropped and resized later; fit='native' does neither"),
        ({"cache_short_side": 0}, "cache_short_side must be 1 or more, got 0"),
        ({"cache_mib": 0}, "cache_mib must be 1 or more, got 0"),
        ({"cache": "disk"}, "cache='disk' needs cache_dir, a folder on a local disk"),
        ({"cache_device_mib": -1}, "cache_device_mib must be 0 or more, got -1"),
        ({"cache_dir": 3}, "cache_dir must be a path or None, got 3"),
        ({"cache_mib": 1.5}, "cache_mib must be a whole number or None, got 1.5"),
    ],
)
def test_what_is_refused(dataset, options, message):
    with pytest.raises(UsageError) as caught:
        make(dataset, **options)
    assert str(caught.value) == message
