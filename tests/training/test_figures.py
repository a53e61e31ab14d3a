"""What the input costs: a meter's arithmetic by a clock that is not one, events for TensorBoard, profiles."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

import irv2data
from irv2data.errors import UsageError
from irv2data.pipeline.meter import ABOUT, Meter
from irv2data.training import TrainConfig, train
from irv2data.training.journal import line
from irv2data.training.profiling import Profile
from irv2data.training.strategy import make_strategy
from tests.training.small_run import small_network

MIB = 1 << 20


class Clock:
    """Goes on only as it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def batch(height, width, rows=2):
    return {"canvas": tf.zeros([rows, height, width, 3], tf.uint8), "record": tf.zeros([rows], tf.int64)}


def fake(**facts):
    default = {"kept": None, "made_here": None, "bad_records": (), "on_devices": False}
    return SimpleNamespace(**default | facts)


def test_waiting_rates_bytes_and_canvases_by_the_clock():
    clock, batches = Clock(), [batch(4, 8), batch(4, 8), batch(16, 8), batch(4, 8)]

    def slow():
        for number, each in enumerate(batches):
            clock.now += (7, 1, 3, 0.5)[number]
            yield each
        clock.now += 1000  # to see that there is no more is no waiting

    meter = Meter(fake(bad_records=("one", "two"), kept=0.25, made_here=0.5), clock=clock)
    seen, started = [], None
    for each in meter(slow()):
        seen.append(each)
        clock.now += 2
        if len(seen) == 1:
            started = meter.reading()
        if len(seen) == 3:
            middle = meter.figures(started)
            told = meter.reading()
        if len(seen) == 4:
            last = meter.figures(told)
    assert all(ours is theirs for ours, theirs in zip(seen, batches, strict=True))
    assert middle["steps"] == 2
    assert middle["images_per_second"] == pytest.approx(4 / 8)  # two batches of two in 1 + 2 + 3 + 2 seconds
    assert middle["input_wait"] == pytest.approx(4 / 8)
    assert middle["mib_per_step"] == pytest.approx((2 * 4 * 8 * 3 + 2 * 16 * 8 * 3 + 2 * 16) / 2 / MIB)
    assert middle["canvases"] == {"4x8": 1, "16x8": 1}
    assert (middle["cache_filled"], middle["made_here"], middle["bad_records"]) == (0.25, 0.5, 2)
    assert last["steps"] == 1
    assert (last["images_per_second"], last["input_wait"]) == pytest.approx((2 / 2.5, 0.5 / 2.5))
    assert last["canvases"] == {"4x8": 1}
    whole = meter.figures()
    assert (whole["steps"], whole["canvases"]) == (4, {"4x8": 3, "16x8": 1})
    nothing = meter.figures(meter.reading())
    assert (nothing["steps"], nothing["input_wait"], nothing["mib_per_step"], nothing["canvases"]) == (
        0,
        None,
        None,
        {},
    )


def test_other_hosts_replicas_count_and_what_devices_hold_is_not_sent():
    clock = Clock()
    meter = Meter(fake(on_devices=True, kept=1.0), replicas=6, clock=clock)
    for _ in meter([batch(4, 8)]):
        clock.now += 3
    assert meter.figures()["images_per_second"] == 4  # 2 rows on each of 6 replicas, in 3 s
    assert meter.figures()["mib_per_step"] == 0


def test_a_pipeline_is_counted_as_it_is_planned(dataset):
    pipeline = irv2data.Pipeline(
        dataset, fit="random_resized_crop", image_size=(64, 64), batch_size=12, buckets=3, resize_on="device"
    )
    meter = Meter(pipeline)
    for _ in meter(pipeline.distribute(make_strategy(3))):
        pass
    figures, steps = meter.figures(), pipeline.steps_per_epoch()
    planned = [tuple(pipeline.plan.batch(0, step).canvas[0].tolist()) for step in range(steps)]
    assert figures["steps"] == steps == 10
    assert figures["canvases"] == {f"{h}x{w}": planned.count((h, w)) for h, w in sorted(set(planned))}
    assert len(set(planned)) > 1
    pixels = sum(12 * 3 * height * width for height, width in planned)
    # box, draws, label, record, weight, size, flip: bytes of a row.
    row = 16 + 4 * pipeline.output.num_draws + 8 + 8 + 4 + 8 + 1
    assert figures["mib_per_step"] * MIB * steps == pytest.approx(pixels + 12 * row * steps)
    assert (figures["cache_filled"], figures["made_here"], figures["bad_records"]) == (None, None, 0)
    assert figures["resident_mib"] > 100


def test_a_cache_fills_up_and_batches_of_fit_are_counted(dataset):
    pipeline = irv2data.Pipeline(dataset, fit="resize", image_size=(64, 64), batch_size=12, cache="host")
    assert pipeline.kept == 0
    meter, strategy = Meter(pipeline), make_strategy(1)
    for _ in meter(pipeline.for_fit(strategy, epochs=1)):
        if meter.reading().steps == 1:
            assert 0.1 <= pipeline.kept < 1
    assert meter.figures()["cache_filled"] == 1
    assert meter.reading().images == 120


def test_a_device_cache_is_no_longer_fed(dataset):
    pipeline = irv2data.Pipeline(dataset, fit="resize", image_size=(64, 64), batch_size=12, cache="device")
    meter = Meter(pipeline)
    batches = meter(pipeline.distribute(make_strategy(1), epochs=2))
    first = [next(batches) for _ in range(10)]
    assert not pipeline.on_devices
    sent = meter.reading().sent
    assert sent > 10 * 12 * 64 * 64 * 3
    assert len([*first, *batches]) == 20
    assert (pipeline.on_devices, pipeline.kept, meter.reading().sent) == (True, 1.0, sent)


CONFIG = TrainConfig(image_size=(75, 75), batch_size=12, weights="none", head_epochs=2, validation_split=None)


def described(value):
    """True; a figure of the pipeline says what it is, in words that TensorBoard shows."""
    name = value.tag.removeprefix("pipeline/").partition("/")[0]
    assert value.metadata.summary_description == (ABOUT[name] if value.tag.startswith("pipeline/") else "")
    return True


def events(folder):
    """(step, tag) to value, of the scalars."""
    (file,) = (folder / "tensorboard").glob("events*")
    return {
        (event.step, value.tag): value.simple_value
        for event in tf.compat.v1.train.summary_iterator(os.fspath(file))
        for value in event.summary.value
        if value.HasField("simple_value") and described(value)
    }


def test_a_run_tells_what_its_input_costs_every_so_many_steps(dataset, tmp_path):
    config = replace(CONFIG, figures_steps=4, cache="host", profile_steps=(3, 5))
    with small_network():
        metrics = train(str(dataset.folder), tmp_path, config, make_strategy(2))
    found = events(tmp_path)
    # Of epochs of ten steps: after every fourth, and at their ends.
    assert sorted({step for step, tag in found if tag.startswith("pipeline/")}) == [4, 8, 10, 14, 18, 20]
    assert {tag for _, tag in found if tag.startswith("pipeline/") and "canvas" not in tag} == {
        f"pipeline/{name}"
        for name in ("images_per_second", "input_wait", "mib_per_step", "cache_filled", "bad_records", "resident_mib")
    }
    for step in (4, 8, 10, 14, 18, 20):
        shares = [value for (at, tag), value in found.items() if at == step and "canvas_share" in tag]
        assert sum(shares) == pytest.approx(1)
        assert 0 <= found[step, "pipeline/input_wait"] <= 1
        assert found[step, "pipeline/images_per_second"] > 0
    canvases = {tag for _, tag in found if "canvas_share" in tag}
    assert {tag for step, tag in found if step == 20 and "canvas_share" in tag} == canvases  # a share of 0, too
    assert 0.4 <= found[4, "pipeline/cache_filled"] <= found[20, "pipeline/cache_filled"] == 1
    assert [row["cache_filled"] for row in metrics["history"]] == [1.0, 1.0]
    assert "made_here" not in metrics["history"][0]
    (profile,) = (tmp_path / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
    content = profile.read_bytes()
    # The steps as TensorBoard knows them, and the stages of the pipeline by their names.
    for name in (b"step_num", b"train", b"waiting for a batch", b"chunks", b"ready", b"make"):
        assert name in content, name
    assert b"no such stage" not in content


def test_a_profile_of_a_run_that_ends_before_its_last_step_is_written(tmp_path):
    finished = []
    profile = Profile(tmp_path, (2, 50))
    for _ in range(3):
        with profile.step(lambda: finished.append("step")):
            tf.reduce_sum(tf.ones([3]))
        assert not list(tmp_path.glob("**/*.pb"))
    profile.close()
    profile.close()
    (written,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"step_num" in written.read_bytes()
    assert finished == []
    none = Profile(tmp_path / "none", None)
    with none.step(lambda: finished.append("none")):
        pass
    none.close()
    assert finished == []
    assert not (tmp_path / "none").exists()


def test_the_callback_of_fit_by_the_clock(dataset, tmp_path):
    pipeline, clock = irv2data.Pipeline(dataset, image_size=(64, 64), batch_size=12), Clock()
    callback = irv2data.training.PipelineFigures(pipeline, tmp_path / "tensorboard", clock)
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for step in range(10):
            clock.now += 30 if step == 0 else 2 + epoch  # the first one traces
            callback.on_train_batch_end(step)
        callback.on_epoch_end(epoch)
    found = events(tmp_path)
    assert found[10, "pipeline/images_per_second"] == pytest.approx(12 / 2)
    assert found[20, "pipeline/images_per_second"] == pytest.approx(12 / 3)
    assert {tag for step, tag in found if step == 20} == {
        "pipeline/images_per_second", "pipeline/bad_records", "pipeline/resident_mib"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"figures_steps": -1}, "figures_steps must be 0 or more, got -1"),
        ({"profile_steps": (0, 5)}, "profile_steps must be a first step, 1 or more, and a last one"),
        ({"profile_steps": (5, 4)}, "profile_steps must be"),
        ({"profile_steps": (5,)}, "profile_steps must be"),
        ({"profile_steps": (5, 6), "tensorboard": False}, "recorded for TensorBoard; leave tensorboard on"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        replace(CONFIG, **options)


def test_the_page_has_every_figure():
    page = (Path(__file__).parents[2] / "docs" / "tensorboard.md").read_text(encoding="utf-8")
    table = page.partition("| `pipeline/` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)", table, re.MULTILINE) == list(ABOUT)


def test_an_epoch_s_line_says_what_workers_did_not_give():
    row = {
        "epoch": 0, "phase": "head", "loss": 1.0, "accuracy": 0.5, "images_per_second": 20.0, "input_wait": 0.125,
        "bad_records": 0, "made_here": 0.25,
    }  # fmt: skip
    text = "epoch 1/2 (head): loss 1.0000, accuracy 0.500, 20.0 images/s, 12.5% waiting for input"
    assert line(row, 2) == f"{text}, 25.0% of the chunks made here, not by workers"
    assert line({**row, "made_here": 0.0}, 2) == text
