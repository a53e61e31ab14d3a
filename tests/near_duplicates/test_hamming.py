"""The groups of near hashes are exactly those that comparing every pair gives."""

from __future__ import annotations

import numpy as np
import pytest

from irv2data.near_duplicates import hamming
from irv2data.near_duplicates.hamming import BITS, largest_distance, linked_groups


def by_every_pair(hashes: np.ndarray, distance: int) -> list[int]:
    """What `linked_groups` gives, by comparing every pair with Python's own integers."""
    values = hashes.tolist()
    group = list(range(len(values)))
    for row, value in enumerate(values):
        for other in range(row):
            if group[row] != group[other] and (value ^ values[other]).bit_count() <= distance:
                low, high = sorted((group[row], group[other]))
                group = [low if each == high else each for each in group]
    return group


def clouds(rng: np.random.Generator, number: int, *, centres: int, flips: int) -> np.ndarray:
    """Hashes around some centres, each with up to `flips` bits changed; uint64 [number]."""
    hashes = rng.integers(0, 1 << 64, centres, dtype=np.uint64)[rng.integers(centres, size=number)]
    for _ in range(flips):
        changed = rng.integers(0, 2, number).astype(bool)
        hashes[changed] ^= np.uint64(1) << rng.integers(0, BITS, int(changed.sum())).astype(np.uint64)
    return hashes


@pytest.mark.parametrize("distance", range(13))
def test_groups_are_those_of_every_pair(distance):
    rng = np.random.default_rng(distance)
    for number, centres, flips in ((0, 1, 0), (1, 1, 0), (90, 90, 4), (120, 30, distance), (120, 3, distance + 4)):
        hashes = clouds(rng, number, centres=centres, flips=flips)
        assert linked_groups(hashes, distance).tolist() == by_every_pair(hashes, distance)


def test_another_distance_gives_other_groups():
    hashes = clouds(np.random.default_rng(0), 120, centres=30, flips=6)
    assert linked_groups(hashes, 6).tolist() == by_every_pair(hashes, 6)
    assert linked_groups(hashes, 5).tolist() != by_every_pair(hashes, 6)


@pytest.mark.parametrize("distance", [0, 1, 4, 8, 12])
def test_the_last_bit_decides(distance):
    rng = np.random.default_rng(distance)
    first = rng.integers(0, 1 << 64, 300, dtype=np.uint64)  # chance pairs of these are further apart than 12 bits

    def changed(bits: int) -> np.ndarray:
        places = rng.permuted(np.tile(np.arange(BITS, dtype=np.uint64), (len(first), 1)), axis=1)[:, :bits]
        masks = np.bitwise_or.reduce(np.uint64(1) << places, axis=1) if bits else np.zeros(len(first), np.uint64)
        return np.r_[first, first ^ masks]

    rows = list(range(len(first)))
    assert linked_groups(changed(distance), distance).tolist() == rows + rows
    assert linked_groups(changed(distance + 1), distance).tolist() == list(range(2 * len(first)))


def test_a_group_is_linked_through_its_members():
    chain = np.array([0b1111_1111, 0b0000_1111, 0, 1 << 60], np.uint64)
    assert linked_groups(chain, 4).tolist() == [0, 0, 0, 0]
    assert linked_groups(chain[[0, 2, 3]], 4).tolist() == [0, 1, 1]
    assert linked_groups(chain[::-1], 3).tolist() == [0, 0, 2, 3]
    assert largest_distance(chain) == 9


def test_a_dense_cloud_is_compared_tile_by_tile():
    hashes = clouds(np.random.default_rng(1), 1500, centres=2, flips=5)
    distances = np.array([[(a ^ b).bit_count() for b in hashes.tolist()] for a in hashes.tolist()])
    assert len(np.unique(hashes)) > 2 * hamming._TILE
    for distance in (1, 2):
        reached = np.arange(len(hashes))
        while True:  # each takes the lowest number among those near it, until nothing changes
            lower = np.where(distances <= distance, reached[None], len(hashes)).min(1)
            if (lower == reached).all():
                break
            reached = lower
        assert linked_groups(hashes, distance).tolist() == reached.tolist()
    assert largest_distance(hashes) == distances.max()
    values = np.unique(hashes)
    pairs = [(a, b) for some, others in hamming._tiles(values, 1) for a, b in zip(some, others, strict=True)]
    near = np.array([[(a ^ b).bit_count() <= 1 for b in values.tolist()] for a in values.tolist()])
    assert sorted(pairs) == [tuple(pair) for pair in np.argwhere(np.triu(near, 1))]


def test_the_two_most_different_may_lie_in_different_tiles():
    hashes = np.r_[np.arange(2 * hamming._TILE + 9, dtype=np.uint64), np.uint64((1 << 64) - 1)]
    assert largest_distance(hashes) == 64
    assert largest_distance(hashes[1:]) == 63


def test_a_hundred_thousand_equal_hashes_are_one_group():
    hashes = np.r_[np.full(100_000, 7, np.uint64), np.uint64(1 << 40), np.full(100_000, 7, np.uint64)]
    assert np.flatnonzero(linked_groups(hashes, 3) != 0).tolist() == [100_000] == [linked_groups(hashes, 3)[100_000]]
    assert linked_groups(hashes, 4).tolist() == [0] * 200_001
    assert largest_distance(hashes) == 4


def test_links_are_folded_while_they_come():
    rng = np.random.default_rng(2)
    groups = hamming._Groups(50)
    for _ in range(40):
        links = rng.integers(0, 25, (2, 9))
        groups.link(links[0] * 2, links[1] * 2)  # even ones alone
    assert groups._pending <= 50
    assert len(set(groups.fold()[::2].tolist())) == 1
    assert len(set(groups.label.tolist())) == 26


def test_bits_are_counted_without_numpy_2():
    values = np.random.default_rng(3).integers(0, 1 << 64, 1000, dtype=np.uint64)
    values[:3] = 0, (1 << 64) - 1, 1 << 63
    assert hamming._count_ones(values).tolist() == [value.bit_count() for value in values.tolist()]
    assert hamming._ones(values).tolist() == hamming._count_ones(values).tolist()
