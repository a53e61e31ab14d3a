"""RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019).

Its 14 operations, with the strengths that torchvision gives them. Each image draws its own operations, and all images
of a batch go through the same few stages: the geometry of all layers in one lookup before everything else (it moves
pixels and leaves their values; done first, it is interpolated once), then for each layer one stage of tones.
"""

from __future__ import annotations

import functools
import math

import tensorflow as tf

from irv2data.device import color
from irv2data.pipeline.augmentation import MOST_MAGNITUDE

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
_SHEAR = 0.3  # pixels a pixel, at the largest magnitude
_TRANSLATE = 150 / 331  # of the image
_ROTATE = 30.0  # degrees
_ENHANCE = 0.9  # brightness, color, contrast and sharpness are multiplied by 1 -+ this
_POSTERIZE = 4  # bits that are taken away


def operation(drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The operation of each image, its number in `OPERATIONS`, int32 [B], and its direction, -1 or 1, float32 [B].

    Args:
        drawn: float32 [B, 2] in [0, 1).
    """
    number = tf.cast(drawn[:, 0] * len(OPERATIONS), tf.int32)
    return number, tf.where(drawn[:, 1] < 0.5, -1.0, 1.0)


def rand_geometry(number: tf.Tensor, direction: tf.Tensor, magnitude: float, height_and_width: tf.Tensor) -> tf.Tensor:
    """What a layer does to geometry, from output to input about the middle: float32 [B, 3, 3] for (row, column, 1)."""
    share = magnitude / MOST_MAGNITUDE
    height, width = tf.unstack(tf.cast(height_and_width, tf.float32))

    def amount(name: str, most: tf.Tensor | float) -> tf.Tensor:
        return tf.where(_is(number, name), direction * (share * most), 0.0)

    angle = amount("rotate", math.radians(_ROTATE))
    zero, one = tf.zeros_like(angle), tf.ones_like(angle)
    rows = [
        [tf.cos(angle), amount("shear_y", _SHEAR) - tf.sin(angle), amount("translate_y", _TRANSLATE * height)],
        [amount("shear_x", _SHEAR) + tf.sin(angle), tf.cos(angle), amount("translate_x", _TRANSLATE * width)],
        [zero, zero, one],
    ]
    return tf.stack([tf.stack(row, axis=1) for row in rows], axis=1)


def rand_tones(pixels: tf.Tensor, number: tf.Tensor, direction: tf.Tensor, magnitude: float) -> tf.Tensor:
    """What a layer does to the values of pixels.

    Args:
        pixels: float32 [B, H, W, 3] in [0, 255].
        number: int32 [B], of `operation`.
        direction: float32 [B].
        magnitude: 0 to 30.
    """
    share = magnitude / MOST_MAGNITUDE
    factor = 1.0 + direction * (share * _ENHANCE)

    def enhance(name: str) -> tf.Tensor:
        return tf.where(_is(number, name), factor, 1.0)

    pixels = color.jitter(
        pixels, brightness=enhance("brightness"), contrast=enhance("contrast"), saturation=enhance("color")
    )
    pixels = color.sharpen(pixels, enhance("sharpness"))
    # Those below cannot be done by a different amount for each image; at most one changes any.
    for name, change in (
        ("posterize", functools.partial(color.posterize, bits=8 - round(share * _POSTERIZE))),
        ("solarize", functools.partial(color.solarize, threshold=255.0 * (1.0 - share))),
        ("auto_contrast", color.auto_contrast),
        ("equalize", color.equalize),
    ):
        pixels = tf.where(_is(number, name)[:, None, None, None], change(pixels), pixels)
    return pixels


def _is(number: tf.Tensor, name: str) -> tf.Tensor:
    return tf.equal(number, OPERATIONS.index(name))
