"""Decoded images kept in memory: `python -m benchmarks.cache [--record FILE]`.

In paired rounds, each measurement in a process of its own, all on the same photographs and random resized crops:

- `cold`: the uncached pipeline; and Model Garden's recipe (`feeds_tensorflow.model_garden`, not normalized);
- `whole`: the uncached pipeline with whole images instead of boxes: what a first epoch has to decode, kept for nothing;
- `kept`: `cache="host"`, its first epoch (images/s from its first batch on, beside the uncached pipeline's first epoch)
  and the epochs after it;
- `device`: `cache="device"` after its first epoch, with this machine's first device; on a CPU that gathers in the step
  what `kept` gathers ahead of it;
- `disk`: `cache="disk"` after its first epoch, the files in the page cache;
- `dataset_cache`: `Dataset.cache()` on the same decoded images, then `padded_batch`, as one would write it without us;
- `copy`: how fast the machine copies as many bytes as a batch has, from all over as much memory as the images take.

Prints images/s, bytes/s, and resident memory beside what was predicted, as JSON lines; exit status 1 below a limit.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import circumstances, tell, versions
from benchmarks.conversion import spread
from benchmarks.feeds import BATCH, SIDE, Data
from benchmarks.pipeline import _EPOCHS, _pipeline, _rate, _status
from benchmarks.turns import turn

LEAST_OVER_RECIPE, LEAST_OF_COPY, LEAST_FIRST_EPOCH, MOST_OFF = 15.0, 0.8, 0.75, 0.05
_START_SECONDS = 240


def _first_epoch(pipeline: Any, batches: Iterator[Any]) -> float:
    """Images/s of an epoch from its first batch on, which is left out with all that starting takes."""
    next(batches)
    steps = pipeline.steps_per_epoch() - 1
    began = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return float(steps * BATCH / (time.perf_counter() - began))


def _touch(size: int) -> None:
    """Takes and gives back so much memory.

    On a virtual machine, memory that was not used since it started has to be got from its host first, at a tenth of the
    speed of any use after that (0.45 instead of 3.8 GB/s, written by the cache's own operation): a cost of the machine,
    once, and not of an epoch.
    """
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


def child_cold(dataset: str, side: str, seconds: str) -> dict[str, float]:
    pipeline = _pipeline(dataset)
    before = _status("VmRSS")
    batches = iter(pipeline.batches(epochs=_EPOCHS))
    first = _first_epoch(pipeline, batches)
    return {"first_epoch": first, "grown": _status("VmRSS") - before, **_rate(batches, BATCH, float(seconds))}


def child_whole(dataset: str, side: str, seconds: str) -> dict[str, float]:
    pipeline = _pipeline(dataset, fit="resize", image_size=(int(side), int(side)))
    batches = iter(pipeline.batches(epochs=_EPOCHS))
    return {"first_epoch": _first_epoch(pipeline, batches), **_rate(batches, BATCH, float(seconds))}


def child_kept(dataset: str, side: str, seconds: str) -> dict[str, float]:
    pipeline = _pipeline(dataset, cache="host", cache_short_side=int(side))
    _touch(pipeline.describe()["cache_bytes"])
    before = _status("VmRSS")
    batches = iter(pipeline.batches(epochs=_EPOCHS))
    first = _first_epoch(pipeline, batches)
    filled = _status("VmRSS")
    pixels = [next(batches)["canvas"].numpy().nbytes / BATCH for _ in range(3 * pipeline.steps_per_epoch())]
    return {
        "first_epoch": first,
        "grown": filled - before,
        "predicted": pipeline.describe()["cache_bytes"],
        "bytes_per_image": float(np.mean(pixels)),
        **_rate(batches, BATCH, float(seconds)),
    }


def child_device(dataset: str, side: str, seconds: str) -> dict[str, float]:
    import tensorflow as tf

    pipeline = _pipeline(dataset, cache="device", cache_short_side=int(side))
    strategy = tf.distribute.get_strategy()
    for _ in pipeline.distribute(strategy):
        pass
    return _rate(iter(pipeline.distribute(strategy, 1, epochs=_EPOCHS)), BATCH, float(seconds))


def child_disk(dataset: str, side: str, seconds: str) -> dict[str, float]:
    pipeline = _pipeline(
        dataset, cache="disk", cache_short_side=int(side), cache_dir=str(Path(dataset).with_name("kept"))
    )
    batches = iter(pipeline.batches(epochs=_EPOCHS))
    for _ in range(pipeline.steps_per_epoch()):
        next(batches)
    return _rate(batches, BATCH, float(seconds))


def child_dataset_cache(dataset: str, side: str, seconds: str) -> dict[str, float]:
    import tensorflow as tf

    from irv2data.pipeline.decode import decode_window
    from irv2data.pipeline.read import read_records

    pipeline = _pipeline(dataset, cache="host", cache_short_side=int(side))
    split, where = pipeline.plan.split, pipeline.plan.residence
    whole = np.concatenate([np.zeros_like(where.crop), where.crop], axis=1)
    paths = tf.constant([os.fsencode(path) for path in split.paths])
    encoded = read_records(tf.gather(paths, split.array("shard")), split.array("offset"))
    how = tf.data.Dataset.from_tensor_slices(
        (np.asarray(split.array("format"), np.int32), where.scale, whole, where.reduce)
    )
    images = tf.data.Dataset.zip((encoded, how)).map(
        lambda encoded, how: decode_window(encoded, *how), num_parallel_calls=tf.data.AUTOTUNE
    )
    kept = images.cache()
    for _ in kept:
        pass
    batches = (
        kept.shuffle(1024).repeat().padded_batch(BATCH, [None, None, 3], drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    )
    return _rate(iter(batches), BATCH, float(seconds))


def child_model_garden(dataset: str, side: str, seconds: str) -> dict[str, float]:
    from benchmarks.feeds_tensorflow import model_garden

    return _rate(model_garden(Data("", dataset, "", "", 2)), BATCH, float(seconds))


def child_copy(total: str, image: str, seconds: str) -> dict[str, float]:
    """Two threads copy images of so many bytes out of so many into batches that are used again."""
    size = int(float(image))
    source = np.ones(max(int(total), 4 * size), np.uint8)
    batches = [np.ones((BATCH, size), np.uint8) for _ in range(3)]
    rng = np.random.default_rng(0)

    def copy(rows: tuple[np.ndarray, np.ndarray]) -> None:
        for row, start in zip(rows[0], rows[1].tolist(), strict=True):
            np.copyto(row, source[start : start + size])

    def endless() -> Iterator[None]:
        with ThreadPoolExecutor(2) as pool:
            while True:
                for batch in batches:
                    starts = rng.integers(0, len(source) - size, BATCH)
                    list(pool.map(copy, [(batch[half::2], starts[half::2]) for half in range(2)]))
                    yield

    return _rate(endless(), BATCH, float(seconds))


_CHILDREN: dict[str, Callable[..., dict[str, float]]] = {
    "cold": child_cold,
    "whole": child_whole,
    "kept": child_kept,
    "device": child_device,
    "disk": child_disk,
    "dataset_cache": child_dataset_cache,
    "model_garden": child_model_garden,
    "copy": child_copy,
}


def measure(data: Data, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures, in paired rounds."""

    def run(name: str, *arguments: str) -> dict[str, Any]:
        return turn("cache", name, *arguments, str(options.seconds), seconds=_START_SECONDS + 10 * options.seconds)

    rounds = []
    for _ in range(options.rounds):
        each = {
            name: run(name, data.dataset, str(options.side))
            for name in ("kept", "cold", "whole", "model_garden", "dataset_cache", "device", "disk")
        }
        each["copy"] = run("copy", str(each["kept"]["predicted"]), str(each["kept"]["bytes_per_image"]))
        rounds.append(each)
        print(json.dumps({name: round(one["images_per_second"], 1) for name, one in each.items()}), flush=True)

    def ratio(other: str) -> list[float]:
        return [each["kept"]["images_per_second"] / each[other]["images_per_second"] for each in rounds]

    first = [each["kept"]["first_epoch"] / each["cold"]["first_epoch"] for each in rounds]
    # What keeping takes beside what the same pipeline takes without.
    taken = [each["kept"]["grown"] - each["cold"]["grown"] for each in rounds]
    off = statistics.median(taken) / rounds[0]["kept"]["predicted"] - 1
    wanted = (
        (ratio("model_garden"), LEAST_OVER_RECIPE),
        (ratio("copy"), LEAST_OF_COPY),
        (first, LEAST_FIRST_EPOCH),
    )
    yield {
        "benchmark": "cache",
        "short_side": options.side,
        "rounds": len(rounds),
        **{
            f"{name}_images_per_second": spread(each[name]["images_per_second"] for each in rounds)
            for name in rounds[0]
        },
        "first_epoch_images_per_second": spread(each["kept"]["first_epoch"] for each in rounds),
        "bytes_per_image": spread(each["kept"]["bytes_per_image"] for each in rounds),
        "over_model_garden": spread(ratio("model_garden"), 2),
        "over_cold": spread(ratio("cold"), 2),
        "over_dataset_cache": spread(ratio("dataset_cache"), 2),
        "of_copy": spread(ratio("copy"), 3),
        "first_epoch_over_cold": spread(first, 3),
        "whole_first_epoch_over_cold": spread(
            (each["whole"]["first_epoch"] / each["cold"]["first_epoch"] for each in rounds), 3
        ),
        "predicted_mib": round(rounds[0]["kept"]["predicted"] / (1 << 20)),
        "taken_mib": spread((each / (1 << 20) for each in taken), 0),
        "wanted": {
            "over_model_garden": LEAST_OVER_RECIPE,
            "of_copy": LEAST_OF_COPY,
            "first_epoch_over_cold": LEAST_FIRST_EPOCH,
            "taken_off_predicted": MOST_OFF,
        },
        "met": all(statistics.median(found) >= least for found, least in wanted) and abs(off) < MOST_OFF,
    }


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_CHILDREN[sys.argv[2]](*sys.argv[3:])), flush=True)
        os._exit(0)  # no clean-up of the process is part of this
    from benchmarks.prepared import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement, about (default: %(default)s)")
    parser.add_argument("--side", type=int, default=SIDE, help="cache_short_side (default: %(default)s)")
    parser.add_argument("--files", type=int, default=4704, help="photographs (default: %(default)s)")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        data, described = prepare(Path(place), options.files, options.images, cores=2)
        installed = versions("tensorflow", "numpy")
        figures = (
            {**each, **described, **circumstances("cache"), "versions": installed} for each in measure(data, options)
        )
        return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
