"""What tests of whole runs share: a network of four blocks, and the options of a short run on it."""

from __future__ import annotations

from contextlib import contextmanager

import keras
import numpy as np
import pytest
import tensorflow as tf

from irv2data.pipeline.build import Pipeline
from irv2data.training import TrainConfig, evaluate
from irv2data.training import model as models
from irv2data.training.finished import FinishedRun
from irv2data.training.weights import BASE

BLOCKS = (("stem", "mixed_5b"), ("block35_1_conv", "block35_1_ac"), ("block8_10_conv", "block8_10"), ("conv_7b",) * 2)
# 120 records: five steps an epoch.
CONFIG = TrainConfig(image_size=(75, 75), batch_size=24, weights="none", head_epochs=1, schedule="constant")


def small_base(shape: tuple[int | None, int | None, int], weights: str) -> keras.Model:
    """Four blocks named as those of the real network, made in no time; head, statistics, precision, masks are real."""
    layers = keras.layers
    x = images = keras.Input(shape)
    for first, last in BLOCKS:
        how = {"padding": "same"} if first == "block35_1_conv" else {"strides": 2}
        x = layers.Conv2D(8, 3, use_bias=False, name=first, **how)(x)
        x = layers.BatchNormalization(scale=False, name=f"{first}_bn")(x)
        x = layers.Activation("relu", name=last if last != first else f"{last}_ac")(x)
    return keras.Model(images, layers.GlobalAveragePooling2D()(x), name=BASE)


@contextmanager
def small_blocks():
    """Within, `train` builds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "base_with_weights", small_base)
        yield


def evaluated(folder, dataset, **others):
    """The saved model on the validation split, by its own road: figures."""
    options = {**FinishedRun.read(folder).fitting, "batch_size": 12, "shuffle": None, "drop_remainder": False, **others}
    pipeline = Pipeline(dataset, **{"split": "validation", **options})
    return evaluate(keras.models.load_model(folder / "model.keras"), pipeline, tf.distribute.get_strategy()).figures()


def saved_variables(checkpoint):
    with np.load(checkpoint / "variables.npz") as arrays:
        return [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
