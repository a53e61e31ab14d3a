"""From the bytes of images to the most probable classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from irv2data.device.serving import FromBytes
from irv2data.device.stage import preprocess
from irv2data.manifest import BASELINE, PNG
from irv2data.pipeline import buckets, fits, host
from irv2data.pipeline.config import NATIVE, PipelineConfig
from irv2data.pipeline.decode import decode_window
from irv2data.pipeline.geometry import decode_windows
from irv2data.training.files import Top
from irv2data.training.finished import FinishedRun

# From images as conversion stores them, string [B], to probabilities float32 [B, k] and classes int32 [B, k].
_TopK = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Predictor:
    """The network of a finished run, and its evaluation's way of fitting images.

    Args:
        run: The run.
        top_k: How many classes to name at most.

    Raises:
        WeightsError: Its network cannot be loaded.
    """

    def __init__(self, run: FinishedRun, *, top_k: int = 5):
        config, model = PipelineConfig(**run.fitting), run.load_model()
        count = min(top_k, len(run.classes))
        if config.fit == NATIVE:
            self._top = _one_by_one(model, config, count)
        else:
            self._top = _together(model, FromBytes(config, run.largest), count)

    def __call__(self, encoded: Sequence[bytes]) -> list[Top]:
        """Class numbers and probabilities of some images, the most probable first.

        Args:
            encoded: Images as conversion stores them (see `FromBytes`).
        """
        probabilities, classes = (each.numpy().tolist() for each in self._top(tf.constant(encoded, tf.string)))
        return [tuple(zip(*each, strict=True)) for each in zip(classes, probabilities, strict=True)]


def _together(model: keras.Model, images: FromBytes, count: int) -> _TopK:
    # Of any number of images: the last batch would otherwise be traced anew.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def top(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _most_probable(model(images(encoded), training=False), count)

    return top


def _one_by_one(model: keras.Model, config: PipelineConfig, count: int) -> _TopK:
    """For images that differ in size, each a batch of its own; one graph for each of the run's canvases."""

    @tf.function
    def top(canvas: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = preprocess({"canvas": canvas, "size": size}, config.output)
        return _most_probable(model((images, size), training=False), count)

    def each(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = [top(*on_canvas(image, config)) for image in encoded.numpy()]
        probabilities, classes = (tf.concat(values, axis=0) for values in zip(*found, strict=True))
        return probabilities, classes

    return each


def on_canvas(encoded: bytes, config: PipelineConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """An image as a `native` pipeline hands it over.

    Args:
        encoded: As conversion stores it.
        config: Options of the pipeline, with its canvases.

    Returns:
        uint8 [1, H, W, 3], the smallest canvas that holds the image, and int32 [1, 2], its height and width there.
    """
    assert config.canvases is not None
    with Image.open(BytesIO(encoded)) as header:  # reads no pixels
        (width, height), png = header.size, header.format == "PNG"
    size = np.array([[height, width]])
    box = fits.source_boxes(size[:, 0], size[:, 1], np.zeros((1, 0)), config)
    output = fits.output_sizes(size[:, 0], size[:, 1], config, config.canvases[-1])
    planned = decode_windows(box, size, np.array([not png]), output, None)
    window = decode_window(
        tf.constant(encoded),
        tf.constant(PNG if png else BASELINE),
        *(tf.constant(values[0]) for values in (planned.scale, planned.crop, planned.reduce)),
    )
    shown = tf.constant(output[0], tf.int32)
    pixels = host.native(window, tf.constant(planned.box[0]), shown, antialias=config.antialias, method=config.method)
    canvas = config.canvases[int(buckets.smallest(output, config.canvases)[0])]
    return tf.image.pad_to_bounding_box(pixels, 0, 0, *canvas)[None], shown[None]


def _most_probable(logits: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    found = tf.math.top_k(tf.nn.softmax(logits), count)
    return found.values, found.indices
