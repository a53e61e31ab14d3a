"""One step of training on all replicas, fed eagerly batch by batch so that canvas shapes stay static."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from irv2data.device.stage import preprocess
from irv2data.pipeline.config import OutputSpec
from irv2data.pipeline.mixing import mix_labels


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
        """Per-replica images [b, h, w, 3] of a distributed batch."""
        # All replicas have the same shape in a step, so the first one speaks for them.
        pixels = batch["image"] if "image" in batch else batch["canvas"]
        shape = tuple(self._strategy.experimental_local_results(pixels)[0].shape)
        if shape not in self.graphs:
            # A function each, so that a second trace of any of them would show (its tracing count).
            self.graphs[shape] = tf.function(lambda batch: self._on_replicas(batch))
        return self.graphs[shape]({name: batch[name] for name in self._used if name in batch})

    def _on_replicas(self, batch: dict[str, Any]) -> Any:
        return self._strategy.run(lambda batch: preprocess(batch, self._output), args=(batch,))


def sums_of(logits: tf.Tensor, label: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Weighted sums of loss, of hits and of weights: float32 [3].

    Args:
        logits: float32 [B, classes].
        label: int64 [B]; or float32 [B, classes], of mixed images, whose largest share counts as hit.
        weight: float32 [B], 0 for filler.
    """
    if tf.as_dtype(label.dtype).is_integer:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    else:
        losses = tf.nn.softmax_cross_entropy_with_logits(label, logits)
        label = tf.argmax(label, axis=-1)
    hits = tf.cast(tf.equal(tf.argmax(logits, axis=-1), label), tf.float32)
    return tf.stack([tf.reduce_sum(losses * weight), tf.reduce_sum(hits * weight), tf.reduce_sum(weight)])


class TrainStep:
    """Gradient step of the currently trainable variables; make a new one after `unfreeze`.

    The loss is the mean over the *global* batch: each replica divides its sum by the global batch size, and Keras'
    optimizer adds the replicas' gradients up. N replicas then do what one would.

    Args:
        strategy: Where the model lives.
        model: From images in [-1, 1] to logits.
        optimizer: A Keras optimizer made in the strategy's scope.
        batch_size: Global batch size.
        output: `pipeline.output`, which says whether labels are mixed as the images are.

    Attributes:
        weights: Of the model.
        variables: These and the optimizer's, in the same order for every run of the same options.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        batch_size: int,
        output: OutputSpec,
    ):
        variables = model.trainable_variables
        with strategy.scope():
            optimizer.build(variables)

        mixes = output.augment is not None and output.augment.mixes
        self._used = ("label", "weight", "draws", "record") if mixes else ("label", "weight")

        def replica(images: tf.Tensor, batch: dict[str, tf.Tensor]) -> tf.Tensor:
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                label = mix_labels(batch, output, logits.shape[-1]) if mixes else batch["label"]
                sums = sums_of(logits, label, batch["weight"])
                loss = sums[0] / batch_size
                if model.losses:  # regularisers: every replica adds the same, so each takes its part
                    loss += tf.add_n(model.losses) / strategy.num_replicas_in_sync
            optimizer.apply(tape.gradient(loss, variables), variables)
            return sums

        @tf.function
        def on_replicas(images: Any, batch: dict[str, Any]) -> tf.Tensor:
            return strategy.reduce("SUM", strategy.run(replica, args=(images, batch)), axis=None)

        self._run = on_replicas
        # All that decides what further steps do; the network's weights come first.
        self.weights = list(model.weights)
        self.variables = [*self.weights, *optimizer.variables]

    def __call__(self, images: Any, batch: dict[str, Any]) -> tf.Tensor:
        """One step on per-replica images; returns the global `sums_of`, float32 [3]."""
        return self._run(images, {name: batch[name] for name in self._used})
