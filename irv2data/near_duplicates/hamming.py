"""Which of many 64-bit hashes lie near each other, exactly: pure arithmetic, no image is known here.

Of d + 2 blocks of bits, two hashes that differ in at most d bits have at least two blocks alike (pigeonhole), so only
hashes that share a pair of blocks are compared. One block of d + 1 would do, but share it do ten times as many. Equal
hashes count as one: a thousand copies of one hash cost no more than one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from irv2data.errors import UsageError

BITS = 64
_TILE = 512  # hashes a side of what is compared at once: its bits stay in a core's cache
_DENSE = 96  # hashes that share a block, from which on comparing them tile by tile is faster


def linked_groups(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Group of each hash: hashes at most `distance` bits apart share one, and so do those linked through others.

    Args:
        hashes: uint64 [N].
        distance: Bits, 0 to 62.

    Returns:
        int64 [N], the row of the first hash in the same group.

    Raises:
        UsageError: SciPy, which finds the groups, is not installed.
    """
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    if not len(values):
        return np.empty(0, np.int64)
    groups = _Groups(len(values))
    for order, starts, ends in _runs(values, distance):
        label = groups.label[order]
        # What is linked already need not be compared: a dense cloud of hashes would be, once for every two blocks.
        apart = np.minimum.reduceat(label, starts) != np.maximum.reduceat(label, starts)
        for some, others in _pairs(values[order], starts[apart], ends[apart], distance):
            groups.link(order[some], order[others])
    group = groups.fold()
    lowest = np.full(len(values), len(hashes), np.int64)
    np.minimum.at(lowest, group, first)
    return lowest[group][inverse.reshape(-1)]


def largest_distance(hashes: np.ndarray) -> int:
    """Bits in which the two most different of some hashes differ; uint64 [N], N of 1 or more."""
    values = np.unique(hashes)
    return max(
        int(_ones(values[a : a + _TILE, None] ^ values[None, b : b + _TILE]).max())
        for a in range(0, len(values), _TILE)
        for b in range(a, len(values), _TILE)
    )


def _runs(values: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For every two blocks of bits: the rows in an order that brings together what is alike there, and its runs.

    Args:
        values: uint64 [N], no two alike, N of 1 or more.
        distance: Bits, 0 to 62.

    Yields:
        The order, int64 [N], and where in it each run begins and ends, both int64 [R].
    """
    blocks = distance + 2
    for pair in combinations(range(blocks), 2):
        # Every (d + 2)-th bit: neighbouring bits of an image's hash are alike more often, and would fill few blocks.
        mask = np.uint64(sum(1 << bit for block in pair for bit in range(block, BITS, blocks)))
        keys = values & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        yield order, starts, np.r_[starts[1:], len(keys)]


def _pairs(
    ordered: np.ndarray, starts: np.ndarray, ends: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of hashes of one run that are at most `distance` bits apart: two int64 [P], their places."""
    dense = ends - starts >= _DENSE
    yield from _sparse(ordered, starts[~dense], ends[~dense], distance)
    for start, end in zip(starts[dense].tolist(), ends[dense].tolist(), strict=True):
        for some, others in _tiles(ordered[start:end], distance):
            yield start + some, start + others


def _sparse(
    ordered: np.ndarray, starts: np.ndarray, ends: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs within each of many short runs: all members with their next one, then with the one after, ..."""
    sizes = ends - starts
    rows = np.arange(sizes.sum()) + np.repeat(starts - np.r_[0, np.cumsum(sizes)[:-1]][: len(sizes)], sizes)
    left = np.repeat(ends, sizes) - rows  # from a member to its run's end
    for step in range(1, int(sizes.max(initial=0))):
        more = left > step
        rows, left = rows[more], left[more]
        near = rows[_ones(ordered[rows] ^ ordered[rows + step]) <= distance]
        if len(near):
            yield near, near + step


def _tiles(values: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs within one long run."""
    for a in range(0, len(values), _TILE):
        for b in range(a, len(values), _TILE):
            some, others = np.nonzero(_ones(values[a : a + _TILE, None] ^ values[None, b : b + _TILE]) <= distance)
            distinct = a + some < b + others
            if distinct.any():
                yield a + some[distinct], b + others[distinct]


class _Groups:
    """Links between N things, folded into groups before they take much memory.

    Attributes:
        label: int64 [N], number of each one's group at the last fold.
    """

    def __init__(self, number: int):
        self.label = np.arange(number)
        self._links: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending = 0

    def link(self, some: np.ndarray, others: np.ndarray) -> None:
        self._links.append((some, others))
        self._pending += len(some)
        if self._pending > len(self.label):
            self.fold()

    def fold(self) -> np.ndarray:
        """Takes in all links so far, and returns `label`."""
        try:
            from scipy.sparse import coo_array
            from scipy.sparse.csgraph import connected_components
        except ImportError as error:
            raise UsageError("groups of hashes need the 'report' extra: pip install 'irv2data[report]'") from error
        # Between the groups so far, of which there are fewer and fewer.
        some = np.concatenate([self.label[:0], *(self.label[some] for some, _ in self._links)])
        others = np.concatenate([self.label[:0], *(self.label[others] for _, others in self._links)])
        number = len(self.label)
        links = coo_array((np.ones(len(some), bool), (some, others)), shape=(number, number))
        self.label = connected_components(links, directed=False)[1].astype(np.int64)[self.label]
        self._links, self._pending = [], 0
        return self.label


def _count_ones(values: np.ndarray) -> np.ndarray:
    """Bits set in each uint64, as `numpy.bitwise_count`, which NumPy has from 2.0 on."""
    # Henry Warren, Hacker's Delight, figure 5-2.
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + ((values >> np.uint64(2)) & np.uint64(0x3333333333333333))
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((values * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


_ones = getattr(np, "bitwise_count", _count_ones)
