"""What could be changed about a job, each measured on a sample of its own records or worked out from its plan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.convert import ConvertConfig, convert
from irv2data.errors import UsageError
from irv2data.machine import available_cores
from irv2data.manifest import Dataset
from irv2data.measure import forecast
from irv2data.measure.accelerator import Devices
from irv2data.measure.figures import verdict
from irv2data.measure.forecast import Change, Job
from irv2data.measure.stages import batches
from irv2data.measure.turns import in_turns
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import HOST, NATIVE, NO_CACHE
from irv2data.pipeline.distribute import on_host
from irv2data.selection import select

_CACHED = 1024  # images: more than a processor's own caches hold
_SHRUNK, _LEAST_SHRUNK, _SHRUNK_MEGAPIXELS = 192, 24, 300
SHORT_SIDES = (800, 600, 400, 320)
_ROOM = 4 / 3  # of a short side over the network's input: what random crops still need to be cut from whole pixels
_LADDERS, _AS_SMALL = (1, 2, 3, 4, 6, 8, 12, 16), 1.05
# Of the host's processor time for an image, what receiving it from a worker takes instead, and what a worker takes:
# benchmarks/results/2026-11-27-service.jsonl, 1.0 and 2.9 of 2.3 ms.
_CLIENT, _WORKER = 1.0 / 2.3, 2.9 / 2.3


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A job that was measured, and how.

    Attributes:
        pipeline: The job's.
        strategy: What it feeds.
        job: Its rates.
        by_cores: Images per second of the host by number of cores.
        stage: Images per second of the device stage.
        step: Of the training step; None where none was measured.
        rounds: Of a measurement.
        seconds: Of a turn.
    """

    pipeline: Pipeline
    strategy: tf.distribute.Strategy
    job: Job
    by_cores: dict[int, float]
    stage: float
    step: float | None
    rounds: int
    seconds: float


def possible(measured: Measured, progress: Callable[[str, int, int], None]) -> tuple[list[Change], dict[str, str]]:
    """All changes with what each would bring, and of those that do not come into question, the reason."""
    changes: list[Change] = []
    reasons: dict[str, str] = {}
    look = {
        forecast.CACHE: _cache,
        forecast.BUCKETS: _buckets,
        forecast.CORES: _cores,
        forecast.SHRINK: _shrink,
        forecast.SERVICE: _service,
    }
    for number, (name, function) in enumerate(look.items()):
        try:
            changes.append(function(measured))
        except UsageError as error:
            reasons[name] = str(error)
        progress("changes", number + 1, len(look))
    return changes, reasons


def changed(pipeline: Pipeline, dataset: Dataset | None = None, **options: Any) -> Pipeline:
    """A pipeline with other options, or of another dataset with a split of the same name."""
    own = {each.name: getattr(pipeline.config, each.name) for each in fields(pipeline.config)}
    return Pipeline(dataset or pipeline.dataset, split=pipeline.plan.split.name, **{**own, **options})


def _cache(measured: Measured) -> Change:
    pipeline, job = measured.pipeline, measured.job
    auto = changed(pipeline, cache="auto")
    kept = auto.plan.cache
    if kept == NO_CACHE:
        needed = changed(pipeline, cache=HOST).describe()["cache_bytes"]
        raise UsageError(
            f"all images would take {needed / (1 << 30):,.1f} GiB, more than half of the memory that is free "
            "(--cache=disk needs a local disk as large)"
        )
    total = pipeline.plan.split.num_records
    rows = np.unique(np.linspace(0, total - 1, max(pipeline.config.batch_size, min(total, _CACHED))).astype(np.int64))
    sample = changed(pipeline, select(pipeline.dataset, pipeline.plan.split.name, rows), cache=HOST)
    ratio = _ratio(measured, now=pipeline, cached=sample)
    stage = measured.stage
    if job.shared and on_host(pipeline.plan, measured.strategy):  # what is kept is resized by the devices
        devices = Devices(sample, measured.strategy)
        turns = in_turns({"stage": devices.stage()}, rounds=measured.rounds, seconds=measured.seconds)
        stage = float(np.median(turns["stage"].images_per_second))
    after = Job(host=job.host * ratio, devices=_devices(measured, stage), copy=job.copy, shared=job.shared)
    return forecast.change(
        job,
        after,
        name=forecast.CACHE,
        what=f"keep decoded images: --cache=auto (here: {kept}), {auto.describe()['cache_bytes'] / (1 << 30):,.2f} GiB",
        basis=f"measured with {len(rows):,} of the images; from the second epoch on",
    )


def _buckets(measured: Measured) -> Change:
    pipeline, job = measured.pipeline, measured.job
    config = pipeline.config
    if config.canvases is not None:
        raise UsageError("the canvases are given, not worked out from a number of buckets")
    if on_host(pipeline.plan, measured.strategy) and config.fit != NATIVE:
        raise UsageError("images are resized on the host: all of them are of one size")
    now = _canvas_pixels(pipeline)
    ladders = {count: changed(pipeline, buckets=count) for count in _LADDERS if count != config.buckets}
    pixels = {count: _canvas_pixels(ladder) for count, ladder in ladders.items()}
    # Of nearly equal ladders the shortest: each canvas is a graph to trace.
    count = next(count for count in ladders if pixels[count] <= _AS_SMALL * min(pixels.values()))
    ratio = now / pixels[count]
    after = Job(
        host=job.host * _ratio(measured, now=pipeline, other=ladders[count]),
        devices=_devices(measured, measured.stage * ratio, ratio if config.fit == NATIVE else 1.0),
        copy=None if job.copy is None else job.copy * ratio,
        shared=job.shared,
    )
    return forecast.change(
        job,
        after,
        name=forecast.BUCKETS,
        what=f"{'fewer' if count < config.buckets else 'more'} canvas shapes: --buckets={count} (now {config.buckets})",
        basis=f"the host measured; {1 / ratio:.2f} times the canvas pixels an image, by the plan",
    )


def _cores(measured: Measured) -> Change:
    job, now = measured.job, available_cores()
    if job.shared:
        raise UsageError("the devices are the processor itself; more cores would make both faster")
    if job.devices is None:
        count: int | None = 2 * now
    else:
        count = forecast.cores_for(measured.by_cores, min(job.devices, job.copy or job.devices))
    if count is None:
        raise UsageError("no number of cores would do, as far as what was measured tells")
    host = forecast.at_cores(measured.by_cores, count)
    return forecast.change(
        job,
        Job(host=host, devices=job.devices, copy=job.copy),
        name=forecast.CORES,
        what=f"{count} cores of this kind for the pipeline (now {now})",
        basis="Amdahl's law through "
        + ", ".join(f"{rate:,.0f} images/s at {n}" for n, rate in measured.by_cores.items()),
    )


def _shrink(measured: Measured) -> Change:
    pipeline, job = measured.pipeline, measured.job
    split = pipeline.plan.split
    short = np.minimum(np.asarray(split.array("height")), np.asarray(split.array("width")))
    least = _ROOM * max(pipeline.config.image_size)
    sides = [side for side in SHORT_SIDES if side >= least and np.mean(short > side) > 0.5]
    if pipeline.config.fit == NATIVE:
        raise UsageError("native images are seen at their own size; max_pixels bounds it")
    if not sides:
        raise UsageError(
            f"most images have a short side of {int(np.median(short))} pixels, not enough over the "
            f"{max(pipeline.config.image_size)} of the network"
        )
    side = min(sides)
    with tempfile.TemporaryDirectory(prefix="irv2data-doctor-") as scratch:
        now, smaller, count = _converted(pipeline, side, Path(scratch))
        ratio = _ratio(measured, now=now, smaller=smaller)
        fewer = smaller.plan.split.num_bytes / now.plan.split.num_bytes
    after = Job(host=job.host * ratio, devices=job.devices, copy=job.copy, shared=job.shared)
    return forecast.change(
        job,
        after,
        name=forecast.SHRINK,
        what=f"convert again with --max_short_side={side} (`convert SOURCE --advise` shows what that takes away)",
        basis=f"measured with {count} of the images, shrunk to {fewer:.0%} of their bytes",
    )


def _service(measured: Measured) -> Change:
    job, dataset = measured.job, measured.pipeline.dataset
    if job.shared:
        raise UsageError("the devices are the processor itself; workers would help no more than a faster one")
    if dataset.direct:
        raise UsageError("its workers have no tensorflow-io; open the dataset without direct")
    client, worker = job.host / _CLIENT, job.host / _WORKER
    count, host = forecast.workers_for(job, worker, client)
    machines = "one more machine" if count == 1 else f"{count} more machines"
    return forecast.change(
        job,
        Job(host=host, devices=job.devices, copy=job.copy),
        name=forecast.SERVICE,
        what=f"{machines} of this kind: `irv2data serve worker`, and --service",
        basis="this host's processor time for an image, times what a client and a worker take of it (docs/service.md)",
    )


def _converted(pipeline: Pipeline, side: int, scratch: Path) -> tuple[Pipeline, Pipeline, int]:
    """Pipelines of some of the images, as they are and with a short side; and their number."""
    split = pipeline.plan.split
    rows = np.unique(np.linspace(0, split.num_records - 1, min(_SHRUNK, split.num_records)).astype(int))
    pixels = np.asarray(split.array("height"), np.int64)[rows] * np.asarray(split.array("width"), np.int64)[rows]
    # Photographs of 20 megapixels take a while; fewer of them say as much.
    most = max(_LEAST_SHRUNK, int(len(rows) * min(1.0, _SHRUNK_MEGAPIXELS * 1e6 / pixels.sum())))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]
    sample = scratch / "sample" / "images"
    sample.mkdir(parents=True)
    for row in rows.tolist():
        (sample / f"{row:09d}").write_bytes(split.read(row).encoded)
    made = []
    for name, most_side in (("now", 0), ("smaller", side)):
        config = ConvertConfig(splits=((split.name, 1.0),), labels="none", max_short_side=most_side)
        convert(scratch / "sample", scratch / name, config, workers=available_cores())
        size = min(pipeline.config.batch_size, len(rows))
        made.append(
            changed(pipeline, Dataset(scratch / name), batch_size=size, columns=(), augment=None, max_bad_records=0)
        )
    return made[0], made[1], len(rows)


def _ratio(measured: Measured, **pipelines: Pipeline) -> float:
    """The second's rate over the first's, the median of each round's ratio: the machine drifts from round to round."""
    subjects = {name: batches(each, measured.strategy) for name, each in pipelines.items()}
    turns = in_turns(subjects, rounds=measured.rounds, seconds=measured.seconds)
    ratio: float = verdict(*(turns[name].images_per_second for name in pipelines))["ratio"]["median"]
    return ratio


def _devices(measured: Measured, stage: float, step_ratio: float = 1.0) -> float | None:
    """What the devices take with another device stage, or a step that is so much faster."""
    if measured.step is None:
        return measured.job.devices
    return 1 / (1 / stage + 1 / (measured.step * step_ratio))


def _canvas_pixels(pipeline: Pipeline) -> float:
    """Mean over an epoch's images."""
    canvases = pipeline.describe()["canvases"]
    steps = sum(each["steps"] * each["batch_size"] * each["height"] * each["width"] for each in canvases)
    return steps / sum(each["images"] for each in canvases)
