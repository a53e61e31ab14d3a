"""Affine maps of a whole batch, each image its own, by one bilinear lookup.

TensorFlow's operation for it, `ImageProjectiveTransformV3`, does not compile under XLA in the releases we run on
(tensorflow/tensorflow#100865), and Keras' layers are built on it.
"""

from __future__ import annotations

import tensorflow as tf

from irv2data.pipeline.augmentation import CONSTANT, NEAREST, REFLECT


def affine(pixels: tf.Tensor, matrix: tf.Tensor, *, fill_mode: str = NEAREST, fill_value: float = 0.0) -> tf.Tensor:
    """Looks every pixel up where its image's map says.

    Bilinear between pixel centres. `nearest` and `reflect` (d c b a | a b c d | d c b a) extend the image endlessly;
    beyond it `constant` is `fill_value`, which edges blend into over one pixel (SciPy's `grid-constant`).

    Args:
        pixels: float32 [B, H, W, C].
        matrix: float32 [B, 3, 3], from output to input: (row, column, 1) in pixels from the middle of the image.
        fill_mode: `nearest`, `reflect` or `constant`.
        fill_value: In the value range of `pixels`.

    Returns:
        float32 [B, H, W, C].
    """
    shape = tf.shape(pixels)
    height, width = shape[1], shape[2]
    middle = (tf.cast(shape[1:3], tf.float32) - 1.0) / 2.0
    row = (tf.range(height, dtype=tf.float32) - middle[0])[None, :, None]
    column = (tf.range(width, dtype=tf.float32) - middle[1])[None, None, :]
    sources = []
    for axis, length in enumerate((height, width)):
        along_row, along_column, shift = (matrix[:, axis, part, None, None] for part in range(3))
        at = along_row * row + along_column * column + shift + middle[axis]
        sources.append(_neighbours(at, length, fill_mode))
    (top, bottom, down, rows_there), (left, right, across, columns_there) = sources
    flat = tf.reshape(pixels, [shape[0], height * width, shape[3]])

    def lookup(y: tf.Tensor, x: tf.Tensor, there: tf.Tensor | None) -> tf.Tensor:
        found = tf.gather(flat, tf.reshape(y * width + x, [shape[0], -1]), batch_dims=1)
        found = tf.reshape(found, shape)
        return found if there is None else tf.where(there[..., None], found, fill_value)

    def inside(number: int, other: int) -> tf.Tensor | None:
        return None if fill_mode != CONSTANT else rows_there[number] & columns_there[other]

    down, across = down[..., None], across[..., None]
    upper = (1.0 - across) * lookup(top, left, inside(0, 0)) + across * lookup(top, right, inside(0, 1))
    lower = (1.0 - across) * lookup(bottom, left, inside(1, 0)) + across * lookup(bottom, right, inside(1, 1))
    return tf.ensure_shape((1.0 - down) * upper + down * lower, pixels.shape)


def _neighbours(
    at: tf.Tensor, length: tf.Tensor, fill_mode: str
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """The two pixels around each place along an axis, int32; the second one's share; and whether each exists."""
    last = tf.cast(length - 1, tf.float32)
    if fill_mode == NEAREST:
        at = tf.clip_by_value(at, 0.0, last)
    elif fill_mode == REFLECT:
        period = 2.0 * (last + 1.0)
        folded = tf.math.floormod(at + 0.5, period)
        at = tf.clip_by_value(tf.minimum(folded, period - folded) - 0.5, 0.0, last)
    else:
        at = tf.clip_by_value(at, -2.0, last + 2.0)  # far outside is as outside as it gets, and fits an int32
    first = tf.floor(at)
    pair = tf.cast(first, tf.int32), tf.cast(first, tf.int32) + 1
    there = tuple((each >= 0) & (each < length) for each in pair)
    before, after = (tf.clip_by_value(each, 0, length - 1) for each in pair)
    return before, after, at - first, there
