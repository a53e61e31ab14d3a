"""Resizing on the host, image by image, with the stock operations: the same pixels as the device stage gives.

For devices that are CPUs, where the two matrix products of `device.resample` cost more, and for `native` images, which
are put on their canvas at the size that the network sees.
"""

from __future__ import annotations

import tensorflow as tf

from irv2data.pipeline.config import BILINEAR


def resize_box(
    window: tf.Tensor, box: tf.Tensor, output: tf.Tensor, *, antialias: bool, method: str = BILINEAR
) -> tf.Tensor:
    """Resamples a box of an image.

    As `tf.image.resize(method=method, antialias=antialias)` of the box cut out, where the box consists of whole pixels;
    of one that does not, `device.resample` weighs the pixels at its edge by the share that lies inside, and this one
    does not (at most a pixel's width at the edge of the source differs).

    Args:
        window: uint8 [H, W, 3].
        box: float32 [4], y, x, height, width in pixels of the window.
        output: int32 [2], height and width of the result.
        antialias: Widen the kernel when shrinking.
        method: `bilinear` or `lanczos3`.

    Returns:
        float32 [h, w, 3] in [0, 255].
    """

    def any_box() -> tf.Tensor:
        scale = tf.cast(output, tf.float32) / box[2:]
        return tf.raw_ops.ScaleAndTranslate(
            images=window[None],
            size=output,
            scale=scale,
            translation=-box[:2] * scale,
            kernel_type="triangle" if method == BILINEAR else method,
            antialias=antialias,
        )[0]

    if method != BILINEAR:
        return tf.clip_by_value(any_box(), 0.0, 255.0)  # it rings beyond
    if antialias:
        return any_box()

    def whole_window() -> tf.Tensor:
        # Without antialiasing this one gives the same, and is three times faster.
        return tf.raw_ops.ResizeBilinear(images=window[None], size=output, half_pixel_centers=True)[0]

    whole = tf.concat([[0.0, 0.0], tf.cast(tf.shape(window)[:2], tf.float32)], axis=0)
    return tf.cond(tf.reduce_all(tf.equal(box, whole)), whole_window, any_box)


def native(
    window: tf.Tensor, box: tf.Tensor, output: tf.Tensor, *, antialias: bool, method: str = BILINEAR
) -> tf.Tensor:
    """A whole image at its own size, or at a smaller one where it has to be shrunk: uint8 [h, w, 3]."""

    def shrunk() -> tf.Tensor:
        return tf.cast(tf.round(resize_box(window, box, output, antialias=antialias, method=method)), tf.uint8)

    return tf.cond(tf.reduce_all(tf.equal(tf.shape(window)[:2], output)), lambda: window, shrunk)


def normalize(pixels: tf.Tensor) -> tf.Tensor:
    """[0, 255] to [-1, 1], float32."""
    return tf.cast(pixels, tf.float32) / 127.5 - 1.0
