"""From planned records back to files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from irv2data.pipeline.planned import FILLER
from irv2data.split import Split


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a record lies, and what it was made of.

    Attributes:
        record: Row of the split's index.
        shard: File name of the shard.
        number: Number of the record within the shard.
        offset: Byte of the shard where it starts.
        source: Path of the source, as it was named at conversion; undecodable bytes as surrogate escapes.
    """

    record: int
    shard: str
    number: int
    offset: int
    source: str

    def __str__(self) -> str:
        return f"{self.shard}, record {self.number} ({self.source}, byte {self.offset})"


def places(split: Split, records: Iterable[int]) -> list[Place | None]:
    """The place of each record; None for filler."""
    return [None if record == FILLER else _place(split, record) for record in records]


def _place(split: Split, record: int) -> Place:
    shard, number, offset = split.locate(record)
    return Place(record=record, shard=shard, number=number, offset=offset, source=split.source(record))
