"""The device stage: from a batch as the pipeline hands it over to what the network sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.device.augment import augment
from irv2data.device.resample import resample, valid
from irv2data.pipeline.config import LANCZOS3, LETTERBOX, NATIVE, OutputSpec


def preprocess(batch: Mapping[str, Any], output: OutputSpec) -> tf.Tensor:
    """The images of a batch as Inception-ResNet-v2 takes them; call it inside the training step.

    Args:
        batch: A batch of `irv2data.Pipeline`: `canvas` uint8 [B, H, W, 3], `box` float32 [B, 4], `flip` bool [B], and
            `fitted` int32 [B, 4] or `size` int32 [B, 2] for `letterbox` or `native`; or `image` float32 [B, h, w, 3],
            resized by the host already. With `output.augment` also `draws` float32 [B, output.num_draws] and, where
            there is filler that no image must be mixed with, `record` int64 [B].
        output: `pipeline.output`.

    Returns:
        [B, h, w, 3] of `output.dtype` in [-1, 1], the range of
        `keras.applications.inception_resnet_v2.preprocess_input`. `native`: [B, H, W, 3], 0 outside the image, which is
        what a convolution pads with. Where images are mixed, `device.mix_labels` gives their labels.
    """
    if "image" in batch:
        if output.augment is None:
            return tf.cast(batch["image"], output.dtype)
        pixels = (batch["image"] + 1.0) * 127.5
    elif output.fit == NATIVE:
        inside = valid(batch["size"], tf.shape(batch["canvas"]))
        return tf.cast((tf.cast(batch["canvas"], tf.float32) / 127.5 - 1.0) * inside, output.dtype)
    else:
        pixels = _fit(batch, output)
    if output.augment is not None:
        pixels = augment(pixels, batch["draws"], output.augment, batch.get("record"))
    return tf.cast(pixels / 127.5 - 1.0, output.dtype)


def to_uint8(images: Any) -> np.ndarray:
    """Finished images, float [.., 3] in [-1, 1], as they are looked at: uint8 of the same shape, rounded."""
    return np.clip(np.rint((np.asarray(images, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def _fit(batch: Mapping[str, Any], output: OutputSpec) -> tf.Tensor:
    """Crops, resizes and mirrors: float32 [B, h, w, 3] in [0, 255]."""
    fitted = batch["fitted"] if output.fit == LETTERBOX else None
    pixels = resample(
        batch["canvas"],
        batch["box"],
        batch["flip"],
        output.image_size,
        antialias=output.antialias,
        method=output.method,
        fitted=fitted,
        dtype=output.dtype,
    )
    pixels = tf.cast(pixels, tf.float32)  # so that what follows does not round again
    if output.method == LANCZOS3:
        pixels = tf.clip_by_value(pixels, 0.0, 255.0)
    if fitted is not None and output.pad_value:
        inside = valid(fitted[:, 2:], tf.shape(pixels), fitted[:, :2])
        pixels += output.pad_value * (1.0 - inside)
    return pixels
