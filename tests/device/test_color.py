"""Colours and tones, against Pillow and colour by colour."""

from __future__ import annotations

import colorsys

import numpy as np
import photographs
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from irv2data.device import color


@pytest.fixture(scope="module")
def images():
    """Three photographs, one of few levels, one of a single colour: uint8 [5, 96, 120, 3]."""
    parts = []
    for name in ("skimage:astronaut.png", "skimage:coffee.png", "skimage:chelsea.png"):
        with Image.open(photographs.source_path(name)) as photograph:
            parts.append(np.asarray(photograph.convert("RGB").resize((120, 96))))
    dull = (parts[0] // 64 + 100).astype(np.uint8)
    return np.stack([*parts, dull, np.full_like(dull, (10, 200, 90))])


def by_pillow(images, change):
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images]).astype(np.float32)


def floats(images):
    return tf.constant(images, tf.float32)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("name", "enhance", "tolerance"),
    [
        ("brightness", ImageEnhance.Brightness, 1),
        ("contrast", ImageEnhance.Contrast, 2),  # Pillow rounds the mean grey
        ("saturation", ImageEnhance.Color, 2),  # and every pixel's grey
    ],
)
def test_enhancing_is_pillows(images, name, enhance, tolerance, factor):
    # Images in reverse have the other factor, so that one shared by the batch is found out.
    factors = np.array([factor, 1.0, factor, factor, factor], np.float32)
    found = color.jitter(floats(images), **{name: factors}).numpy()
    expected = by_pillow(images, lambda image: enhance(image).enhance(factor))
    expected[1] = images[1]
    assert np.abs(found - expected).max() <= tolerance
    if factor != 1:
        assert np.abs(found - images)[0].max() > 20
        assert np.abs(color.jitter(floats(images), **{name: factors + 0.1}).numpy() - expected).max() > 2 * tolerance


def test_sharpness_is_pillows(images):
    for factor in (0.0, 0.5, 1.0, 1.9):
        found = color.sharpen(floats(images), tf.fill([5], factor)).numpy()
        expected = by_pillow(images, lambda image: ImageEnhance.Sharpness(image).enhance(factor))  # noqa: B023
        assert np.abs(found - expected).max() <= 1.5  # Pillow rounds the blurred image
        if factor != 1:
            assert np.abs(found - images).max() > 20


def test_equalizing_is_pillows(images):
    found = color.equalize(floats(images)).numpy()
    np.testing.assert_array_equal(found, by_pillow(images, ImageOps.equalize))
    assert np.abs(found - images)[0].max() > 20
    np.testing.assert_array_equal(found[4], images[4])
    # In any order of the batch: each image has its own histogram.
    np.testing.assert_array_equal(color.equalize(floats(images[::-1])).numpy()[::-1], found)


def test_equalizing_has_no_jumps(images):
    near = np.clip(images + np.random.default_rng(0).uniform(-1e-3, 1e-3, images.shape), 0, 255)
    levels = color.equalize(floats(images)).numpy()
    steepest = np.abs(np.diff(levels.reshape(5, -1))).max()
    assert np.abs(color.equalize(floats(near)) - levels).max() < 1e-3 * steepest + 1e-3


def test_stretching_contrast_is_pillows(images):
    found = color.auto_contrast(floats(images)).numpy()
    assert np.abs(found - by_pillow(images, ImageOps.autocontrast)).max() <= 1  # Pillow rounds down
    assert np.abs(found - images)[3].max() > 100


@pytest.mark.parametrize("threshold", [0, 100, 178.5, 255])
def test_solarizing_is_pillows(images, threshold):
    found = color.solarize(floats(images), threshold).numpy()
    np.testing.assert_array_equal(found, by_pillow(images, lambda image: ImageOps.solarize(image, threshold)))


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterizing_is_pillows(images, bits):
    found = color.posterize(floats(images), bits).numpy()
    np.testing.assert_array_equal(found, by_pillow(images, lambda image: ImageOps.posterize(image, bits)))


def test_the_order_of_changes_does_not_matter():
    # Of values that stay within [0, 255], which would be cut off in between.
    pixels = tf.constant(np.random.default_rng(0).uniform(100, 150, (2, 8, 9, 3)), tf.float32)
    changes = {"brightness": 1.2, "contrast": 0.7, "saturation": 0.5, "hue": 0.1}
    at_once = color.jitter(pixels, **changes)
    for names in (list(changes), list(changes)[::-1], ["hue", "contrast", "saturation", "brightness"]):
        one_by_one = pixels
        for name in names:
            one_by_one = color.jitter(one_by_one, **{name: changes[name]})
        np.testing.assert_allclose(one_by_one, at_once, atol=0.01)


def test_hue_turns_colours_and_leaves_grey_and_luma():
    pixels = tf.constant([[[[150, 100, 90], [90, 120, 100], [80, 80, 80]]]], tf.float32)
    before = [colorsys.rgb_to_yiq(*pixel) for pixel in pixels.numpy()[0, 0] / 255]
    for turn in (0.25, -0.1, 0.5):
        found = color.jitter(pixels, hue=turn)
        after = [colorsys.rgb_to_yiq(*pixel) for pixel in found.numpy()[0, 0] / 255]
        for (luma, *old), (same, *new) in zip(before, after, strict=True):
            assert same == pytest.approx(luma, abs=2e-3)
            assert complex(*new) == pytest.approx(complex(*old) * np.exp(2j * np.pi * turn), abs=4e-3)
    np.testing.assert_allclose(color.jitter(pixels, hue=1.0), pixels, atol=1e-3)


def test_without_saturation_all_is_grey(images):
    found = color.jitter(floats(images), saturation=0.0).numpy()
    assert np.ptp(found, axis=-1).max() < 1e-3
    expected = by_pillow(images, lambda image: image.convert("L"))
    assert np.abs(found[..., 0] - expected).max() <= 1
