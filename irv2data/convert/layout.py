"""Which split and which shard each source goes to, in which order: pure arithmetic on content digests.

With fractions, a source's split depends on its content and the seed alone, so a file never moves when others are added
or removed, and equal content always lands in one split. The order inside a split is a keyed hash too: neighbours in a
shard come from different classes, which makes a block-wise shuffle nearly as good as a full one.
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
        uint64 [N, 2], uniform, the same for equal content; together they identify a content.
    """
    # Half a microsecond each, for there may be millions: the key is taken in once, and copied.
    keyed = hashlib.blake2b(digest_size=16, key=seed.to_bytes(8, "little"))
    contents = digests.reshape(-1).data
    keys = bytearray()
    for at in range(0, len(contents), 32):
        hashing = keyed.copy()
        hashing.update(contents[at : at + 32])
        keys += hashing.digest()
    return np.frombuffer(keys, "<u8").reshape(-1, 2)


def first_of_content(keys: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The first usable source with the same content as each source: int64 [N]; itself where it is not usable.

    Args:
        keys: uint64 [N, 2], the `content_keys`.
        usable: bool [N].
    """
    first = np.arange(len(keys))
    rows = np.flatnonzero(usable)
    # Stable, so that the first of equal keys is the first in path order.
    rows = rows[np.lexsort((keys[rows, 1], keys[rows, 0]))]
    starts = np.ones(len(rows), bool)
    starts[1:] = np.any(keys[rows[1:]] != keys[rows[:-1]], axis=1)
    first[rows] = rows[np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))] if len(rows) else rows
    return first


def split_by_content(keys: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Which split each content belongs to: int64 [N] of the `content_keys` and fractions that add up to 1.

    Independent of all other files, and of the class: in expectation each class is cut in the same proportions.
    """
    return np.searchsorted(np.cumsum(fractions)[:-1], keys[:, 0] / 2.0**64, side="right")


def split_exactly(
    keys: np.ndarray, first: np.ndarray, usable: np.ndarray, stratum: np.ndarray, fractions: Sequence[float]
) -> np.ndarray:
    """Splits each stratum in exact proportions, rounded to whole contents; equal content stays together.

    Args:
        keys: uint64 [N, 2], the `content_keys`.
        first: int64 [N], of `first_of_content`.
        usable: bool [N].
        stratum: int [N], class of each source. A content counts in the class of its first source.
        fractions: Of the splits; they add up to 1.

    Returns:
        int64 [N].
    """
    split = np.zeros(len(keys), np.int64)
    contents = np.flatnonzero(usable & (first == np.arange(len(first))))
    for number in np.unique(stratum[contents]):
        rows = contents[stratum[contents] == number]
        rows = rows[np.argsort(keys[rows, 0], kind="stable")]
        bounds = np.rint(np.cumsum(fractions)[:-1] * len(rows))
        split[rows] = np.searchsorted(bounds, np.arange(len(rows)), side="right")
    return split[first]


def leaks(first: np.ndarray, usable: np.ndarray, split: np.ndarray, splits: int, *, fixed: int = 0) -> np.ndarray:
    """Sources to leave out so that no content is in two splits, where folders or a column decide: bool [N].

    The copies in the smallest split stay: evaluation splits are the small ones, and a leak is mended by taking the
    copy out of the training data.

    Args:
        first: int64 [N], of `first_of_content`.
        usable: bool [N].
        split: int [N], split of each source.
        splits: Number of splits.
        fixed: So many sources at the start are records already; their contents stay where they are.
    """
    counts = np.bincount(split[usable], minlength=splits)
    rank = np.argsort(np.argsort(counts, kind="stable"), kind="stable")  # 0 for the smallest split
    best = np.full(len(first), splits)
    rows = np.flatnonzero(usable)
    np.minimum.at(best, first[rows], rank[split[rows]])
    best[:fixed] = rank[split[:fixed]]
    out = np.zeros(len(first), bool)
    out[rows] = rank[split[rows]] != best[first[rows]]
    out[:fixed] = False
    return out


def plan_shards(
    keys: np.ndarray,
    sizes: np.ndarray,
    split: np.ndarray,
    names: Sequence[str],
    shard_bytes: int,
    *,
    empty: bool = True,
) -> list[ShardPlan]:
    """Lays sources out over the splits' shards.

    Args:
        keys: uint64 [N, 2], the `content_keys`.
        sizes: int64 [N], bytes of each source.
        split: int [N], number of each source's split; -1 for what is not converted.
        names: Split names.
        shard_bytes: Largest shard, in bytes of sources.
        empty: Give a split without sources one empty shard, so that it exists.

    Returns:
        The shards of all splits, in order.
    """
    plans = []
    for number, name in enumerate(names):
        rows = np.flatnonzero(split == number)
        # Equal content has an equal key; a stable sort then keeps the order of the paths.
        rows = rows[np.argsort(keys[rows, 1], kind="stable")].astype(np.int32)
        if not (len(rows) or empty):
            continue
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
