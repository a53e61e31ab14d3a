"""What `irv2data bench` measures: the whole pipeline, its stages, by cores, over time, and beside another setting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.machine import available_cores, peak_memory
from irv2data.measure import stages
from irv2data.measure.diagnosis import by_cores
from irv2data.measure.figures import spread, verdict
from irv2data.measure.forecast import shares
from irv2data.measure.process import MemoryTrace
from irv2data.measure.turns import Samples, Subject, in_turns
from irv2data.pipeline.build import Pipeline

HOST, FINISHED = "images_per_second", "finished_images_per_second"
_MEMORY_POINTS = 120


def measure(
    pipeline: Pipeline,
    *,
    rounds: int,
    seconds: float,
    by_stage: bool = False,
    by_core_count: bool = False,
    other: Pipeline | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Measures a pipeline on this machine, and its finished images on the first device.

    Everything of one list below takes turns in each round, so that their ratios hold on a machine whose speed drifts.

    Args:
        pipeline: What to measure; with a cache, its epochs after the first.
        rounds: Counted rounds, after one that warms up.
        seconds: How long a turn takes, about.
        by_stage: Each stage on the host, too; of a pipeline without cache and service.
        by_core_count: With fewer cores, too.
        other: A second pipeline to compare with.
        progress: Called as `progress(what, done, total)`.

    Returns:
        JSON-able. `images_per_second` (host: up to the batch) and `finished_images_per_second` (with the device stage),
        each with `median`, `low` and `high` over the rounds; `cpu_ms`, processor time for an image on the host;
        `rounds`; `peak_rss_mib`, the process's largest resident memory in MiB; `memory`, at most 120 pairs of seconds
        and MiB, and `memory_growth` from the middle third of the time to the last, a share; `padding_waste`, the share
        of canvas pixels that is padding; `config`. As asked for: `stages` (`name`, `images_per_second`, `cpu_ms`,
        `share` of the host's time), `cores` (`cores`, `images_per_second`), and `compare` (for `host` and `finished`:
        `other` images per second, `ratio` of the other over this one, `confidence`, `verdict`; `config` of the other).

    Raises:
        UsageError: Stages are asked for where there are none.
    """

    def turns(what: str, subjects: dict[str, Subject]) -> dict[str, Samples]:
        return in_turns(subjects, rounds=rounds, seconds=seconds, progress=lambda *done: progress(what, *done))

    strategy = tf.distribute.get_strategy()
    by_name = stages.host_stages(pipeline, strategy) if by_stage else {}  # refuses before anything is measured
    subjects = {HOST: stages.batches(pipeline, strategy), FINISHED: stages.finished(pipeline)}
    if other is not None:
        subjects |= {f"other_{HOST}": stages.batches(other, strategy), f"other_{FINISHED}": stages.finished(other)}
    report: dict[str, Any] = {}
    with MemoryTrace() as trace:
        whole = turns("pipeline", subjects)
        if by_stage:
            report["stages"] = _stages(turns("stages", by_name))
        if by_core_count:
            found = turns("cores", by_cores(pipeline, strategy))
            report["cores"] = [
                {"cores": int(count), "images_per_second": spread(each.images_per_second, 1)}
                for count, each in found.items()
            ]
    if other is not None:
        report["compare"] = {
            "host": _compared(whole[HOST], whole[f"other_{HOST}"]),
            "finished": _compared(whole[FINISHED], whole[f"other_{FINISHED}"]),
            "config": _config(other),
        }
    return {
        **{name: spread(whole[name].images_per_second, 1) for name in (HOST, FINISHED)},
        "cpu_ms": _milliseconds(whole[HOST]),
        "rounds": rounds,
        "seconds": seconds,
        "peak_rss_mib": round(peak_memory() / (1 << 20), 1),
        **_memory(trace.samples),
        "padding_waste": round(pipeline.plan.padding_waste(), 4),
        **report,
        "config": _config(pipeline),
    }


def _stages(found: dict[str, Samples]) -> list[dict[str, Any]]:
    share = shares({name: float(np.median(each.images_per_second)) for name, each in found.items()})
    return [
        {
            "name": name,
            "about": stages.ABOUT[name],
            "images_per_second": spread(each.images_per_second, 1),
            "cpu_ms": _milliseconds(each),
            "share": round(share[name], 4),
        }
        for name, each in found.items()
    ]


def _compared(one: Samples, other: Samples) -> dict[str, Any]:
    found = verdict(one.images_per_second, other.images_per_second)
    ratio = {name: round(value, 4) for name, value in found["ratio"].items()}
    return {"other": spread(other.images_per_second, 1), **found, "ratio": ratio}


def _milliseconds(samples: Samples) -> float:
    return round(1e3 * float(np.median(samples.cpu_seconds)), 3)


def _memory(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """Of what was sampled, evenly spaced points, and whether it still grows when all is warm."""
    if not samples:
        return {"memory": [], "memory_growth": None}
    sizes = np.array([size for _, size in samples], float)
    third = len(sizes) // 3
    growth = round(float(np.median(sizes[-third:]) / np.median(sizes[third : 2 * third]) - 1), 4) if third else None
    points = np.unique(np.linspace(0, len(samples) - 1, _MEMORY_POINTS).astype(int))
    return {
        "memory": [(round(samples[row][0], 2), round(samples[row][1] / (1 << 20), 1)) for row in points.tolist()],
        "memory_growth": growth,
    }


def _config(pipeline: Pipeline) -> dict[str, Any]:
    return {
        **asdict(pipeline.config),
        "dataset": pipeline.dataset.location,
        "split": pipeline.plan.split.name,
        "records": pipeline.plan.split.num_records,
        "canvases": pipeline.plan.shapes,
        "cores": available_cores(),
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
    }
