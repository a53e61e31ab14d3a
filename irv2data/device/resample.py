"""Crop, antialiased resize and flip of a whole batch as two batched matrix products.

Why matrices: each image has its own box, so a stock resize would run image by image; the stock antialiased operation
(`ScaleAndTranslate`) has no GPU kernel, and `crop_and_resize` does not antialias. Two products with one weight matrix
an image and axis do crop, resize and flip at once, run on any device, compile under XLA and have gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from irv2data.pipeline.config import OutputSpec


def axis_weights(
    start: tf.Tensor, extent: tf.Tensor, flip: tf.Tensor | None, *, output: int, length: tf.Tensor, antialias: bool
) -> tf.Tensor:
    """How much each of `length` input pixels adds to each of `output` output pixels, along one axis.

    The triangle kernel of `tf.image.resize(method="bilinear")` with half-pixel centres, its radius widened to the scale
    when shrinking with `antialias` (Heckbert, "Fundamentals of Texture Mapping", 1989, section 3.5.1: filter in the
    output's frame). Every input pixel counts by the share of it that lies inside the box, so nothing outside the box is
    ever seen, and a box of whole pixels gives exactly what cropping first gives.

    Args:
        start: float32 [B], where the box starts, in input pixels.
        extent: float32 [B], how long it is, in input pixels.
        flip: bool (or 0 and 1) [B], read the box backwards; None for never.
        output: Number of output pixels.
        length: int32 [], number of input pixels.
        antialias: Widen the kernel when shrinking.

    Returns:
        float32 [B, output, length]; each row sums to 1.
    """
    steps = (tf.range(output, dtype=tf.float32) + 0.5) / output
    if flip is not None:
        steps = tf.where(tf.cast(flip, tf.bool)[:, None], 1.0 - steps, steps)
    start, extent = start[:, None], extent[:, None]
    centre = start + steps * extent
    radius = tf.maximum(extent / output, 1.0) if antialias else tf.ones_like(extent)
    pixel = tf.range(length, dtype=tf.float32)
    kernel = tf.nn.relu(1.0 - tf.abs(pixel + 0.5 - centre[..., None]) / radius[..., None])
    inside = tf.clip_by_value(tf.minimum(pixel + 1.0, start + extent) - tf.maximum(pixel, start), 0.0, 1.0)
    weights = kernel * inside[:, None, :]
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def resample(
    canvas: tf.Tensor, box: tf.Tensor, flip: tf.Tensor | None, image_size: tuple[int, int], *, antialias: bool = True
) -> tf.Tensor:
    """Crops, resizes and mirrors every image of a batch.

    Equal to cropping each box and `tf.image.resize(crop, image_size, antialias=antialias)` within 0.05 of 255.

    Args:
        canvas: uint8 (or floating) [B, H, W, C].
        box: float32 [B, 4], y, x, height, width in canvas pixels, inside the canvas.
        flip: bool (or 0 and 1) [B], mirror left to right; None for never.
        image_size: Height and width (h, w) of the result in pixels.
        antialias: Widen the kernel when shrinking.

    Returns:
        float32 [B, h, w, C], in the value range of `canvas`.
    """
    shape = tf.shape(canvas)
    y, x, height, width = tf.unstack(tf.cast(box, tf.float32), axis=1)
    rows = axis_weights(y, height, None, output=image_size[0], length=shape[1], antialias=antialias)
    columns = axis_weights(x, width, flip, output=image_size[1], length=shape[2], antialias=antialias)
    pixels = tf.cast(canvas, tf.float32)
    # Rows first: with [H, W * C] as the matrix the larger of the two products needs no transposition.
    pixels = tf.einsum("bhH,bHWc->bhWc", rows, pixels)
    result = tf.einsum("bwW,bhWc->bhwc", columns, pixels)
    return tf.ensure_shape(result, [canvas.shape[0], *image_size, canvas.shape[3]])


def preprocess(batch: Mapping[str, Any], output: OutputSpec) -> tf.Tensor:
    """The images of a batch as Inception-ResNet-v2 takes them; call it inside the training step.

    Args:
        batch: A batch of `irv2data.Pipeline`: `canvas` uint8 [B, H, W, 3], `box` float32 [B, 4], `flip` bool [B].
        output: `pipeline.output`.

    Returns:
        [B, h, w, 3] of `output.dtype` in [-1, 1], the range of
        `keras.applications.inception_resnet_v2.preprocess_input`.
    """
    pixels = resample(batch["canvas"], batch["box"], batch["flip"], output.image_size, antialias=output.antialias)
    return tf.cast(pixels / 127.5 - 1.0, output.dtype)
