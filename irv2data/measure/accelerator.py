"""The devices' side, each by itself on batches that are there: the copy to them, the device stage, a training step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.measure.stages import wait
from irv2data.measure.turns import Subject
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import NATIVE
from irv2data.pipeline.distribute import devices_of
from irv2data.training.model import build_model, unfreeze
from irv2data.training.step import Objective, Preprocessor, TrainStep

COPY, DEVICE_STAGE, STEP = "copy", "device stage", "step"
ABOUT = {
    COPY: "a batch to the devices",
    DEVICE_STAGE: "crop, resize, flip, augmentation",
    STEP: "forward, backward, update",
}
INCEPTION = "inception_resnet_v2"
_KEPT = 4  # batches that all measurements use again and again, so that several canvases are among them


class Devices:
    """Measurements of a strategy's devices, on some of a pipeline's first batches.

    Args:
        pipeline: Its batches.
        strategy: The devices.
    """

    def __init__(self, pipeline: Pipeline, strategy: tf.distribute.Strategy):
        self._pipeline = pipeline
        self._strategy = strategy
        made = iter(pipeline.distribute(strategy, epochs=_KEPT))
        self._batches = [next(made) for _ in range(_KEPT)]
        del made  # and the batches that it has ready
        self._finish = Preprocessor(strategy, pipeline.output)
        self._inputs = [self._finish(batch) for batch in self._batches]

    def copy(self) -> Subject:
        """From host memory to every device, one after another: what `irv2data.Pipeline` does ahead of the step."""
        devices = devices_of(self._strategy)
        with tf.device("CPU:0"):
            hosts = [
                [{name: tf.identity(value) for name, value in part.items() if value.dtype != tf.string}
                 for part in self._parts(batch)]
                for batch in self._batches
            ]  # fmt: skip

        def units() -> Iterator[int]:
            while True:
                for parts in hosts:
                    for device, part in zip(devices, parts, strict=True):
                        with tf.device(device):
                            there = tf.nest.map_structure(tf.identity, part)
                            wait(there["canvas" if "canvas" in there else "image"])
                    yield self._pipeline.config.batch_size

        return Subject(open=units)

    def stage(self) -> Subject:
        """Batches that lie on the devices to images as the network sees them."""

        def units() -> Iterator[int]:
            while True:
                for batch in self._batches:
                    wait(self._finish(batch))
                    yield self._pipeline.config.batch_size

        return Subject(open=units)

    def step(self, model: keras.Model) -> Subject:
        """A training step of those variables of a model that learn; the optimizer is Adam with a rate of 0."""
        with self._strategy.scope():
            optimizer = keras.optimizers.Adam(0.0)  # the model must not fall apart over one batch; the work is the same
        size, output = self._pipeline.config.batch_size, self._pipeline.output
        step = TrainStep(self._strategy, model, optimizer, size, output, Objective())

        def units() -> Iterator[int]:
            while True:
                for inputs, batch in zip(self._inputs, self._batches, strict=True):
                    step(inputs, batch).numpy()
                    yield size

        return Subject(open=units)

    def _parts(self, batch: dict[str, Any]) -> list[dict[str, tf.Tensor]]:
        """A distributed batch by replica."""
        local = {name: self._strategy.experimental_local_results(value) for name, value in batch.items()}
        return [
            {name: values[replica] for name, values in local.items()}
            for replica in range(self._strategy.num_replicas_in_sync)
        ]


def load_model(
    name: str, *, classes: int, pipeline: Pipeline, strategy: tf.distribute.Strategy, top: int, precision: str
) -> keras.Model:
    """The network that a step trains.

    Args:
        name: `inception_resnet_v2`, with random weights, which take as long as any; or the path of a Keras model from
            images in [-1, 1] to logits, as `irv2data train` saves it, of which all that is not frozen learns.
        classes: Of the dataset.
        pipeline: Whose images it takes.
        strategy: Where to make it.
        top: Of Inception-ResNet-v2, how many of the 44 blocks learn beside the head.
        precision: As of `build_model`.

    Raises:
        UsageError: The model cannot be loaded, or has another number of classes.
    """
    native = pipeline.config.fit == NATIVE
    with strategy.scope():
        if name == INCEPTION:
            size = None if native else pipeline.config.image_size
            model = build_model(classes=classes, image_size=size, weights="none", precision=precision, masked=native)
            if top:
                unfreeze(model, top)
            return model
        try:
            model = keras.models.load_model(name, compile=False)
        except (OSError, ValueError, TypeError) as error:  # Keras raises any of them, by what is wrong
            raise UsageError(f"model: {name} cannot be loaded ({str(error).splitlines()[0]})") from error
    if model.output_shape[-1] != classes:
        raise UsageError(f"model: {name} has {model.output_shape[-1]} classes, the dataset {classes}")
    return model
