"""A network that takes the place of Inception-ResNet-v2 in the pages' tests: its blocks' names, built in no time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from irv2data.training import weights as weights_module
from irv2data.training.weights import BASE

FEATURES = 1536


def stand_in(
    *,
    include_top: bool = True,
    weights: str | None = "imagenet",
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    name: str = BASE,
    **others: Any,
) -> keras.Model:
    """`keras.applications.InceptionResNetV2` with four of its 44 blocks, one small convolution each.

    Without its head and with average pooling is all that this package and its pages ask for.
    """
    assert not include_top, "the stand-in has no head"
    assert pooling == "avg"
    x = images = keras.Input(input_shape or (None, None, 3))
    # The names of each block's first and last layer: `training.model` finds blocks by the last.
    for first, last, filters, strides in (
        ("stem", "mixed_5b", 8, 4),
        ("block35_1_conv", "block35_1_ac", 8, 2),
        ("block8_10_conv", "block8_10", 8, 2),
        ("conv_7b", "conv_7b_ac", FEATURES, 1),
    ):
        x = keras.layers.Conv2D(filters, 3, strides=strides, use_bias=False, name=first)(x)
        x = keras.layers.BatchNormalization(scale=False, name=f"{first}_bn")(x)
        x = keras.layers.Activation("relu", name=last)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x), name=name)


class TwoReplicas(tf.distribute.MirroredStrategy):
    """`MirroredStrategy()` on two of the tests' logical CPUs: a page's batch sizes do not divide by three."""

    def __init__(self, devices=None, cross_device_ops=None) -> None:
        # On one device: see training.strategy.
        super().__init__(devices or ["CPU:0", "CPU:1"], cross_device_ops or tf.distribute.ReductionToOneDevice())


@contextmanager
def small_network(folder: Path) -> Iterator[None]:
    """Within, it is what Keras and `irv2data` build, and a file of it in `folder` is the ImageNet weights."""
    file = folder / "stand-in.weights.h5"
    if not file.exists():
        stand_in(include_top=False, pooling="avg", input_shape=(75, 75, 3)).save_weights(file)
    with pytest.MonkeyPatch.context() as patch:
        for applications in (keras.applications, tf.keras.applications):
            patch.setattr(applications, "InceptionResNetV2", stand_in)
        patch.setattr(weights_module, "_imagenet", lambda: file)
        yield
