"""Exactly-once evaluation: every record of a split counts once, filler counts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.pipeline.build import Pipeline
from irv2data.training.step import Preprocessor

_TOP = 5

Progress = Callable[[int, int], None]  # batches done, and in all


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result over a split.

    Attributes:
        loss: Mean cross-entropy in nats.
        accuracy: Share of the records whose class had the highest score.
        top5: Share whose class was among the five highest scores (all of them, of fewer classes).
        records: Records counted.
        confusion: int64 [classes, classes], records by their class (row) and the class of the highest score (column).
    """

    loss: float
    accuracy: float
    top5: float
    records: int
    confusion: np.ndarray

    def figures(self) -> dict[str, float]:
        """All but the confusion matrix, JSON-able."""
        return {"loss": self.loss, "accuracy": self.accuracy, "top5": self.top5, "records": self.records}

    def by_class(self) -> list[dict[str, Any]]:
        """For each class `records`, `predicted` (records that were taken for it), `precision` and `recall`.

        Precision is None for a class that nothing was taken for, recall for one without records.
        """
        right, there, taken = np.diag(self.confusion), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        return [
            {
                "records": int(records),
                "predicted": int(predicted),
                "precision": float(hits / predicted) if predicted else None,
                "recall": float(hits / records) if records else None,
            }
            for hits, records, predicted in zip(right, there, taken, strict=True)
        ]


class Evaluator:
    """Evaluates a model again and again, traced once.

    Losses are summed and divided here: Keras' own evaluation loss is wrong with filler of weight 0.

    Args:
        model: From inputs, as `Preprocessor` gives them, to logits, made in the strategy's scope.
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
        self._classes = len(pipeline.dataset.classes)
        self._batches = pipeline.distribute(strategy)  # once: making it takes a second
        self._steps = pipeline.steps_per_epoch()
        self._preprocess = preprocess or Preprocessor(strategy, pipeline.output)

        def replica(inputs: Any, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = model(inputs, training=False)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
            return losses, tf.math.top_k(logits, min(_TOP, logits.shape[-1])).indices

        @tf.function
        def step(inputs: Any, batch: dict[str, Any]) -> Any:
            losses, top = strategy.run(replica, args=(inputs, batch["label"]))
            # From the replicas of all hosts, each of which then has the whole result.
            return [strategy.gather(each, axis=0) for each in (losses, top, batch["label"], batch["weight"])]

        self._step = step

    def __call__(self, progress: Progress = lambda done, total: None) -> Evaluation:
        """One pass over the split."""
        loss, top5, records = 0.0, 0, 0
        confusion = np.zeros((self._classes, self._classes), np.int64)
        for number, batch in enumerate(self._batches, 1):
            inputs = self._preprocess(batch)
            found = self._step(inputs, {name: batch[name] for name in ("label", "weight")})
            losses, top, label, weight = (each.numpy() for each in found)
            real = weight > 0
            loss += losses[real].sum(dtype=np.float64)
            top5 += int((top[real] == label[real, None]).any(axis=1).sum())
            records += int(real.sum())
            np.add.at(confusion, (label[real], top[real, 0]), 1)
            progress(number, self._steps)
        return Evaluation(
            loss=float(loss / records),
            accuracy=float(np.trace(confusion) / records),
            top5=top5 / records,
            records=records,
            confusion=confusion,
        )


def evaluate(
    model: keras.Model,
    pipeline: Pipeline,
    strategy: tf.distribute.Strategy,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Evaluates a model on all records of a pipeline's split; the arguments are those of `Evaluator`."""
    return Evaluator(model, pipeline, strategy)(progress)
