"""Which split and which shard each source goes to, in which order: pure arithmetic on content digests.

A source's split depends on its content and the seed alone, so a file never moves when others are added or removed,
and equal content always lands in one split. The order inside a split is a keyed hash too: neighbours in a shard
come from different classes, which makes a block-wise shuffle nearly as good as a full one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from irv2data.convert.config import ConvertConfig

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


def plan_shards(digests: np.ndarray, sizes: np.ndarray, usable: np.ndarray, config: ConvertConfig) -> list[ShardPlan]:
    """Lays the usable sources out over the splits' shards.

    Args:
        digests: uint8 [N, 32], SHA-256 of each source.
        sizes: int64 [N], bytes of each source.
        usable: bool [N], False for what was rejected or dropped already.
        config: `splits`, `seed` and `shard_mib` are used.

    Returns:
        The shards of all splits, in order. Every split has at least one, which may be empty.
    """
    keys = content_keys(digests, config.seed)
    edges = np.cumsum([fraction for _, fraction in config.splits])[:-1]
    split = np.searchsorted(edges, keys[:, 0] / 2.0**64, side="right")
    plans = []
    for number, (name, _) in enumerate(config.splits):
        rows = np.flatnonzero(usable & (split == number))
        # Equal content has an equal key; a stable sort then keeps the order of the paths.
        rows = rows[np.argsort(keys[rows, 1], kind="stable")]
        parts = _cut(sizes[rows], round(config.shard_mib * MIB))
        plans += [
            ShardPlan(split=name, number=index, of=len(parts), sources=rows[start:stop])
            for index, (start, stop) in enumerate(parts)
        ]
    return plans


def _cut(sizes: np.ndarray, shard_bytes: int) -> list[tuple[int, int]]:
    """Cuts a sequence into runs of nearly equal bytes, none larger than `shard_bytes` unless one record is."""
    ends = np.cumsum(sizes)
    total = int(sizes.sum())
    wanted = max(1, -(-total // shard_bytes), min(_MIN_SHARDS, len(sizes) // _MIN_RECORDS))
    while True:
        cuts = np.searchsorted(ends, total * np.arange(1, wanted) / wanted)
        bounds = np.unique([0, *cuts, len(sizes)]) if len(sizes) else np.zeros(2, np.int64)
        parts = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        if all(stop - start <= 1 or sizes[start:stop].sum() <= shard_bytes for start, stop in parts):
            return parts
        wanted += 1
