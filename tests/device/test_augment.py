"""Augmentation as a whole: each image by its own draws, the same compiled or not, alone or in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from irv2data import Augment
from irv2data.device import Preprocess, augment, color, preprocess
from irv2data.device.rand_augment import OPERATIONS, operation, rand_geometry, rand_tones
from irv2data.device.warp import affine
from irv2data.errors import UsageError
from irv2data.pipeline.config import OutputSpec

SINGLE = {
    "translate": 0.3,
    "rotate": 30,
    "zoom": 0.3,
    "shear": 20,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.2,
    "grayscale": 0.5,
    "erase": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
    "rand_layers": 2,
}
EVERYTHING = Augment(**SINGLE)


def smooth(count, height=40, width=52, seed=0):
    """Photograph-like: waves, so that an interpolated pixel depends little on rounding."""
    rng = np.random.default_rng(seed)
    row, column = np.linspace(0, 4, height)[:, None, None], np.linspace(0, 4, width)[None, :, None]
    turn = rng.uniform(0, 6, (3, count, 1, 1, 3))
    waves = np.sin(row + turn[0]) + np.cos(2 * column + turn[1]) + np.sin(row * column + turn[2])
    return tf.constant(127.5 + 40 * waves, tf.float32)


def draws_of(options, count, seed=0):
    return tf.constant(np.random.default_rng(seed).random((count, options.num_draws)), tf.float32)


def draws_with(options, count, **values):
    """Draws in the middle, but for those given by name."""
    draws = np.full((count, options.num_draws), 0.5, np.float32)
    for name, value in values.items():
        draws[:, options.places()[name]] = value
    return tf.constant(draws)


@pytest.mark.parametrize("name", SINGLE)
def test_each_changes_images_by_their_own_draws(name):
    options, images = Augment(**{name: SINGLE[name]}), smooth(16)
    draws = draws_of(options, 16)
    found = augment(images, draws, options).numpy()
    assert found.shape == images.shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 255
    changed = np.abs(found - images).max(axis=(1, 2, 3)) > 1
    assert changed.sum() >= 3, name
    # The same images with the draws of others come out otherwise.
    others = augment(images, tf.roll(draws, 2, axis=0), options).numpy()
    assert (np.abs(found - others).max(axis=(1, 2, 3)) > 1).sum() >= 3


def test_an_image_does_not_depend_on_its_batch():
    images, draws = smooth(12), draws_of(EVERYTHING, 12)
    whole = augment(images, draws, EVERYTHING).numpy()
    for first in range(0, 12, 4):  # pairs stay together
        part = augment(images[first : first + 4], draws[first : first + 4], EVERYTHING).numpy()
        np.testing.assert_allclose(part, whole[first : first + 4], atol=1e-3)


@pytest.mark.parametrize("name", [*SINGLE, "all"])
def test_compiled_or_not(name):
    options = EVERYTHING if name == "all" else Augment(**{name: SINGLE[name]})
    images, draws = smooth(16), draws_of(options, 16)
    eager = augment(images, draws, options).numpy()
    for compiled in (False, True):
        function = tf.function(lambda images, draws: augment(images, draws, options), jit_compile=compiled)
        off = np.abs(function(images, draws).numpy() - eager)
        # Values that lie on a threshold of solarize or posterize within rounding may fall on either side of it.
        assert (off > 0.05).mean() < 1e-4, (name, compiled)


def test_middle_draws_change_nothing():
    quiet = {name: value for name, value in SINGLE.items() if name not in ("mixup", "cutmix", "rand_layers")}
    options, images = Augment(**quiet), smooth(3)
    draws = draws_with(options, 3, erase=0.9, grayscale=0.9)
    np.testing.assert_allclose(augment(images, draws, options), images, atol=1e-3)


def test_erased_boxes():
    options = Augment(erase=0.25, erase_value=7)
    images = tf.ones([1, 40, 60, 3]) * 100
    for whether, area, aspect, y, x in np.random.default_rng(1).random((60, 5)):
        found = augment(images, draws_with(options, 1, erase=(whether, area, aspect, y, x)), options).numpy()[0]
        gone = (found == 7).all(axis=-1)
        assert (gone | (found == 100).all(axis=-1)).all()
        if whether >= 0.25:
            assert not gone.any()
            continue
        rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
        assert gone.sum() == len(rows) * len(columns)
        assert (np.ptp(rows), np.ptp(columns)) == (len(rows) - 1, len(columns) - 1)
        wanted = 0.02 + 0.31 * area
        tall = (wanted * 2400 * np.exp(np.log(0.3) + aspect * np.log(11))) ** 0.5
        assert len(rows) == pytest.approx(min(tall, 40), abs=0.51)
        assert len(columns) == pytest.approx(min(wanted * 2400 / tall, 60), abs=0.51)
        assert rows[0] == pytest.approx(y * (41 - len(rows)), abs=1)
        assert columns[0] == pytest.approx(x * (61 - len(columns)), abs=1)


def test_grayscale_takes_the_given_share():
    options = Augment(grayscale=0.3)
    draws = draws_of(options, 400)
    found = augment(smooth(400, 4, 4), draws, options).numpy()
    grey = np.ptp(found, axis=-1).max(axis=(1, 2)) < 1e-3
    np.testing.assert_array_equal(grey, draws[:, 8] < 0.3)
    assert 90 < grey.sum() < 150


# What each operation is at magnitude 15 of 30, made of parts that tests of their own hold against Pillow and SciPy.
HALF = 15


def geometry(row_column=(0, 0), shift=(0, 0), angle=0.0):
    matrix = np.array([[1, row_column[0], shift[0]], [row_column[1], 1, shift[1]], [0, 0, 1]], np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    return lambda images: affine(
        images, matrix[None] @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
    )


EXPECTED = {
    "identity": lambda sign: lambda images: images,
    "shear_x": lambda sign: geometry(row_column=(0, sign * 0.15)),
    "shear_y": lambda sign: geometry(row_column=(sign * 0.15, 0)),
    "translate_x": lambda sign: geometry(shift=(0, sign * 75 / 331 * 52)),
    "translate_y": lambda sign: geometry(shift=(sign * 75 / 331 * 40, 0)),
    "rotate": lambda sign: geometry(angle=sign * np.radians(15)),
    "brightness": lambda sign: lambda images: color.jitter(images, brightness=1 + sign * 0.45),
    "color": lambda sign: lambda images: color.jitter(images, saturation=1 + sign * 0.45),
    "contrast": lambda sign: lambda images: color.jitter(images, contrast=1 + sign * 0.45),
    "sharpness": lambda sign: lambda images: color.sharpen(images, tf.constant([1 + sign * 0.45])),
    "posterize": lambda sign: lambda images: color.posterize(images, 6),
    "solarize": lambda sign: lambda images: color.solarize(images, 127.5),
    "auto_contrast": lambda sign: color.auto_contrast,
    "equalize": lambda sign: color.equalize,
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_every_operation_of_rand_augment(name, sign):
    images = smooth(3)
    number = tf.constant([OPERATIONS.index("identity"), OPERATIONS.index(name), OPERATIONS.index("identity")])
    direction = tf.constant([1.0, sign, -1.0])
    moved = affine(images, rand_geometry(number, direction, HALF, tf.constant([40, 52])))
    found = rand_tones(moved, number, direction, HALF).numpy()
    np.testing.assert_allclose(found[::2], images[::2], atol=1e-3)
    np.testing.assert_allclose(found[1:2], EXPECTED[name](sign)(images[1:2]), atol=0.01)
    if name != "identity":
        assert np.abs(found[1] - images[1]).max() > 0.5


def test_rand_augment_draws_all_operations_alike():
    drawn = tf.constant(np.random.default_rng(0).random((14_000, 2)), tf.float32)
    number, direction = operation(drawn)
    counts = np.bincount(number, minlength=14)
    assert len(counts) == 14
    assert counts.min() > 850
    assert counts.max() < 1150
    assert abs(float(tf.reduce_mean(direction))) < 0.05
    last, _ = operation(tf.constant([[1 - 2**-24, 0.0]], tf.float32))
    assert int(last[0]) == 13


def test_layers_come_one_after_the_other():
    options, images = Augment(rand_layers=2, rand_magnitude=HALF), smooth(1)
    solarize, posterize = ((OPERATIONS.index(name) + 0.5) / 14 for name in ("solarize", "posterize"))
    draws = draws_with(options, 1, **{"rand_augment 0": (solarize, 0), "rand_augment 1": (posterize, 0)})
    expected = color.posterize(color.solarize(images, 127.5), 6)
    np.testing.assert_allclose(augment(images, draws, options), expected, atol=1e-3)
    assert np.abs(color.solarize(color.posterize(images, 6), 127.5) - expected).max() > 1


def batch_of(options, count=6):
    rng = np.random.default_rng(0)
    return {
        "canvas": tf.constant(rng.integers(0, 256, (count, 50, 60, 3), np.uint8)),
        "box": tf.constant(np.tile([1.5, 2, 40, 50.5], (count, 1)), tf.float32),
        "flip": tf.constant(rng.random(count) < 0.5),
        "draws": draws_of(options, count),
        "record": tf.constant([3, 1, 4, -1, 5, 9], tf.int64),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_preprocess_augments(dtype):
    output = OutputSpec(image_size=(24, 30), augment=EVERYTHING, dtype=dtype)
    batch = batch_of(EVERYTHING)
    found = preprocess(batch, output)
    assert found.dtype == dtype
    plain = preprocess(batch, OutputSpec(image_size=(24, 30), dtype=dtype))
    pixels = (tf.cast(plain, tf.float32) + 1) * 127.5
    expected = augment(pixels, batch["draws"], EVERYTHING, batch["record"]) / 127.5 - 1
    off = np.abs(tf.cast(found, tf.float32) - expected)
    assert np.median(off) < (1e-5 if dtype == "float32" else 0.02)
    assert np.abs(tf.cast(found, tf.float32) - tf.cast(plain, tf.float32)).max() > 0.5
    finished = {**batch, "image": tf.cast(plain, tf.float32)}
    del finished["canvas"], finished["box"]
    again = preprocess(finished, output)
    assert np.median(np.abs(tf.cast(again, tf.float32) - tf.cast(found, tf.float32))) < 0.02


def test_the_layer_augments_in_training_alone(tmp_path):
    output = OutputSpec(image_size=(24, 30), augment=Augment(translate=(0.1, 0.2), hue=0.1, mixup=0.4))
    inputs = Preprocess.inputs(output)
    model = tf.keras.Model(inputs, Preprocess(output)(inputs))
    batch = {**batch_of(output.augment), "size": tf.ones([6, 2], tf.int32)}
    plain = preprocess(batch, OutputSpec(image_size=(24, 30)))
    np.testing.assert_allclose(model(batch, training=False), plain, atol=1e-6)
    np.testing.assert_allclose(model(batch), plain, atol=1e-6)
    trained = model(batch, training=True)
    np.testing.assert_allclose(trained, preprocess(batch, output), atol=1e-5)
    assert np.abs(trained - plain).max() > 0.5
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(batch, training=True), trained, atol=1e-5)
    (layer,) = [layer for layer in loaded.layers if isinstance(layer, Preprocess)]
    assert layer.output_spec == output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotate": 181}, "rotate must be a number between 0.0 and 180.0, got 181"),
        ({"translate": (0.1, 2)}, "translate must be a number between 0.0 and 1.0, got 2"),
        ({"translate": (0.1, 0.1, 0.1)}, "translate must be a number or a pair"),
        ({"hue": -0.1}, "hue must be a number between 0 and 0.5, got -0.1"),
        ({"mixup": "0.2"}, "mixup must be a number between 0 and 100, got '0.2'"),
        ({"erase": True}, "erase must be a number between 0 and 1, got True"),
        ({"rand_layers": 1.5}, "rand_layers must be a whole number between 0 and 8, got 1.5"),
        ({"fill_mode": "wrap"}, "fill_mode must be one of nearest, reflect, constant, got 'wrap'"),
        ({"zoom": float("nan")}, "zoom must be a number between 0 and 0.99, got nan"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UsageError) as error:
        Augment(**options)
    assert message in str(error.value)
