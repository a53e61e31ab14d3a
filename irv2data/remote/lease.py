"""What each process is reading, for the others to see: shards that are named here are not removed from a cache.

A process has one file, which it keeps locked as long as it lives; the system takes the lock back however the process
ends, and whoever comes across an unlocked file removes it. Everything here happens under the cache's own lock, so that
nobody reads a file that is half written.
"""

from __future__ import annotations

import fcntl
import os
import uuid
import weakref
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


class Lease:
    """The shards that one process is reading, in any number of iterators.

    Attributes:
        readers: Digests of the shards that each reader needs; those of one that is garbage leave the file when that is
            next written.
    """

    def __init__(self, folder: Path):
        self.readers: weakref.WeakKeyDictionary[object, frozenset[str]] = weakref.WeakKeyDictionary()
        self._file = os.open(folder / f"{os.getpid()}-{uuid.uuid4().hex}", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self) -> None:
        """Says what is being read now."""
        text = "\n".join(sorted(frozenset().union(*self.readers.values()))).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)


@lru_cache(maxsize=64)
def lease_of(folder: Path, process: int) -> Lease:
    """The lease of this process (its number, for a fork needs its own) in a folder of leases."""
    return Lease(folder)


def held(folder: Path) -> set[str]:
    """The digests that living processes, this one included, have leased; removes what dead ones left."""
    found: set[str] = set()
    for path in folder.iterdir():
        with suppress(FileNotFoundError), open(path, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                found.update(file.read().decode().split())
    return found
