"""The proof that N replicas do what one does, on the devices and with the TensorFlow and Keras that are there.

A small network with what can go wrong when it is distributed (a regulariser, batch normalisation, class weights, a last
evaluation batch that does not divide) takes some steps on one replica and on N, from the same weights on the same
global batches: with this package's step, and with Keras' own `model.fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.pipeline.config import OutputSpec
from irv2data.training.step import Objective, TrainStep
from irv2data.training.strategy import make_strategy

LOOP, FIT = "irv2data's step", "Keras' fit"
# Largest difference over the largest value. Rounding in another order of summation gives some 1e-6 after these steps;
# a loss that is scaled wrongly, or statistics of a replica alone, more than 1e-2.
ALLOWED = 1e-4
_SIDE, _CLASSES, _STEPS, _A_REPLICA, _RATE = 16, 4, 4, 4, 0.1
_CLASS_WEIGHTS = (0.5, 2.0, 1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison.

    Attributes:
        loop: What trained, `LOOP` or `FIT`.
        what: `loss`, `gradients`, `weights` or `metrics`.
        difference: Largest difference over the largest value of the one replica's.
        same: Whether that is at most `ALLOWED`.
    """

    loop: str
    what: str
    difference: float
    same: bool


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What some steps gave.

    Attributes:
        loss: Of each step, or of each epoch, float64 [..].
        gradients: Of the first step, of every learning variable.
        weights: After the last step.
        metrics: Loss and accuracy over evaluation images whose last batch is a ragged one.
    """

    loss: np.ndarray
    gradients: list[np.ndarray]
    weights: list[np.ndarray]
    metrics: np.ndarray


def prove(
    replicas: int = 0,
    *,
    sync_bn: bool = False,
    strategies: Callable[[int], tf.distribute.Strategy] = make_strategy,
) -> list[Finding]:
    """Compares N replicas with one.

    Args:
        replicas: N; 0 for all GPUs there are.
        sync_bn: With batch normalisation that learns from all replicas; otherwise it is in inference mode, as in
            fine-tuning by default.
        strategies: From a number of replicas to a strategy.

    Returns:
        What was compared, for each loop.

    Raises:
        UsageError: There is only one replica to compare.
    """
    many = strategies(replicas)
    number = many.num_replicas_in_sync
    if number < 2:
        raise UsageError(
            "there is one replica: nothing to compare; give --replicas=2 or more (logical CPUs without GPUs)"
        )
    batch = _A_REPLICA * number
    with _without_tf32():
        found = []
        for loop, trained in ((LOOP, _by_step), (FIT, _by_fit)):
            one, several = (trained(strategy, batch, sync_bn) for strategy in (strategies(1), many))
            found += [Finding(loop=loop, what=what, **_compared(one, several, what)) for what in _WHAT]
    return found


_WHAT = ("loss", "gradients", "weights", "metrics")


def _compared(one: Trained, several: Trained, what: str) -> dict[str, Any]:
    pairs = [(getattr(one, what), getattr(several, what))]
    if what in ("gradients", "weights"):
        pairs = list(zip(getattr(one, what), getattr(several, what), strict=True))
    largest = max(float(np.abs(a).max()) for a, _ in pairs)
    difference = max(float(np.abs(a - b).max()) for a, b in pairs) / largest
    return {"difference": difference, "same": bool(difference <= ALLOWED)}


def network(*, sync_bn: bool, synchronized: bool = True) -> keras.Model:
    """From images [B, 16, 16, 3] to logits [B, 4], always with the same weights.

    Args:
        sync_bn: Whether batch normalisation learns.
        synchronized: Whether it then does so from all replicas, for a test that knows the answer.
    """
    keras.utils.set_random_seed(0)
    images = keras.Input((_SIDE, _SIDE, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, kernel_regularizer=keras.regularizers.L2(0.01))(images)
    x = keras.layers.BatchNormalization(synchronized=sync_bn and synchronized, trainable=sync_bn)(x)
    x = keras.layers.Conv2D(8, 3, activation="relu")(keras.layers.Activation("relu")(x))
    return keras.Model(images, keras.layers.Dense(_CLASSES)(keras.layers.GlobalAveragePooling2D()(x)))


def _examples(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, _CLASSES, number)
    # Each its own brightness, without which statistics of some would be those of all.
    images = (
        rng.normal(size=(number, _SIDE, _SIDE, 3)) + rng.normal(size=(number, 1, 1, 3)) + label[:, None, None, None]
    )
    return images.astype(np.float32), label.astype(np.int64)


def _by_step(strategy: tf.distribute.Strategy, batch: int, sync_bn: bool) -> Trained:
    images, label = _examples(_STEPS * batch, 1)
    with strategy.scope():
        model = network(sync_bn=sync_bn)
        optimizer = keras.optimizers.SGD(_RATE, momentum=0.9)
    output = OutputSpec(image_size=(_SIDE, _SIDE))
    step = TrainStep(strategy, model, optimizer, batch, output, Objective(class_weights=_CLASS_WEIGHTS))
    losses: list[np.ndarray] = []
    gradients: list[np.ndarray] = []
    for number in range(_STEPS):
        before = [each.numpy() for each in model.trainable_variables]
        rows = slice(number * batch, (number + 1) * batch)
        dealt = _dealt(strategy, {"label": label[rows], "weight": np.ones(batch, np.float32)})
        losses.append(step(_dealt(strategy, images[rows]), dealt).numpy())
        if not gradients:  # of the first step there is no momentum yet
            gradients = [
                (old - new.numpy()) / _RATE for old, new in zip(before, model.trainable_variables, strict=True)
            ]
    sums, objective = np.zeros(3), Objective()
    images, label = _examples(3 * batch - 1, 2)
    filler = -len(label) % batch
    images = np.concatenate([images, np.zeros((filler, *images.shape[1:]), np.float32)])
    weight = np.repeat(np.array([1, 0], np.float32), [len(label), filler])
    label = np.concatenate([label, np.zeros(filler, np.int64)])

    @tf.function
    def evaluate(images: Any, label: Any, weight: Any) -> tf.Tensor:
        def replica(images: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
            return objective.sums(model(images, training=False), label, weight)

        return strategy.reduce("SUM", strategy.run(replica, args=(images, label, weight)), axis=None)

    for first in range(0, len(label), batch):
        rows = slice(first, first + batch)
        sums += evaluate(*(_dealt(strategy, each[rows]) for each in (images, label, weight))).numpy()
    return Trained(
        loss=np.array(losses)[:, 0] / batch,
        gradients=gradients,
        weights=[each.numpy() for each in model.weights],
        metrics=sums[:2] / sums[2],
    )


def _by_fit(strategy: tf.distribute.Strategy, batch: int, sync_bn: bool) -> Trained:
    images, label = _examples(_STEPS * batch, 1)
    with strategy.scope():
        model = network(sync_bn=sync_bn)
        model.compile(
            keras.optimizers.SGD(_RATE, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )

    def fit(rows: slice, epochs: int) -> list[float]:
        data = tf.data.Dataset.from_tensor_slices((images[rows], label[rows])).batch(batch)
        history = model.fit(data, epochs=epochs, shuffle=False, verbose=0, class_weight=dict(enumerate(_CLASS_WEIGHTS)))
        return list(history.history["loss"])

    before = [each.numpy() for each in model.trainable_variables]
    losses = fit(slice(0, batch), 1)
    gradients = [(old - new.numpy()) / _RATE for old, new in zip(before, model.trainable_variables, strict=True)]
    losses += fit(slice(batch, None), 2)
    # No replica goes without a row: batch normalisation fails on none.
    images, label = _examples(3 * batch - 1, 2)
    metrics = model.evaluate(tf.data.Dataset.from_tensor_slices((images, label)).batch(batch), verbose=0)
    return Trained(
        loss=np.array(losses),
        gradients=gradients,
        weights=[each.numpy() for each in model.weights],
        metrics=np.array(metrics),
    )


def _dealt(strategy: tf.distribute.Strategy, values: Any) -> Any:
    """Arrays of a global batch, each replica's rows to it."""

    def own(context: tf.distribute.ReplicaContext | Any, value: np.ndarray) -> tf.Tensor:
        size = len(value) // context.num_replicas_in_sync
        first = context.replica_id_in_sync_group * size
        return tf.constant(value[first : first + size])

    def one(value: np.ndarray) -> Any:
        return strategy.experimental_distribute_values_from_function(lambda context: own(context, value))

    return tf.nest.map_structure(one, values)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Within, GPUs multiply in whole float32: shortened to ten bits, sums in another order differ by 1e-3."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
