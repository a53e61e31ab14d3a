"""The device stage as a Keras layer: the function's values, saved and loaded, over replicas and in mixed precision."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from irv2data.device import Preprocess, preprocess
from irv2data.pipeline.config import OutputSpec

OUTPUT = OutputSpec(image_size=(12, 10))


def make_batch(count=6, seed=0):
    """A batch as `for_fit` gives it, with boxes that bfloat16 cannot hold."""
    rng = np.random.default_rng(seed)
    box = np.stack([rng.uniform(0, 20, count), rng.uniform(0, 20, count), *rng.uniform(100, 160, (2, count))], axis=1)
    return {
        "canvas": rng.integers(0, 256, (count, 180, 180, 3), np.uint8),
        "box": box.astype(np.float32),
        "size": np.full((count, 2), 180, np.int32),
        "flip": (rng.random(count) < 0.5).astype(np.uint8),
        "draws": rng.random((count, 8)).astype(np.float32),
        "record": np.arange(count),
    }


def functional(output=OUTPUT, **options):
    inputs = Preprocess.inputs()
    return keras.Model(inputs, Preprocess(output, **options)(inputs))


@pytest.mark.parametrize("output", [OUTPUT, OutputSpec(image_size=(30, 7), antialias=False, dtype="bfloat16")])
def test_gives_the_values_of_preprocess(output):
    batch = make_batch()
    expected = preprocess(batch, output)
    for images in (Preprocess(output)(batch), functional(output)(batch)):
        assert images.dtype == expected.dtype == output.dtype
        np.testing.assert_allclose(tf.cast(images, tf.float32), tf.cast(expected, tf.float32), atol=1e-6)


def test_reads_three_keys_alone():
    batch = make_batch()
    few = {name: batch[name] for name in ("canvas", "box", "flip")}
    np.testing.assert_array_equal(Preprocess(OUTPUT)(few), Preprocess(OUTPUT)(batch))


def test_has_no_weights_and_knows_its_shape():
    model = functional()
    assert model.count_params() == 0
    assert model.output.shape == (None, 12, 10, 3)
    assert model.output.dtype == "float32"
    assert functional(OutputSpec(image_size=(3, 5), dtype="bfloat16")).output.dtype == "bfloat16"
    assert set(Preprocess.inputs()) == set(make_batch())


@pytest.mark.parametrize("output", [OUTPUT, OutputSpec(image_size=(5, 6), antialias=False)])
def test_a_saved_model_gives_the_same_after_loading(tmp_path, output):
    model, batch = functional(output), make_batch()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(batch), model(batch))
    (layer,) = [layer for layer in loaded.layers if isinstance(layer, Preprocess)]
    assert layer.output_spec == output


def test_config_round_trip():
    layer = Preprocess(OutputSpec(image_size=(5, 6), antialias=False, dtype="bfloat16"), name="first")
    again = Preprocess.from_config(layer.get_config())
    assert again.output_spec == layer.output_spec
    assert again.name == "first"


@pytest.mark.parametrize("replicas", [2, 3])
def test_over_replicas(cpu_strategy, replicas):
    strategy, batch = cpu_strategy(replicas), make_batch()
    with strategy.scope():
        model = functional()
    data = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(batch).unbatch().batch(6))
    (element,) = list(data)
    results = strategy.experimental_local_results(strategy.run(tf.function(model), args=(element,)))
    assert [len(result) for result in results] == [6 // replicas] * replicas
    np.testing.assert_allclose(np.concatenate(results), preprocess(batch, OUTPUT), atol=1e-5)


@pytest.fixture
def mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


def test_mixed_precision_keeps_the_boxes_exact(mixed_precision):
    batch = make_batch()
    expected = preprocess(batch, OUTPUT).numpy()
    rounded = {**batch, "box": tf.cast(tf.cast(batch["box"], tf.bfloat16), tf.float32)}
    # Boxes rounded to bfloat16 would be seen, even in this noise: they are off by up to half a pixel.
    assert np.abs(preprocess(rounded, OUTPUT) - expected).max() > 0.005
    assert Preprocess(OUTPUT).compute_dtype == "bfloat16"
    for images in (Preprocess(OUTPUT)(batch), functional()(batch)):
        assert images.dtype == "float32"
        np.testing.assert_allclose(images, expected, atol=1e-6)


def test_mixed_precision_in_fit(mixed_precision):
    # The next layer computes in bfloat16, the images before it are exact.
    inputs = Preprocess.inputs()
    images = Preprocess(OUTPUT)(inputs)
    features = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(inputs, [images, features])
    batch = make_batch()
    found, features = model.predict(batch, verbose=0)
    np.testing.assert_allclose(found, preprocess(batch, OUTPUT), atol=1e-5)
    assert features.dtype == "bfloat16"


def test_rounded_boxes_are_refused():
    layer = Preprocess(OUTPUT)
    batch = {"canvas": tf.zeros([1, 8, 8, 3], tf.uint8), "flip": tf.zeros([1], tf.bool)}
    with pytest.raises(ValueError, match=r"box must be float32, got bfloat16: .* autocast=False"):
        layer({**batch, "box": tf.constant([[0.0, 0.0, 8.0, 8.0]], tf.bfloat16)})
