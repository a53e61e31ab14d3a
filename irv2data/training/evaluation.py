"""Exactly-once evaluation: every record of a split counts once, filler counts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.pipeline.build import Pipeline
from irv2data.training.step import Preprocessor, sums_of


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result over a split: mean cross-entropy in nats, top-1 accuracy in [0, 1], and the records counted."""

    loss: float
    accuracy: float
    records: int


class Evaluator:
    """Evaluates a model again and again, traced once.

    Losses are weighted, summed and divided here: Keras' own evaluation loss is wrong with filler of weight 0.

    Args:
        model: From images in [-1, 1] to logits, made in the strategy's scope.
        pipeline: With `drop_remainder=False`.
        strategy: Where the model lives.
        preprocess: The device stage, to share its graphs with training; None for an own one.

    Raises:
        UsageError: The pipeline drops a remainder, which would then count nowhere.
    """

    def __init__(
        self,
        model: keras.Model,
        pipeline: Pipeline,
        strategy: tf.distribute.Strategy,
        preprocess: Preprocessor | None = None,
    ):
        if pipeline.config.drop_remainder:
            raise UsageError("evaluation needs a pipeline with drop_remainder=False, to count every record")
        self._pipeline = pipeline
        self._strategy = strategy
        self._preprocess = preprocess or Preprocessor(strategy, pipeline.output)

        def replica(images: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            return sums_of(model(images, training=False), label, weight)

        @tf.function
        def step(images: Any, label: Any, weight: Any) -> Any:
            return strategy.reduce("SUM", strategy.run(replica, args=(images, label, weight)), axis=None)

        self._step = step

    def __call__(self) -> Evaluation:
        """One pass over the split."""
        total = np.zeros(3)
        for batch in self._pipeline.distribute(self._strategy):
            total += self._step(self._preprocess(batch), batch["label"], batch["weight"]).numpy()
        loss, correct, records = total.tolist()
        return Evaluation(loss=loss / records, accuracy=correct / records, records=int(records))


def evaluate(model: keras.Model, pipeline: Pipeline, strategy: tf.distribute.Strategy) -> Evaluation:
    """Evaluates a model on all records of a pipeline's split; the arguments are those of `Evaluator`."""
    return Evaluator(model, pipeline, strategy)()
