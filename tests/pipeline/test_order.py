"""Keyed permutations and named random streams: pure, addressable, and the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from irv2data.pipeline.order import BLOCK, permute, permute_blocks, uniforms

KEYS = [(0, 0), (0, 1), (1, 0), (2**63 - 1, 12345)]  # (seed, epoch)
LARGE = (1023, 1024, 1025, 4095, 4097, 65536, 100_003)
PERMUTATIONS = [permute, permute_blocks]


@pytest.mark.parametrize("function", PERMUTATIONS)
@pytest.mark.parametrize("key", KEYS)
def test_is_a_permutation_for_every_small_n(function, key):
    for n in range(1, 301):
        assert sorted(function(np.arange(n), n, *key).tolist()) == list(range(n)), n


@pytest.mark.parametrize("function", PERMUTATIONS)
@pytest.mark.parametrize("n", LARGE)
def test_is_a_permutation_for_larger_n(function, n):
    image = function(np.arange(n), n, 7, 3)
    assert image.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(image, minlength=n), np.ones(n))


@pytest.mark.parametrize("function", PERMUTATIONS)
def test_any_part_is_computable_by_itself(function):
    rng = np.random.default_rng(0)
    for n in (1, 2, 15, 16, 17, 250, 4097):
        whole = function(np.arange(n), n, 5, 2)
        for _ in range(20):
            start, stop = sorted(rng.integers(0, n + 1, 2))
            np.testing.assert_array_equal(function(np.arange(start, stop), n, 5, 2), whole[start:stop])
        anywhere = rng.integers(0, n, 50)
        np.testing.assert_array_equal(function(anywhere, n, 5, 2), whole[anywhere])


@pytest.mark.parametrize("function", PERMUTATIONS)
def test_differs_between_seeds_and_epochs_and_repeats_for_the_same(function):
    n = 50 * BLOCK + 5
    orders = {(seed, epoch): tuple(function(np.arange(n), n, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(set(orders.values())) == 25
    assert orders[3, 4] == tuple(function(np.arange(n), n, 3, 4))
    assert tuple(range(n)) not in orders.values()


def test_streams_permute_differently():
    assert (permute(np.arange(99), 99, 0, 0, "a") != permute(np.arange(99), 99, 0, 0, "b")).sum() > 80


def test_permute_golden_values():
    assert permute(np.arange(12), 12, 0, 0).tolist() == [10, 4, 8, 7, 3, 6, 9, 2, 1, 5, 0, 11]
    far = permute(np.array([0, 1, 89_999_999]), 90_000_000, 5, 2)
    assert far[:2].tolist() == [72967984, 72611809]
    assert 0 <= far[2] < 90_000_000


def test_blocks_keep_runs_of_sixteen():
    for n in (*range(1, 60), 160, 167, 16 * 37 + 11):
        image = permute_blocks(np.arange(n), n, 11, 4)
        broken = np.flatnonzero(np.diff(image) != 1) + 1
        runs = np.split(image, broken)
        starts = {int(run[0]) for run in runs if len(run)}
        # Every run begins where a block begins, and no block is torn: its start is a run's start or inside a run.
        assert all(start % BLOCK == 0 for start in starts), n
        where = np.empty(n, np.int64)
        where[image] = np.arange(n)
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            np.testing.assert_array_equal(where[start:stop], where[start] + np.arange(stop - start))


def test_blocks_put_the_rest_anywhere():
    n = 4 * BLOCK + 3
    places = [int(np.flatnonzero(permute_blocks(np.arange(n), n, seed, 0) == 4 * BLOCK)[0]) for seed in range(200)]
    assert sorted(set(places)) == [0, 16, 32, 48, 64]
    assert np.bincount(np.array(places) // BLOCK).min() > 20  # 40 expected


@pytest.mark.parametrize("n", [2, 5, 12, 64])
def test_a_record_lands_everywhere_equally_often(n):
    draws = 300 * n if n < 20 else 2000
    position = [int(np.flatnonzero(permute(np.arange(n), n, seed, 0) == 0)[0]) for seed in range(draws)]
    counts = np.bincount(position, minlength=n)
    expected = draws / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # Mean n - 1 and variance 2 (n - 1) if uniform; five standard deviations and a little for the small ones.
    assert chi_square < (n - 1) + 5 * np.sqrt(2 * (n - 1)) + 5


def test_neighbours_do_not_stay_together():
    n = 10_000
    order = permute(np.arange(n), n, 0, 0)
    assert (np.abs(np.diff(order)) == 1).sum() < 10  # 2 expected
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.05


def test_uniforms_golden_values():
    # A changed generator, key layout or stream hash would silently change every epoch of every user.
    values = [value.hex() for value in uniforms(0, 0, 0, "crop", (3,)).tolist()]
    assert values == ["0x1.cde19336e60eap-2", "0x1.0ccf7ceac115ap-2", "0x1.2e12f6b102a34p-3"]
    far = uniforms(2**63 - 1, 7, 3, "flip", (2, 2))
    np.testing.assert_allclose(far, [[0.69750933, 0.0303791], [0.01080366, 0.44493606]], rtol=0, atol=5e-9)


def test_uniforms_are_uniform():
    values = uniforms(0, 0, 0, "x", (200, 500))
    assert values.shape == (200, 500)
    assert values.dtype == np.float64
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 5000).max() < 400  # six standard deviations


def test_uniforms_of_other_names_and_numbers_are_independent():
    base = uniforms(1, 2, 3, "crop", (4000,))
    others = [(1, 2, 3, "flip"), (0, 2, 3, "crop"), (1, 0, 3, "crop"), (1, 2, 0, "crop"), (2, 1, 3, "crop")]
    for key in others:
        other = uniforms(*key, (4000,))
        assert not np.isin(other, base).any(), key
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.1, key


def test_a_longer_draw_begins_with_the_shorter_one():
    np.testing.assert_array_equal(uniforms(1, 2, 3, "crop", (3, 5)).ravel(), uniforms(1, 2, 3, "crop", (40,))[:15])
