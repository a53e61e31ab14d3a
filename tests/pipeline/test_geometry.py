"""Decode windows: they enclose the box, fit the largest canvas, keep enough pixels, and never shift the image."""

from __future__ import annotations

import numpy as np
import pytest

from irv2data.pipeline.geometry import decode_windows

COUNT = 20_000


def random_case(rng, output, slack, largest_side):
    """Images, boxes inside them, and a largest canvas as small as it may be (plus `slack`)."""
    sizes = np.exp(rng.uniform(0, np.log(largest_side), (COUNT, 2))).astype(np.int64)
    extent = np.maximum(1, (sizes * rng.random((COUNT, 2)) ** 0.5).astype(np.int64))
    whole = rng.random(COUNT) < 0.2
    extent[whole] = sizes[whole]
    start = (rng.random((COUNT, 2)) * (sizes - extent + 1)).astype(np.int64)
    boxes = np.concatenate([start, extent], axis=1)
    largest = (2 * output[0] + 2 + slack, 2 * output[1] + 2 + slack)
    return boxes, sizes, rng.random(COUNT) < 0.7, output, largest


CASES = [
    pytest.param((seed, output, slack), id=f"{output[0]}x{output[1]}+{slack}")
    for seed, (output, slack) in enumerate(
        [((299, 299), 0), ((299, 299), 197), ((1, 1), 0), ((1, 1), 3), ((7, 40), 0), ((64, 33), 5), ((16, 16), 1)]
    )
]


@pytest.fixture(params=CASES)
def case(request):
    seed, output, slack = request.param
    return random_case(np.random.default_rng(seed), output, slack, largest_side=40 * max(output) + 300)


def scaled(sizes, windows):
    return -(-sizes // windows.scale[:, None].astype(np.int64))


def test_the_window_encloses_the_box_and_lies_inside_the_image(case):
    boxes, sizes, *_ = case
    windows = decode_windows(*case)
    crop = windows.crop.astype(np.int64)
    limit = scaled(sizes, windows)
    assert (crop[:, :2] >= 0).all()
    assert (crop[:, 2:] >= 1).all()
    assert (crop[:, :2] + crop[:, 2:] <= limit).all()
    scale = windows.scale[:, None].astype(np.int64)
    assert (crop[:, :2] * scale <= boxes[:, :2]).all()
    # The last pixel of a scaled image stands for what is left of the source, hence the minimum.
    stop = np.minimum((crop[:, :2] + crop[:, 2:]) * scale, sizes)
    assert (stop >= boxes[:, :2] + boxes[:, 2:]).all()


def test_the_window_is_the_smallest_of_whole_cells(case):
    boxes, *_ = case
    windows = decode_windows(*case)
    cell = windows.scale[:, None].astype(np.int64) * windows.reduce
    first = boxes[:, :2] // cell
    last = (boxes[:, :2] + boxes[:, 2:] - 1) // cell
    np.testing.assert_array_equal(windows.crop[:, :2], first * windows.reduce)
    np.testing.assert_array_equal(windows.size, last - first + 1)


def test_what_comes_out_is_the_window_after_averaging_and_fits_the_largest_canvas(case):
    *_, largest = case
    windows = decode_windows(*case)
    np.testing.assert_array_equal(windows.size, -(-windows.crop[:, 2:] // windows.reduce))
    assert (windows.crop[:, :2] % windows.reduce == 0).all()
    assert (windows.size <= largest).all()
    assert (windows.size >= 1).all()


def test_only_the_scalable_are_scaled_and_only_the_too_large_averaged(case):
    _, _, scalable, _, largest = case
    windows = decode_windows(*case)
    assert np.isin(windows.scale, (1, 2, 4, 8)).all()
    assert (windows.scale[~scalable] == 1).all()
    averaged = windows.reduce > 1
    # An averaged axis would not have fitted, not even with one pixel to spare.
    assert (
        windows.crop[:, 2:][averaged] + 2 * windows.reduce[averaged]
        > np.broadcast_to(largest, averaged.shape)[averaged]
    ).all()
    assert averaged[~scalable].any()


def test_the_decoded_box_is_never_smaller_than_the_output_unless_the_source_box_is(case):
    boxes, _, _, output, _ = case
    windows = decode_windows(*case)
    least = np.minimum(boxes[:, 2:], output)
    assert (windows.box[:, 2:] >= least).all()


def test_the_scale_is_the_largest_that_leaves_enough(case):
    boxes, _, scalable, output, _ = case
    windows = decode_windows(*case)
    times = (boxes[:, 2:] / np.array(output)).min(axis=1)
    expected = np.select([times >= 8, times >= 4, times >= 2], [8, 4, 2], 1)
    np.testing.assert_array_equal(windows.scale, np.where(scalable, expected, 1))


def test_the_box_maps_back_to_the_source_box(case):
    boxes, *_ = case
    windows = decode_windows(*case)
    cell = windows.scale[:, None].astype(np.int64) * windows.reduce
    first = windows.crop[:, :2] // windows.reduce
    start = (windows.box[:, :2].astype(np.float64) + first) * cell
    extent = windows.box[:, 2:].astype(np.float64) * cell
    # Exact but for the rounding of float32; exact altogether where the cell is a power of two.
    np.testing.assert_allclose(start, boxes[:, :2], rtol=2e-7, atol=1e-4)
    np.testing.assert_allclose(extent, boxes[:, 2:], rtol=2e-7)
    exact = (cell & (cell - 1) == 0).all(axis=1)
    assert exact.sum() > COUNT // 4
    np.testing.assert_array_equal(start[exact], boxes[exact, :2])
    np.testing.assert_array_equal(extent[exact], boxes[exact, 2:])


def test_the_box_lies_inside_what_comes_out(case):
    windows = decode_windows(*case)
    assert (windows.box[:, :2] >= 0).all()
    assert (windows.box[:, :2] < 1).all()
    np.testing.assert_array_less(windows.box[:, :2] + windows.box[:, 2:], windows.size + 1e-4)


@pytest.mark.parametrize(
    ("box", "image", "scalable", "largest", "expected"),
    [
        # scale, crop, reduce, size, box; the output is 10x10.
        ((0, 0, 20, 20), (20, 20), True, (22, 22), (2, (0, 0, 10, 10), (1, 1), (10, 10), (0, 0, 10, 10))),
        ((0, 0, 20, 20), (20, 20), False, (22, 22), (1, (0, 0, 20, 20), (1, 1), (20, 20), (0, 0, 20, 20))),
        ((0, 0, 20, 19), (20, 19), True, (22, 22), (1, (0, 0, 20, 19), (1, 1), (20, 19), (0, 0, 20, 19))),
        # An odd image: the last pixel of the half-size one is half covered, and the box stays fractional.
        ((0, 0, 21, 23), (21, 23), True, (22, 22), (2, (0, 0, 11, 12), (1, 1), (11, 12), (0, 0, 10.5, 11.5))),
        ((3, 5, 21, 22), (60, 60), True, (22, 22), (2, (1, 2, 11, 12), (1, 1), (11, 12), (0.5, 0.5, 10.5, 11))),
        ((0, 0, 80, 81), (80, 81), True, (22, 22), (8, (0, 0, 10, 11), (1, 1), (10, 11), (0, 0, 10, 10.125))),
        # A PNG too large for the canvas: 30 columns in cells of 2, the window begins at a whole cell.
        ((0, 5, 20, 30), (20, 60), False, (22, 22), (1, (0, 4, 20, 32), (1, 2), (20, 16), (0, 0.5, 20, 15))),
        # The last cell is cut off by the image's edge.
        ((0, 0, 20, 35), (20, 35), False, (22, 22), (1, (0, 0, 20, 35), (1, 2), (20, 18), (0, 0, 20, 17.5))),
        # A panorama at JPEG scale 2 that is still too wide: 200 columns in cells of 10.
        ((0, 0, 20, 400), (20, 400), True, (22, 22), (2, (0, 0, 10, 200), (1, 10), (10, 20), (0, 0, 10, 20))),
    ],
)
def test_by_hand(box, image, scalable, largest, expected):
    windows = decode_windows(np.array([box]), np.array([image]), np.array([scalable]), (10, 10), largest)
    found = (windows.scale[0], windows.crop[0], windows.reduce[0], windows.size[0], windows.box[0])
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert [array.dtype for array in found] == [np.int32] * 4 + [np.float32]


def test_a_canvas_that_holds_every_image_may_be_smaller_than_the_output():
    rng = np.random.default_rng(0)
    boxes, sizes, scalable, output, _ = random_case(rng, (299, 299), 0, largest_side=120)
    windows = decode_windows(boxes, sizes, scalable, output, (120, 120))
    assert (windows.scale == 1).all()
    assert (windows.reduce == 1).all()
    np.testing.assert_array_equal(windows.crop, boxes)
    np.testing.assert_array_equal(windows.box, np.concatenate([np.zeros((COUNT, 2)), boxes[:, 2:]], axis=1))
