"""Properties of irv2data's pipeline: `python -m benchmarks.pipeline [replicas|reading|memory|overlap|order ...]`.

`replicas`: a global batch of 512 for 8 logical CPU replicas beside one of 64 for one, images/s in paired rounds.
`reading`: the read stage alone, as parallel as in the whole, beside the whole: its share of the wall time and of the
processor time, for both shuffles. `memory`: resident memory at the end of each of several epochs. `overlap`: a
consumer that takes as long as a batch takes to make, and leaves the processor alone as a device does; the step beside
the sum of the two. `order`: the promised order beside none, which only this benchmark can have. Each measurement has a
process of its own. Figures are JSON lines; exit status 1 above a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.circumstances import circumstances, tell, versions
from benchmarks.conversion import spread
from benchmarks.feeds import BATCH, SIDE, Data
from benchmarks.turns import cpu_seconds, turn

LEAST_REPLICA_RATIO = 0.95
MOST_READING = {"full": 0.12, "blocks": 0.08}  # of the wall time of the whole
MOST_BYTES, MOST_GROWTH = 1.5e9, 0.05
LEAST_ORDER_RATIO = 0.95
MOST_STEP_OVER_SUM = 0.6  # 0.5 is a perfect overlap of two equal times
_WARM_SECONDS = 1.5
_EPOCHS = 5_000
_START_SECONDS = 240


def _pipeline(dataset: str, **options: Any) -> Any:
    from irv2data import Pipeline

    given = {"fit": "random_resized_crop", "image_size": (SIDE, SIDE), "batch_size": BATCH, "seed": 0, **options}
    return Pipeline(dataset, **given)


def _endless(pipeline: Any, strategy: Any = None) -> Iterator[Any]:
    """Batches without borders between epochs, which are nothing in a real dataset and much in this one."""
    import tensorflow as tf

    return iter(pipeline.for_fit(strategy or tf.distribute.get_strategy(), epochs=_EPOCHS))


def _rate(batches: Iterator[Any], size: int, seconds: float) -> dict[str, float]:
    """Images/s and processor seconds an image, after a warm-up."""
    next(batches)
    warm = time.perf_counter() + _WARM_SECONDS
    while time.perf_counter() < warm:
        next(batches)
    images, cpu, began, wall = 0, cpu_seconds(), time.perf_counter(), 0.0
    while wall < seconds:
        next(batches)
        images += size
        wall = time.perf_counter() - began
    return {"images_per_second": images / wall, "cpu_ms_per_image": 1e3 * (cpu_seconds() - cpu) / images}


def child_replicas(dataset: str, replicas: str, seconds: str) -> dict[str, float]:
    import tensorflow as tf

    count = int(replicas)
    logical = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(count)])
    size = count * BATCH
    return _rate(_endless(_pipeline(dataset, batch_size=size), strategy), size, float(seconds))


def child_whole(dataset: str, shuffle: str, seconds: str) -> dict[str, float]:
    return _rate(_endless(_pipeline(dataset, shuffle=shuffle)), BATCH, float(seconds))


def child_reading(dataset: str, shuffle: str, seconds: str) -> dict[str, float]:
    """As `irv2data.pipeline.build` composes it, with nothing behind the reading."""
    import tensorflow as tf

    from irv2data.machine import available_cores
    from irv2data.pipeline.distribute import Share
    from irv2data.pipeline.feed import planned_chunks
    from irv2data.pipeline.read import read_records

    plan = _pipeline(dataset, shuffle=shuffle).plan
    paths = tf.constant([os.fsencode(path) for path in plan.split.paths])
    key = plan.split.contents.encoded_key

    def read(chunk: dict[str, tf.Tensor]) -> tf.data.Dataset:
        return read_records(tf.gather(paths, chunk["shard"]), chunk["offset"], key).batch(BATCH)

    chunks = planned_chunks(plan, [(epoch, 0) for epoch in range(_EPOCHS)], Share.whole(BATCH))
    cores = available_cores()
    batches = chunks.interleave(read, cycle_length=cores, num_parallel_calls=cores, deterministic=True)
    return _rate(iter(batches.prefetch(2)), BATCH, float(seconds))


def child_memory(dataset: str, epochs: str) -> dict[str, Any]:
    """Epochs as a training loop takes them, each with an iterator of its own."""
    pipeline = _pipeline(dataset)
    resident = []
    for epoch in range(int(epochs)):
        for batch in pipeline.batches(epoch):
            del batch
        resident.append(_status("VmRSS"))
    return {"resident": resident, "peak": _status("VmHWM")}


def _status(key: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) << 10


def child_overlap(dataset: str, seconds: str) -> dict[str, float]:
    batches = _endless(_pipeline(dataset))
    alone = BATCH / _rate(batches, BATCH, float(seconds))["images_per_second"]
    # As long as a batch takes to make: the hardest case for an overlap, for neither ever waits by plan.
    steps = max(8, round(float(seconds) / alone))
    for _ in range(4):  # until the buffer is as full as it stays
        next(batches)
        time.sleep(alone)
    began, slept = time.perf_counter(), 0.0
    for _ in range(steps):
        next(batches)
        asleep = time.perf_counter()
        time.sleep(alone)
        slept += time.perf_counter() - asleep
    step, consumer = (time.perf_counter() - began) / steps, slept / steps
    return {"batch": alone, "consumer": consumer, "step": step, "step_over_sum": step / (alone + consumer)}


def _turn(*arguments: str, seconds: float) -> dict[str, Any]:
    return turn("pipeline", *arguments, seconds=_START_SECONDS + 10 * seconds)


def replicas(data: Data, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rates = [
        {count: _turn("replicas", data.dataset, count, str(options.seconds), seconds=options.seconds) for count in "81"}
        for _ in range(options.rounds)
    ]
    ratio = [each["8"]["images_per_second"] / each["1"]["images_per_second"] for each in rates]
    yield {
        "benchmark": "replicas",
        **{
            f"images_per_second_{count}x{BATCH}": spread(each[count]["images_per_second"] for each in rates)
            for count in "81"
        },
        "ratio": spread(ratio, 3),
        "least": LEAST_REPLICA_RATIO,
        "met": statistics.median(ratio) >= LEAST_REPLICA_RATIO,
    }


def reading(data: Data, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for shuffle, most in MOST_READING.items():
        rounds = [
            {
                stage: _turn(stage, data.dataset, shuffle, str(options.seconds), seconds=options.seconds)
                for stage in ("whole", "reading")
            }
            for _ in range(options.rounds)
        ]
        wall = [each["whole"]["images_per_second"] / each["reading"]["images_per_second"] for each in rounds]
        cpu = [each["reading"]["cpu_ms_per_image"] / each["whole"]["cpu_ms_per_image"] for each in rounds]
        yield {
            "benchmark": "reading",
            "shuffle": shuffle,
            "read_images_per_second": spread(each["reading"]["images_per_second"] for each in rounds),
            "images_per_second": spread(each["whole"]["images_per_second"] for each in rounds),
            "share_of_wall": spread(wall, 3),
            "share_of_processor_time": spread(cpu, 3),
            "most": most,
            "met": statistics.median(wall) < most,
        }


def memory(data: Data, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    found = _turn("memory", data.dataset, str(options.epochs), seconds=10.0 * options.epochs)
    # The first half of the epochs may fill the allocator's arenas.
    early, late = (max(part) for part in (found["resident"][: -(-options.epochs // 2)], found["resident"]))
    yield {
        "benchmark": "memory",
        "resident_mib_by_epoch": [round(each / (1 << 20)) for each in found["resident"]],
        "peak_mib": round(found["peak"] / (1 << 20)),
        "growth": round(late / early - 1, 3),
        "most": {"mib": round(MOST_BYTES / (1 << 20)), "growth": MOST_GROWTH},
        "met": found["peak"] <= MOST_BYTES and late / early - 1 <= MOST_GROWTH,
    }


def overlap(data: Data, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rounds = [
        _turn("overlap", data.dataset, str(options.seconds), seconds=options.seconds) for _ in range(options.rounds)
    ]
    share = [each["step_over_sum"] for each in rounds]
    yield {
        "benchmark": "overlap",
        **{f"{name}_ms": spread(1e3 * each[name] for each in rounds) for name in ("batch", "consumer", "step")},
        "step_over_sum": spread(share, 3),
        "most": MOST_STEP_OVER_SUM,
        "met": statistics.median(share) <= MOST_STEP_OVER_SUM,
    }


def order(data: Data, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the promised order costs: `interleave` patched to deliver as it comes (see `feeds_tensorflow.irv2data`)."""
    from benchmarks.loaders import run

    names = ("irv2data", "irv2data_unordered")
    rounds = [
        {name: run(name, data, options.seconds)["images_per_second"] for name in names} for _ in range(options.rounds)
    ]
    ratio = [each[names[0]] / each[names[1]] for each in rounds]
    yield {
        "benchmark": "order",
        "ordered_images_per_second": spread(each[names[0]] for each in rounds),
        "unordered_images_per_second": spread(each[names[1]] for each in rounds),
        "ratio": spread(ratio, 3),
        "least": LEAST_ORDER_RATIO,
        "met": statistics.median(ratio) >= LEAST_ORDER_RATIO,
    }


_CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "replicas": child_replicas,
    "whole": child_whole,
    "reading": child_reading,
    "memory": child_memory,
    "overlap": child_overlap,
}
_BENCHMARKS = {"replicas": replicas, "reading": reading, "memory": memory, "overlap": overlap, "order": order}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_CHILDREN[sys.argv[2]](*sys.argv[3:])), flush=True)
        os._exit(0)  # no clean-up of the process is part of this
    from benchmarks.prepared import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(_BENCHMARKS)}; all if none")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one measurement, about (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="of `memory` (default: %(default)s)")
    parser.add_argument("--files", type=int, default=1568, help="photographs (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="that it may use (default: %(default)s)")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    if unknown := set(options.benchmarks) - set(_BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(_BENCHMARKS)}")
    if options.rounds < 1 or options.seconds <= 0 or options.epochs < 2 or options.files < 8 * BATCH:
        parser.error(f"rounds and seconds must be positive, epochs 2 or more, files {8 * BATCH} or more")
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        cores = sorted(os.sched_getaffinity(0))[: options.cores]
        data, about = prepare(Path(place), options.files, options.images, cores=len(cores))
        os.sched_setaffinity(0, cores)  # children inherit it
        about["versions"] = versions("tensorflow", "keras", "numpy")
        figures = (
            {**each, "rounds": options.rounds, **about, **circumstances("pipeline")}
            for name in options.benchmarks or _BENCHMARKS
            for each in _BENCHMARKS[name](data, options)
        )
        return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
