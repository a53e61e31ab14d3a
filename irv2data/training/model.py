"""Inception-ResNet-v2 with a new head: built, given weights, and unfrozen block by block."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from pathlib import Path

import keras

from irv2data.errors import WeightsError, one_line

# As in keras/src/applications/inception_resnet_v2.py.
IMAGENET_FILE = "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_MD5 = "d19885ff4a710c122648d3b5c3b684e4"

_LAST_OF_BLOCK = re.compile(r"mixed_5b|mixed_6a|mixed_7a|block(35|17|8)_\d+_ac|conv_7b_ac")
_BASE = "inception_resnet_v2"


def build_model(*, classes: int, image_size: tuple[int, int], weights: str) -> keras.Model:
    """The network without its ImageNet head, average pooling, and a new linear head; all but the head frozen.

    Call it in the strategy's scope. Frozen batch normalisation runs in inference mode.

    Args:
        classes: Number of classes.
        image_size: Height and width of the input in pixels, at least 75.
        weights: `imagenet`, `none` (random), or the path of a weights file.

    Returns:
        A model from float32 [B, h, w, 3] in [-1, 1] to logits, float32 [B, classes].

    Raises:
        WeightsError: The weights cannot be had or do not fit; the message says which file belongs where.
    """
    base = _base((*image_size, 3), weights)
    base.trainable = False
    images = keras.Input((*image_size, 3), name="images")
    # float32 whatever the policy: a softmax over logits in 16 bits loses what separates close classes.
    logits = keras.layers.Dense(classes, dtype="float32", name="head")(base(images))
    return keras.Model(images, logits, name="irv2data")


def base_of(model: keras.Model) -> keras.Model:
    """The Inception-ResNet-v2 inside a model of `build_model`."""
    return model.get_layer(_BASE)


def blocks(base: keras.Model) -> list[list[keras.layers.Layer]]:
    """The network's 44 blocks from the input up, each the list of its layers."""
    found: list[list[keras.layers.Layer]] = [[]]
    for layer in base.layers:
        # block8_10 is the only one that does not end in an activation; what follows it is conv_7b.
        if layer.name == "conv_7b":
            found.append([])
        found[-1].append(layer)
        if _LAST_OF_BLOCK.fullmatch(layer.name) and layer.name != "conv_7b_ac":
            found.append([])
    return found


def unfreeze(model: keras.Model, top: int) -> None:
    """Lets the `top` uppermost blocks learn. Batch normalisation stays frozen, in inference mode.

    With the few images a replica sees in fine-tuning, batch statistics would be noise, and N replicas would not equal
    one.
    """
    base = base_of(model)
    base.trainable = True
    learning = {layer.name for block in blocks(base)[len(blocks(base)) - top :] for layer in block}
    for layer in base.layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name in learning and not normalises


def normalisations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch normalisations of the network."""
    return [layer for layer in base_of(model).layers if isinstance(layer, keras.layers.BatchNormalization)]


def _base(shape: tuple[int, int, int], weights: str) -> keras.Model:
    def build(given: str | None) -> keras.Model:
        # The name is given so that `base_of` finds it whatever Keras calls it by default.
        return keras.applications.InceptionResNetV2(
            weights=given, include_top=False, pooling="avg", input_shape=shape, name=_BASE
        )

    if weights == "none":
        return build(None)
    if weights == "imagenet":
        try:
            with contextlib.redirect_stdout(sys.stderr):  # Keras prints its download progress to standard output
                return build("imagenet")
        except Exception as error:  # urllib, ssl, h5py and Keras each raise their own
            home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
            raise WeightsError(
                f"the ImageNet weights cannot be fetched ({one_line(error)}); put {IMAGENET_FILE} "
                f"(MD5 {IMAGENET_MD5}) into {home / 'models'}, or give --weights=PATH, or --weights=none"
            ) from error
    if not Path(weights).is_file():
        raise WeightsError(f"{weights}: no such weights file; --weights takes imagenet, none, or a path")
    base = build(None)
    try:
        with warnings.catch_warnings():
            # What Keras does not find in a file it leaves at random values, with no more than a warning.
            warnings.simplefilter("error", UserWarning)
            if weights.endswith(".keras"):
                base.set_weights(base_of(keras.models.load_model(weights, compile=False)).get_weights())
            else:
                base.load_weights(weights)
    except Exception as error:  # h5py, zipfile and Keras each raise their own
        raise WeightsError(
            f"{weights}: does not hold weights of Inception-ResNet-v2 without its head ({one_line(error)})"
        ) from error
    return base
