"""What is left of one shard, in workers: the records that can be read, in their rows, and those that are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from irv2data import index, manifest, schema, storage
from irv2data.convert.records import Checked, check_record, differs, row_of
from irv2data.convert.writer import Marker, save_result
from irv2data.errors import DatasetError
from irv2data.manifest import Contents, Shard, Split
from irv2data.packed import Packed
from irv2data.tfrecord import FOOTER_BYTES, FRAMING_BYTES, HEADER_BYTES, frame, framing, salvage_frames


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A record that could not be recovered.

    Attributes:
        split: Name of the split.
        shard: File name of the shard.
        record: Number within the shard before the repair; None where the index could not tell.
        source: Path of the file it was made of; empty where the index could not tell.
    """

    split: str
    shard: str
    record: int | None
    source: str


def intact_arrays(split: Split) -> dict[str, np.ndarray]:
    """The arrays of a split's index that are as they were written, or follow from such.

    `shard` is always among them: the manifest tells it.
    """
    arrays = {}
    for name in split.arrays:
        path = manifest.array_path(split.folder, split.name, name, split.contents.index_folder)
        try:
            array = split.array(name)
            if split.index.get(name) == hashlib.sha256(path.read_bytes()).hexdigest():
                arrays[name] = array
        except (DatasetError, OSError):
            continue
    for name in list(arrays):
        partner = name.removesuffix(index.END) if name.endswith(index.END) else name + index.END
        if partner in split.arrays and partner not in arrays:
            del arrays[name]
    counts = [shard.records for shard in split.shards]
    arrays["shard"] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    if not split.contents.adopted:  # records lie one behind another
        bounds = np.cumsum([0, *counts])
        if "offset" not in arrays and "length" in arrays:
            parts = [arrays["length"][a:b] for a, b in pairwise(bounds)]
            arrays["offset"] = np.concatenate([np.empty(0, np.int64), *(np.cumsum(part) - part for part in parts)])
        elif "length" not in arrays and "offset" in arrays:
            sized = [
                np.diff(arrays["offset"][a:b], append=shard.bytes)
                for (a, b), shard in zip(pairwise(bounds), split.shards, strict=True)
            ]
            arrays["length"] = np.concatenate([np.empty(0, np.int64), *sized])
    return {name: arrays[name] for name in split.arrays if name in arrays}


@dataclass(frozen=True, kw_only=True)
class SalvageTask:
    """One shard to salvage.

    Attributes:
        path: The shard.
        data: The file that holds its records: itself, but for shards that were swapped or renamed.
        split: Name of its split.
        shard: What the manifest says of it.
        number: Its number in its split.
        contents: What all records have in common.
        arrays: What is intact of the index of its records, `shard` at least.
        complete: All of the index is.
        sound: Nothing is wrong with the shard and the index of its split.
        result: Where the index rows go.
        salvaged: Where the records go, if the shard cannot stay as it is.
        barred: Numbers of records whose decoding took a worker down.
    """

    path: str
    data: str
    split: str
    shard: Shard
    number: int
    contents: Contents
    arrays: dict[str, np.ndarray]
    complete: bool
    sound: bool
    result: str
    salvaged: str
    barred: frozenset[int] = field(default_factory=frozenset)

    def without(self, record: int, code: str, detail: str) -> SalvageTask:
        """The same task, with one more record that must not be decoded."""
        return replace(self, barred=self.barred | {record})

    @property
    def by_offset(self) -> dict[int, int]:
        """Offset to row, as far as the index tells."""
        return {offset: row for row, offset in enumerate(self.arrays.get("offset", np.empty(0)).tolist())}


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """What is left of a shard, whether it was damaged and had to be written anew, and what is missing."""

    shard: Shard
    damaged: bool
    rewritten: bool
    lost: list[Lost]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A record that can be read: where it lay, whether its framing was right, and its row in the old index."""

    offset: int
    payload: bytes
    checked: Checked
    framed: bool
    row: int | None = None


def salvage_shard(task: SalvageTask, marker: Marker) -> Salvaged:
    """Keeps the sound records of a shard and writes their index rows; runs in a worker."""
    if task.sound:  # every record was read and decoded just now
        save_result(task.result, {}, task.arrays)
        return Salvaged(shard=task.shard, damaged=False, rewritten=False, lost=[])
    try:
        data = storage.read_bytes(task.data)
    except OSError:
        data = b""
    readable = []
    for number, (offset, payload) in enumerate(_candidates(task, data)):
        found = _read(task, number, data, offset, payload, marker)
        marker.advance()
        if found is not None:
            readable.append(found)
    kept = _in_rows(task, readable)
    content = b"".join(frame(found.payload) for found in kept)
    lengths = [FRAMING_BYTES + len(found.payload) for found in kept]
    offsets = (np.cumsum(lengths, dtype=np.int64) - lengths).tolist() if kept else []
    same = content == data
    if task.contents.adopted and not same:
        # Others' shards may hold more than the records that are in the index.
        intact = hashlib.sha256(data).hexdigest() == task.shard.sha256
        if intact and len(kept) == task.shard.records and all(found.framed for found in kept):
            same, content, offsets = True, data, [found.offset for found in kept]
    rewritten = not (same and task.data == task.path and storage.size(task.path) is not None)
    if rewritten:
        storage.write_bytes(task.salvaged, content)
    save_result(task.result, {}, _rows(task, kept, offsets, lengths))
    shard = Shard(
        file=task.shard.file, records=len(kept), bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    damaged = rewritten or shard != task.shard
    return Salvaged(shard=shard, damaged=damaged, rewritten=rewritten, lost=list(_lost(task, kept)))


def _candidates(task: SalvageTask, data: bytes) -> list[tuple[int, bytes]]:
    """(offset, payload) of what may be a record, in order; those with right checksums, and what lies in between."""
    sound = dict(salvage_frames(data))
    found = dict(sound)

    def consider(offset: int, end: int) -> None:
        if offset not in found and offset >= 0 and offset + FRAMING_BYTES <= end <= len(data):
            found[offset] = data[offset + HEADER_BYTES : end - FOOTER_BYTES]

    ends = [0, *(offset + FRAMING_BYTES + len(payload) for offset, payload in sound.items())]
    if "length" in task.arrays:
        for offset, length in zip(*(task.arrays[name].tolist() for name in ("offset", "length")), strict=True):
            consider(offset, offset + length)
    for start, stop in zip(ends, [*sound, len(data)], strict=True):
        consider(start, stop)  # one record whose length is damaged fills the gap between its neighbours
    if task.contents.adopted and task.by_offset:  # others' shards may hold records that were left out
        found = {offset: payload for offset, payload in found.items() if offset in task.by_offset}
    return [(offset, found[offset]) for offset in sorted(found)]


def _read(task: SalvageTask, number: int, data: bytes, offset: int, payload: bytes, marker: Marker) -> _Found | None:
    """The record at a place, if it is certain that its bytes are those that were written."""
    header, footer = framing(payload)
    end = offset + FRAMING_BYTES + len(payload)
    whole = data[end - FOOTER_BYTES : end] == footer
    if number in task.barred or not (whole or (task.complete and not task.contents.adopted)):
        return None
    marker.begin(number)
    try:
        checked = check_record(payload, task.contents)
    except (ValueError, MemoryError):
        return None
    finally:
        marker.end()
    if not whole:
        # No checksum vouches for it: all that it says must be what the index says, and said as we say it.
        row = task.by_offset.get(offset)
        if row is None or differs(checked, row_of(task.arrays, task.contents, row)):
            return None
        if schema.encode(schema.decode(payload, task.contents.labels, task.contents.columns)) != payload:
            return None
    framed = whole and data[offset : offset + HEADER_BYTES] == header
    return _Found(offset=offset, payload=payload, checked=checked, framed=framed)


def _in_rows(task: SalvageTask, readable: Sequence[_Found]) -> list[_Found]:
    """The records that the shard should hold, each once and in order, as far as the index tells."""
    by_offset = task.by_offset
    if index.FILENAME in task.arrays and not task.contents.adopted:
        names = Packed(task.arrays[index.FILENAME], task.arrays[index.FILENAME + index.END])
        free: dict[bytes, list[int]] = {}
        for row, name in enumerate(names):
            free.setdefault(name, []).append(row)
        kept = []
        for found in readable:
            rows = free.get(found.checked.filename, [])
            if rows:  # else a record of another shard, or the second copy of one

                def fitness(row: int, found: _Found = found) -> tuple[bool, bool]:
                    differ = differs(found.checked, row_of(task.arrays, task.contents, row))
                    return by_offset.get(found.offset) != row, differ is not None

                row = min(rows, key=fitness)
                rows.remove(row)
                kept.append(replace(found, row=row))
        return sorted(kept, key=lambda found: found.row or 0)
    if by_offset:
        return [replace(found, row=by_offset.get(found.offset)) for found in readable]
    if len(readable) == task.shard.records:
        return [replace(found, row=row) for row, found in enumerate(readable)]
    return list(readable)


def _rows(
    task: SalvageTask, kept: Sequence[_Found], offsets: Sequence[int], lengths: Sequence[int]
) -> dict[str, np.ndarray]:
    rows = index.Rows(task.contents.labels, tuple(task.contents.columns.values()))
    digests = task.arrays.get(index.CONTENT)
    for found, offset, length in zip(kept, offsets, lengths, strict=True):
        checked = found.checked
        place = (task.number, offset, length, checked.height, checked.width, checked.format)
        # What the source's digest was is known only to the index; without it, what is stored stands for it.
        known = digests is not None and found.row is not None
        content = digests[found.row] if known else np.frombuffer(checked.sha256, np.uint8)  # type: ignore[index]
        rows.add(place, content, checked.filename, checked.label, checked.columns)
    return rows.arrays()


def _lost(task: SalvageTask, kept: Sequence[_Found]) -> Iterator[Lost]:
    split, shard = task.split, task.shard
    rows = {found.row for found in kept}
    if None in rows or not (task.by_offset or index.FILENAME in task.arrays or len(kept) == shard.records):
        for _ in range(shard.records - len(kept)):  # how many, but not which
            yield Lost(split=split, shard=shard.file, record=None, source="")
        return
    arrays = task.arrays
    names = Packed(arrays[index.FILENAME], arrays[index.FILENAME + index.END]) if index.FILENAME in arrays else None
    for row in range(shard.records):
        if row not in rows:
            yield Lost(split=split, shard=shard.file, record=row, source=names.path(row) if names is not None else "")
