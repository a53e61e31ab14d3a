"""Where a job's time goes on this machine, and the one change that would help most."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.labels import CLASS
from irv2data.measure import accelerator, forecast, stages
from irv2data.measure.accelerator import Devices, load_model
from irv2data.measure.changes import Measured, changed, possible
from irv2data.measure.figures import spread
from irv2data.measure.forecast import Job
from irv2data.measure.process import core_counts, on_cores
from irv2data.measure.turns import Samples, Subject, in_turns
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.distribute import are_processors
from irv2data.training.strategy import precision_on

NO_MODEL = "none"
_FEW_CORES = 8
# Pixels a replica: eight images of 299x299 keep a processor busy, and a step of the whole network takes 20 s less.
_ON_PROCESSORS = 8 * 299 * 299


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the doctor is asked about.

    Attributes:
        model: `inception_resnet_v2`, `none`, or the path of a Keras model.
        unfreeze: Of Inception-ResNet-v2, how many of the 44 blocks learn.
        precision: As of `TrainConfig`.
        wanted_rate: Images per second that the devices take, in place of a model; 0 to measure.
        rounds: Of a measurement.
        seconds: Of a turn, about.

    Raises:
        UsageError: A value is out of its range.
    """

    model: str = accelerator.INCEPTION
    unfreeze: int = 44
    precision: str = "auto"
    wanted_rate: float = 0.0
    rounds: int = 3
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.unfreeze <= 44:
            raise UsageError(f"unfreeze must be in [0, 44], got {self.unfreeze}")
        if not 0 <= self.wanted_rate < float("inf"):
            raise UsageError(f"wanted_rate must be 0 or more, got {self.wanted_rate:g}")
        if self.rounds < 1 or not 0 < self.seconds < float("inf"):
            raise UsageError(f"rounds and seconds must be positive, got {self.rounds} and {self.seconds}")


def diagnose(
    pipeline: Pipeline,
    strategy: tf.distribute.Strategy,
    question: Question,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measures every stage in turn, and works out what a job would do.

    Args:
        pipeline: The job's, without cache and service.
        strategy: Its devices.
        question: What to measure.
        progress: Called as `progress(stage, done, total)`.

    Returns:
        JSON-able, all rates in images per second:

        - `stages`: in the order of an image's way; each with `name`, `about`, `where` (`host` or `devices`), `ceiling`
          (`median`, `low`, `high`: of the pipeline if it ended there; of a device stage by itself), `cpu_ms` that an
          image takes of the processor up to there, and `share` of the host's or the devices' time that goes there.
        - `cores`: for each number of them `cores` and `images_per_second` of the host.
        - `host`, `devices`, `copy`, `fed` and `wait`: as in `forecast.Job`.
        - `replicas`, `cores_per_replica` that would keep one busy (None if unknown or beyond reach).
        - `changes`: what could be changed, the most helpful first: fields of `forecast.Change`; `reasons` why others do
          not come into question; `recommended`, the name of one of them or None.

    Raises:
        UsageError: The pipeline has a cache or a service, or the model does not fit.
    """
    if pipeline.dataset.contents.labels != CLASS and question.model != NO_MODEL and not question.wanted_rate:
        kind = pipeline.dataset.contents.labels
        raise UsageError(f"model: labels are of kind {kind!r}, and a step needs one class each; use --model=none")

    def turns(what: str, subjects: Mapping[str, Subject]) -> dict[str, Samples]:
        return in_turns(
            subjects, rounds=question.rounds, seconds=question.seconds, progress=lambda *done: progress(what, *done)
        )

    by_stage = stages.host_stages(pipeline, strategy)  # what cannot be measured is refused before any time is spent
    model = _model(pipeline, strategy, question)
    host = turns("host stages", by_stage)
    cores = turns("cores", by_cores(pipeline, strategy))
    rates = {count: float(np.median(cores[str(count)].images_per_second)) for count in map(int, cores)}
    devices, step_size = _devices(pipeline, strategy, model, turns)
    rate = {name: float(np.median(each.images_per_second)) for name, each in {**host, **devices}.items()}
    step = rate.get(accelerator.STEP)
    taken = 1 / (1 / rate[accelerator.DEVICE_STAGE] + 1 / step) if step else question.wanted_rate or None
    # The same was measured twice, with the other stages and with fewer cores: ratios stay, drift goes.
    drift = rate[stages.BATCH] / list(rates.values())[-1]
    scaled = {count: value * drift for count, value in rates.items()}
    job = Job(
        host=rate[stages.BATCH],
        devices=taken,
        copy=rate.get(accelerator.COPY),
        shared=step is not None and are_processors(strategy),
    )
    measured = Measured(
        pipeline=pipeline,
        strategy=strategy,
        job=job,
        by_cores=scaled,
        stage=rate[accelerator.DEVICE_STAGE],
        step=step,
        rounds=question.rounds,
        seconds=question.seconds,
    )
    changes, reasons = possible(measured, progress)
    chosen = forecast.best(changes)
    replicas = strategy.num_replicas_in_sync
    needed = None if taken is None or job.shared else forecast.cores_for(scaled, taken / replicas)
    return {
        "stages": _rows(host, devices, rate, step is not None),
        "cores": [{"cores": count, "images_per_second": value} for count, value in rates.items()],
        "host": job.host,
        "devices": job.devices,
        "copy": job.copy,
        "fed": job.fed,
        "wait": job.wait,
        "shared": job.shared,
        "replicas": replicas,
        "cores_per_replica": needed,
        "step_batch_size": step_size,
        "changes": [asdict(each) for each in sorted(changes, key=lambda each: -each.gain)],
        "reasons": reasons,
        "recommended": None if chosen is None else chosen.name,
    }


def by_cores(pipeline: Pipeline, strategy: tf.distribute.Strategy) -> dict[str, Subject]:
    """The host by number of cores, as `turns.in_turns` takes it."""
    counts = core_counts()
    # An iterator takes a second or two to open, and holds batches in proportion to its cores.
    kept = counts[-1] <= _FEW_CORES
    return {
        str(count): stages.batches(pipeline, strategy, functools.partial(on_cores, count), kept=kept)
        for count in counts
    }


def _model(pipeline: Pipeline, strategy: tf.distribute.Strategy, question: Question) -> keras.Model | None:
    if question.wanted_rate or question.model == NO_MODEL:
        return None
    keras.utils.set_random_seed(0)
    return load_model(
        question.model,
        classes=len(pipeline.dataset.classes),
        pipeline=pipeline,
        strategy=strategy,
        top=question.unfreeze,
        precision=precision_on(strategy, question.precision),
    )


def _devices(
    pipeline: Pipeline,
    strategy: tf.distribute.Strategy,
    model: keras.Model | None,
    turns: Callable[[str, Mapping[str, Subject]], dict[str, Samples]],
) -> tuple[dict[str, Samples], int | None]:
    """Copy, device stage and step; and the batch size of the step, if there was one."""
    devices = Devices(pipeline, strategy)
    subjects = {} if are_processors(strategy) else {accelerator.COPY: devices.copy()}
    subjects[accelerator.DEVICE_STAGE] = devices.stage()
    found = turns("devices", subjects)
    if model is None:
        return found, None
    size = pipeline.config.batch_size
    if are_processors(strategy):
        height, width = pipeline.config.image_size
        size = min(size, max(1, _ON_PROCESSORS // (height * width)) * strategy.num_replicas_in_sync)
    if size != pipeline.config.batch_size:
        devices = Devices(changed(pipeline, batch_size=size), strategy)
    return {**found, **turns("training step", {accelerator.STEP: devices.step(model)})}, size


def _rows(
    host: Mapping[str, Samples], devices: Mapping[str, Samples], rate: Mapping[str, float], stepped: bool
) -> list[dict[str, Any]]:
    shares = forecast.shares({name: rate[name] for name in host})
    # The copy happens while the devices work.
    working = [name for name in devices if name != accelerator.COPY] if stepped else []
    seconds = sum(1 / rate[name] for name in working)
    shares |= {name: 1 / rate[name] / seconds for name in working}
    return [
        {
            "name": name,
            "about": {**stages.ABOUT, **accelerator.ABOUT}[name],
            "where": "host" if name in host else "devices",
            "ceiling": spread(samples.images_per_second, 1),
            "cpu_ms": round(1e3 * float(np.median(samples.cpu_seconds)), 3) if name in host else None,
            "share": round(shares[name], 4) if name in shares else None,
        }
        for name, samples in {**host, **devices}.items()
    ]
