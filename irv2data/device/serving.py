"""From the bytes of image files to what the network sees, inside a saved model: the evaluation preprocessing, exactly.

The plan's arithmetic (`pipeline.fits`, `pipeline.geometry`) is NumPy's and stays behind when a model is saved, so the
part of it that evaluation needs is here once more as TensorFlow operations; the tests hold both against each other.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import tensorflow as tf

from irv2data.device.stage import preprocess
from irv2data.errors import UsageError
from irv2data.manifest import BASELINE, PNG
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import CENTER_CROP, LETTERBOX, NATIVE, RANDOM_RESIZED_CROP, PipelineConfig
from irv2data.pipeline.decode import decode_window
from irv2data.pipeline.fits import SLACK
from irv2data.pipeline.geometry import SHIFTS


class FromBytes(tf.Module):
    """Decodes and fits images as a pipeline does for evaluation.

    Args:
        config: Options of an evaluation pipeline, of which those that decide an image's pixels are used.
        largest: Its largest canvas, (height, width): what is larger and no JPEG is reduced by whole-number area means
            to fit there. Where images were small the canvas is, and larger ones are reduced to no less than they need.

    Raises:
        UsageError: The fit is random, or `native`, whose images differ in size.
    """

    def __init__(self, config: PipelineConfig, largest: tuple[int, int]):
        super().__init__()
        if config.fit in (RANDOM_RESIZED_CROP, NATIVE) or config.flips:
            raise UsageError(
                f"serving needs one picture of one size an image; fit={config.fit!r} with flip={config.flips} gives "
                "others: use an evaluation pipeline (center_crop, resize or letterbox)"
            )
        self._config = config
        self._output = config.output
        height, width = config.image_size
        # As `geometry.decode_windows` asks for; a pipeline's own canvas is below it only where no image is larger.
        self._largest = max(largest[0], 2 * height + 2), max(largest[1], 2 * width + 2)

    def __call__(self, encoded: tf.Tensor) -> tf.Tensor:
        """Images of files.

        Args:
            encoded: string [B], each a JPEG (not CMYK) or PNG of 8 bits, upright, in sRGB, without alpha: what
                conversion stores. `irv2data.convert.transcode` makes that of other files.

        Returns:
            [B, h, w, 3] of the output's dtype in [-1, 1]: for the bytes of a record, the pixels that
            `device.preprocess` gives of the pipeline's batch. Raises `tf.errors.InvalidArgumentError` for bytes that
            are no image.
        """
        spec = tf.TensorSpec([*self._config.image_size, 3], tf.as_dtype(self._output.dtype))
        return tf.map_fn(self._one, encoded, fn_output_signature=spec)

    def _one(self, encoded: tf.Tensor) -> tf.Tensor:
        png = tf.equal(tf.strings.substr(encoded, 1, 3), b"PNG")
        size = tf.cast(tf.cond(png, lambda: _png_size(encoded), lambda: _jpeg_size(encoded)), tf.int64)
        box, output = evaluation_box(size, self._config), output_size(size, self._config)
        scale, crop, reduce, inside = decode_window_of(box, size, ~png, output, self._largest)
        window = decode_window(
            encoded,
            tf.where(png, PNG, BASELINE),
            *(tf.cast(each, tf.int32) for each in (scale, crop, reduce)),
        )
        batch = {"canvas": window[None], "box": inside[None], "flip": None}
        if self._config.fit == LETTERBOX:
            output = tf.cast(output, tf.int32)
            margin = (tf.constant(self._config.image_size) - output) // 2
            batch["fitted"] = tf.concat([margin, output], axis=0)[None]
        return preprocess(batch, self._output)[0]


def evaluation_box(size: tf.Tensor, config: PipelineConfig) -> tf.Tensor:
    """`fits.source_boxes` of one image, int64 [4] of int64 [2], where nothing is drawn."""
    if config.fit != CENTER_CROP:
        return tf.concat([tf.zeros_like(size), size], axis=0)
    wanted = tf.constant(config.crop_pixels or config.image_size, tf.float64)
    times = tf.reduce_min(tf.cast(size, tf.float64) / wanted)
    times = tf.minimum(times, 1.0) if config.crop_pixels else times * config.crop_fraction
    extent = tf.clip_by_value(_nearest(times * wanted), 1, size)
    return tf.concat([(size - extent) // 2, extent], axis=0)


def output_size(size: tf.Tensor, config: PipelineConfig) -> tf.Tensor:
    """`fits.output_sizes` of one image, int64 [2] of int64 [2]."""
    whole = tf.constant(config.image_size, tf.int64)
    if config.fit != LETTERBOX:
        return whole
    times = tf.reduce_min(tf.cast(whole, tf.float64) / tf.cast(size, tf.float64))
    return tf.clip_by_value(_nearest(times * tf.cast(size, tf.float64)), 1, whole)


def decode_window_of(
    box: tf.Tensor, size: tf.Tensor, scalable: tf.Tensor, output: tf.Tensor, largest: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """`geometry.decode_windows` of one image: scale int64 [], crop [4], reduce [2], and box float32 [4]."""
    enough = [tf.reduce_all(box[2:] >= output * 2**shift) & scalable for shift in SHIFTS]
    scale = 2 ** tf.reduce_sum(tf.cast(tf.stack(enough), tf.int64))
    scaled_size = -(-size // scale)
    start = box[:2] // scale
    stop = tf.minimum(-(-(box[:2] + box[2:]) // scale), scaled_size)
    extent, limit = stop - start, tf.constant(largest, tf.int64)
    reduce = tf.where(extent <= limit, tf.ones_like(extent), -(-extent // tf.maximum(limit - 1, 1)))
    first = start // reduce
    last = -(-stop // reduce)
    crop_start = first * reduce
    crop_stop = tf.minimum(last * reduce, scaled_size)
    pixels, exact = tf.cast(scale * reduce, tf.float64), tf.cast(box, tf.float64)
    inside = tf.concat([exact[:2] / pixels - tf.cast(first, tf.float64), exact[2:] / pixels], axis=0)
    return scale, tf.concat([crop_start, crop_stop - crop_start], axis=0), reduce, tf.cast(inside, tf.float32)


def export(model: keras.Model, pipeline: Pipeline, path: str | os.PathLike[str]) -> None:
    """Saves a model that takes the bytes of image files, for TensorFlow Serving or `tf.saved_model.load`.

    Its signature `serving_default` takes `encoded` string [B], as `FromBytes` does, and gives `outputs`.

    Args:
        model: Takes finished images, [B, h, w, 3] in [-1, 1]; not one that begins with `device.Preprocess`.
        pipeline: The evaluation pipeline.
        path: Folder to write.

    Raises:
        UsageError: As `FromBytes`; or the model does not take such images.
    """
    size = pipeline.config.image_size
    inputs = model.inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise UsageError("export takes a model of finished images, [B, h, w, 3]; leave device.Preprocess out of it")
    if any(has is not None and has != wanted for has, wanted in zip(inputs[0].shape[1:3], size, strict=True)):
        raise UsageError(
            f"the model takes images of {inputs[0].shape[1]}x{inputs[0].shape[2]}, "
            f"the pipeline gives {size[0]}x{size[1]}; give it the model's image_size"
        )
    served = _Served(model, FromBytes(pipeline.config, pipeline.plan.canvases[-1]))
    tf.saved_model.save(served, os.fspath(path), signatures={"serving_default": served.serve})


class _Served(tf.Module):
    def __init__(self, model: keras.Model, images: FromBytes):
        super().__init__()
        self.model = model
        self.images = images

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="encoded")])
    def serve(self, encoded: tf.Tensor) -> dict[str, Any]:
        return {"outputs": self.model(self.images(encoded), training=False)}


def _nearest(pixels: tf.Tensor) -> tf.Tensor:
    """As `fits.nearest`."""
    return tf.cast(tf.floor(pixels + (0.5 + SLACK)), tf.int64)


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
    """Height and width as the header says, which always comes first: int32 [2]."""
    width_and_height = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)
    return tf.ensure_shape(width_and_height, [2])[::-1]


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    return tf.image.extract_jpeg_shape(encoded)[:2]
