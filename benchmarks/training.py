"""How long a training run waits for its input: `python -m benchmarks.training [--record FILE]`.

The real run (`irv2data.training.run.Run`) on photographs, random crops of 299x299 in batches of 64, with a step of a
given duration in the place of the network's. In each round, in one process and on one strategy: the pipeline's ceiling,
batches taken without doing anything else; then runs whose step is slower than the ceiling by each of some ratios:

- `device`: the step sleeps, as a host does while a device works;
- `host`: the step computes on all cores that the pipeline runs on, as a network without a GPU does. It is made to take
  as long when nothing else runs; beside the pipeline it takes longer, and the ratio is then larger than the given one.

Figures are `input_wait` as the history has it, of all epochs but the first, whose step comes with a full buffer. JSON
lines; exit status 1 if it is above 2 % at a ratio of 1.5 or more.
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
from unittest import mock

from benchmarks.circumstances import circumstances, tell, versions
from benchmarks.conversion import spread
from benchmarks.feeds import BATCH, SIDE, Data
from benchmarks.turns import turn

MOST_WAITING, FROM_RATIO = 0.02, 1.5
RATIOS = (1.2, 1.5, 2.0)
_REPLICAS = 2
_WARM_BATCHES = 8
_START_SECONDS = 240
_SIZE = 512  # of the matrices that a host's step multiplies


def child(kind: str, dataset: str, epochs: str, seconds: str) -> dict[str, Any]:
    """The ceiling in batches/s; for each ratio the step's own seconds, and the rows of the later epochs."""
    from irv2data.training import make_strategy

    strategy = make_strategy(_REPLICAS)
    ceiling = _ceiling(dataset, strategy, float(seconds))
    step: Callable[[float], Callable[[], None]] = _sleeping if kind == "device" else _computing
    runs = {}
    for ratio in RATIOS:
        wanted = ratio / ceiling
        rows = _history(dataset, strategy, int(epochs), step(wanted))[1:]
        runs[str(ratio)] = {
            "input_wait": [row["input_wait"] for row in rows],
            "batches_per_second": statistics.median(row["images_per_second"] for row in rows) / BATCH,
        }
    return {"ceiling": ceiling, "runs": runs}


def _inputs(dataset: str, strategy: Any, epochs: int) -> tuple[Any, Any]:
    from irv2data import Dataset
    from irv2data.training import TrainConfig
    from irv2data.training.inputs import Inputs

    config = TrainConfig(
        image_size=(SIDE, SIDE), batch_size=BATCH, head_epochs=epochs, weights="none", validation_split=None
    )
    return config, Inputs(Dataset(dataset), config, strategy)


def _ceiling(dataset: str, strategy: Any, seconds: float) -> float:
    """Batches/s that the run's own iterator gives to a loop that does nothing with them."""
    _, inputs = _inputs(dataset, strategy, 1000)
    _, batches = next(inputs.batches(0, 0))
    for _ in range(_WARM_BATCHES):
        next(batches)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(batches)
        count += 1
    return count / (time.perf_counter() - began)


def _history(dataset: str, strategy: Any, epochs: int, step: Callable[[], None]) -> list[dict[str, Any]]:
    """A run's history, with `step` in the place of the device stage and the network."""
    import keras
    import tensorflow as tf

    from irv2data.training import run as running
    from irv2data.training.checkpoint import Checkpoints
    from irv2data.training.done import Done
    from irv2data.training.step import Objective, TrainStep

    class StandIn(TrainStep):
        def __call__(self, inputs: Any, batch: Any) -> Any:
            step()
            return tf.constant([1.0, 1.0, 1.0])

    config, inputs = _inputs(dataset, strategy, epochs)
    with strategy.scope():
        images = keras.Input((SIDE, SIDE, 3))
        model = keras.Model(images, keras.layers.Dense(8)(keras.layers.GlobalAveragePooling2D()(images)))
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch.object(running, "TrainStep", StandIn),
        mock.patch.object(inputs, "preprocess", return_value=lambda batch: None),
    ):
        nowhere = Checkpoints(Path(place), 1)
        run = running.Run(
            model=model,
            inputs=inputs,
            config=config,
            objective=Objective(),
            strategy=strategy,
            checkpoints=nowhere,
            best=nowhere,
            journal=None,
            done=(done := Done()),
            log=lambda line: None,
            progress=lambda stage, done, total: None,
            stop=lambda: False,
        )
        run.begin(resumed=False)
        run.train()
    return done.history


def _sleeping(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def _computing(seconds: float) -> Callable[[], None]:
    """Products of matrices, so many as take so long when nothing else runs."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([_SIZE, _SIZE]), tf.TensorSpec([], tf.int32)])
    def products(matrix: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda n, _: n < count, lambda n, x: (n + 1, matrix @ x), (0, matrix))[1]

    identity = tf.eye(_SIZE)
    count = 1
    while True:
        began = time.perf_counter()
        products(identity, count).numpy()
        took = time.perf_counter() - began
        if took > 0.2:
            break
        count *= 2
    wanted = tf.constant(max(1, round(count * seconds / took)))
    return lambda: products(identity, wanted).numpy()


def measure(data: Data, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for kind in ("device", "host"):
        rounds = []
        for _ in range(options.rounds):
            given = (data.dataset, str(options.epochs), str(options.seconds))
            rounds.append(turn("training", kind, *given, seconds=_START_SECONDS + 20 * options.seconds))
        for ratio in RATIOS:
            runs = [each["runs"][str(ratio)] for each in rounds]
            waits = [statistics.median(run["input_wait"]) for run in runs]
            yield {
                "benchmark": "input_wait",
                "step": kind,
                "ceiling_over_step_rate": ratio,
                "ceiling_batches_per_second": spread((each["ceiling"] for each in rounds), 2),
                "ceiling_over_rate_reached": spread(
                    (each["ceiling"] / run["batches_per_second"] for each, run in zip(rounds, runs, strict=True)), 2
                ),
                "input_wait": spread(waits, 4),
                "input_wait_of_any_epoch_at_most": round(max(wait for run in runs for wait in run["input_wait"]), 4),
                "most": MOST_WAITING if ratio >= FROM_RATIO else None,
                "met": ratio < FROM_RATIO or statistics.median(waits) < MOST_WAITING,
            }


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])), flush=True)
        os._exit(0)  # no clean-up of the process is part of this
    from benchmarks.prepared import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="of each run (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="that the ceiling is measured (default: %(default)s)"
    )
    parser.add_argument("--files", type=int, default=1568, help="photographs (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="that it may use (default: %(default)s)")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    if options.rounds < 1 or options.epochs < 2 or options.seconds <= 0 or options.files < 8 * BATCH:
        parser.error(f"rounds and seconds must be positive, epochs 2 or more, files {8 * BATCH} or more")
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        cores = sorted(os.sched_getaffinity(0))[: options.cores]
        data, about = prepare(Path(place), options.files, options.images, cores=len(cores))
        os.sched_setaffinity(0, cores)  # children inherit it
        about["versions"] = versions("tensorflow", "keras", "numpy")
        figures = (
            {
                **each,
                "rounds": options.rounds,
                "epochs": options.epochs - 1,
                "replicas": _REPLICAS,
                **about,
                **circumstances("training"),
            }
            for each in measure(data, options)
        )
        return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
