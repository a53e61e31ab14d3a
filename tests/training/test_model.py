"""Inception-ResNet-v2: its blocks, what learns after unfreezing, and where weights come from."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from irv2data.training import model as models

SIZE = (75, 75)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return models.build_model(classes=5, image_size=SIZE, weights="none")


def test_blocks_part_the_network(model):
    base = models.base_of(model)
    blocks = models.blocks(base)
    assert [layer.name for block in blocks for layer in block] == [layer.name for layer in base.layers]
    ends = [block[-1].name for block in blocks]
    assert len(blocks) == 44
    assert ends[0] == "mixed_5b"
    assert ends[1:11] == [f"block35_{n}_ac" for n in range(1, 11)]
    assert ends[11] == "mixed_6a"
    assert ends[12:32] == [f"block17_{n}_ac" for n in range(1, 21)]
    assert ends[32] == "mixed_7a"
    assert ends[33:42] == [f"block8_{n}_ac" for n in range(1, 10)]
    assert blocks[43][0].name == "conv_7b"
    assert "block8_10_conv" in {layer.name for layer in blocks[42]}


def trainable(model: keras.Model) -> set[str]:
    return {layer.name for layer in models.base_of(model).layers if layer.trainable_variables}


def test_only_the_head_learns_at_first(model):
    models.base_of(model).trainable = False
    assert [variable.path for variable in model.trainable_variables] == ["head/kernel", "head/bias"]


@pytest.mark.parametrize(
    ("top", "learning"),
    [(0, set()), (1, {"conv_7b"})],
)
def test_unfreeze_counts_from_the_top(model, top, learning):
    models.unfreeze(model, top)
    assert trainable(model) == learning


def test_unfreeze_keeps_normalisation_frozen(model):
    models.unfreeze(model, 44)
    base = models.base_of(model)
    convolutions = {layer.name for layer in base.layers if isinstance(layer, keras.layers.Conv2D)}
    assert trainable(model) == convolutions
    assert len(models.normalisations(model)) == 204
    images = np.random.default_rng(0).uniform(-1, 1, (2, *SIZE, 3)).astype("float32")
    kept = [np.array(v) for v in base.non_trainable_variables]
    assert np.array_equal(model(images, training=True), model(images, training=False))
    assert all(np.array_equal(a, b) for a, b in zip(kept, base.non_trainable_variables, strict=True))


def test_logits_of_the_right_shape(model):
    logits = model(np.zeros((2, *SIZE, 3), "float32"))
    assert logits.shape == (2, 5)
    assert logits.dtype == "float32"
