"""One step of training on all replicas, fed eagerly batch by batch so that canvas shapes stay static."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from irv2data.device.stage import preprocess
from irv2data.errors import UsageError
from irv2data.pipeline.config import NATIVE, OutputSpec
from irv2data.pipeline.mixing import mix_labels
from irv2data.training.optimizer import GroupedOptimizer


class Preprocessor:
    """The device stage on every replica, as graphs of its own: one for each canvas shape, traced when first met.

    Tracing only the resample for a shape takes a moment; tracing the network with it would take Inception-ResNet-v2's
    15 seconds each time.

    Args:
        strategy: Where to run.
        output: `pipeline.output`.

    Attributes:
        graphs: Shape of a replica's canvases [b, H, W, 3] (or finished images) to its graph.
    """

    def __init__(self, strategy: tf.distribute.Strategy, output: OutputSpec):
        self.graphs: dict[tuple[int, ...], Any] = {}
        self._strategy = strategy
        self._output = output
        drawn = () if output.augment is None else ("draws", "record")
        self._used = ("canvas", "box", "flip", "size", "fitted", "image", *drawn)

    def __call__(self, batch: dict[str, Any]) -> Any:
        """A model's inputs of a distributed batch, per replica: images [b, h, w, 3] in [-1, 1].

        `native`: a pair of these and the valid sizes, int32 [b, 2], for a model that masks what lies beyond.
        """
        # All replicas have the same shape in a step, so the first one speaks for them.
        pixels = batch["image"] if "image" in batch else batch["canvas"]
        shape = tuple(self._strategy.experimental_local_results(pixels)[0].shape)
        if shape not in self.graphs:
            # A function each, so that a second trace of any of them would show (its tracing count).
            self.graphs[shape] = tf.function(lambda batch: self._on_replicas(batch))
        return self.graphs[shape]({name: batch[name] for name in self._used if name in batch})

    def _on_replicas(self, batch: dict[str, Any]) -> Any:
        def inputs(batch: dict[str, tf.Tensor]) -> Any:
            images = preprocess(batch, self._output)
            return (images, batch["size"]) if self._output.fit == NATIVE else images

        return self._strategy.run(inputs, args=(batch,))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is made small: the mean over the global batch of each image's cross-entropy, times its class's weight.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all classes (Szegedy et al., "Rethinking the
            Inception architecture", 2016).
        class_weights: Weight for each class; None for 1. A mixed image has the weight of its shares.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def losses(self, logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        """Of each image, float32 [B] in nats; arguments as those of `sums`."""
        if tf.as_dtype(label.dtype).is_integer:
            if self.label_smoothing == 0 and self.class_weights is None:
                return tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
            label = tf.one_hot(label, logits.shape[-1])
        smooth = label * (1.0 - self.label_smoothing) + self.label_smoothing / logits.shape[-1]
        losses = tf.nn.softmax_cross_entropy_with_logits(smooth, logits)
        if self.class_weights is None:
            return losses
        return losses * tf.linalg.matvec(label, tf.constant(self.class_weights, label.dtype))

    def sums(self, logits: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Weighted sums of loss, of hits and of weights: float32 [3].

        Args:
            logits: float32 [B, classes].
            label: int64 [B]; or float32 [B, classes], of mixed images, whose largest share counts as hit.
            weight: float32 [B], 0 for filler.
        """
        losses = self.losses(logits, label)
        if not tf.as_dtype(label.dtype).is_integer:
            label = tf.argmax(label, axis=-1)
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=-1), label), tf.float32)
        return tf.stack([tf.reduce_sum(losses * weight), tf.reduce_sum(hits * weight), tf.reduce_sum(weight)])


class TrainStep:
    """Gradient step of the currently trainable variables; make a new one after `unfreeze`.

    The loss is the mean over the *global* batch: each replica divides its sum by the global batch size, and Keras'
    optimizer adds the replicas' gradients up. N replicas then do what one would. The same for the parts of a share
    that is worked off in several: their gradients are added up before the one update.

    Args:
        strategy: Where the model lives.
        model: From inputs, as `Preprocessor` gives them, to logits.
        optimizer: A Keras optimizer made in the strategy's scope, or a `GroupedOptimizer`.
        batch_size: Global batch size.
        output: `pipeline.output`, which says whether labels are mixed as the images are.
        objective: What is made small.
        accumulate: Parts of a replica's share.

    Attributes:
        weights: Of the model.
        variables: These and the optimizer's, in the same order for every run of the same options.
        optimizer: As given.

    Raises:
        UsageError: A replica's share cannot be divided into so many parts.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | GroupedOptimizer,
        batch_size: int,
        output: OutputSpec,
        objective: Objective | None = None,
        accumulate: int = 1,
    ):
        objective = objective or Objective()
        check_parts(batch_size, strategy.num_replicas_in_sync, accumulate)
        variables = model.trainable_variables
        with strategy.scope():
            optimizer.build(variables)
        mixes = output.augment is not None and output.augment.mixes
        self._used = ("label", "weight", "draws", "record") if mixes else ("label", "weight")

        def gradients(inputs: Any, label: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                sums = objective.sums(model(inputs, training=True), label, weight)
                loss = sums[0] / batch_size
                if model.losses:  # regularisers: every replica and part adds the same, so each takes its share
                    loss += tf.add_n(model.losses) / (strategy.num_replicas_in_sync * accumulate)
            return sums, tape.gradient(loss, variables)

        def replica(inputs: Any, batch: dict[str, tf.Tensor]) -> tf.Tensor:
            label = mix_labels(batch, output, model.output_shape[-1]) if mixes else batch["label"]
            each = (inputs, label, batch["weight"])
            if accumulate == 1:
                sums, total = gradients(*each)
            else:
                sums, total = _added_up(gradients, each, accumulate, variables)
            optimizer.apply(total, variables)
            return sums

        @tf.function
        def on_replicas(inputs: Any, batch: dict[str, Any]) -> tf.Tensor:
            return strategy.reduce("SUM", strategy.run(replica, args=(inputs, batch)), axis=None)

        self._run = on_replicas
        self.optimizer = optimizer
        # All that decides what further steps do; the network's weights come first.
        self.weights = list(model.weights)
        self.variables = [*self.weights, *optimizer.variables]

    def __call__(self, inputs: Any, batch: dict[str, Any]) -> tf.Tensor:
        """One step on per-replica inputs; returns the global `Objective.sums`, float32 [3]."""
        return self._run(inputs, {name: batch[name] for name in self._used})


def check_parts(batch_size: int, replicas: int, parts: int) -> None:
    """Raises UsageError where a replica's share of a batch cannot be divided into so many parts."""
    if batch_size % (replicas * parts):
        raise UsageError(
            f"batch_size {batch_size} is not divisible by {replicas} replicas times accumulate {parts}; use "
            f"{-(-batch_size // (replicas * parts)) * replicas * parts}"
        )


def _added_up(
    gradients: Callable[..., tuple[tf.Tensor, list[tf.Tensor]]], each: Any, parts: int, variables: list[Any]
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """What `gradients` gives, added up over equal parts of its arguments' rows; one part's activations at a time."""

    def body(part: tf.Tensor, sums: tf.Tensor, total: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        def rows(value: tf.Tensor) -> tf.Tensor:
            size = value.shape[0] // parts
            return tf.ensure_shape(value[part * size : (part + 1) * size], [size, *value.shape[1:]])

        more, found = gradients(*tf.nest.map_structure(rows, each))
        return part + 1, sums + more, [one + other for one, other in zip(total, found, strict=True)]

    start = (tf.constant(0), tf.zeros([3]), [tf.zeros(variable.shape, variable.dtype) for variable in variables])
    _, sums, total = tf.while_loop(lambda part, *_: part < parts, body, start, parallel_iterations=1)
    return sums, total
