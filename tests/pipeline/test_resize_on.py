"""Where images are resized: what each option puts into a batch, and what `auto` goes by."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.device import Preprocess, preprocess
from irv2data.pipeline import plan as planning
from irv2data.pipeline.distribute import on_host
from tests.pipeline.test_plan import assert_equal, make_plan, whole_epoch


def on(*devices):
    """What of a strategy `on_host` looks at."""
    return SimpleNamespace(extended=SimpleNamespace(worker_devices=devices))


CPUS = on("/job:localhost/replica:0/task:0/device:CPU:0", "/job:localhost/replica:0/task:0/device:CPU:1")
GPUS = on("/job:localhost/replica:0/task:0/device:GPU:0", "/job:localhost/replica:0/task:0/device:GPU:1")


def test_auto_goes_by_the_devices_and_the_bytes():
    # 3 bytes a pixel of canvas, 12 a pixel of a finished image: a canvas of 48x48 has as many as an image of 24x24.
    large = make_plan(100, batch_size=10, image_size=(24, 24), canvases=((50, 50),), resize_on="auto")
    assert on_host(large, CPUS)
    assert on_host(large, GPUS)
    small = make_plan(100, {"largest": 48}, batch_size=10, image_size=(24, 24), canvases=((48, 48),), resize_on="auto")
    assert on_host(small, CPUS)
    assert not on_host(small, GPUS)
    native = make_plan(100, batch_size=10, image_size=(24, 24), fit="native", resize_on="auto")
    assert (on_host(native, CPUS), on_host(native, GPUS)) == (True, False)


@pytest.mark.parametrize("strategy", [None, CPUS, GPUS])
def test_what_is_asked_for_is_done(strategy):
    assert on_host(make_plan(100, batch_size=10, resize_on="host"), strategy)
    assert not on_host(make_plan(100, batch_size=10, resize_on="device"), strategy)


def test_without_a_strategy_the_machine_decides():
    plan = make_plan(100, {"largest": 30}, batch_size=10, resize_on="auto")
    assert on_host(plan, None) == (not tf.config.list_logical_devices("GPU"))


def test_finished_batches_reach_every_replica(dataset, cpu_strategy):
    pipeline = irv2data.Pipeline(dataset, image_size=(24, 32), batch_size=12, resize_on="auto", fit="letterbox")
    strategy = cpu_strategy(2)
    wanted = list(pipeline.batches(1).as_numpy_iterator())
    for batch, want in zip(pipeline.distribute(strategy, 1), wanted, strict=True):
        assert batch.keys() == want.keys()
        assert "canvas" not in want
        for name, value in want.items():
            parts = strategy.experimental_local_results(batch[name])
            np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts]), value)
            if name == "image":
                assert [part.shape for part in parts] == [(6, 24, 32, 3)] * 2
                assert parts[0].dtype == tf.float32
        images = preprocess(want, pipeline.output)
        np.testing.assert_array_equal(images, want["image"])
        assert (np.abs(images) < 1.00001).all()


@pytest.mark.parametrize("fit", ["letterbox", "native", "random_resized_crop"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_model_takes_what_for_fit_gives(dataset, fit, finished):
    import keras

    pipeline = irv2data.Pipeline(
        dataset, image_size=(24, 24), batch_size=12, fit=fit, resize_on="host" if finished else "device"
    )
    inputs = Preprocess.inputs(pipeline.output, finished=finished)
    images = Preprocess(pipeline.output)(inputs)
    model = keras.Model(inputs, images)
    seen = 0
    for batch, _, _ in pipeline.for_fit(tf.distribute.get_strategy(), epochs=1).take(3):
        assert batch.keys() == inputs.keys()
        np.testing.assert_allclose(model(batch), preprocess(batch, pipeline.output), atol=1e-6)
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("options", [{}, {"fit": "native", "max_pixels_per_batch": 60_000}])
def test_a_large_index_is_mapped_only_while_it_is_read(monkeypatch, options):
    small = make_plan(700, batch_size=10, **options)
    assert small._kept.keys() == {"shard", "offset", "height", "width", "format", "label"}
    monkeypatch.setattr(planning, "_KEPT", 699)
    large = make_plan(700, batch_size=10, **options)
    assert not large._kept
    if not options:
        assert_equal(whole_epoch(large), whole_epoch(small))
    assert_equal(large.window(1, 0).arrays(), small.window(1, 0).arrays())


def test_canvases_are_chosen_from_runs_spread_over_a_large_split(monkeypatch):
    monkeypatch.setattr(planning, "_SAMPLE", 640)
    asked = []
    real = planning.Plan._decisions

    def recorded(self, record, epoch, window):
        asked.append(record)
        return real(self, record, epoch, window)

    monkeypatch.setattr(planning.Plan, "_decisions", recorded)
    make_plan(6400, batch_size=10)
    (sample,) = asked
    assert len(sample) == 640
    assert sample[0] == 0
    assert sample[-1] == 6399
    assert (np.diff(sample) == 1).sum() == 630
    make_plan(640, batch_size=10)
    np.testing.assert_array_equal(asked[1], np.arange(640))
