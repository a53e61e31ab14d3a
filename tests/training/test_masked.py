"""The masked network: features of an image are those of the image alone, and every mask is needed for that."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import keras
import numpy as np
import photographs
import pytest
import tensorflow as tf
from PIL import Image

from irv2data.errors import UsageError
from irv2data.training import masked as masks
from irv2data.training import model as models
from irv2data.training.masked import MaskedAveragePooling, ValidPixels, masked_base
from irv2data.training.strategy import make_strategy

# Height and width: the least there is, odd and even, wide and tall.
SIZES = [(75, 75), (75, 200), (143, 77), (96, 131), (200, 118)]
SOURCES = ["skimage:astronaut.png", "sklearn:china.jpg", "skimage:chelsea.png", "skimage:coffee.png", "skimage:ihc.png"]


class Networks(NamedTuple):
    strategy: tf.distribute.Strategy
    plain: keras.Model
    masked: keras.Model


def photograph(source: str, size: tuple[int, int]) -> np.ndarray:
    """A window of that size from the middle: float32 [h, w, 3] in [-1, 1]."""
    with Image.open(photographs.source_path(source)) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32)
    y, x = (pixels.shape[0] - size[0]) // 2, (pixels.shape[1] - size[1]) // 2
    return pixels[y : y + size[0], x : x + size[1]] / 127.5 - 1


PICTURES = [photograph(source, size) for source, size in zip(SOURCES, SIZES, strict=True)]


def on_canvas(pictures: list[np.ndarray], height: int, width: int, beside: float = 0.0) -> list[np.ndarray]:
    """Inputs of the masked network."""
    canvas = np.full((len(pictures), height, width, 3), beside, np.float32)
    for row, picture in zip(canvas, pictures, strict=True):
        row[: picture.shape[0], : picture.shape[1]] = picture
    return [canvas, np.array([picture.shape[:2] for picture in pictures], np.int32)]


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of a feature, as a share of that image's largest one; of the image that is worst."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float((np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max())


def stir(base: keras.Model) -> None:
    """Statistics and biases as a trained network has them: with those of a new one, most zeros would stay zeros."""
    rng = np.random.default_rng(0)
    normalisations = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in base.layers:
        for variable in layer.weights:
            if variable.path.endswith(("beta", "bias")):
                variable.assign(rng.normal(0, 0.3, variable.shape))
    for layer in normalisations:
        layer.momentum = 0.0
    base(np.stack([photograph(source, (150, 150)) for source in SOURCES]), training=True)


@pytest.fixture(scope="module")
def networks() -> Networks:
    strategy = make_strategy(2)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        plain = keras.applications.InceptionResNetV2(
            weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3), name="inception_resnet_v2"
        )
        stir(plain)
        return Networks(strategy, plain, masked_base(plain))


@pytest.fixture(scope="module")
def alone(networks) -> np.ndarray:
    """What the plain network gives for each picture on a canvas of its own."""
    return np.concatenate([networks.plain(picture[None]) for picture in PICTURES])


@pytest.mark.parametrize("canvas", [(200, 200), (211, 256)])
def test_features_are_those_of_the_image_alone(networks, alone, canvas):
    assert off(networks.masked(on_canvas(PICTURES, *canvas)), alone) < 1e-5


def test_on_a_canvas_of_its_own_as_well(networks, alone):
    for picture, expected in zip(PICTURES[1:3], alone[1:3], strict=True):
        assert off(networks.masked(on_canvas([picture], *picture.shape[:2])), expected[None]) < 1e-5


def test_whatever_the_canvas_holds_beside_an_image(networks, alone):
    assert off(networks.masked(on_canvas(PICTURES[2:4], 150, 140, beside=0.7)), alone[2:4]) < 1e-5


def test_a_small_image_counts_as_filled_up_with_zeros(networks):
    picture = photograph("skimage:coffee.png", (48, 90))
    filled = networks.plain(on_canvas([picture], 75, 90)[0])
    found = networks.masked(on_canvas([picture, np.zeros((1, 1, 3)), np.zeros((0, 0, 3))], 80, 101))
    assert off(found[:1], filled) < 1e-5
    nothing = networks.plain(np.zeros((1, 75, 75, 3), np.float32))
    assert off(found[1:], np.repeat(nothing, 2, axis=0)) < 1e-5


def multiplied(masked: keras.Model) -> dict[str, list[str]]:
    """The layers that put zeros before a convolution, by part of the network."""
    names = [
        [layer.name for layer in block if isinstance(layer, keras.layers.Multiply)] for block in models.blocks(masked)
    ]
    return {
        "stem": names[0][1:2],  # after that of the images
        "mixed_5b": names[0][2:],
        "block35": list(chain(*names[1:11])),
        "mixed_6a": names[11],
        "block17": list(chain(*names[12:32])),
        "mixed_7a": names[32],
        "block8": list(chain(*names[33:])),
    }


def test_masks_are_where_a_convolution_pads(networks):
    counts = {part: len(names) for part, names in multiplied(networks.masked).items()}
    assert counts == {
        "stem": 1, "mixed_5b": 3, "block35": 30, "mixed_6a": 1, "block17": 40, "mixed_7a": 1, "block8": 20
    }  # fmt: skip


def without(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Leaves the zeros of these layers out."""
    kept = keras.layers.Multiply.call
    monkeypatch.setattr(
        keras.layers.Multiply, "call", lambda self, inputs: inputs[0] if self.name in names else kept(self, inputs)
    )


@pytest.mark.parametrize("part", ["stem", "mixed_5b", "block35", "mixed_6a", "block17", "mixed_7a", "block8"])
def test_zeros_before_every_convolution_matter(networks, alone, monkeypatch, part):
    without(monkeypatch, multiplied(networks.masked)[part])
    assert off(networks.masked(on_canvas(PICTURES[2:4], 150, 140)), alone[2:4]) > 1e-3


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        ("MaskedAveragePooling", lambda self, inputs, inside: keras.layers.AveragePooling2D.call(self, inputs)),
        # Zeros beside the image, but counted.
        (
            "MaskedAveragePooling",
            lambda self, inputs, inside: keras.layers.AveragePooling2D.call(self, inputs * inside),
        ),
        ("MaskedGlobalAverage", lambda self, inputs, inside: keras.layers.GlobalAveragePooling2D.call(self, inputs)),
    ],
    ids=["average of all", "average counts all", "global average of all"],
)
def test_counting_valid_pixels_matters(networks, alone, monkeypatch, layer, call):
    monkeypatch.setattr(getattr(masks, layer), "call", call)
    assert off(networks.masked(on_canvas(PICTURES[2:4], 150, 140)), alone[2:4]) > 1e-3


def test_a_masked_global_average_alone_is_not_enough(networks, alone, monkeypatch):
    without(monkeypatch, list(chain(*multiplied(networks.masked).values())))
    monkeypatch.setattr(
        MaskedAveragePooling, "call", lambda self, inputs, inside: keras.layers.AveragePooling2D.call(self, inputs)
    )
    assert off(networks.masked(on_canvas(PICTURES[2:4], 150, 140)), alone[2:4]) > 1e-2


def gradients(model: keras.Model, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Of a fixed weighted sum of all features, by the pixels and by what is trainable."""
    pixels, *size = (tf.constant(each) for each in inputs)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        features = model([pixels, *size] if size else pixels)
        loss = tf.reduce_sum(features * tf.sin(tf.range(features.shape[1], dtype=tf.float32)))
    by_pixels, *by_weights = tape.gradient(loss, [pixels, *model.trainable_variables])
    return np.array(by_pixels), [np.array(each) for each in by_weights]


def assert_gradients_of_the_images_alone(plain: keras.Model, masked: keras.Model, tolerance: float) -> None:
    """With a filler row, to which nothing must flow, and whose share is that of 75x75 zeros."""
    pictures = [*PICTURES[2:4], np.zeros((1, 1, 3), np.float32)]
    by_pixels, by_weights = gradients(masked, on_canvas(pictures, 150, 140))
    totals: list[np.ndarray] = []
    for row, picture in zip(by_pixels, pictures, strict=True):
        height, width = picture.shape[:2]
        own, shares = gradients(plain, [on_canvas([picture], max(height, 75), max(width, 75))[0]])
        expected = own[0, :height, :width]
        assert np.abs(row[:height, :width] - expected).max() <= tolerance * np.abs(expected).max()
        row[:height, :width] = 0
        assert not row.any()
        totals = [total + share for total, share in zip(totals, shares, strict=True)] if totals else shares
    for found, total in zip(by_weights, totals, strict=True):
        assert np.abs(found - total).max() <= tolerance * np.abs(total).max()


def test_gradients_are_those_of_the_images_alone(networks):
    # Activations within rounding of 0 may be on in one and off in the other.
    assert_gradients_of_the_images_alone(networks.plain, networks.masked, 1e-2)


def test_weights_have_the_base_s_names_order_and_blocks(networks):
    plain, masked = networks.plain, networks.masked
    assert masked.name == plain.name
    assert [variable.path for variable in masked.weights] == [variable.path for variable in plain.weights]
    assert [len(layer.weights) for layer in models.blocks(masked)[0]].count(1) == 12  # its convolutions
    for ours, theirs in zip(models.blocks(masked), models.blocks(plain), strict=True):
        assert ours[-1].name == theirs[-1].name
        assert [layer.name for layer in ours if layer.weights] == [layer.name for layer in theirs if layer.weights]


def test_a_weights_file_of_the_base_fits(networks, alone, tmp_path):
    networks.plain.save_weights(tmp_path / "base.weights.h5")
    inputs = on_canvas(PICTURES[2:4], 150, 140)
    for variable in networks.masked.weights:
        variable.assign(tf.zeros(variable.shape))
    assert off(networks.masked(inputs), alone[2:4]) == 1
    networks.masked.load_weights(tmp_path / "base.weights.h5")
    assert off(networks.masked(inputs), alone[2:4]) < 1e-5


def test_bfloat16(networks, alone):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        plain = keras.applications.InceptionResNetV2(
            weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3)
        )
        masked = masked_base(plain)
    finally:
        keras.config.set_dtype_policy(before)
    plain.set_weights(networks.plain.get_weights())
    features = masked(on_canvas(PICTURES[2:4], 150, 140))
    assert features.dtype == tf.bfloat16
    assert {layer.compute_dtype for layer in masked.layers if isinstance(layer, keras.layers.Multiply)} == {"bfloat16"}
    assert off(features, alone[2:4]) < 0.1
    assert off(features, alone[[3, 2]]) > 0.5


# Every kind of layer of the real network but the residual sum; traced and compiled in no time.


def small_network() -> keras.Model:
    layers = keras.layers
    images = keras.Input((None, None, 3))
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(6, 3, strides=2)(images)))
    x = layers.MaxPooling2D(3, strides=2)(layers.Conv2D(8, 5, padding="same", activation="relu")(x))
    pooled = layers.Conv2D(4, 1)(layers.AveragePooling2D(3, strides=1, padding="same")(x))
    x = layers.Concatenate()([layers.Conv2D(4, 1, padding="same")(x), pooled])
    x = layers.Conv2D(8, (7, 1), padding="same")(layers.Conv2D(8, (1, 7), padding="same")(x))
    return keras.Model(images, layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x)))


def stirred(strategy: tf.distribute.Strategy) -> Networks:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        plain = small_network()
        stir(plain)
        return Networks(strategy, plain, masked_base(plain))


@pytest.mark.parametrize("compiled", [False, True])
def test_as_a_graph_of_any_size_and_compiled(compiled):
    networks = stirred(make_strategy(1))
    graph = tf.function(networks.masked, jit_compile=compiled, reduce_retracing=True)
    expected = np.concatenate([networks.plain(picture[None]) for picture in PICTURES])
    for canvas in ((200, 200), (211, 256)):
        assert off(graph(on_canvas(PICTURES, *canvas)), expected) < 1e-5


def test_saved_and_loaded(tmp_path):
    masked = stirred(make_strategy(1)).masked
    masked.save(tmp_path / "masked.keras")
    loaded = keras.models.load_model(tmp_path / "masked.keras")
    inputs = on_canvas([*PICTURES, np.zeros((1, 1, 3))], 211, 256)
    np.testing.assert_allclose(loaded(inputs), masked(inputs), atol=1e-6)


def test_gradients_of_every_kind_of_layer():
    networks = stirred(make_strategy(1))
    assert_gradients_of_the_images_alone(networks.plain, networks.masked, 1e-4)
    by_pixels, _ = gradients(networks.plain, on_canvas(PICTURES[2:3], 150, 140)[:1])
    assert by_pixels[0, 143:].any()
    assert by_pixels[0, :, 77:].any()


def test_two_replicas_learn_as_from_the_images_alone():
    strategy, plain, masked = stirred(make_strategy(2))
    pictures = PICTURES[1:5]
    before = [np.array(variable) for variable in masked.trainable_variables]
    shares = [gradients(plain, [picture[None]])[1] for picture in pictures]
    with strategy.scope():
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(masked.trainable_variables)
    parts = [on_canvas(pictures[first : first + 2], 200, 200) for first in (0, 2)]
    inputs = tuple(
        strategy.experimental_distribute_values_from_function(
            lambda context, which=which: tf.constant(parts[context.replica_id_in_sync_group][which])
        )
        for which in (0, 1)
    )

    def replica(images: tf.Tensor, size: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            features = masked([images, size], training=False)
            loss = tf.reduce_sum(features * tf.sin(tf.range(features.shape[1], dtype=tf.float32)))
        optimizer.apply(tape.gradient(loss, masked.trainable_variables))

    tf.function(lambda *inputs: strategy.run(replica, args=inputs))(*inputs)
    for variable, kept, *each in zip(masked.trainable_variables, before, *shares, strict=True):
        assert np.abs(sum(each)).max() > 0
        # Sums over the pixels of a canvas, in the order of whichever kernel TensorFlow takes.
        np.testing.assert_allclose(variable, kept - 0.01 * sum(each), atol=3e-5 * np.abs(0.01 * sum(each)).max() + 1e-6)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_valid_pixels_are_as_many_as_a_layer_without_padding_gives(kernel, stride):
    windows = (kernel, stride), ((3, 3), (2, 2))
    pools = [keras.layers.MaxPooling2D(*window) for window in windows]
    inside = ValidPixels(windows)(
        np.zeros((1, 30, 20, 1)), np.array([[height, height - 3] for height in range(15, 30)], np.int32)
    )
    for height, row in zip(range(15, 30), inside, strict=True):
        left = pools[1](pools[0](np.zeros((1, height, height - 3, 1), np.float32))).shape[1:3]
        expected = np.zeros((30, 20, 1))
        expected[: left[0], : left[1]] = 1
        np.testing.assert_array_equal(row, expected)


def test_average_pooling_beside_the_image_is_that_at_the_tensor_s_edge():
    pooling = MaskedAveragePooling(3, strides=1, padding="same")
    features = np.random.default_rng(0).normal(size=(2, 9, 8, 5)).astype(np.float32)
    inside = ValidPixels(())(features, np.array([[5, 8], [1, 3]], np.int32))
    found = pooling(features, inside)
    plain = keras.layers.AveragePooling2D(3, strides=1, padding="same")
    np.testing.assert_allclose(found[:1, :5], plain(features[:1, :5]), atol=1e-6)
    np.testing.assert_allclose(found[1:, :1, :3], plain(features[1:, :1, :3]), atol=1e-6)
    assert not np.any(found[1, 2:])
    assert np.isfinite(found).all()


def test_a_canvas_that_is_too_small():
    masked = masked_base(small_network())
    with pytest.raises(UsageError, match="canvas of 74x100 pixels: the network needs at least 75 along each axis"):
        masked(on_canvas([PICTURES[0][:70]], 74, 100))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.Flatten(name="flat"), "flat: no mask is known for this Flatten"),
        (keras.layers.Conv2D(2, 3, strides=2, padding="same", name="strided"), "strided: no mask is known"),
        (keras.layers.MaxPooling2D(3, strides=1, padding="same", name="padded"), "padded: no mask is known"),
    ],
)
def test_a_layer_that_cannot_be_masked(layer, message):
    images = keras.Input((80, 80, 3))
    with pytest.raises(UsageError, match=message):
        masked_base(keras.Model(images, layer(images)))


def test_branches_of_different_resolution():
    images = keras.Input((None, None, 3))
    branches = [keras.layers.MaxPooling2D(size, strides=2)(images) for size in (2, 3)]
    together = keras.layers.Concatenate(name="joined")(branches)
    with pytest.raises(UsageError, match="joined"):
        masked_base(keras.Model(images, together))
