"""Batches of a constant number of pixels, and what `describe` says before a byte is read."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

import irv2data
from irv2data.errors import UsageError
from irv2data.pipeline.config import PipelineConfig
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.summary import describe
from tests.pipeline.test_plan import MadeUpSplit, make_plan, whole_epoch


def make(dataset, **options):
    base = {"fit": "native", "image_size": (24, 24), "max_pixels": 9000, "max_pixels_per_batch": 200_000}
    return irv2data.Pipeline(dataset, **{**base, "batch_multiple": 4, **options})


@pytest.mark.parametrize("drop_remainder", [True, False])
@pytest.mark.parametrize("shuffle", ["full", "blocks", None])
def test_batches_hold_pixels_and_every_record_once(dataset, drop_remainder, shuffle):
    pipeline = make(dataset, drop_remainder=drop_remainder, shuffle=shuffle)
    most = dict(zip(pipeline.plan.canvases, pipeline.plan.batch_sizes, strict=True))
    for epoch in (0, 1):
        counts = Counter()
        batches = list(pipeline.batches(epoch).as_numpy_iterator())
        assert len(batches) == pipeline.steps_per_epoch(epoch)
        for batch in batches:
            rows, height, width, _ = batch["canvas"].shape
            assert rows == most[height, width]
            assert rows % 4 == 0
            assert rows * height * width <= 200_000 < (rows + 4) * height * width
            counts.update(batch["record"].tolist())
            np.testing.assert_array_equal(batch["weight"], batch["record"] >= 0)
        filler = counts.pop(-1, 0)
        assert set(counts.values()) == {1}
        if drop_remainder:
            assert filler == 0
            assert 120 - len(counts) < pipeline.plan.batch_sizes[-1]
        else:
            assert sorted(counts) == list(range(120))
            assert filler < pipeline.plan.batch_sizes[-1]
    assert len(set(pipeline.plan.batch_sizes)) > 2


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_global_batches_do_not_depend_on_the_replicas(dataset, cpu_strategy, replicas):
    pipeline = make(dataset, drop_remainder=False, max_pixels_per_batch=2_000_000)
    assert max(pipeline.plan.batch_sizes) // replicas > 64  # several chunks a replica
    strategy = cpu_strategy(replicas)
    wanted = list(pipeline.batches(1, 1).as_numpy_iterator())
    seen = 0
    for batch, want in zip(pipeline.distribute(strategy, 1, 1), wanted, strict=True):
        parts = {name: strategy.experimental_local_results(value) for name, value in batch.items()}
        assert len({part.shape for part in parts["canvas"]}) == 1
        for name, value in want.items():
            np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts[name]]), value)
        seen += 1
    assert seen == len(wanted) == pipeline.steps_per_epoch(1) - 1


def test_many_windows():
    options = {"fit": "native", "max_pixels_per_batch": 80_000, "batch_multiple": 8, "image_size": (16, 16)}
    plan = make_plan(9000, {"largest": 300}, **options)
    assert plan.windows_per_epoch() == 3
    for epoch in (0, 1):
        windows = [plan.window(epoch, window) for window in range(3)]
        assert plan.steps_per_epoch(epoch) == sum(map(len, windows))
        step = 0
        for number, window in enumerate(windows):
            for within in (0, len(window) - 1):
                assert plan.place(epoch, step + within) == (number, within)
            batch = plan.batch(epoch, step + 1)
            assert batch.record[0].tolist() == window.record[1, : window.rows[1]].tolist()
            step += len(window)
        assert plan.place(epoch, step) == (3, 0)


@pytest.mark.parametrize("shuffle", ["full", None])
def test_a_window_without_a_batch(shuffle):
    # 4096 records and 3 more, of which no batch can be made.
    options = {"fit": "native", "max_pixels_per_batch": 80_000, "batch_multiple": 8, "image_size": (16, 16)}
    plan = make_plan(4099, {"largest": 90}, shuffle=shuffle, **options)
    assert plan.windows_per_epoch() == 2
    assert len(plan.window(0, 1)) == 0
    assert plan.steps_per_epoch() == len(plan.window(0, 0))
    assert plan.place(0, plan.steps_per_epoch()) == (2, 0)


def test_a_budget_too_small_for_a_batch_is_refused(dataset):
    with pytest.raises(UsageError, match=r"^max_pixels_per_batch must be at least \d+, 4 \(batch_multiple\) images on"):
        make(dataset, max_pixels_per_batch=2_000)


def test_replicas_must_divide_the_multiple(dataset, cpu_strategy):
    with pytest.raises(UsageError, match=r"^batch_multiple 4 is not divisible by 3 replicas; use 3 or 6$"):
        make(dataset).distribute(cpu_strategy(3))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 10, "fit": "random_resized_crop"},
        {"batch_size": 10, "drop_remainder": False, "buckets": 1},
        {"fit": "native", "max_pixels_per_batch": 20_000, "batch_multiple": 4, "drop_remainder": False},
    ],
)
def test_describe_is_what_the_epoch_is(options):
    plan = make_plan(2003, {"largest": 200}, **options)
    told = describe(plan, epoch=1)
    shapes, steps, images, filler, valid, total, entropies = set(), Counter(), Counter(), 0, Counter(), Counter(), []
    for step in range(plan.steps_per_epoch(1)):
        batch = plan.batch(1, step)
        canvas = tuple(batch.canvas[0].tolist())
        real = batch.record[0] >= 0
        shapes.add((len(real), canvas))
        steps[canvas] += 1
        images[canvas] += int(real.sum())
        filler += int((~real).sum())
        valid[canvas] += int(batch.size[0][real].astype(int).prod(axis=1).sum())
        total[canvas] += len(real) * math.prod(canvas)
        share = np.bincount(batch.label[0][real]) / real.sum()
        entropies.append(-sum(part * math.log2(part) for part in share.tolist() if part))
    assert told["steps"] == told["sampled_steps"] == sum(steps.values())
    assert told["records"] == 2003
    assert told["filler"] == filler
    assert told["distinct_shapes"] == len(shapes)
    assert told["padding_waste"] == pytest.approx(1 - valid.total() / total.total())
    for canvas in told["canvases"]:
        shape = (canvas["height"], canvas["width"])
        assert (canvas["steps"], canvas["images"]) == (steps[shape], images[shape])
        assert canvas["padding_waste"] == pytest.approx(1 - valid[shape] / total[shape] if total[shape] else 0)
    rows = sum(images.values()) + filler
    small = 16 + 8 + 1 + 32 + 8 + 8 + 4
    assert told["bytes_per_image"] == pytest.approx(3 * total.total() / rows + small)
    assert told["bytes_per_step"] == pytest.approx(told["bytes_per_image"] * rows / sum(steps.values()))
    assert told["class_entropy"]["bucketed"] == pytest.approx(np.mean(entropies))
    if plan.config.buckets == 1:
        assert told["class_entropy"]["bucketed"] == pytest.approx(told["class_entropy"]["unbucketed"], abs=1e-9)


@pytest.mark.parametrize("fit", ["resize", "letterbox"])
def test_bytes_are_those_of_a_batch(dataset, fit):
    pipeline = make(dataset, fit=fit, max_pixels=None, max_pixels_per_batch=None, batch_size=12)
    told = pipeline.describe()
    sizes = [sum(value.nbytes for value in batch.values()) for batch in pipeline.batches().as_numpy_iterator()]
    assert told["bytes_per_step"] == pytest.approx(np.mean(sizes))
    host = make(dataset, fit=fit, max_pixels=None, max_pixels_per_batch=None, batch_size=12, resize_on="host")
    (batch,) = host.batches().take(1).as_numpy_iterator()
    assert told["host_bytes_per_image"] == sum(value.nbytes for value in batch.values()) / 12


def test_classes_of_one_size_each_skew_bucketed_batches():
    split = MadeUpSplit(2000, largest=200)
    side = np.maximum(split.array("height"), split.array("width"))
    split._columns["label"] = np.digitize(side, np.quantile(side, [0.2, 0.4, 0.6, 0.8])).astype(np.int32)
    entropy = describe(Plan(split, PipelineConfig(image_size=(16, 16), batch_size=20)))["class_entropy"]
    assert entropy["bucketed"] < 0.8 * entropy["unbucketed"]
    assert entropy["unbucketed"] == pytest.approx(math.log2(5), abs=0.2)


def test_one_bucket_selects_nothing():
    plan = make_plan(640, batch_size=20, buckets=1)
    assert whole_epoch(plan)["canvas"].tolist() == [list(plan.canvases[0])] * 32
