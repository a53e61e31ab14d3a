"""Weights of Inception-ResNet-v2: from Keras' cache, from a file, and never from a wrong one."""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.applications import inception_resnet_v2

from irv2data.errors import UsageError, WeightsError
from irv2data.training import weights as module
from irv2data.training.weights import base_with_weights

SHAPE = (75, 75, 3)


def small_base(*, weights, include_top, pooling, input_shape, name):
    """What stands in for the network where only its weights' way matters."""
    assert (weights, include_top, pooling) == (None, False, "avg")
    images = keras.Input(input_shape)
    return keras.Model(
        images, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="conv")(images)), name=name
    )


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """The file in Keras' cache, not there yet; nothing can be fetched."""
    monkeypatch.setattr(keras.applications, "InceptionResNetV2", small_base)
    monkeypatch.setattr(module, "IMAGENET_URL", (tmp_path / "server" / "weights.h5").as_uri())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    return tmp_path / "home" / "models" / module.IMAGENET_FILE


@pytest.fixture
def good(monkeypatch, cache, tmp_path):
    """A file as Keras' own, with the digest that is expected of it, and the weights in it."""
    base = small_base(weights=None, include_top=False, pooling="avg", input_shape=SHAPE, name=module.BASE)
    base.save(tmp_path / "good.h5")  # the format of Keras 1 and 2, in which the ImageNet weights are
    monkeypatch.setattr(module, "IMAGENET_MD5", md5((tmp_path / "good.h5").read_bytes()))
    return tmp_path / "good.h5", base.get_weights()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def assert_weights(base: keras.Model, expected: list[np.ndarray]) -> None:
    for found, wanted in zip(base.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def failing(weights: str, kind: type[Exception] = WeightsError) -> str:
    """The one line that the weights end in."""
    with pytest.raises(kind) as error:
        base_with_weights(SHAPE, weights)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_from_a_saved_model_and_from_a_file(tmp_path):
    base, images = base_with_weights(SHAPE, "none"), keras.Input(SHAPE)
    keras.Model(images, keras.layers.Dense(5)(base(images))).save(tmp_path / "saved.keras")
    base.save_weights(tmp_path / "base.weights.h5")
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, *SHAPE)).astype("float32")
    features = np.array(base(pixels))
    for file in ("saved.keras", "base.weights.h5"):
        np.testing.assert_array_equal(base_with_weights(SHAPE, str(tmp_path / file))(pixels), features)


def test_missing_weights_file(tmp_path):
    assert "nowhere.h5: no such weights file" in failing(str(tmp_path / "nowhere.h5"))


def test_foreign_weights_file(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    assert "other.weights.h5: does not hold weights of Inception-ResNet-v2" in failing(
        str(tmp_path / "other.weights.h5")
    )


def test_a_whole_file_in_the_cache_is_used(cache, good):
    cache.write_bytes(good[0].read_bytes())
    assert_weights(base_with_weights(SHAPE, "imagenet"), good[1])


def test_a_missing_or_damaged_file_in_the_cache_is_fetched(cache, good, tmp_path, capsys):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "weights.h5").write_bytes(good[0].read_bytes())
    for before in (None, good[0].read_bytes()[:-100]):
        if before is not None:
            cache.write_bytes(before)
        assert_weights(base_with_weights(SHAPE, "imagenet"), good[1])
        assert cache.read_bytes() == good[0].read_bytes()
        assert capsys.readouterr().out == ""  # where Keras prints its progress


def test_offline_the_message_names_file_place_and_digest(cache, capsys):
    text = failing("imagenet")
    assert "the ImageNet weights cannot be fetched (URL fetch failure" in text
    assert f"put {module.IMAGENET_FILE} (MD5 d19885ff4a710c122648d3b5c3b684e4) into {cache.parent}, or give" in text
    assert capsys.readouterr().out == ""


def test_offline_a_damaged_file_is_named_with_both_digests(cache):
    cache.write_bytes(b"half of it")
    text = failing("imagenet")
    assert text.startswith(f"{cache} is damaged, its MD5 is {md5(b'half of it')}, and the ImageNet weights cannot be")
    assert "(MD5 d19885ff4a710c122648d3b5c3b684e4)" in text


def test_what_is_fetched_is_checked(cache, tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "weights.h5").write_bytes(b"a page of a captive portal")
    assert "cannot be fetched (Incomplete or corrupted file detected" in failing("imagenet")


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_path_may_say_the_digest(cache, good, algorithm):
    digest = hashlib.new(algorithm, good[0].read_bytes()).hexdigest()
    assert_weights(base_with_weights(SHAPE, f"{good[0]}#{algorithm}={digest}"), good[1])
    assert_weights(base_with_weights(SHAPE, f"{good[0]}#{algorithm}={digest.upper()}"), good[1])
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    text = failing(f"{good[0]}#{algorithm}={wrong}")
    assert text.startswith(f"{good[0]}: its {algorithm.upper()} is {digest}, not {wrong}: it is damaged or another")


def test_a_digest_that_is_none(good):
    text = failing(f"{good[0]}#sha256=1234", UsageError)
    assert text == f"weights: sha256 is 64 hexadecimal digits, got '1234'; `sha256sum {good[0]}` prints them"


def test_a_number_sign_in_a_name_is_no_digest(cache, good, tmp_path):
    os.rename(good[0], tmp_path / "run#2.h5")
    assert_weights(base_with_weights(SHAPE, str(tmp_path / "run#2.h5")), good[1])


def test_a_file_of_the_name_of_the_imagenet_weights_is_them(cache, good, tmp_path):
    file = tmp_path / module.IMAGENET_FILE
    file.write_bytes(good[0].read_bytes())
    assert_weights(base_with_weights(SHAPE, str(file)), good[1])
    file.write_bytes(good[0].read_bytes()[:-100])
    assert f"{file}: its MD5 is {md5(file.read_bytes())}, not {module.IMAGENET_MD5}" in failing(str(file))


def test_the_constants_are_those_of_keras():
    source = inspect.getsource(inception_resnet_v2)
    assert module.IMAGENET_MD5 in source
    assert module.IMAGENET_FILE.split("tf_kernels")[1] in source
    assert module.IMAGENET_URL == inception_resnet_v2.BASE_WEIGHT_URL + module.IMAGENET_FILE
