"""What the device benchmark times does the same work."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import device
from irv2data.device import preprocess
from irv2data.pipeline.config import OutputSpec
from irv2data.training import model
from tests.training.small_run import build_model


@pytest.fixture
def small(monkeypatch):
    for name, value in (("BATCH", 6), ("CANVAS", 60), ("SIDE", 20)):
        monkeypatch.setattr(device, name, value)
    batch = device.batch()
    return {**batch, "box": tf.round(batch["box"])}


def test_cropping_and_resizing_is_the_device_stage(small):
    expected = preprocess(small, OutputSpec(image_size=(20, 20)))
    np.testing.assert_allclose(device.by_cropping(small), expected, atol=0.05 / 127.5)
    other = {**small, "flip": ~small["flip"]}
    assert np.abs(device.by_cropping(other) - expected).max() > 0.1


def test_crop_and_resize_is_the_device_stage_without_antialiasing(small):
    # Of boxes as large as the output, where nothing is antialiased.
    batch = {**small, "box": tf.constant([[5, 9, 20, 20]] * 6, tf.float32)}
    found = device.crop_and_resize({**batch, "box": batch["box"] - [0, 0, 1, 1]})
    np.testing.assert_allclose(found, preprocess(batch, OutputSpec(image_size=(20, 20))), atol=1e-4)


def test_operations_counted_by_hand(small):
    # 6 images: 20 x 60 weights times 60 columns, then 20 x 60 weights times 20 rows, of 3 channels.
    assert device.operations() == pytest.approx({"rows": 2e-9 * 6 * 20 * 60 * 180, "columns": 2e-9 * 6 * 20 * 60 * 60})


def test_lowered_modules_take_what_the_functions_take(small, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "build_model", build_model)
    policy = keras.mixed_precision.global_policy()
    try:
        device.lower(tmp_path)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    names = {"stage_float32", "stage_bfloat16", "training_step", *device.AUGMENTATIONS}
    assert {path.stem for path in tmp_path.iterdir()} == names
    stage = (tmp_path / "stage_bfloat16.mlir").read_text()
    assert "tensor<6x60x60x3xui8>" in stage
    assert "tensor<6x20x20x3xbf16>" in stage
    assert "tensor<6x20x20x3xf32>" in (tmp_path / "geometry.mlir").read_text()
