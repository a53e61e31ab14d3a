"""How fast the pipeline makes finished images under each fit, in paired rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.pipeline.build import Pipeline
from irv2data.training.step import Preprocessor

_EPOCHS = 10_000  # planned, not run: enough that no round ever meets an end
_BUFFERED = 3  # batches that lie finished in the prefetch buffer would count as made in no time


def images_per_second(
    pipelines: Mapping[str, Pipeline], *, rounds: int, seconds: float, progress: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Finished images per second: float64 [rounds] for each pipeline.

    All of them run in every round, in turn, so that their ratios hold on a machine whose speed drifts. One round before
    is not counted: it traces, and finds out how many batches take so long.

    Args:
        pipelines: By name.
        rounds: Measured rounds.
        seconds: How long each measurement takes, about.
        progress: Called with the number of rounds done.
    """
    strategy = tf.distribute.get_strategy()
    runs = {name: _Endless(pipeline, strategy) for name, pipeline in pipelines.items()}
    steps = {name: run.steps_in(seconds) for name, run in runs.items()}
    rates = np.zeros((rounds, len(runs)))
    for number in range(rounds):
        for column, (name, run) in enumerate(runs.items()):
            rates[number, column] = run.rate(steps[name])
        progress(number + 1)
    return {name: rates[:, column] for column, name in enumerate(runs)}


class _Endless:
    def __init__(self, pipeline: Pipeline, strategy: tf.distribute.Strategy):
        self._finish = Preprocessor(strategy, pipeline.output)
        self._batches = iter(pipeline.distribute(strategy, epochs=_EPOCHS))
        self._shapes = len(pipeline.plan.shapes)
        self._size = pipeline.config.batch_size

    def steps_in(self, seconds: float) -> int:
        """Finds out how many steps take so long, once every canvas shape was met (or four times as long is over)."""
        began, steps, since = time.perf_counter(), 0, 0.0
        while steps < 2 or since < seconds or (len(self._finish.graphs) < self._shapes and since < 4 * seconds):
            self._step()
            steps, since = steps + 1, time.perf_counter() - began
        return max(2, round(steps * seconds / since))

    def rate(self, steps: int) -> float:
        for _ in range(_BUFFERED):
            next(self._batches)
        began = time.perf_counter()
        for _ in range(steps):
            self._step()
        return steps * self._size / (time.perf_counter() - began)

    def _step(self) -> None:
        images: Any = self._finish(next(self._batches))
        images = images[0] if isinstance(images, tuple) else images
        images[0, 0, 0, 0].numpy()  # waits for it
