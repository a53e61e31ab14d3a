"""Source boxes: inside the image, of the right shape and size, for every fit."""

from __future__ import annotations

import numpy as np
import pytest

from irv2data.pipeline.config import PipelineConfig
from irv2data.pipeline.fits import AREA_RANGE, ASPECT_RANGE, CROP_DRAWS, source_boxes

SMALL = np.array([(height, width) for height in range(1, 26) for width in range(1, 26)])


def boxes_of(sizes, draws=None, **options):
    sizes = np.asarray(sizes)
    draws = np.zeros((len(sizes), 0)) if draws is None else draws
    return source_boxes(sizes[:, 0], sizes[:, 1], draws, PipelineConfig(**options))


def assert_inside(boxes, sizes):
    assert boxes.dtype == np.int64
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "resize"},
        {"fit": "center_crop"},
        {"fit": "center_crop", "crop_fraction": 0.01},
        {"fit": "center_crop", "crop_fraction": 1.0, "image_size": (5, 31)},
        {"fit": "center_crop", "crop_pixels": (7, 3)},
        {"fit": "center_crop", "crop_pixels": (400, 1)},
        {"fit": "random_resized_crop"},
    ],
)
def test_boxes_lie_inside_every_small_image(options):
    rng = np.random.default_rng(0)
    for extreme in (None, 0.0, 1 - 2.0**-53):
        draws = rng.random((len(SMALL), CROP_DRAWS)) if extreme is None else np.full((len(SMALL), CROP_DRAWS), extreme)
        assert_inside(boxes_of(SMALL, draws, **options), SMALL)


def test_resize_takes_the_whole_image():
    sizes = np.array([[1, 1], [480, 640], [3000, 2]])
    np.testing.assert_array_equal(boxes_of(sizes, fit="resize"), [[0, 0, 1, 1], [0, 0, 480, 640], [0, 0, 3000, 2]])


@pytest.mark.parametrize(
    ("size", "options", "box"),
    [
        # The largest square is 400 on a side, 87.5 % of it 350.
        ((400, 600), {"image_size": (299, 299)}, (25, 125, 350, 350)),
        ((400, 600), {"image_size": (299, 299), "crop_fraction": 1.0}, (0, 100, 400, 400)),
        ((400, 600), {"image_size": (299, 299), "crop_fraction": 0.5}, (100, 200, 200, 200)),
        # The largest 1:2 box is 300x600.
        ((400, 600), {"image_size": (100, 200), "crop_fraction": 1.0}, (50, 0, 300, 600)),
        ((400, 600), {"image_size": (200, 100), "crop_fraction": 1.0}, (0, 200, 400, 200)),
        # An odd border: the smaller half is above and left of the box.
        ((11, 10), {"image_size": (4, 4), "crop_fraction": 1.0}, (0, 0, 10, 10)),
        ((10, 13), {"image_size": (4, 4), "crop_fraction": 1.0}, (0, 1, 10, 10)),
        # Native scale: the window itself.
        ((400, 600), {"crop_pixels": (299, 299)}, (50, 150, 299, 299)),
        ((400, 600), {"crop_pixels": (200, 500)}, (100, 50, 200, 500)),
        ((299, 299), {"crop_pixels": (299, 299)}, (0, 0, 299, 299)),
        # A smaller image is scaled up to cover the window: the largest box of the window's aspect.
        ((150, 600), {"crop_pixels": (300, 300)}, (0, 225, 150, 150)),
        ((600, 100), {"crop_pixels": (300, 200)}, (225, 0, 150, 100)),
        ((30, 40), {"crop_pixels": (300, 300)}, (0, 5, 30, 30)),
        ((1, 1), {"crop_pixels": (300, 200)}, (0, 0, 1, 1)),
    ],
)
def test_center_crop_by_hand(size, options, box):
    np.testing.assert_array_equal(boxes_of([size], fit="center_crop", **options), [box])


def test_center_crop_is_central_and_keeps_the_aspect():
    sizes = np.array([(height, width) for height in range(60, 900, 37) for width in range(60, 900, 41)])
    for output in ((299, 299), (150, 300), (320, 200)):
        boxes = boxes_of(sizes, fit="center_crop", image_size=output)
        after = sizes - boxes[:, :2] - boxes[:, 2:]
        assert (np.isin(after - boxes[:, :2], (0, 1))).all()
        # Each side is rounded to a whole pixel, so an aspect may be off by half a pixel of either side.
        difference = np.abs(boxes[:, 2] * output[1] - boxes[:, 3] * output[0])
        assert (difference <= 0.5 * (output[0] + output[1]) + 1e-9).all()
        share = np.maximum(boxes[:, 2] / sizes[:, 0], boxes[:, 3] / sizes[:, 1])
        np.testing.assert_allclose(share, 0.875, atol=0.5 / 60)


def random_boxes(sizes, seed=0):
    return boxes_of(sizes, np.random.default_rng(seed).random((len(sizes), CROP_DRAWS)), fit="random_resized_crop")


def test_random_crops_keep_their_bounds():
    rng = np.random.default_rng(1)
    sizes = rng.integers(100, 2000, (20_000, 2))
    boxes = random_boxes(sizes)
    assert_inside(boxes, sizes)
    area = boxes[:, 2] * boxes[:, 3] / (sizes[:, 0] * sizes[:, 1])
    aspect = boxes[:, 3] / boxes[:, 2]
    rounding = 1 + 1 / boxes[:, 2:].min(axis=1)
    low, high = ASPECT_RANGE
    assert (aspect >= low / rounding).all()
    assert (aspect <= high * rounding).all()
    fallback = (boxes[:, 2:] == sizes).any(axis=1)  # the largest central box touches two edges
    assert (area[~fallback] >= AREA_RANGE[0] / rounding[~fallback] ** 2).all()
    assert (area <= 1).all()


def test_random_crops_spread_over_area_aspect_and_place():
    boxes = random_boxes(np.full((20_000, 2), 1000))
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    # Uniform in [0.08, 1] would average 0.54; large crops of extreme aspect do not fit and are drawn anew.
    assert 0.45 < area.mean() < 0.54
    assert area.min() < 0.085
    assert area.max() > 0.97
    log_aspect = np.log(boxes[:, 3] / boxes[:, 2])
    assert abs(log_aspect.mean()) < 0.01
    assert log_aspect.std() > 0.12
    for axis in (0, 1):
        room = 1000 - boxes[:, 2 + axis]
        place = boxes[room > 100, axis] / room[room > 100]
        assert abs(place.mean() - 0.5) < 0.01
        assert place.min() < 0.01
        assert place.max() > 0.99


def test_the_two_places_of_a_crop_are_drawn_apart():
    boxes = random_boxes(np.full((5000, 2), 1000))
    y, x = boxes[:, 0] / (1001 - boxes[:, 2]), boxes[:, 1] / (1001 - boxes[:, 3])
    assert abs(np.corrcoef(y, x)[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("size", "box"), [((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13)), ((1, 500), (0, 249, 1, 1))]
)
def test_where_no_crop_fits_the_largest_central_box_is_taken(size, box):
    # Of 10 tries over an image 100 times longer than wide none fits within 3/4 to 4/3.
    np.testing.assert_array_equal(random_boxes([size]), [box])


def test_a_random_crop_by_hand():
    draws = np.zeros((1, CROP_DRAWS))
    # First try: all of the area at aspect 4/3, which a square image cannot hold. Second: 0.54 of it, square.
    draws[0, 0], draws[0, 10] = 1, 1
    draws[0, 1], draws[0, 11] = 0.5, 0.5
    draws[0, -2], draws[0, -1] = 0.5, 0.999
    side = round(np.sqrt(0.54 * 400 * 400))  # 294
    expected = [[int(0.5 * (400 - side + 1)), 400 - side, side, side]]
    np.testing.assert_array_equal(boxes_of([(400, 400)], draws, fit="random_resized_crop"), expected)


@pytest.mark.parametrize(("side", "pixels"), [(300, 1), (1199, 2), (1200, 4), (2399, 4), (2400, 8), (6000, 8)])
def test_random_crops_that_are_scaled_consist_of_whole_decoded_pixels(side, pixels):
    draws = np.random.default_rng(3).random((500, CROP_DRAWS))
    draws[:, 0] = 1 - 1e-9  # of almost the whole image, so that `side` decides the scale
    draws[:, 10] = 0.5
    boxes = boxes_of(np.full((500, 2), side + 2), draws, fit="random_resized_crop", image_size=(300, 300))
    assert (boxes[:, 2:] >= side - pixels).all()
    assert (boxes % pixels == 0).all()
    exact = boxes_of(np.full((500, 2), side + 2), draws, fit="random_resized_crop", image_size=(90_000, 90_000))
    moved = exact - boxes
    assert (moved >= 0).all()
    assert (moved < pixels).all()
    assert_inside(boxes, np.full((500, 2), side + 2))
