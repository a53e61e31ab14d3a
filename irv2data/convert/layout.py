"""Which split and which shard each source goes to, in which order: pure arithmetic on content digests.

A source's split depends on its content and the seed alone, so a file never moves when others are added or removed,
and equal content always lands in one split. The order inside a split is a keyed hash too: neighbours in a shard
come from different classes, which makes a block-wise shuffle nearly as good as a full one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MIB = 1 << 20
# Small datasets are still cut into this many shards, if each gets this many records: the shard is the unit of
# parallel work, of shuffled reading and of resuming. It depends on the data alone, never on the worker count.
_MIN_SHARDS, _MIN_RECORDS = 16, 32


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to write: its split, its number among `of` shards, and the sources (rows of the listing) in order."""

    split: str
    number: int
    of: int
    sources: np.ndarray


def content_keys(digests: np.ndarray, seed: int) -> np.ndarray:
    """Two keyed 64-bit hashes of each content digest: one decides the split, one the order.

    Args:
        digests: uint8 [N, 32], SHA-256 of each source.
        seed: The conversion's seed.

    Returns:
        uint64 [N, 2], uniform, the same for equal content.
    """
    key = seed.to_bytes(8, "little")
    hashed = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16, key=key).digest() for row in digests)
    return np.frombuffer(hashed, "<u8").reshape(-1, 2)


def duplicates(digests: np.ndarray) -> np.ndarray:
    """Which sources repeat the content of an earlier one: bool [N]."""
    if not len(digests):
        return np.zeros(0, bool)
    _, first = np.unique(np.ascontiguousarray(digests).view("V32").ravel(), return_index=True)
    repeated = np.ones(len(digests), bool)
    repeated[first] = False
    return repeated


def split_by_content(keys: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Which split each content belongs to: int64 [N] of the `content_keys` and fractions that add up to 1."""
    return np.searchsorted(np.cumsum(fractions)[:-1], keys[:, 0] / 2.0**64, side="right")


def plan_shards(
    keys: np.ndarray, sizes: np.ndarray, split: np.ndarray, names: Sequence[str], shard_bytes: int
) -> list[ShardPlan]:
    """Lays sources out over the splits' shards.

    Args:
        keys: uint64 [N, 2], the `content_keys`.
        sizes: int64 [N], bytes of each source.
        split: int [N], number of each source's split; -1 for what is not converted.
        names: Split names.
        shard_bytes: Largest shard, in bytes of sources.

    Returns:
        The shards of all splits, in order. Every split has at least one, which may be empty.
    """
    plans = []
    for number, name in enumerate(names):
        rows = np.flatnonzero(split == number)
        # Equal content has an equal key; a stable sort then keeps the order of the paths.
        rows = rows[np.argsort(keys[rows, 1], kind="stable")]
        parts = _cut(sizes[rows], shard_bytes)
        plans += [
            ShardPlan(split=name, number=index, of=len(parts), sources=rows[start:stop])
            for index, (start, stop) in enumerate(parts)
        ]
    return plans


def _cut(sizes: np.ndarray, shard_bytes: int) -> list[tuple[int, int]]:
    """Cuts a sequence into runs of nearly equal bytes, none larger than `shard_bytes` unless one record is."""
    if not len(sizes):
        return [(0, 0)]
    ends = np.concatenate([[0], np.cumsum(sizes)])

    def fill(limit: int) -> list[int]:
        """The bounds of runs filled up to `limit` bytes each: the fewest there can be."""
        bounds = [0]
        while bounds[-1] < len(sizes):
            reached = int(np.searchsorted(ends, ends[bounds[-1]] + limit, side="right")) - 1
            bounds.append(max(bounds[-1] + 1, reached))
        return bounds

    most = max(len(fill(shard_bytes)) - 1, min(_MIN_SHARDS, len(sizes) // _MIN_RECORDS))
    low, high = 0, shard_bytes
    while low < high:  # the smallest limit that needs no more runs, so that no last run is left nearly empty
        limit = (low + high) // 2
        if len(fill(limit)) - 1 <= most:
            high = limit
        else:
            low = limit + 1
    return list(pairwise(fill(high)))
