"""Pooled features of a split's images under a fit, from the frozen network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.pipeline.build import Pipeline
from irv2data.training.masked import masked_base
from irv2data.training.model import base_of
from irv2data.training.step import Preprocessor


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the network makes of a split.

    Attributes:
        values: float32 [N, F], a row a record.
        images_per_second: Of pipeline and network together, without the first batch of each shape.
    """

    values: np.ndarray
    images_per_second: float | None


class Extractor:
    """The frozen network on every replica.

    Args:
        model: Of `build_model(image_size=None)`.
        strategy: Where it lives.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._base = base_of(model)
        self._steps: dict[bool, Callable[[Any, Any], Any]] = {}

    def __call__(
        self, pipeline: Pipeline, *, masked: bool, epoch: int = 0, progress: Callable[[int], None] = lambda done: None
    ) -> Features:
        """Features of every record.

        Args:
            pipeline: With `drop_remainder=False`.
            masked: Whether its images differ in size.
            epoch: Which one, for fits that are random.
            progress: Called with the number of images done so far.
        """
        if masked not in self._steps:
            self._steps[masked] = self._step(masked)
        preprocess, step = Preprocessor(self._strategy, pipeline.output), self._steps[masked]
        values: np.ndarray | None = None
        met: set[tuple[int, ...]] = set()
        done = counted = 0
        seconds, since = 0.0, time.perf_counter()
        for batch in pipeline.distribute(self._strategy, epoch):
            found, record = (each.numpy() for each in step(preprocess(batch), batch["record"]))
            real = record >= 0
            if values is None:
                values = np.zeros((pipeline.plan.split.num_records, found.shape[1]), np.float32)
            values[record[real]] = found[real]
            now = time.perf_counter()
            shape = tuple(self._strategy.experimental_local_results(batch["canvas"])[0].shape)
            if shape in met:  # the first of a shape traces
                seconds, counted = seconds + now - since, counted + int(real.sum())
            met.add(shape)
            since, done = now, done + int(real.sum())
            progress(done)
        assert values is not None
        return Features(values=values, images_per_second=counted / seconds if counted else None)

    def _step(self, masked: bool) -> Callable[[Any, Any], Any]:
        with self._strategy.scope():
            network = masked_base(self._base) if masked else self._base
        strategy = self._strategy

        def replica(inputs: Any) -> tf.Tensor:
            return tf.cast(network(inputs, training=False), tf.float32)

        @tf.function
        def step(inputs: Any, record: Any) -> list[tf.Tensor]:
            found = strategy.run(replica, args=(inputs,))
            return [strategy.gather(each, axis=0) for each in (found, record)]

        return step
