"""Formats that only records of others come in: what decodes them here, found when a pipeline is made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.index import AVIF, FORMAT_NAMES, PNG, WEBP, WEBP_ALPHA
from irv2data.pipeline import tensorflow_io
from irv2data.split import Split

# From string [], a compressed image, to uint8 [height, width, 3].
Decoder = Callable[[tf.Tensor], tf.Tensor]

_BACKGROUND = 255  # white, as conversion has it unless told otherwise
_NAMES = {WEBP: "WebP", WEBP_ALPHA: "WebP", AVIF: "AVIF"}


def other_decoders(split: Split) -> dict[int, Decoder]:
    """Decoders of what a split holds beside JPEG and PNG, by the codes of `index.FORMAT_NAMES`.

    Transparent pixels are laid on white.

    Raises:
        UsageError: There is none, for tensorflow-io is needed and not installed or cannot be loaded.
    """
    if not split.contents.formats:
        return {}
    counts = np.bincount(split.array("format"), minlength=len(FORMAT_NAMES))
    return {int(code): _decoder(split, int(code), counts[code]) for code in np.flatnonzero(counts) if code > PNG}


def _decoder(split: Split, code: int, count: int) -> Decoder:
    what = f"{split.folder}: split {split.name!r} has {count} {_NAMES[code]} images, and decoding them"

    def operation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
        try:
            return tensorflow_io.operation(name, what)
        except UsageError as error:
            raise UsageError(f"{error}, or convert the images again") from error

    if code == AVIF:
        return operation("io_decode_avif")
    if hasattr(tf.io, "decode_webp"):  # TensorFlow 2.21, not yet 2.16
        # It has to be told how many channels the image has. Told 0, for any, it corrupts the heap on animations.
        if code == WEBP:
            return lambda encoded: tf.io.decode_webp(encoded, channels=3)[0]
        return lambda encoded: _on_background(tf.io.decode_webp(encoded, channels=4)[0])
    decode = operation("io_decode_web_p")  # gives four channels, whatever the image has
    return lambda encoded: decode(encoded)[..., :3] if code == WEBP else _on_background(decode(encoded))


def _on_background(pixels: tf.Tensor) -> tf.Tensor:
    """Lays uint8 [h, w, 4] on the background: uint8 [h, w, 3], rounded as Pillow does, which converts images."""
    wide = tf.cast(pixels, tf.int32)
    colour, alpha = wide[..., :3], wide[..., 3:]
    mixed = colour * alpha + _BACKGROUND * (255 - alpha) + 128
    return tf.cast(tf.bitwise.right_shift(tf.bitwise.right_shift(mixed, 8) + mixed, 8), tf.uint8)
