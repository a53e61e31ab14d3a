"""Canvases: consistent levels, the least padding, and every record on a canvas that holds it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from irv2data.pipeline.buckets import GRID, canvas_of_level, choose_canvases, choose_shapes, group, level_of

OUTPUTS = [(299, 299), (100, 200), (200, 100), (64, 48), (33, 299), (16, 16)]


@pytest.mark.parametrize("output", OUTPUTS)
def test_level_of_is_the_smallest_level_that_holds_a_size(output):
    sizes = np.array([(h, w) for h in range(1, 200, 3) for w in (*range(1, 50), *range(50, 700, 13))])
    levels = level_of(sizes, output)
    canvases = np.array([canvas_of_level(level, output) for level in range(levels.max() + 1)])
    holds = (canvases[:, None] >= sizes).all(axis=2)  # [level, size]
    holds[0] = False  # levels start at 1
    np.testing.assert_array_equal(levels, holds.argmax(axis=0))


@pytest.mark.parametrize("output", OUTPUTS)
def test_canvases_are_on_the_grid_nested_and_of_the_outputs_aspect(output):
    canvases = [canvas_of_level(level, output) for level in range(1, 80)]
    for level, (height, width) in enumerate(canvases, start=1):
        assert height == level * GRID
        assert width % GRID == 0
        assert 0 <= width - height * output[1] / output[0] < GRID
    assert canvases == sorted(canvases)


def pixels(sizes, ladder):
    """Pixels of all canvases when each size takes the smallest canvas that holds it."""
    return sum(min(math.prod(c) for c in ladder if c[0] >= h and c[1] >= w) for h, w in sizes)


@pytest.mark.parametrize("seed", range(12))
def test_the_ladder_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    output = OUTPUTS[seed % len(OUTPUTS)]
    sizes = rng.integers(1, 130, (int(rng.integers(1, 40)), 2)) * rng.choice([1, 1, 1, 0.3], (1, 2))
    sizes = np.maximum(1, sizes.astype(np.int64))
    least = int(rng.integers(1, 10))
    top = max(int(level_of(sizes, output).max()), least)
    for count in (1, 2, 3, 4):
        ladder = choose_canvases(sizes, output, count, least)
        levels = range(1, top)
        every = (
            pixels(sizes, [canvas_of_level(level, output) for level in (*lower, top)])
            for used in range(count)
            for lower in itertools.combinations(levels, used)
        )
        assert pixels(sizes, ladder) == min(every)
        assert len(ladder) <= count
        assert ladder[-1] == canvas_of_level(top, output)
        assert list(ladder) == sorted(set(ladder))
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(ladder))


def test_ladder_by_hand():
    sizes = np.array([[16, 16]] * 10 + [[64, 64]] * 10 + [[100, 100]])
    assert choose_canvases(sizes, (32, 32), 1, 1) == ((112, 112),)
    assert choose_canvases(sizes, (32, 32), 2, 1) == ((64, 64), (112, 112))
    assert choose_canvases(sizes, (32, 32), 3, 1) == ((16, 16), (64, 64), (112, 112))
    assert choose_canvases(sizes, (32, 32), 32, 1) == ((16, 16), (64, 64), (112, 112))
    assert choose_canvases(sizes, (32, 32), 3, 10) == ((16, 16), (64, 64), (160, 160))
    assert choose_canvases(np.array([[5, 5]]), (32, 32), 4, 1) == ((16, 16),)


def landscapes_and_portraits(count, seed):
    rng = np.random.default_rng(seed)
    long, aspect = rng.integers(40, 400, count), rng.uniform(1, 2.2, count)
    sizes = np.stack([long, (long / aspect).astype(int)], axis=1)
    sizes[rng.random(count) < 0.3] = sizes[rng.random(count) < 0.3][:1, ::-1] if count < 9 else [390, 200]
    turned = rng.random(count) < 0.5
    sizes[turned] = sizes[turned, ::-1]
    return sizes


@pytest.mark.parametrize("seed", range(8))
def test_shapes_are_nearly_the_best_of_all(seed):
    sizes = landscapes_and_portraits(30, seed)
    top = sizes.max(axis=0)
    grid = -(-sizes // GRID) * GRID
    every = list(itertools.product(sorted(set(grid[:, 0].tolist())), sorted(set(grid[:, 1].tolist()))))
    largest = tuple((-(-top // GRID) * GRID).tolist())
    for count in (1, 2, 3):
        ladder = choose_shapes(sizes, count, top)
        assert ladder[-1] == largest
        assert len(ladder) <= count
        assert all(height % GRID == width % GRID == 0 for height, width in ladder)
        assert [math.prod(shape) for shape in ladder] == sorted(math.prod(shape) for shape in ladder)
        best = min(pixels(sizes, [*chosen, largest]) for chosen in itertools.combinations(every, count - 1))
        assert best <= pixels(sizes, ladder) <= 1.02 * best


def test_shapes_by_hand():
    sizes = np.array([[100, 50]] * 10 + [[50, 100]] * 10 + [[300, 300]])
    assert choose_shapes(sizes, 1, np.array([300, 300])) == ((304, 304),)
    assert choose_shapes(sizes, 2, np.array([300, 300])) == ((112, 112), (304, 304))
    assert choose_shapes(sizes, 3, np.array([300, 300])) == ((64, 112), (112, 64), (304, 304))
    # More canvases than sizes are not needed, and the largest has to hold what is not among them.
    assert choose_shapes(sizes, 9, np.array([300, 310])) == ((64, 112), (112, 64), (304, 304), (304, 320))


LADDER = ((16, 16), (32, 32), (48, 48), (64, 64))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("batches", [1, 2, 5, 13])
def test_group(batch, batches):
    rng = np.random.default_rng(batch * 100 + batches)
    for _ in range(20):
        sizes = rng.integers(1, rng.choice([20, 40, 65]), (batches * batch, 2))
        rows, canvas, left = group(sizes, LADDER, [batch] * len(LADDER))
        order = np.stack(rows)
        assert order.shape == (batches, batch)
        assert canvas.shape == (batches,)
        assert len(left) == 0
        assert sorted(order.ravel().tolist()) == list(range(batches * batch))
        shapes = np.array(LADDER)[canvas]
        assert (sizes[order] <= shapes[:, None]).all()
        own = np.array([next(i for i, c in enumerate(LADDER) if c[0] >= h and c[1] >= w) for h, w in sizes])
        assert (own[order] <= canvas[:, None]).all()
        # The order is kept within a canvas, and of each canvas at most a batch less one moved up.
        for number in range(len(LADDER)):
            rows = order[canvas == number].ravel()
            assert (np.diff(rows) > 0).all()
            from_below = (own[rows] < number).sum()
            assert from_below <= batch - 1
            assert ((own <= number) & ~np.isin(np.arange(len(own)), order[canvas <= number])).sum() < batch


def test_group_by_hand():
    sizes = np.array([[10, 10], [40, 40], [10, 10], [30, 30], [10, 10], [60, 60]])
    rows, canvas, _ = group(sizes, LADDER, [2] * 4)
    order = np.stack(rows)
    # 0 and 2 fill the smallest canvas, 4 moves up beside 3; 1 moves up beside 5.
    assert order.tolist() == [[0, 2], [3, 4], [1, 5]]
    assert canvas.tolist() == [0, 1, 3]


def test_group_decides_by_both_sides():
    rows, canvas, _ = group(np.array([[10, 33], [33, 10], [16, 16], [16, 17]]), LADDER, [1] * 4)
    assert dict(zip(np.concatenate(rows).tolist(), canvas.tolist(), strict=True)) == {0: 2, 1: 2, 2: 0, 3: 1}


def test_what_is_left_over_moves_to_the_smallest_canvas_that_holds_it():
    ladder = ((16, 64), (64, 32), (40, 64), (64, 64))
    sizes = np.array([[10, 60], [10, 60], [10, 60], [60, 30], [10, 20], [60, 60], [30, 30]])
    # 0 and 1 fill the first canvas with 2; 4, which it has left over, moves on, to the second.
    rows, canvas, left = group(sizes, ladder, [3, 3, 1, 1])
    assert [row.tolist() for row in rows] == [[0, 1, 2], [3, 4, 6], [5]]
    assert (canvas.tolist(), left.tolist()) == ([0, 1, 3], [])
    # 0 is too wide for the second, and 1 too high for the third: they pass them over and meet on the last.
    rows, canvas, left = group(sizes[[0, 3, 5]], ladder, [2, 2, 2, 2])
    assert [row.tolist() for row in rows] == [[0, 1]]
    assert (canvas.tolist(), left.tolist()) == ([3], [2])


def test_batches_may_differ_from_canvas_to_canvas():
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 65, (200, 2))
    batches = [24, 16, 8, 4]
    rows, canvas, left = group(sizes, LADDER, batches)
    assert [len(row) for row in rows] == [batches[number] for number in canvas]
    assert sorted(np.concatenate([*rows, left]).tolist()) == list(range(200))
    assert len(left) < 4
    for row, number in zip(rows, canvas, strict=True):
        assert (sizes[row] <= LADDER[number]).all()
