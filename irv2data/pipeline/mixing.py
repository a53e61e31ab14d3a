"""Mixup and CutMix: rows 2i and 2i + 1 of a batch with each other, and their labels in the same shares.

Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2017); Yun et al., "CutMix" (2019). Neighbours and not a
permutation of the batch, because replicas have blocks of it: the partners are the same for any number of replicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from irv2data.pipeline.augmentation import Augment
from irv2data.pipeline.config import OutputSpec


def mix_labels(batch: Mapping[str, Any], output: OutputSpec, classes: int | None = None) -> tf.Tensor:
    """The labels of the images that `device.preprocess` mixes.

    Args:
        batch: With `label` int64 [B], float32 [B] or float32 [B, classes]; `draws`; and `record`.
        output: `pipeline.output`.
        classes: Number of classes, where labels are class numbers.

    Returns:
        float32 [B, classes], or [B] where labels are numbers. Without mixing: the label, one-hot.
    """
    label, options = batch["label"], output.augment
    if tf.as_dtype(label.dtype).is_integer:
        if classes is None:
            raise ValueError("mix_labels needs the number of classes, for labels are class numbers")
        label = tf.one_hot(label, classes)
    if options is None or not options.mixes:
        return label
    *_, share = shares(batch["draws"], options, tf.constant(output.image_size), batch.get("record"))
    share = tf.reshape(share, [-1] + [1] * (label.shape.rank - 1))
    return share * label + (1.0 - share) * partners(label)


def shares(
    draws: tf.Tensor, options: Augment, height_and_width: tf.Tensor, record: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """How much of each image stays its own.

    Returns:
        blend: float32 [B] in [0, 1], what its pixels are weighted by; the partner's have the rest.
        box: int32 [B, 4], first row and column, and those behind the last, of what is the partner's alone.
        share: float32 [B], what its label is weighted by.
    """
    drawn = {name: draws[:, columns] for name, columns in options.places().items()}
    count, one = tf.shape(draws)[0], tf.ones([tf.shape(draws)[0]])
    blend, box = one, tf.zeros([count, 4], tf.int32)
    if options.mixup:
        blend = beta(drawn["mixup"], options.mixup)
    if options.cutmix:
        box = _cut(drawn["cutmix"], options.cutmix, height_and_width)
    if options.mixup and options.cutmix:
        cuts = drawn["mixup or cutmix"][:, 0] < 0.5
        blend, box = tf.where(cuts, 1.0, blend), tf.where(cuts[:, None], box, 0)
    if record is not None:  # filler is nobody's partner
        alone = (partners(record) < 0) | (record < 0)
        blend, box = tf.where(alone, 1.0, blend), tf.where(alone[:, None], 0, box)
    area = tf.reduce_prod(box[:, 2:] - box[:, :2], axis=1) / tf.reduce_prod(height_and_width)
    return blend, box, blend * (1.0 - tf.cast(area, tf.float32))


def partners(rows: tf.Tensor) -> tf.Tensor:
    """Each row's neighbour: [1, 0, 3, 2, ..] of [B, ..]; an error if B is odd."""
    shape = tf.shape(rows)
    pairs = tf.reshape(rows, tf.concat([[shape[0] // 2, 2], shape[1:]], axis=0))
    return tf.ensure_shape(tf.reshape(tf.reverse(pairs, [1]), shape), rows.shape)


def beta(drawn: tf.Tensor, alpha: float) -> tf.Tensor:
    """Numbers of the symmetric Beta distribution: float32 [B] of uniform float32 [B, 2].

    Two uniform numbers make one of Student's t with 2 alpha degrees of freedom, t = sqrt(2 alpha (u^(-1/alpha) - 1))
    cos(2 pi v) (Bailey, "Polar generation of random variates with the t-distribution", 1994), and 1/2 + t / (2 sqrt(2
    alpha + t^2)) of that is of the Beta distribution (Devroye, "Random variate generation in one line of code", 1996).
    No rejection, so that every image uses up the same draws.
    """
    u, v = 1.0 - drawn[:, 0], drawn[:, 1]  # u is never 0
    cosine = tf.cos(2.0 * math.pi * v)
    # t^2 / (2 alpha), which for a small alpha is soon more than a float32 holds: then it is 0 or 1 that is drawn.
    square = tf.math.expm1(-tf.math.log(u) / alpha) * cosine * cosine
    # 1/2 - |t| / (2 sqrt(2 alpha + t^2)), without the difference of two almost equal numbers.
    ratio = tf.where(square < 1.0, square / (1.0 + square), 1.0 - 1.0 / (1.0 + square))
    smaller = 0.5 / (1.0 + square) / (1.0 + tf.sqrt(ratio))
    return tf.where(cosine < 0.0, smaller, 1.0 - smaller)


def _cut(drawn: tf.Tensor, alpha: float, height_and_width: tf.Tensor) -> tf.Tensor:
    """CutMix's boxes, int32 [B, 4]: of a Beta-distributed area around a uniform middle, cut off at the borders."""
    side = tf.sqrt(1.0 - beta(drawn[:, :2], alpha))
    edges = []
    for axis, length in enumerate(tf.unstack(height_and_width)):
        whole = tf.cast(length, tf.float32)
        middle, half = tf.floor(drawn[:, 2 + axis] * whole), tf.floor(side * whole) / 2.0
        edges.append([tf.clip_by_value(tf.cast(tf.floor(middle + way * half), tf.int32), 0, length) for way in (-1, 1)])
    return tf.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], axis=1)
