"""Crop, resize and flip as matrix products, against `tf.image.resize` and a float64 reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from irv2data.device import axis_weights, preprocess, resample
from irv2data.pipeline.config import OutputSpec

TOLERANCE = 0.05  # of 255


def images_of(count, height, width, seed=0):
    """Noise over a slope: nothing hides a shifted, unflipped or unfiltered pixel."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 90, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    return np.clip(slope + rng.uniform(0, 105, (count, height, width, 3)), 0, 255).astype(np.uint8)


def by_cropping(canvas, box, flip, image_size, antialias):
    """What the stock operations make of whole-pixel boxes, one image after another."""
    results = []
    for image, (y, x, height, width), mirrored in zip(canvas, box.astype(int), flip, strict=True):
        crop = tf.image.resize(image[y : y + height, x : x + width], image_size, antialias=antialias)
        results.append((tf.image.flip_left_right(crop) if mirrored else crop).numpy())
    return np.stack(results)


def differences(images, canvas, box, flip, antialias):
    """Largest difference of each of `images` to `by_cropping`, of 255."""
    assert images.dtype == np.float32
    expected = by_cropping(canvas, box, flip, images.shape[1:3], antialias)
    return np.abs(images - expected).max(axis=(1, 2, 3))


def random_boxes(rng, count, height, width):
    """Whole-pixel boxes: some of one pixel, some at each border, some of the whole canvas."""
    extent = np.stack([rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)], axis=1)
    extent[:2], extent[2] = 1, (height, width)
    start = np.floor(rng.random((count, 2)) * ((height, width) - extent + 1))
    start[3:6] = 0
    start[6:9] = ((height, width) - extent)[6:9]
    return np.concatenate([start, extent], axis=1)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("canvas", "image_size"),
    [
        ((40, 40), (13, 13)),
        ((37, 61), (24, 10)),
        ((23, 19), (50, 64)),
        ((90, 70), (1, 1)),
        ((1, 1), (5, 4)),
        ((64, 8), (9, 31)),
    ],
)
def test_equals_cropping_and_resizing(canvas, image_size, antialias):
    rng = np.random.default_rng(sum(canvas))
    count = 24
    images, boxes = images_of(count, *canvas), random_boxes(rng, count, *canvas)
    flip = rng.random(count) < 0.5
    found = resample(images, boxes.astype(np.float32), flip, image_size, antialias=antialias).numpy()
    assert differences(found, images, boxes, flip, antialias).max() < TOLERANCE


def test_the_comparison_fails_on_a_wrong_box_flip_or_kernel():
    rng = np.random.default_rng(1)
    images = images_of(20, 40, 50)
    # Boxes with room on every side and larger than the output.
    start, extent = rng.integers(1, 5, (20, 2)), rng.integers(20, 33, (20, 2))
    boxes, flip = np.concatenate([start, extent], axis=1), np.arange(20) % 2 == 0
    found = resample(images, boxes.astype(np.float32), flip, (12, 10)).numpy()
    assert differences(found, images, boxes, flip, True).max() < TOLERANCE
    for wrong in ((1, 0, 0, 0), (-1, 0, 0, 0), (0, 1, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0), (0, 0, 0, -1)):
        assert (differences(found, images, boxes + np.array(wrong), flip, True) > 20 * TOLERANCE).all(), wrong
    assert (differences(found, images, boxes, ~flip, True) > 20 * TOLERANCE).all()
    assert (differences(found, images, boxes, flip, False) > 20 * TOLERANCE).all()
    plain = resample(images, boxes.astype(np.float32), flip, (12, 10), antialias=False).numpy()
    assert (differences(plain, images, boxes, flip, True) > 20 * TOLERANCE).all()


def reference_weights(start, extent, flip, output, length, antialias):
    """`axis_weights` from its docstring, one number after another, in float64."""
    weights = np.zeros((output, length))
    for i in range(output):
        step = (i + 0.5) / output
        centre = start + (1 - step if flip else step) * extent
        radius = max(extent / output, 1.0) if antialias else 1.0
        for pixel in range(length):
            kernel = max(0.0, 1 - abs(pixel + 0.5 - centre) / radius)
            inside = max(0.0, min(pixel + 1, start + extent) - max(pixel, start))
            weights[i, pixel] = kernel * min(inside, 1.0)
        weights[i] /= math.fsum(weights[i])
    return weights


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("output", [1, 7, 30])
def test_fractional_boxes_equal_the_reference(output, antialias):
    rng = np.random.default_rng(output)
    length, count = 24, 40
    extent = np.exp(rng.uniform(np.log(0.3), np.log(length), count))
    start = rng.random(count) * (length - extent)
    # As the pipeline makes them: eighths of a pixel.
    start[::2], extent[::2] = np.floor(start[::2] * 8) / 8, np.ceil(extent[::2] * 8) / 8
    start, extent = start.astype(np.float32), extent.astype(np.float32)
    flip = rng.random(count) < 0.5
    found = axis_weights(
        tf.constant(start),
        tf.constant(extent),
        tf.constant(flip),
        output=output,
        length=tf.constant(length),
        antialias=antialias,
    ).numpy()
    assert found.shape == (count, output, length)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert (found >= 0).all()
    for row in range(count):
        expected = reference_weights(float(start[row]), float(extent[row]), flip[row], output, length, antialias)
        np.testing.assert_allclose(found[row], expected, atol=2e-5, err_msg=f"{start[row]} {extent[row]}")


def test_nothing_outside_the_box_is_seen():
    box = np.array([[3.25, 2.5, 4.5, 6.25]], np.float32)
    canvas = np.full((1, 12, 14, 3), 255, np.uint8)
    canvas[:, 3:8, 2:9] = 10  # every pixel that the box touches
    for size in ((3, 3), (40, 40)):
        np.testing.assert_allclose(resample(canvas, box, None, size), 10, atol=1e-4)


def test_flips_of_every_kind():
    canvas, boxes = images_of(4, 16, 20), np.tile(np.float32([2, 3, 9.5, 14.25]), (4, 1))
    plain = resample(canvas, boxes, None, (6, 8)).numpy()
    flip = np.array([True, False, True, False])
    expected = np.where(flip[:, None, None, None], plain[:, :, ::-1], plain)
    for kind in (bool, np.uint8, np.float32):
        np.testing.assert_allclose(resample(canvas, boxes, flip.astype(kind), (6, 8)), expected, atol=1e-3)


@pytest.mark.parametrize("antialias", [True, False])
def test_compiled_equals_eager(antialias):
    rng = np.random.default_rng(0)
    images, flip = images_of(8, 48, 64), rng.random(8) < 0.5
    boxes = (random_boxes(rng, 8, 40, 60) + np.array([0.375, 0.5, 0.25, 0.125])).astype(np.float32)

    def call(canvas, box, flip):
        return resample(canvas, box, flip, (20, 30), antialias=antialias)

    eager = call(images, boxes, flip).numpy()
    # Of 255: the compiler may fuse a multiplication with an addition, no more.
    np.testing.assert_allclose(tf.function(call)(images, boxes, flip), eager, rtol=0, atol=1e-3)
    np.testing.assert_allclose(tf.function(call, jit_compile=True)(images, boxes, flip), eager, rtol=0, atol=1e-3)


def test_unknown_shapes_in_a_function():
    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8), tf.TensorSpec([None, 4])]
    function = tf.function(lambda canvas, box: resample(canvas, box, None, (5, 6)), input_signature=signature)
    assert function.get_concrete_function().structured_outputs.shape.as_list() == [None, 5, 6, 3]
    canvas, box = images_of(3, 9, 11), np.tile(np.float32([1, 2, 7, 8]), (3, 1))
    np.testing.assert_allclose(function(canvas, box), resample(canvas, box, None, (5, 6)), atol=1e-4)


def test_gradients_reach_a_float_canvas():
    canvas = tf.constant(images_of(2, 10, 12), tf.float32)
    box, flip = tf.constant([[1, 2, 6, 7], [0.5, 1.5, 8, 9.25]]), tf.constant([True, False])
    weights = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 5, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(canvas)
        loss = tf.reduce_sum(resample(canvas, box, flip, (4, 5)) * weights)
    gradient = tape.gradient(loss, canvas).numpy()
    # The function is linear: the loss is the inner product of canvas and gradient.
    assert float(loss) == pytest.approx((gradient * canvas.numpy()).sum(), rel=1e-4)
    touched = np.zeros((2, 10, 12), bool)
    touched[0, 1:7, 2:9] = touched[1, :9, 1:11] = True
    assert not gradient[~touched].any()
    assert (np.abs(gradient).max(axis=-1) > 0)[touched].mean() > 0.9


def batch_of(canvas, box, flip=None):
    flip = np.zeros(len(canvas), bool) if flip is None else flip
    return {"canvas": canvas, "box": np.asarray(box, np.float32), "flip": flip}


def test_preprocess_scales_to_plus_and_minus_one():
    canvas = np.zeros((3, 20, 20, 3), np.uint8)
    canvas[1], canvas[2] = 255, 51
    batch = batch_of(canvas, [[0, 0, 20, 20], [0.5, 0.25, 13.75, 17.5], [1, 1, 2, 2]])
    for size in ((7, 9), (40, 40)):
        images = preprocess(batch, OutputSpec(image_size=size)).numpy()
        assert images.shape == (3, *size, 3)
        assert (images[0] == -1).all()
        np.testing.assert_allclose(images[1], 1, atol=1e-6)
        np.testing.assert_allclose(images[2], 51 / 127.5 - 1, atol=1e-6)


def test_preprocess_is_the_models_own_scaling():
    canvas = images_of(2, 16, 16)
    images = preprocess(batch_of(canvas, np.tile([0, 0, 16, 16], (2, 1))), OutputSpec(image_size=(16, 16)))
    expected = tf.keras.applications.inception_resnet_v2.preprocess_input(canvas.astype(np.float32))
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_preprocess_obeys_antialias():
    batch = batch_of(images_of(2, 60, 60), np.tile([0, 0, 60, 60], (2, 1)))
    smooth, plain = (preprocess(batch, OutputSpec(image_size=(10, 10), antialias=on)).numpy() for on in (True, False))
    np.testing.assert_allclose(
        smooth, tf.image.resize(batch["canvas"], (10, 10), antialias=True) / 127.5 - 1, atol=4e-4
    )
    np.testing.assert_allclose(plain, tf.image.resize(batch["canvas"], (10, 10)) / 127.5 - 1, atol=4e-4)
    assert np.abs(plain - smooth).max() > 0.3


METHODS = [("lanczos3", True), ("lanczos3", False), ("area", True), ("bilinear", True), ("bilinear", False)]


def stock(canvas, boxes, flip, image_size, method, antialias):
    """As `by_cropping`, for any method."""
    results = []
    for image, (y, x, height, width), mirrored in zip(canvas, boxes.astype(int), flip, strict=True):
        crop = tf.image.resize(image[y : y + height, x : x + width], image_size, method=method, antialias=antialias)
        results.append((tf.image.flip_left_right(crop) if mirrored else crop).numpy())
    return np.stack(results)


@pytest.mark.parametrize(("method", "antialias"), METHODS)
@pytest.mark.parametrize(("canvas", "image_size"), [((40, 40), (13, 13)), ((23, 19), (50, 64)), ((64, 8), (9, 31))])
def test_every_method_equals_that_of_tensorflow(canvas, image_size, method, antialias):
    rng = np.random.default_rng(7)
    images, boxes, flip = images_of(24, *canvas), random_boxes(rng, 24, *canvas), rng.random(24) < 0.5
    found = resample(images, boxes.astype(np.float32), flip, image_size, method=method, antialias=antialias).numpy()
    assert np.abs(found - stock(images, boxes, flip, image_size, method, antialias)).max() < TOLERANCE
    others = {other for other, _ in METHODS} - {method}
    for other in others:  # a comparison that would pass any of them shows nothing
        assert np.abs(found - stock(images, boxes, flip, image_size, other, antialias)).max() > 20 * TOLERANCE


@pytest.mark.parametrize("output", [1, 7, 30])
def test_areas_of_fractional_boxes(output):
    rng = np.random.default_rng(output)
    length, count = 24, 40
    extent = np.exp(rng.uniform(np.log(0.3), np.log(length), count)).astype(np.float32)
    start = (rng.random(count) * (length - extent)).astype(np.float32)
    found = axis_weights(
        tf.constant(start),
        tf.constant(extent),
        None,
        output=output,
        length=tf.constant(length),
        antialias=True,
        method="area",
    ).numpy()
    edges = start[:, None].astype(float) + np.arange(output + 1) / output * extent[:, None].astype(float)
    for row in range(count):
        for i in range(output):
            low, high = edges[row, i], edges[row, i + 1]
            covered = [max(0.0, min(pixel + 1, high) - max(pixel, low)) for pixel in range(length)]
            np.testing.assert_allclose(
                found[row, i], np.array(covered) / sum(covered), atol=1e-4 * max(1, output / extent[row])
            )


# What is stated for each type, of 255.
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 0.5), ("bfloat16", 3.0)])
@pytest.mark.parametrize("method", ["bilinear", "area"])
@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_keeps_its_bound(dtype, bound, method, compiled):
    rng = np.random.default_rng(3)
    images, boxes = images_of(32, 90, 120), random_boxes(rng, 32, 90, 120).astype(np.float32)
    flip = rng.random(32) < 0.5
    function = tf.function(resample, jit_compile=compiled)
    found = function(images, boxes, flip, (37, 41), method=method, dtype=dtype)
    assert found.dtype == dtype
    exact = resample(images, boxes, flip, (37, 41), method=method).numpy()
    away = np.abs(tf.cast(found, tf.float32).numpy() - exact)
    assert bound / 20 < away.max() < bound
    assert away.mean() < bound / 5


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-4), ("float16", 0.6), ("bfloat16", 3.5)])
def test_preprocess_computes_in_the_outputs_type(dtype, bound):
    batch = {
        "canvas": images_of(8, 60, 70),
        "box": random_boxes(np.random.default_rng(0), 8, 60, 70).astype(np.float32),
        "flip": np.zeros(8, bool),
    }
    exact = preprocess(batch, OutputSpec(image_size=(20, 30))).numpy()
    found = preprocess(batch, OutputSpec(image_size=(20, 30), dtype=dtype))
    assert found.dtype == dtype
    assert 0 < np.abs(tf.cast(found, tf.float64).numpy() - exact).max() < bound / 127.5


def test_lanczos_does_not_ring_beyond_the_range():
    batch = {
        "canvas": (images_of(4, 40, 40) > 100).astype(np.uint8) * 255,
        "box": np.tile(np.array([0, 0, 40, 40], np.float32), (4, 1)),
        "flip": np.zeros(4, bool),
    }
    ringing = resample(batch["canvas"], batch["box"], None, (15, 15), method="lanczos3").numpy()
    assert ringing.min() < -1 < 256 < ringing.max()
    found = preprocess(batch, OutputSpec(image_size=(15, 15), method="lanczos3")).numpy()
    np.testing.assert_allclose(found, np.clip(ringing, 0, 255) / 127.5 - 1, atol=1e-6)
