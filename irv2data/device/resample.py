"""Crop, antialiased resize and flip of a whole batch as two batched matrix products.

Why matrices: each image has its own box, so a stock resize would run image by image; the stock antialiased operation
(`ScaleAndTranslate`) has no GPU kernel, and `crop_and_resize` does not antialias. Two products with one weight matrix
an image and axis do crop, resize and flip at once, run on any device, compile under XLA and have gradients.
"""

from __future__ import annotations

import functools
import math

import tensorflow as tf

from irv2data.pipeline.config import AREA, BILINEAR, LANCZOS3


def _triangle(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(1.0 - tf.abs(x))


def _lanczos3(x: tf.Tensor) -> tf.Tensor:
    # sinc(x) sinc(x / 3); numerator and denominator of 1 where both are 0.
    near = tf.abs(x) < 1e-4
    angle = math.pi * tf.where(near, 1.0, x)
    value = 3.0 * tf.sin(angle) * tf.sin(angle / 3.0) / (angle * angle)
    return tf.where(near, 1.0, tf.where(tf.abs(x) < 3.0, value, 0.0))


_KERNELS = {BILINEAR: _triangle, LANCZOS3: _lanczos3}


def axis_weights(
    start: tf.Tensor,
    extent: tf.Tensor,
    flip: tf.Tensor | None,
    *,
    output: int,
    length: tf.Tensor,
    antialias: bool,
    method: str = BILINEAR,
    fitted: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tf.Tensor:
    """How much each of `length` input pixels adds to each of `output` output pixels, along one axis.

    The kernels of `tf.image.resize` with half-pixel centres: the triangle (`bilinear`) and the windowed sinc of radius
    3 (`lanczos3`), widened to the scale when shrinking with `antialias` (Heckbert, "Fundamentals of Texture Mapping",
    1989, section 3.5.1: filter in the output's frame); and the mean of what an output pixel covers (`area`), which
    needs no antialiasing. Every input pixel counts by the share of it that lies inside the box, so nothing outside the
    box is ever seen, and a box of whole pixels gives exactly what cropping first gives.

    Args:
        start: float32 [B], where the box starts, in input pixels.
        extent: float32 [B], how long it is, in input pixels.
        flip: bool (or 0 and 1) [B], read the box backwards; None for never.
        output: Number of output pixels.
        length: int32 [], number of input pixels.
        antialias: Widen the kernel when shrinking.
        method: `bilinear`, `lanczos3` or `area`.
        fitted: Where, among the output pixels, the box is put, and how long it is there: two of int32 [B]; None for
            all of them. The others get nothing.

    Returns:
        float32 [B, output, length]; each row sums to 1, or (outside of `fitted`) to 0.
    """
    first, count = (0.0, float(output)) if fitted is None else (tf.cast(part[:, None], tf.float32) for part in fitted)
    # [1 or B, output]: how far each output pixel is along the box.
    steps = (tf.range(output, dtype=tf.float32)[None] + 0.5 - first) / count
    if flip is not None:
        steps = tf.where(tf.cast(flip, tf.bool)[:, None], 1.0 - steps, steps)
    start, extent = start[:, None], extent[:, None]
    centre = start + steps * extent
    radius = tf.maximum(extent / count, 1.0) if antialias else tf.ones_like(extent)
    pixel = tf.range(length, dtype=tf.float32)
    away = pixel + 0.5 - centre[..., None]
    if method == AREA:
        # What an output pixel covers lies inside the box as it is.
        half = (extent / count / 2.0)[..., None]
        weights = tf.maximum(tf.minimum(away + 0.5, half) - tf.maximum(away - 0.5, -half), 0.0)
    else:
        inside = tf.clip_by_value(tf.minimum(pixel + 1.0, start + extent) - tf.maximum(pixel, start), 0.0, 1.0)
        weights = _KERNELS[method](away / radius[..., None]) * inside[:, None, :]
    total = tf.reduce_sum(weights, axis=-1, keepdims=True)
    if fitted is None:
        return weights / total
    there = ((steps > 0.0) & (steps < 1.0))[..., None]
    return tf.where(there, weights / tf.where(there, total, 1.0), 0.0)


def resample(
    canvas: tf.Tensor,
    box: tf.Tensor,
    flip: tf.Tensor | None,
    image_size: tuple[int, int],
    *,
    antialias: bool = True,
    method: str = BILINEAR,
    fitted: tf.Tensor | None = None,
    dtype: str | tf.DType = "float32",
) -> tf.Tensor:
    """Crops, resizes and mirrors every image of a batch.

    In float32 equal to cropping each box and `tf.image.resize(crop, image_size, method, antialias=antialias)` within
    0.05 of 255 (0.25 where the products are rounded to TF32, as accelerators do unless told not to); in float16 within
    0.5, in bfloat16 within 3 for `bilinear` and `area`.

    Args:
        canvas: uint8 (or floating) [B, H, W, C].
        box: float32 [B, 4], y, x, height, width in canvas pixels, inside the canvas.
        flip: bool (or 0 and 1) [B], mirror left to right; None for never.
        image_size: Height and width (h, w) of the result in pixels.
        antialias: Widen the kernel when shrinking.
        method: `bilinear`, `lanczos3` or `area`, as for `tf.image.resize`.
        fitted: int32 [B, 4], y, x, height, width of the part of the result that the box is put on; None for all of it.
        dtype: Floating type of the two products and of the result; the weights are always worked out in float32.

    Returns:
        [B, h, w, C] of `dtype`, in the value range of `canvas` (`lanczos3` rings beyond it); 0 outside of `fitted`.
    """
    shape = tf.shape(canvas)
    y, x, height, width = tf.unstack(tf.cast(box, tf.float32), axis=1)
    on_rows = on_columns = None
    if fitted is not None:
        on_rows, on_columns = (fitted[:, 0], fitted[:, 2]), (fitted[:, 1], fitted[:, 3])
    weights = functools.partial(axis_weights, antialias=antialias, method=method)
    rows = weights(y, height, None, output=image_size[0], length=shape[1], fitted=on_rows)
    columns = weights(x, width, flip, output=image_size[1], length=shape[2], fitted=on_columns)
    rows, columns, pixels = (tf.cast(each, dtype) for each in (rows, columns, canvas))
    # Rows first: with [H, W * C] as the matrix the larger of the two products needs no transposition.
    pixels = tf.einsum("bhH,bHWc->bhWc", rows, pixels)
    result = tf.einsum("bwW,bhWc->bhwc", columns, pixels)
    return tf.ensure_shape(result, [canvas.shape[0], *image_size, canvas.shape[3]])


def valid(size: tf.Tensor, shape: tf.Tensor, start: tf.Tensor | None = None) -> tf.Tensor:
    """1 where an image is and 0 around it.

    Args:
        size: int32 [B, 2], its height and width.
        shape: int32 [4], of which H and W are used.
        start: int32 [B, 2], its first row and column; None for 0.

    Returns:
        float32 [B, H, W, 1].
    """
    axes = []
    for axis in (0, 1):
        pixel = tf.range(shape[1 + axis])[None]
        if start is not None:
            pixel -= start[:, axis, None]
        axes.append(tf.cast((pixel >= 0) & (pixel < size[:, axis, None]), tf.float32))
    return axes[0][:, :, None, None] * axes[1][:, None, :, None]
