"""The first pass over the sources: what each one holds, as digests. Splits, order and duplicates follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import google_crc32c
import numpy as np

from irv2data.convert.engines import run_local
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources.listing import Listing
from irv2data.convert.sources.reading import read_ahead
from irv2data.convert.writer import Marker, places_of

_CHUNK = 128  # files hashed by one task: large enough to hide its dispatch, small enough to share evenly

_Task = tuple[str, list[bytes], list[tuple[str, int, int]] | None]
_Result = tuple[bytes, list[int], list[int], list[tuple[int, str, str]]]


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """What each source holds; zero for a reject.

    Attributes:
        digests: uint8 [N, 32], SHA-256.
        checksums: uint32 [N], CRC-32C.
        sizes: int64 [N], bytes.
        rejects: Row to (code, detail), the listing's own among them.
    """

    digests: np.ndarray
    checksums: np.ndarray
    sizes: np.ndarray
    rejects: dict[int, tuple[str, str]]


def hash_sources(listing: Listing, *, workers: int, worker_mib: int, progress: Callable[[int], None]) -> Hashed:
    """Reads every source once.

    Args:
        listing: The sources.
        workers: Worker processes; 0 for the number of usable cores.
        worker_mib: Memory that a worker may take; a larger file is a reject.
        progress: Called with how many more sources are hashed.
    """
    count = len(listing)
    digests = np.zeros((count, 32), np.uint8)
    checksums = np.zeros(count, np.uint32)
    sizes = np.zeros(count, np.int64)
    rejects = dict(listing.rejects)
    readable = np.ones(count, bool)
    readable[list(rejects)] = False  # some of them must not be opened: their names reach outside the folder
    rows = np.flatnonzero(readable)
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]

    def tasks() -> Iterator[_Task]:
        for chunk in chunks:
            yield listing.root, list(listing.names.take(chunk)), places_of(listing, chunk)

    def finished(number: int, result: _Result) -> None:
        chunk = chunks[number]
        digests[chunk] = np.frombuffer(result[0], np.uint8).reshape(-1, 32)
        checksums[chunk] = result[1]
        sizes[chunk] = result[2]
        rejects.update((int(chunk[item]), (code, detail)) for item, code, detail in result[3])

    progress(len(rejects))
    run_local(_hash, tasks(), workers=workers, finished=finished, progress=progress, worker_mib=worker_mib)
    return Hashed(digests=digests, checksums=checksums, sizes=sizes, rejects=dict(sorted(rejects.items())))


def _hash(task: _Task, marker: Marker) -> _Result:
    """Digests (32 bytes each), checksums, sizes and rejects of some sources; runs in a worker."""
    root, names, places = task
    digests, checksums, sizes, rejects = [], [], [], []
    for item, content in enumerate(read_ahead(root, zip(names, places or repeat(None), strict=False))):
        if isinstance(content, RejectError):
            rejects.append((item, content.code, content.detail))
            digest, checksum, size = bytes(32), 0, 0
        else:
            digest, checksum, size = hashlib.sha256(content).digest(), google_crc32c.value(content), len(content)
        digests.append(digest)
        checksums.append(checksum)
        sizes.append(size)
        marker.advance()
    return b"".join(digests), checksums, sizes, rejects
