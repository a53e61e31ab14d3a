"""`cache="device"`: the batches of the uncached pipeline, gathered where they are needed."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.errors import UsageError
from tests.pipeline.test_cache import FITS, damage


def make(dataset, **options):
    given = {"image_size": (24, 24), "batch_size": 30, "fit": "random_resized_crop", "cache": "device", **options}
    return irv2data.Pipeline(dataset, **given)


def joined(strategy, batch):
    """A distributed batch as one dict of arrays, the replicas' rows in their order."""
    return {
        name: np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])
        for name, value in batch.items()
    }


def epochs_of(pipeline, strategy, epoch=0, step=0, epochs=1):
    return [joined(strategy, batch) for batch in pipeline.distribute(strategy, epoch, step, epochs=epochs)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
            assert one[name].dtype == other[name].dtype


@pytest.mark.parametrize("options", FITS[1::2])
def test_batches_are_those_of_the_host(dataset, cpu_strategy, options):
    strategy = cpu_strategy(2)
    pipeline, host = make(dataset, **options), make(dataset, **options, cache="host")
    expected = epochs_of(host, strategy, epochs=3)
    assert_same(epochs_of(pipeline, strategy, epochs=3), expected)
    # Every image is there now; those of another run start from the devices at once.
    steps = pipeline.steps_per_epoch()
    assert_same(epochs_of(pipeline, strategy, epochs=2), expected[: 2 * steps])


def test_what_is_on_the_devices_is_read_and_decoded_no_more(dataset, cpu_strategy, tmp_path):
    copy = irv2data.Dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))
    strategy, pipeline = cpu_strategy(2), make(copy, batch_size=32)  # drops records, which are decoded all the same
    expected = epochs_of(make(dataset, batch_size=32, cache="host"), strategy, 0, epochs=3)
    assert_same(epochs_of(pipeline, strategy), expected[:3])
    for path in copy.split("train").paths:
        os.remove(path)
    assert not pipeline.cache.there.any()  # the host has given its copy back
    assert_same(epochs_of(pipeline, strategy, 1, epochs=2), expected[3:])


def test_an_epoch_can_be_entered_at_every_step(dataset, cpu_strategy):
    strategy, pipeline = cpu_strategy(3), make(dataset)
    epochs_of(pipeline, strategy)
    expected = epochs_of(make(dataset, cache="host"), strategy, 5)
    for step in range(len(expected) + 1):
        assert_same(epochs_of(pipeline, strategy, 5, step), expected[step:])
    with pytest.raises(UsageError, match="epoch 5 has steps 0 to 4, got step 5"):
        pipeline.distribute(strategy, 5, 5)


def test_batches_larger_than_a_chunk(dataset, cpu_strategy, monkeypatch):
    from irv2data.pipeline import distribute

    monkeypatch.setattr(distribute, "MAX_CHUNK", 7)  # 60 rows: 9 chunks of 7, the last of 4
    strategy, pipeline = cpu_strategy(2), make(dataset, batch_size=120)
    expected = epochs_of(make(dataset, batch_size=120, cache="host"), strategy, epochs=2)
    assert_same(epochs_of(pipeline, strategy, epochs=2), expected)


@pytest.mark.parametrize("strategy", [None, "one device"])
def test_strategies_of_one_device(dataset, strategy):
    strategy = tf.distribute.OneDeviceStrategy("CPU:1") if strategy else tf.distribute.get_strategy()
    expected = epochs_of(make(dataset, cache="host"), strategy, epochs=2)
    assert_same(epochs_of(make(dataset), strategy, epochs=2), expected)


def test_iterators_side_by_side(dataset, cpu_strategy):
    strategy, pipeline = cpu_strategy(2), make(dataset)
    expected = epochs_of(make(dataset, cache="host"), strategy, epochs=3)
    # Both begin before any image is on a device, and then take turns in different epochs.
    first, second = iter(pipeline.distribute(strategy, 0, epochs=3)), iter(pipeline.distribute(strategy, 0, epochs=3))
    found = [joined(strategy, next(first)) for _ in range(3)]
    other = [joined(strategy, next(second)) for _ in range(6)]
    for _ in range(6):
        found.append(joined(strategy, next(first)))
        other.append(joined(strategy, next(second)))
    assert_same(found, expected[:9])
    assert_same(other, expected)


def test_each_canvas_is_traced_once(dataset, cpu_strategy):
    strategy, pipeline = cpu_strategy(2), make(dataset)
    for _ in pipeline.distribute(strategy, epochs=6):
        pass
    (cache,) = pipeline._on_devices.values()
    assert 1 < len(cache.graphs) <= len(pipeline.plan.shapes)
    assert {graph.experimental_get_tracing_count() for graph in cache.graphs.values()} == {1}


def test_draws_of_augmentation(dataset, cpu_strategy):
    strategy = cpu_strategy(2)
    augment = irv2data.Augment(rotate=20, mixup=0.4)
    options = {"augment": augment, "batch_size": 24}
    expected = epochs_of(make(dataset, cache="host", **options), strategy, epochs=2)
    pipeline = make(dataset, **options)
    assert_same(epochs_of(pipeline, strategy, epochs=2), expected)
    assert expected[-1]["draws"].shape == (24, augment.num_draws)


def test_damaged_records_are_filler(dataset, cpu_strategy, tmp_path):
    copy = irv2data.Dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))
    damage(copy, 40)
    strategy = cpu_strategy(2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record \d+ \(.*\): cannot be read or decoded"):
        epochs_of(make(copy), strategy)
    pipeline = make(copy, max_bad_records=1, fit="letterbox")
    steps = epochs_of(pipeline, strategy, epochs=3)
    assert_same(steps, epochs_of(make(copy, max_bad_records=1, fit="letterbox", cache="host"), strategy, epochs=3))
    for epoch in range(3):
        batches = steps[4 * epoch :][:4]
        record = np.concatenate([batch["record"] for batch in batches])
        assert sorted(record) == [-1, *(record for record in range(120) if record != 40)]
        assert not any(batch["canvas"][batch["record"] < 0].any() for batch in batches)


def test_batches_without_a_strategy_and_fit_go_through_the_host(dataset, cpu_strategy):
    pipeline, strategy = make(dataset), cpu_strategy(2)
    expected = epochs_of(make(dataset, cache="host"), strategy, epochs=2)
    found = list(pipeline.batches(epochs=2).as_numpy_iterator())
    assert_same(found, expected)
    inputs = [joined(strategy, inputs) for inputs, _, _ in pipeline.for_fit(strategy, epochs=1)]
    np.testing.assert_array_equal(inputs[0]["canvas"], expected[0]["canvas"])
