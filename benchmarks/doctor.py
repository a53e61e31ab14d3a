"""Does what `irv2data doctor` advises bring what it predicts? `python -m benchmarks.doctor [--record FILE]`.

Each round, in processes of their own: the doctor predicts what each change would do to the host's rate, then each
change is made to the whole dataset, and before and after are measured in turn. `cache` and `shrink` are what it says;
`buckets` begins with a single canvas; `cores` (three or more) is predicted on all but one, and made by adding that one;
`job` is a consumer that sleeps as long as devices would work that take 1.6 times what the host makes at that moment,
with the recommended change and without; `processor` a training step of the network on this machine's own processor.
(`service` needs a second machine.) The error is predicted over measured, less 1. Figures are JSON lines; exit status 1
beyond the limit.
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
from benchmarks.turns import turn

MOST_ERROR = 0.25
WANTED = 1.6  # times what the host makes: more than it decodes, less than it gathers
SHORT_SIDE = 400
_TURN_SECONDS = 900
_ROUNDS = 7  # of what the prediction is compared with: more than the doctor takes time for
_REST = 1.0  # seconds, in which the buffers of the loop before fill up, and its threads come to rest
_FAST = 1e9  # devices that never limit


def _pipeline(dataset: str, **options: Any) -> Any:
    from irv2data import Pipeline

    given = {"fit": "random_resized_crop", "image_size": (SIDE, SIDE), "batch_size": BATCH, "resize_on": "device"}
    return Pipeline(dataset, **{**given, **options})


def _diagnose(dataset: str, seconds: float, *, wanted: float, **options: Any) -> dict[str, Any]:
    import tensorflow as tf

    from irv2data.measure.diagnosis import Question, diagnose

    question = Question(wanted_rate=wanted, rounds=3, seconds=seconds)
    return diagnose(_pipeline(dataset, **options), tf.distribute.get_strategy(), question)


def _measured(pipelines: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Images per second of each, a value a round."""
    import tensorflow as tf

    from irv2data.measure.stages import batches
    from irv2data.measure.turns import in_turns

    subjects = {name: batches(each, tf.distribute.get_strategy()) for name, each in pipelines.items()}
    return {name: each.images_per_second for name, each in in_turns(subjects, rounds=_ROUNDS, seconds=seconds).items()}


def _ratio(before: Any, after: Any, seconds: float) -> float:
    from irv2data.measure.figures import verdict

    rates = _measured({"before": before, "after": after}, seconds)
    return float(verdict(rates["before"], rates["after"])["ratio"]["median"])


def child_pair(dataset: str, other: str, options: str, seconds: str) -> dict[str, Any]:
    return {"ratio": _ratio(_pipeline(dataset), _pipeline(other, **json.loads(options)), float(seconds))}


def child_buckets(dataset: str, seconds: str) -> dict[str, Any]:
    """Beginning with one canvas, which the plan may better: predicted and measured."""
    report = _diagnose(dataset, float(seconds), wanted=_FAST, buckets=1)
    change = next(each for each in report["changes"] if each["name"] == "buckets")
    count = int(change["what"].split("--buckets=")[1].split()[0])
    measured = _ratio(_pipeline(dataset, buckets=1), _pipeline(dataset, buckets=count), float(seconds))
    return {"predicted": change["host"] / report["host"], "measured": measured, "buckets": count}


def child_cores(dataset: str, seconds: str) -> dict[str, Any]:
    import tensorflow as tf

    from irv2data.machine import available_cores
    from irv2data.measure import forecast
    from irv2data.measure.diagnosis import by_cores
    from irv2data.measure.process import on_cores
    from irv2data.measure.turns import in_turns

    every = available_cores()
    strategy, pipeline = tf.distribute.get_strategy(), _pipeline(dataset)
    with on_cores(every - 1):
        fewer = in_turns(by_cores(pipeline, strategy), rounds=3, seconds=float(seconds))
    known = {int(count): float(statistics.median(each.images_per_second)) for count, each in fewer.items()}
    found = in_turns(by_cores(pipeline, strategy), rounds=3, seconds=float(seconds))
    rate = {int(count): float(statistics.median(each.images_per_second)) for count, each in found.items()}
    return {
        "predicted": forecast.at_cores(known, every) / known[every - 1],
        "measured": rate[every] / rate[max(count for count in rate if count < every)],
    }


def child_job(dataset: str, seconds: str) -> dict[str, Any]:
    """A consumer as devices of the wanted rate: the doctor's prediction for it, now and with what it recommends.

    All over the host's rate at that moment, the devices' own rate too: a shared machine drifts by more than what is
    asked here from one second to the next, which no prediction foresees.
    """
    wanted = WANTED * float(statistics.median(_measured({"now": _pipeline(dataset)}, float(seconds))["now"]))
    report = _diagnose(dataset, float(seconds), wanted=wanted)
    chosen = next(each for each in report["changes"] if each["name"] == report["recommended"])
    if chosen["name"] != "cache":
        raise SystemExit(f"this benchmark makes the change cache; recommended is {chosen['name']}")
    host = report["host"]
    consumers = {"now": _Consumer(_pipeline(dataset)), "changed": _Consumer(_pipeline(dataset, cache="host"))}
    ratios: dict[str, list[float]] = {name: [] for name in consumers}
    for _ in range(_ROUNDS):
        for name, consumer in consumers.items():
            found = consumers["now"].rate(float(seconds))
            ratios[name].append(consumer.rate(float(seconds), found * wanted / host) / found)
    return {
        "predicted": {"now": report["fed"] / host, "changed": chosen["fed"] / host},
        "measured": {name: statistics.median(values) for name, values in ratios.items()},
        "ratios": {each["name"]: each["host"] / host for each in report["changes"]},
    }


class _Consumer:
    """A loop over batches whose step takes as long as a given rate says, and leaves the processor alone."""

    def __init__(self, pipeline: Any):
        import tensorflow as tf

        from irv2data.measure.stages import batches

        subject = batches(pipeline, tf.distribute.get_strategy())
        self._units, self._buffered = subject.open(), subject.buffered

    def rate(self, seconds: float, wanted: float = _FAST) -> float:
        """Images per second that it gets through."""
        time.sleep(_REST)
        for _ in range(self._buffered + 1):
            next(self._units)
        images, began, due = 0, time.perf_counter(), time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds or images < 10 * BATCH:
            size = next(self._units)
            # As a device that begins when the one before is done: what was waited for cannot be made up.
            due = max(due, time.perf_counter()) + size / wanted
            time.sleep(max(0.0, due - time.perf_counter()))
            images += size
        return images / elapsed


def child_processor(dataset: str, seconds: str) -> dict[str, Any]:
    """The head of the network learns on this processor; predicted and measured, images per second of the whole job."""
    import keras

    from irv2data.measure.accelerator import load_model
    from irv2data.measure.diagnosis import Question, diagnose
    from irv2data.measure.stages import epochs_of
    from irv2data.training import make_strategy
    from irv2data.training.step import Objective, Preprocessor, TrainStep

    strategy = make_strategy(1)
    pipeline = _pipeline(dataset, image_size=(96, 96), batch_size=32, resize_on="host")
    report = diagnose(pipeline, strategy, Question(unfreeze=0, rounds=3, seconds=float(seconds)))
    classes = len(pipeline.dataset.classes)
    given = {"classes": classes, "pipeline": pipeline, "strategy": strategy, "top": 0, "precision": "float32"}
    model = load_model("inception_resnet_v2", **given)
    with strategy.scope():
        optimizer = keras.optimizers.Adam(0.0)
    step = TrainStep(strategy, model, optimizer, 32, pipeline.output, Objective())
    finish = Preprocessor(strategy, pipeline.output)
    made = iter(pipeline.distribute(strategy, epochs=epochs_of(pipeline)))
    images, began = 0, 0.0
    for number, batch in enumerate(made):
        if number == 8:  # traced, and the buffers as full as they stay
            images, began = 0, time.perf_counter()
        step(finish(batch), batch).numpy()
        images += 32
        if number > 16 and time.perf_counter() - began > 4 * float(seconds):
            break
    measured = images / (time.perf_counter() - began)
    return {"predicted": report["fed"], "measured": measured, "wait": report["wait"]}


def _shrunk(data: Data, place: Path) -> str:
    from irv2data.convert import ConvertConfig, convert

    folder = place / "shrunk"
    convert(data.folder, folder, ConvertConfig(splits=(("train", 1.0),), max_short_side=SHORT_SIDE))
    return str(folder)


def measure(data: Data, shrunk: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each change: predicted and measured ratio of the host's rate, and the error."""
    seconds = str(options.seconds)

    def run(*arguments: str) -> dict[str, Any]:
        return turn("doctor", *arguments, seconds=_TURN_SECONDS)

    pairs: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        job = run("job", data.dataset, seconds)
        for name in ("now", "changed"):
            pairs.setdefault(f"job, {name}", []).append((job["predicted"][name], job["measured"][name]))
        for name, other, changes in (("cache", data.dataset, {"cache": "host"}), ("shrink", shrunk, {})):
            found = run("pair", data.dataset, other, json.dumps(changes), seconds)
            pairs.setdefault(name, []).append((job["ratios"][name], found["ratio"]))
        # What one core alone delivers says nothing about a second; the doctor itself always knows two counts or more.
        for name in ("buckets", *(("cores",) if data.cores > 2 else ()), "processor"):
            found = run(name, data.dataset, seconds)
            pairs.setdefault(name, []).append((found["predicted"], found["measured"]))
    for name, values in pairs.items():
        errors = [forecast / true - 1 for forecast, true in values]
        yield {
            "benchmark": "doctor",
            "change": name,
            "unit": "images/s" if name == "processor" else "times the host's rate before",
            "predicted": spread((forecast for forecast, _ in values), 3),
            "measured": spread((true for _, true in values), 3),
            "error": spread(errors, 3),
            "most": MOST_ERROR,
            "met": abs(statistics.median(errors)) <= MOST_ERROR,
        }


_CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "pair": child_pair,
    "buckets": child_buckets,
    "cores": child_cores,
    "job": child_job,
    "processor": child_processor,
}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_CHILDREN[sys.argv[2]](*sys.argv[3:])), flush=True)
        os._exit(0)  # no clean-up of the process is part of this
    from benchmarks.prepared import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn, about (default: %(default)s)")
    parser.add_argument("--files", type=int, default=1568, help="photographs (default: %(default)s)")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0 or options.files < 8 * BATCH:
        parser.error(f"rounds and seconds must be positive, files {8 * BATCH} or more")
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        cores = len(os.sched_getaffinity(0))
        if cores < 2:
            parser.error("needs two cores or more, to add one")
        data, about = prepare(Path(place), options.files, options.images, cores=cores)
        about["versions"] = versions("tensorflow", "keras", "numpy")
        shrunk = _shrunk(data, Path(place))
        figures = (
            {**each, "rounds": options.rounds, "seconds": options.seconds, **about, **circumstances("doctor")}
            for each in measure(data, shrunk, options)
        )
        return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
