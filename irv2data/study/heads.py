"""Heads trained on features, in the batches that the pipeline would have made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from irv2data.pipeline.plan import Plan
from irv2data.training.config import TrainConfig
from irv2data.training.optimizer import learning_rate
from irv2data.training.step import TrainStep


def train_head(
    views: Sequence[np.ndarray],
    label: np.ndarray,
    plan: Plan,
    *,
    classes: int,
    epochs: int,
    highest: float,
    seed: int,
) -> keras.Model:
    """A linear head, trained as `train` does it.

    Args:
        views: Each float32 [N, F], the features of all records; the epochs take them in turn, beginning with one that
            the seed chooses.
        label: int64 [N].
        plan: Whose batches they come in; it drops the remainder.
        classes: Number of classes.
        epochs: How many.
        highest: Learning rate.
        seed: Of the first weights.

    Returns:
        From features [B, F] to logits [B, classes].
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((views[0].shape[1],))
    head = keras.Model(inputs, keras.layers.Dense(classes)(inputs))
    steps = sum(plan.steps_per_epoch(epoch) for epoch in range(epochs))
    optimizer = keras.optimizers.Adam(learning_rate(highest, steps, TrainConfig()))
    step = TrainStep(tf.distribute.get_strategy(), head, optimizer, plan.config.batch_size, plan.config.output)
    weight = tf.ones([plan.config.batch_size])
    for epoch in range(epochs):
        features = views[(seed + epoch) % len(views)]
        for rows in records_of(plan, epoch):
            batch = {"label": tf.constant(label[rows]), "weight": weight}
            step(tf.constant(features[rows]), batch)
    return head


def records_of(plan: Plan, epoch: int) -> Iterator[np.ndarray]:
    """The records of each batch of an epoch, int64 [B]."""
    for window in range(plan.windows_per_epoch()):
        batches = plan.window(epoch, window)
        for record, rows in zip(batches.record, batches.rows, strict=True):
            yield record[:rows]


def predictions(head: keras.Model, features: np.ndarray) -> np.ndarray:
    """The class of the highest score, int64 [N]."""
    return np.asarray(tf.argmax(head(tf.constant(features)), axis=-1))
