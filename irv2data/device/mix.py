"""Mixup and CutMix of the pixels; `irv2data.pipeline.mixing` says in which shares, and does the same to labels."""

from __future__ import annotations

import tensorflow as tf

from irv2data.pipeline.augmentation import Augment
from irv2data.pipeline.mixing import partners, shares


def mix(pixels: tf.Tensor, draws: tf.Tensor, options: Augment, record: tf.Tensor | None = None) -> tf.Tensor:
    """Mixes neighbouring images, as `shares` says.

    Args:
        pixels: float32 [B, H, W, C], B even.
        draws: float32 [B, options.num_draws].
        options: With `mixup`, `cutmix` or both.
        record: int64 [B], -1 for filler.
    """
    shape = tf.shape(pixels)
    blend, box, _ = shares(draws, options, shape[1:3], record)
    (top, bottom), (left, right) = ((box[:, axis], box[:, axis + 2]) for axis in (0, 1))
    row, column = tf.range(shape[1])[None], tf.range(shape[2])[None]
    rows, columns = (
        (row >= top[:, None]) & (row < bottom[:, None]),
        (column >= left[:, None]) & (column < right[:, None]),
    )
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    own = tf.where(inside, 0.0, tf.cast(blend, pixels.dtype)[:, None, None, None])
    return own * pixels + (1.0 - own) * partners(pixels)
