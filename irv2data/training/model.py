"""Inception-ResNet-v2 with a new head: built, given weights, and unfrozen block by block."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from irv2data.training.config import FLOAT32
from irv2data.training.masked import masked_base
from irv2data.training.weights import BASE, base_with_weights

_LAST_OF_BLOCK = re.compile(r"mixed_5b|mixed_6a|mixed_7a|block(35|17|8)_\d+_ac|conv_7b_ac")


def build_model(
    *,
    classes: int,
    image_size: tuple[int, int] | None,
    weights: str,
    precision: str = FLOAT32,
    masked: bool = False,
    sync_bn: bool = False,
) -> keras.Model:
    """The network without its ImageNet head, average pooling, and a new linear head; all but the head frozen.

    Call it in the strategy's scope. Frozen batch normalisation runs in inference mode.

    Args:
        classes: Number of classes.
        image_size: Height and width of the input in pixels, at least 75; None for any.
        weights: `imagenet`, `none` (random), or the path of a weights file.
        precision: `float32`, or `bfloat16` for activations in that type (weights stay float32).
        masked: Images of any size in the corner of a canvas, whose padding has no influence (`masked.masked_base`).
        sync_bn: Batch normalisation takes the statistics of all replicas together where it is not frozen.

    Returns:
        A model from float32 [B, h, w, 3] in [-1, 1] to logits, float32 [B, classes]; with `masked` from a pair of these
        and of the images' heights and widths, int32 [B, 2].

    Raises:
        WeightsError: The weights cannot be had or do not fit; the message says which file belongs where.
    """
    shape = (*(image_size or (None, None)), 3)
    with _policy(precision):
        base = base_with_weights(shape, weights)
        if masked:
            base = masked_base(base)
        base.trainable = False
        for layer in _normalisations(base):
            layer.synchronized = sync_bn
        images = keras.Input(shape, name="images")
        inputs = (images, keras.Input((2,), dtype="int32", name="size")) if masked else images
        # float32 whatever the policy: a softmax over logits in 16 bits loses what separates close classes.
        logits = keras.layers.Dense(classes, dtype="float32", name="head")(base(inputs))
        return keras.Model(inputs, logits, name="irv2data")


@contextlib.contextmanager
def _policy(precision: str) -> Iterator[None]:
    """Within, layers are made with this precision; Keras' own networks take no argument for it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(FLOAT32 if precision == FLOAT32 else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def base_of(model: keras.Model) -> keras.Model:
    """The Inception-ResNet-v2 inside a model of `build_model`."""
    return model.get_layer(BASE)


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
    """Lets the `top` uppermost blocks learn, beside the head.

    Batch normalisation stays frozen, in inference mode, if it is not synchronised: with the few images a replica sees
    in fine-tuning, batch statistics would be noise, and N replicas would not equal one.
    """
    base = base_of(model)
    base.trainable = True
    learning = {layer.name for block in _top(base, top) for layer in block}
    for layer in base.layers:
        fixed = isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
        layer.trainable = layer.name in learning and not fixed


def learning_groups(model: keras.Model, top: int, decay: float) -> list[tuple[float, list[Any]]]:
    """The learning variables, by what their learning rate is multiplied with.

    Args:
        model: Of `build_model`, after `unfreeze`.
        top: How many blocks learn.
        decay: A block's share of the learning rate of the block above it (Howard and Ruder, "Universal language model
            fine-tuning", 2018). The head and the topmost block have all of it.

    Returns:
        Pairs (share, variables), from the head down.
    """
    if decay == 1 or top == 0:
        return [(1.0, list(model.trainable_variables))]
    base = base_of(model)
    inside = {id(variable) for variable in base.trainable_variables}
    groups = [(1.0, [variable for variable in model.trainable_variables if id(variable) not in inside])]
    for depth, block in enumerate(reversed(_top(base, top))):
        groups.append((decay**depth, [variable for layer in block for variable in layer.trainable_variables]))
    return [(share, variables) for share, variables in groups if variables]


def set_statistics(model: keras.Model, inputs: Any, strategy: tf.distribute.Strategy) -> None:
    """Sets every batch normalisation of a randomly initialised network to the statistics of one batch.

    With their initial statistics they pass random features through unscaled, each layer shrinking them, until nothing
    is left for a head to learn from. In the manner of Mishkin and Matas, "All you need is a good init" (2016).

    The batch is put together from all replicas, so that the result does not depend on their number.

    Args:
        model: Of `build_model` with `weights="none"`.
        inputs: Of the model, per replica.
        strategy: Where the model lives.
    """
    layers = normalisations(model)
    kept = [(layer.momentum, layer.trainable) for layer in layers]
    for layer in layers:
        layer.momentum, layer.trainable = 0.0, True  # one pass then replaces the statistics by the batch's
    with strategy.scope():
        model(tf.nest.map_structure(lambda each: strategy.gather(each, axis=0), inputs), training=True)
    for layer, (momentum, trainable) in zip(layers, kept, strict=True):
        layer.momentum, layer.trainable = momentum, trainable


def normalisations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch normalisations of the network."""
    return _normalisations(base_of(model))


def _normalisations(base: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]


def _top(base: keras.Model, top: int) -> list[list[keras.layers.Layer]]:
    found = blocks(base)
    return found[len(found) - top :]
