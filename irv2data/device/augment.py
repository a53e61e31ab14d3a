"""Random augmentation of a whole batch, each image by its own draws, which the plan gives.

Draws and not seeds: TensorFlow's stateless generators differ between compiled and uncompiled code. So the same batch
always gives the same pixels, whatever device, compiler or number of replicas.
"""

from __future__ import annotations

import math

import tensorflow as tf

from irv2data.device import color
from irv2data.device.mix import mix
from irv2data.device.rand_augment import operation, rand_geometry, rand_tones
from irv2data.device.warp import affine
from irv2data.pipeline.augmentation import Augment

# Random erasing: the box's share of the image and its aspect (Zhong et al., "Random Erasing Data Augmentation", 2017,
# as torchvision has them).
_ERASED_AREA, _ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)


def augment(pixels: tf.Tensor, draws: tf.Tensor, options: Augment, record: tf.Tensor | None = None) -> tf.Tensor:
    """Changes every image of a batch as its draws say.

    Args:
        pixels: float32 [B, H, W, 3] in [0, 255]; B even where `options.mixes`.
        draws: float32 [B, options.num_draws] in [0, 1), of a pipeline with these options.
        options: What to change, and how much.
        record: int64 [B], -1 for filler, which no image is mixed with; None where there is none.

    Returns:
        float32 [B, H, W, 3] in [0, 255].
    """
    drawn = {name: draws[:, columns] for name, columns in options.places().items()}
    layers = [operation(drawn[f"rand_augment {layer}"]) for layer in range(options.rand_layers)]
    if options.warps:
        height_and_width = tf.shape(pixels)[1:3]
        matrix = geometry(drawn, options, height_and_width)
        for layer in layers:
            matrix = matrix @ rand_geometry(*layer, options.rand_magnitude, height_and_width)
        pixels = affine(pixels, matrix, fill_mode=options.fill_mode, fill_value=options.fill_value)
    for layer in layers:
        pixels = rand_tones(pixels, *layer, options.rand_magnitude)
    if options.colors:
        pixels = _colors(pixels, drawn, options)
    if options.erase:
        pixels = _erase(pixels, drawn["erase"], options)
    return mix(pixels, draws, options, record) if options.mixes else pixels


def geometry(drawn: dict[str, tf.Tensor], options: Augment, height_and_width: tf.Tensor) -> tf.Tensor:
    """From output to input, in pixels from the middle: float32 [B, 3, 3] for (row, column, 1).

    Put together as `ImageDataGenerator` does: rotation, shift, shear, zoom.
    """
    count = tf.shape(next(iter(drawn.values())))[0]
    zero, one = tf.zeros([count]), tf.ones([count])

    def signed(name: str, most: float, number: int = 0) -> tf.Tensor:
        return (2.0 * drawn[name][:, number] - 1.0) * most if most else zero

    angle = signed("rotate", math.radians(options.rotate))
    shear = signed("shear", math.radians(options.shear))
    size = tf.cast(height_and_width, tf.float32)
    shifts = [signed("translate", most, axis) * size[axis] for axis, most in enumerate(options.shifts)]
    zooms = [one + signed("zoom", options.zoom, axis) for axis in (0, 1)]
    rotation = matrices(tf.cos(angle), -tf.sin(angle), zero, tf.sin(angle), tf.cos(angle), zero)
    shift = matrices(one, zero, shifts[0], zero, one, shifts[1])
    sheared = matrices(one, -tf.sin(shear), zero, zero, tf.cos(shear), zero)
    return rotation @ shift @ sheared @ matrices(zooms[0], zero, zero, zero, zooms[1], zero)


def matrices(*rows: tf.Tensor) -> tf.Tensor:
    """Affine maps of their first two rows, six of float32 [B]: float32 [B, 3, 3]."""
    last = tf.zeros_like(rows[0]), tf.zeros_like(rows[0]), tf.ones_like(rows[0])
    return tf.reshape(tf.stack([*rows, *last], axis=1), [-1, 3, 3])


def _colors(pixels: tf.Tensor, drawn: dict[str, tf.Tensor], options: Augment) -> tf.Tensor:
    factors: dict[str, tf.Tensor] = {
        name: 1.0 + (2.0 * drawn[name][:, 0] - 1.0) * getattr(options, name)
        for name in ("brightness", "contrast", "saturation")
        if name in drawn
    }
    if options.hue:
        factors["hue"] = (2.0 * drawn["hue"][:, 0] - 1.0) * options.hue
    if options.grayscale:
        kept = tf.cast(drawn["grayscale"][:, 0] >= options.grayscale, tf.float32)
        factors["saturation"] = kept * factors.get("saturation", 1.0)
    return color.jitter(pixels, **factors)


def _erase(pixels: tf.Tensor, drawn: tf.Tensor, options: Augment) -> tf.Tensor:
    whether, area, aspect, *place = tf.unstack(drawn, axis=1)
    size = tf.unstack(tf.cast(tf.shape(pixels)[1:3], tf.float32))
    area = (_ERASED_AREA[0] + area * (_ERASED_AREA[1] - _ERASED_AREA[0])) * size[0] * size[1]
    low, high = (math.log(aspect) for aspect in _ERASED_ASPECT)
    stretch = tf.exp((low + aspect * (high - low)) / 2.0)
    inside = (whether < options.erase)[:, None, None, None]
    for axis, side in enumerate((tf.sqrt(area) * stretch, tf.sqrt(area) / stretch)):
        side = tf.clip_by_value(tf.round(side), 1.0, size[axis])
        start = tf.floor(place[axis] * (size[axis] - side + 1.0))
        pixel = tf.range(size[axis])
        along = (pixel >= start[:, None]) & (pixel < (start + side)[:, None])
        inside &= along[:, :, None, None] if axis == 0 else along[:, None, :, None]
    return tf.where(inside, tf.constant(options.erase_value, pixels.dtype), pixels)
