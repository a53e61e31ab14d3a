"""From the bytes of images to the most probable classes."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from irv2data.device.serving import FromBytes
from irv2data.errors import UsageError
from irv2data.pipeline.config import NATIVE, PipelineConfig
from irv2data.training.files import Top
from irv2data.training.finished import FinishedRun


class Predictor:
    """The network of a finished run, and its evaluation's way of fitting images, as one graph.

    Args:
        run: The run.
        top_k: How many classes to name at most.

    Raises:
        UsageError: It was trained with a fit that is not predicted yet.
        WeightsError: Its network cannot be loaded.
    """

    def __init__(self, run: FinishedRun, *, top_k: int = 5):
        if run.fitting["fit"] == NATIVE:
            raise UsageError(
                f"{run.folder}: was trained with fit 'native', of which `predict` cannot make batches yet; convert the "
                "files and use `irv2data evaluate`"
            )
        images = FromBytes(PipelineConfig(**run.fitting), run.largest)
        model = run.load_model()
        self._top = _graph(model, images, min(top_k, len(run.classes)))

    def __call__(self, encoded: Sequence[bytes]) -> list[Top]:
        """Class numbers and probabilities of some images, the most probable first.

        Args:
            encoded: Images as conversion stores them (see `FromBytes`).
        """
        probabilities, classes = (each.numpy().tolist() for each in self._top(tf.constant(encoded, tf.string)))
        return [tuple(zip(*each, strict=True)) for each in zip(classes, probabilities, strict=True)]


def _graph(model: keras.Model, images: FromBytes, count: int) -> tf.types.experimental.PolymorphicFunction:
    # Of any number of images: the last batch would otherwise be traced anew.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def top(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = tf.math.top_k(tf.nn.softmax(model(images(encoded), training=False)), count)
        return found.values, found.indices

    return top
