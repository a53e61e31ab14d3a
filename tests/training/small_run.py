"""`irv2data train` with a network that is built in no time: `python -m tests.training.small_run DATASET RUN [FLAGS]`.

All else is the real command: process, signals, exit codes, pipeline, optimizer, checkpoints.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

import keras
import pytest

from irv2data.tools import main
from irv2data.training import loop, run


def build_model(*, classes, image_size, **others):
    """A frozen convolution and normalisation, and a head."""
    images = keras.Input((*(image_size or (None, None)), 3))
    x = keras.layers.Conv2D(8, 7, strides=5, activation="relu", trainable=False, name="base")(images)
    x = keras.layers.BatchNormalization(trainable=False)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(classes)(x))


def unfreeze(model, top):
    model.get_layer("base").trainable = True


@contextmanager
def small_network():
    """Within, `train` builds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_model", build_model)
        patch.setattr(run, "unfreeze", unfreeze)
        patch.setattr(loop, "weights_file", lambda weights: None)
        patch.setattr(loop, "set_statistics", lambda model, inputs, strategy: None)
        yield


if __name__ == "__main__":
    with small_network():
        sys.exit(main.run(main.parse(["irv2data", "train", *sys.argv[1:]])))
