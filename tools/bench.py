"""`irv2data bench DATASET`: how many images per second the pipeline delivers on this machine."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from irv2data.errors import EXIT_DONE, UsageError
from irv2data.machine import available_cores, peak_memory
from irv2data.manifest import Dataset
from irv2data.pipeline.config import FITS, LETTERBOX, PipelineConfig

from .common import add_augment, add_json, add_place, parse_augment, parse_size, place_options, print_json, table
from .quiet import load_tensorflow, reading

_STEPS = 200_000  # planned, not run: enough that no round ever meets an end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    default = PipelineConfig()
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--fit", choices=FITS, default="random_resized_crop", help="default: %(default)s")
    parser.add_argument("--image_size", default="299", help="299 or HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=default.batch_size, help="default: %(default)s")
    parser.add_argument("--buckets", type=int, default=default.buckets, help="canvas shapes (default: %(default)s)")
    parser.add_argument("--shuffle", choices=("full", "blocks", "none"), default="full", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=default.seed, help="default: %(default)s")
    add_augment(parser)
    add_place(parser)
    parser.add_argument("--rounds", type=int, default=5, help="measured, after one that is not (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round, about (default: %(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    if arguments.rounds < 1 or not 0 < arguments.seconds < math.inf:
        raise UsageError(f"rounds and seconds must be positive, got {arguments.rounds} and {arguments.seconds}")
    dataset = Dataset(arguments.dataset)
    load_tensorflow()
    from irv2data.pipeline.build import Pipeline

    pipeline = Pipeline(
        dataset,
        split=arguments.split,
        fit=arguments.fit,
        image_size=parse_size(arguments.image_size),
        batch_size=arguments.batch_size,
        buckets=arguments.buckets,
        shuffle=None if arguments.shuffle == "none" else arguments.shuffle,
        seed=arguments.seed,
        augment=parse_augment(arguments.augment),
        **place_options(arguments),
    )
    with reading(arguments.dataset):
        report = measure(pipeline, rounds=arguments.rounds, seconds=arguments.seconds)
    if arguments.json:
        print_json(report)
    else:
        print(_text(report))
    return EXIT_DONE


def measure(pipeline: Any, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Times the pipeline to the batch, and beside it to the finished images on this machine's first device.

    Both run in each round, in turn, so that their ratio holds on a machine whose speed drifts.

    Args:
        pipeline: An `irv2data.Pipeline`.
        rounds: Measured rounds, after one that warms up and decides the number of steps.
        seconds: How long a round of the pipeline alone takes, about.

    Returns:
        JSON-able: `images_per_second` (host: up to the uint8 batch) and `finished_images_per_second` (with the device
        stage), each with `median`, `low` and `high` over the rounds in images per second; `rounds`;
        `steps_per_round`; `peak_rss_mib`, the process's largest resident memory in MiB; `padding_waste`, the share of
        canvas pixels that is padding; `config`.
    """
    import numpy as np
    import tensorflow as tf

    from irv2data.training.step import Preprocessor

    strategy = tf.distribute.get_strategy()
    finish = Preprocessor(strategy, pipeline.output)
    batches = iter(pipeline.for_fit(strategy, epochs=-(-_STEPS // pipeline.steps_per_epoch())))
    for height, width in pipeline.plan.shapes:  # trace before the clock runs
        shape = (pipeline.config.batch_size, height, width, 3)
        box = np.tile(np.array([0, 0, height, width], np.float32), (shape[0], 1))
        drawn = {"canvas": tf.zeros(shape, tf.uint8), "box": tf.constant(box), "size": tf.cast(box[:, 2:], tf.int32)}
        if pipeline.config.fit == LETTERBOX:
            drawn["fitted"] = tf.tile(tf.constant([[0, 0, *pipeline.config.image_size]]), (shape[0], 1))
        drawn["draws"] = tf.zeros([shape[0], pipeline.output.num_draws])
        finish({**drawn, "flip": tf.zeros(shape[:1], tf.uint8), "record": tf.zeros(shape[:1], tf.int64)})

    def host(inputs: dict[str, Any]) -> None:
        del inputs  # the batch is there; nothing more to do

    def finished(inputs: dict[str, Any]) -> None:
        finish(inputs)[0, 0, 0, 0].numpy()

    if pipeline.cache is not None:  # the epoch that decodes is not what a cache is for
        for _ in range(pipeline.steps_per_epoch()):
            next(batches)
    steps = max(2, round(seconds / _seconds_per_step(batches, host, until=seconds)))
    rates: dict[str, list[float]] = {"images_per_second": [], "finished_images_per_second": []}
    for _ in range(rounds):
        for name, consume in (("images_per_second", host), ("finished_images_per_second", finished)):
            # Batches that lie finished in the prefetch buffer would count as made in no time.
            for _ in range(3):
                next(batches)
            started = time.perf_counter()
            for _ in range(steps):
                consume(next(batches)[0])
            rates[name].append(steps * pipeline.config.batch_size / (time.perf_counter() - started))
    return {
        **{name: _spread(values) for name, values in rates.items()},
        "rounds": rounds,
        "steps_per_round": steps,
        "peak_rss_mib": round(peak_memory() / (1 << 20), 1),
        "padding_waste": round(pipeline.plan.padding_waste(), 4),
        "config": {
            **asdict(pipeline.config),
            "dataset": pipeline.dataset.location,
            "split": pipeline.plan.split.name,
            "records": pipeline.plan.split.num_records,
            "canvases": pipeline.plan.shapes,
            "cores": available_cores(),
            "python": sys.version.split()[0],
            "tensorflow": tf.__version__,
        },
    }


def _seconds_per_step(batches: Iterator[Any], consume: Callable[[Any], None], *, until: float) -> float:
    next(batches)  # the first one waits for threads, files and the planning of a window
    started, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - started < until:
        consume(next(batches)[0])
        steps += 1
    return (time.perf_counter() - started) / steps


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "low": round(min(values), 1),
        "high": round(max(values), 1),
    }


def _text(report: dict[str, Any]) -> str:
    config = report["config"]
    rows: list[tuple[str, ...]] = [("images per second", "median", "low", "high")]
    for label, name in (
        ("batches (uint8 canvases)", "images_per_second"),
        ("finished images", "finished_images_per_second"),
    ):
        rows.append((label, *(f"{report[name][key]:,.1f}" for key in ("median", "low", "high"))))
    canvases = ", ".join(f"{height}x{width}" for height, width in config["canvases"])
    return "\n".join(
        (
            f"{config['fit']} to {config['image_size'][0]}x{config['image_size'][1]}, batch {config['batch_size']}, "
            f"{config['cores']} cores, {report['rounds']} rounds of {report['steps_per_round']} steps",
            table(rows, right=frozenset((1, 2, 3))),
            f"canvases {canvases}; {report['padding_waste']:.1%} of their pixels is padding",
            f"peak memory {report['peak_rss_mib']:,.0f} MiB",
        )
    )
