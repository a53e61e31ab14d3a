"""Many byte strings in two arrays: a million path names without a million objects."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class Packed(Sequence[bytes]):
    """An immutable sequence of byte strings, stored end to end.

    Args:
        data: uint8 [M], all strings joined.
        ends: int64 [N], where each one ends in `data`; not decreasing.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self.data = data
        self.ends = ends

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> Packed:
        """Packs strings; an iterator is consumed one by one, so that they never exist all at once."""
        data, ends = bytearray(), bytearray()
        for string in strings:
            data += string
            ends += len(data).to_bytes(8, "little")
        return cls(np.frombuffer(data, np.uint8), np.frombuffer(ends, "<i8"))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> bytes: ...
    @overload
    def __getitem__(self, row: slice) -> Packed: ...
    def __getitem__(self, row: int | slice) -> bytes | Packed:
        if isinstance(row, slice):
            return self.take(range(len(self))[row])
        row = range(len(self))[row]
        start = int(self.ends[row - 1]) if row else 0
        return self.data[start : self.ends[row]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in self.ends:
            yield self.data[start:end].tobytes()
            start = end

    def take(self, rows: Iterable[int]) -> Packed:
        """The strings at some rows, in that order."""
        return Packed.of(self[int(row)] for row in rows)

    def path(self, row: int) -> str:
        """A string as a path, undecodable bytes as surrogate escapes."""
        return os.fsdecode(self[row])

    def paths(self) -> Iterator[str]:
        """All strings as paths."""
        return (os.fsdecode(name) for name in self)
