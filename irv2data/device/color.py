"""Colours and tones of a whole batch, each image changed by its own amount.

Brightness, contrast, saturation and hue are one affine map of the three channels an image. They commute, for each
either scales all channels alike or acts on the colour and leaves grey alone, so that there is no order to choose, and
values are cut off at 0 and 255 once, at the end. (Keras' and torchvision's change hue in HSV, cutting off after each
step; this is how NVIDIA DALI's `color_twist` does it.)
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

# The YIQ colour space of NTSC: luma by ITU-R BT.601, and two axes of colour that are 0 for grey.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_LEVELS = 256

# Keras' own layer for it is batched, draws nothing and agrees with Pillow. Not so `Equalization` (one histogram of the
# whole batch), `RandomSharpness` (darkens the border), `RandomPosterization` (one strength a batch) and `RandAugment`
# (one choice of operations a batch, and all of them computed for each).
_AUTO_CONTRAST = keras.layers.AutoContrast(value_range=(0, 255), dtype="float32")


def jitter(
    pixels: tf.Tensor,
    *,
    brightness: tf.Tensor | float = 1.0,
    contrast: tf.Tensor | float = 1.0,
    saturation: tf.Tensor | float = 1.0,
    hue: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """Brightness, contrast, saturation and hue.

    Args:
        pixels: float32 [B, H, W, 3] in [0, 255].
        brightness: float32 [B], what pixels are multiplied by.
        contrast: float32 [B], what their distance to the image's mean luma is multiplied by.
        saturation: float32 [B], what their distance to their own luma is multiplied by; 0 leaves greys.
        hue: float32 [B], how far colours are turned about grey in the YIQ space, in full turns.

    Returns:
        float32 [B, H, W, 3] in [0, 255].
    """
    count = tf.shape(pixels)[0]
    brightness, contrast, saturation, hue = (
        tf.broadcast_to(tf.convert_to_tensor(each, tf.float32), [count])
        for each in (brightness, contrast, saturation, hue)
    )
    cos, sin = saturation * tf.cos(2 * math.pi * hue), saturation * tf.sin(2 * math.pi * hue)
    zero, one = tf.zeros_like(cos), tf.ones_like(cos)
    turn = tf.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], axis=1)
    matrix = tf.constant(np.linalg.inv(_YIQ), tf.float32) @ tf.reshape(turn, [-1, 3, 3]) @ tf.constant(_YIQ, tf.float32)
    mean = tf.reduce_mean(luma(pixels), axis=[1, 2, 3])
    changed = tf.einsum("bhwc,bdc->bhwd", pixels, matrix * (brightness * contrast)[:, None, None])
    offset = (brightness * (1.0 - contrast) * mean)[:, None, None, None]
    return tf.clip_by_value(changed + offset, 0.0, 255.0)


def luma(pixels: tf.Tensor) -> tf.Tensor:
    """How bright pixels are to the eye: [B, H, W, 1] of [B, H, W, 3] (ITU-R BT.601, as Pillow's mode `L`)."""
    return tf.tensordot(pixels, tf.constant(_YIQ[0][:, None], pixels.dtype), axes=1)


def auto_contrast(pixels: tf.Tensor) -> tf.Tensor:
    """Stretches each channel of each image to [0, 255]; one of a single value stays."""
    return _AUTO_CONTRAST(pixels)


def equalize(pixels: tf.Tensor) -> tf.Tensor:
    """Spreads the levels of each channel of each image, as Pillow's `ImageOps.equalize` does.

    Levels are the nearest whole numbers. What a level becomes is interpolated for values between two of them, so that
    values that differ by a rounding error still do so afterwards.

    Args:
        pixels: float32 [B, H, W, C] in [0, 255].
    """
    shape = tf.shape(pixels)
    channels = shape[0] * shape[3]
    value = tf.reshape(tf.transpose(pixels, [0, 3, 1, 2]), [channels, shape[1] * shape[2]])
    bins = tf.cast(tf.round(value), tf.int32) + _LEVELS * tf.range(channels)[:, None]
    counts = tf.math.unsorted_segment_sum(tf.ones_like(bins), bins, _LEVELS * channels)
    counts = tf.reshape(counts, [channels, _LEVELS])
    used = counts > 0
    highest = tf.reduce_max(tf.where(used, tf.range(_LEVELS), -1), axis=1)
    step = (shape[1] * shape[2] - tf.gather(counts, highest, batch_dims=1)) // (_LEVELS - 1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((step[:, None] // 2 + below) // tf.maximum(step, 1)[:, None], _LEVELS - 1)
    table = tf.where(step[:, None] > 0, table, tf.range(_LEVELS))  # too few levels or pixels to spread
    table = tf.cast(table, pixels.dtype)
    slopes = tf.stack([table, tf.concat([table[:, 1:], table[:, -1:]], axis=1) - table], axis=2)
    level = tf.floor(value)
    at, slope = tf.unstack(tf.gather(slopes, tf.cast(level, tf.int32), batch_dims=1), axis=2)
    spread = tf.reshape(at + (value - level) * slope, [shape[0], shape[3], shape[1], shape[2]])
    return tf.ensure_shape(tf.transpose(spread, [0, 2, 3, 1]), pixels.shape)


def solarize(pixels: tf.Tensor, threshold: tf.Tensor | float) -> tf.Tensor:
    """Inverts what is `threshold` (in [0, 255], a number or [B]) or more."""
    threshold = tf.reshape(tf.convert_to_tensor(threshold, pixels.dtype), [-1, 1, 1, 1])
    return tf.where(pixels < threshold, pixels, 255.0 - pixels)


def posterize(pixels: tf.Tensor, bits: int) -> tf.Tensor:
    """Leaves so many bits of each value, 1 to 8, rounding down."""
    step = float(1 << (8 - bits))
    return tf.floor(pixels / step) * step


def sharpen(pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies by `factor` [B] what a blur takes away: below 1 blurs, above sharpens; as Pillow's `Sharpness`.

    The blur is Pillow's `SMOOTH` (3 by 3 pixels, the middle one weighing 5), which leaves the outermost ones alone.
    """
    inner = pixels[:, 1:-1, 1:-1]
    # Sums of shifted images: XLA makes one loop of them on any device, and of a depthwise convolution none.
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    smooth = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4.0 * inner) / 13.0
    change = (factor - 1.0)[:, None, None, None] * (inner - smooth)
    return tf.clip_by_value(pixels + tf.pad(change, [[0, 0], [1, 1], [1, 1], [0, 0]]), 0.0, 255.0)
