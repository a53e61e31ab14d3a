"""One compressed image into the planned window of pixels, inside the graph."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import tensorflow as tf

from irv2data.manifest import PNG
from irv2data.pipeline.others import Decoder

_RATIOS = (1, 2, 4, 8)


def decode_window(
    encoded: tf.Tensor,
    format: tf.Tensor,
    scale: tf.Tensor,
    crop: tf.Tensor,
    reduce: tf.Tensor,
    *,
    others: Mapping[int, Decoder] = MappingProxyType({}),
) -> tf.Tensor:
    """Decodes one window of an image.

    Args:
        encoded: string [], JPEG, PNG, or one of `others`.
        format: int32 [], a code of `manifest.FORMAT_NAMES`.
        scale: int32 [], 1, 2, 4 or 8: decode a JPEG at one over it.
        crop: int32 [4], y, x, height, width of the window in pixels at that scale.
        reduce: int32 [2], whole numbers to average rows and columns by.
        others: Decoders of further formats, by their codes.

    Returns:
        uint8 [height, width, 3], the window after averaging.
    """

    def jpeg(ratio: int) -> tf.Tensor:
        return tf.io.decode_and_crop_jpeg(encoded, crop, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    def whole(decode: Decoder) -> tf.Tensor:
        y, x, height, width = tf.unstack(crop)
        return decode(encoded)[y : y + height, x : x + width]

    # `ratio` is an attribute of the operation, not an input: hence a branch for each.
    branches = [lambda ratio=ratio: jpeg(ratio) for ratio in _RATIOS]
    log_scale = tf.searchsorted(tf.constant(_RATIOS), scale[None])[0]
    codes = sorted(others)
    decoders = [lambda encoded: tf.io.decode_png(encoded, channels=3), *(others[code] for code in codes)]
    branches += [lambda decode=decode: whole(decode) for decode in decoders]
    which = tf.searchsorted(tf.constant([PNG, *codes]), format[None])[0] if codes else 0
    window = tf.switch_case(tf.where(tf.less(format, PNG), log_scale, len(_RATIOS) + which), branches)
    window = tf.cond(tf.reduce_all(tf.equal(reduce, 1)), lambda: window, lambda: _area_mean(window, reduce))
    return tf.ensure_shape(window, [None, None, 3])


def _area_mean(window: tf.Tensor, reduce: tf.Tensor) -> tf.Tensor:
    """Means over cells of `reduce` pixels; the last cell of an axis may be cut off by the image's edge."""
    means = tf.cast(window, tf.float32)
    for axis in (0, 1):
        length, step = tf.shape(window)[axis], reduce[axis]
        cell = tf.range(length) // step
        swapped = means if axis == 0 else tf.transpose(means, [1, 0, 2])
        averaged = tf.math.segment_mean(swapped, cell)
        averaged = tf.ensure_shape(averaged, [None, None, 3])
        means = averaged if axis == 0 else tf.transpose(averaged, [1, 0, 2])
    return tf.cast(tf.round(means), tf.uint8)
