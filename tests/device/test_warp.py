"""Geometry: the affine lookup against SciPy, and what the draws make of it against `ImageDataGenerator`."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from irv2data import Augment
from irv2data.device import augment
from irv2data.device.warp import affine

SCIPY = {"nearest": "nearest", "reflect": "reflect", "constant": "grid-constant"}


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, height, width, 3)).astype(np.float32)


def by_scipy(images, matrix, mode, value=0.0):
    """In float64, image by image, channel by channel."""
    middle = (np.array(images.shape[1:3]) - 1) / 2
    results = np.empty(images.shape)
    for number, (image, each) in enumerate(zip(images.astype(np.float64), matrix.astype(np.float64), strict=True)):
        offset = each[:2, 2] + middle - each[:2, :2] @ middle
        for channel in range(3):
            results[number, ..., channel] = scipy.ndimage.affine_transform(
                image[..., channel], each[:2, :2], offset, order=1, mode=SCIPY[mode], cval=value
            )
    return results


def random_maps(count, seed=1):
    """Maps that turn, shear, scale and shift by up to more than the images."""
    rng = np.random.default_rng(seed)
    matrix = np.tile(np.eye(3), (count, 1, 1))
    matrix[:, :2, :2] += rng.uniform(-0.6, 0.6, (count, 2, 2))
    matrix[:, :2, 2] = rng.uniform(-40, 40, (count, 2))
    matrix[:2, :2, 2] = [(3, -2), (500, 900)]
    matrix[:2, :2, :2] = np.eye(2)
    return matrix.astype(np.float32)


@pytest.mark.parametrize("mode", ["nearest", "reflect", "constant"])
@pytest.mark.parametrize("size", [(17, 30), (1, 1), (2, 40)])
def test_equals_scipy(mode, size):
    images, matrix = noise(12, *size), random_maps(12)
    found = affine(images, matrix, fill_mode=mode, fill_value=40.0).numpy()
    np.testing.assert_allclose(found, by_scipy(images, matrix, mode, 40.0), atol=0.05)


def test_the_comparison_fails_on_a_wrong_map():
    images, matrix = noise(1, 20, 30), np.eye(3, dtype=np.float32)[None]
    for row, column, change in ((0, 2, 0.01), (1, 2, 0.01), (0, 1, 0.002), (1, 0, 0.002), (0, 0, 0.002)):
        wrong = matrix.copy()
        wrong[0, row, column] += change
        assert np.abs(affine(images, wrong) - by_scipy(images, matrix, "nearest")).max() > 0.5
    for mode, other in (("nearest", "reflect"), ("reflect", "constant"), ("constant", "nearest")):
        turned = random_maps(12)[2:3]
        assert np.abs(affine(images, turned, fill_mode=mode) - by_scipy(images, turned, other)).max() > 5


def test_the_identity_changes_nothing():
    images = noise(3, 9, 14)
    np.testing.assert_array_equal(affine(images, np.tile(np.eye(3, dtype=np.float32), (3, 1, 1))), images)


def drawn(options, values):
    """Draws of one image that has these values in [-1, 1] of what its options allow."""
    draws = np.full((1, options.num_draws), 0.5, np.float32)
    for name, value in values.items():
        draws[0, options.places()[name]] = (np.array(value) + 1) / 2
    return draws


@pytest.mark.parametrize(
    ("options", "values", "theirs"),
    [
        ({"translate": (0.5, 0.25)}, {"translate": (0.4, -1)}, {"tx": 0.2 * 36, "ty": -0.25 * 36}),
        ({"translate": 0.5}, {"translate": (0, 0.3)}, {"ty": 0.15 * 36}),
        ({"rotate": 40}, {"rotate": 0.5}, {"theta": 20}),
        ({"rotate": 180}, {"rotate": -1}, {"theta": -180}),
        ({"shear": 30}, {"shear": -0.5}, {"shear": -15}),
        ({"zoom": 0.4}, {"zoom": (0.5, -1)}, {"zx": 1.2, "zy": 0.6}),
        (
            {"rotate": 30, "translate": 0.2, "shear": 20, "zoom": 0.2},
            {"rotate": 1, "translate": (1, -1), "shear": 1, "zoom": (-1, 1)},
            {"theta": 30, "tx": 0.2 * 36, "ty": -0.2 * 36, "shear": 20, "zx": 0.8, "zy": 1.2},
        ),
    ],
)
def test_geometry_is_that_of_image_data_generator(options, values, theirs):
    image, options = noise(1, 36, 36), Augment(**options)
    found = augment(tf.constant(image), drawn(options, values), options)[0]
    # With rows named as columns theirs does as it says; named rightly it swaps them, so that a height shift goes
    # sideways (and an image that is not square turns about another point than its middle).
    expected = tf.keras.preprocessing.image.apply_affine_transform(
        image[0], **theirs, row_axis=1, col_axis=0, channel_axis=2, fill_mode="nearest", order=1
    )
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_reflected_and_filled():
    image, draws = noise(1, 8, 8), None
    for mode, expected in (("reflect", image[:, 3::-1]), ("constant", np.full((1, 4, 8, 3), 9.0))):
        options = Augment(translate=(0.5, 0), fill_mode=mode, fill_value=9)
        draws = drawn(options, {"translate": (-1, 0)})
        found = augment(tf.constant(image), draws, options)
        np.testing.assert_allclose(found[:, 4:], image[:, :4], atol=1e-3)
        np.testing.assert_allclose(found[:, :4], expected, atol=1e-3)
