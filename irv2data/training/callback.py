"""The pipeline's figures beside a model's in the events of Keras' `fit`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.meter import Meter
from irv2data.training.journal import Events


class PipelineFigures(keras.callbacks.Callback):
    """Writes at the end of each epoch of `fit` what its input cost, by the names of `irv2data.pipeline.meter.ABOUT`.

    `fit` asks for its batches within a graph, where nothing can look at a clock: waiting, bytes and canvases are not
    among the figures. A profile (`keras.callbacks.TensorBoard(profile_batch=(20, 30))`) shows the waiting.

    Args:
        pipeline: Whose `for_fit` is given to `fit`.
        folder: For the events; that of `keras.callbacks.TensorBoard`, or one beside it.
        clock: Seconds, from wherever.
    """

    def __init__(
        self, pipeline: Pipeline, folder: str | os.PathLike[str], clock: Callable[[], float] = time.perf_counter
    ):
        super().__init__()
        self._pipeline = pipeline
        self._events = Events(Path(folder))
        self._clock = clock
        self._steps = 0
        self._in_epoch = 0
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins to count."""
        self._in_epoch = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts a step; the clock starts behind the first one, which may trace."""
        self._steps += 1
        self._in_epoch += 1
        if self._in_epoch == 1:
            self._started = self._clock()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the epoch's figures, at the number of steps so far."""
        counted, seconds = self._in_epoch - 1, self._clock() - self._started
        figures = Meter(self._pipeline).figures()
        sizes = self._pipeline.plan.batch_sizes
        if counted > 0 and len(set(sizes)) == 1:
            figures["images_per_second"] = counted * sizes[0] / seconds
        self._events.figures(figures, self._steps)
