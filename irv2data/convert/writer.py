"""One shard, written whole or not at all: the unit of work of every engine, a pure function of its arguments.

Its index rows and rejects are committed the same way beside it (the work folder's `SHARD.npz`), after the shard:
that file is what `--resume` trusts, and what the commit reads.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from typing import Any, Protocol

import google_crc32c
import numpy as np

from irv2data import index, schema, storage
from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources.listing import Listing
from irv2data.convert.sources.reading import read_ahead
from irv2data.convert.transcode import Stored, transcode
from irv2data.errors import SourceError
from irv2data.labels import CLASSES, NONE, NUMBER, Label
from irv2data.packed import Packed
from irv2data.tfrecord import framing


class Marker(Protocol):
    """How a worker tells its parent where it is; see `engines`."""

    def begin(self, item: int) -> None:
        """The risky part of an item starts."""

    def end(self) -> None:
        """The risky part is over."""

    def advance(self) -> None:
        """One more item is finished."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The sources of one shard, in order; what a listing says of them, and what hashing found.

    Attributes:
        names: Their names, relative to the listing's root.
        places: (archive, offset, length) of each source; None where each is a file of its own.
        labels: One each.
        columns: Further columns by name, one value each.
        digests: uint8 [n, 32], SHA-256 of the content that the layout was made for.
        checksums: uint32 [n], its CRC-32C: what tells a changed file ten times faster.
    """

    names: Packed
    places: Sequence[tuple[str, int, int]] | None
    labels: Sequence[Label]
    columns: Mapping[str, Sequence[int | float | bytes]]
    digests: np.ndarray
    checksums: np.ndarray

    @classmethod
    def of(cls, listing: Listing, rows: np.ndarray, digests: np.ndarray, checksums: np.ndarray) -> Rows:
        """Some rows of a listing, with the digests and checksums of the whole listing."""
        return cls(
            names=listing.names.take(rows),
            places=places_of(listing, rows),
            labels=[label_of(listing, row) for row in rows.tolist()],
            columns={
                name: list(values.take(rows)) if isinstance(values, Packed) else values[rows].tolist()
                for name, values in listing.columns.items()
            },
            digests=digests[rows],
            checksums=checksums[rows],
        )


def places_of(listing: Listing, rows: np.ndarray) -> list[tuple[str, int, int]] | None:
    """(archive, offset, length) of some rows of a listing; None where sources are files."""
    places = listing.places
    if places is None:
        return None
    columns = (places.container[rows].tolist(), places.offset[rows].tolist(), places.length[rows].tolist())
    return [(places.containers[number], offset, length) for number, offset, length in zip(*columns, strict=True)]


def label_of(listing: Listing, row: int) -> Label:
    """The label of a row of a listing."""
    if listing.kind == NONE:
        return None
    if listing.kind == CLASSES:
        assert listing.label_ends is not None
        start = listing.label_ends[row - 1] if row else 0
        return tuple(listing.labels[start : listing.label_ends[row]].tolist())
    return float(listing.labels[row]) if listing.kind == NUMBER else int(listing.labels[row])


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything a worker needs to write one shard.

    Attributes:
        root: Folder or URI of the sources.
        rows: The sources.
        kind: What a label is.
        types: Types of the further columns, of `index.TYPES`.
        classes: Class names.
        shard: Path of the shard to write.
        shard_number: Its number, for the index.
        result: Path of the result to commit after it.
        config: The conversion's options.
        barred: Row to (code, detail), of sources whose decoding took a worker down.
    """

    root: str
    rows: Rows
    kind: str
    types: tuple[str, ...]
    classes: tuple[str, ...]
    shard: str
    shard_number: int
    result: str
    config: ConvertConfig
    barred: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def without(self, row: int, code: str, detail: str) -> Task:
        """The same task, with one more source that must not be decoded."""
        return replace(self, barred={**self.barred, row: (code, detail)})


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What a written shard holds; its index rows stay in the result's file.

    Attributes:
        records: Number of records.
        bytes: Size of the file.
        sha256: Hexadecimal digest of the file.
        rejects: (path, code, detail) of each source that was not converted.
        done: What was done to how many sources, by the names in `transcode.DONE`.
    """

    records: int
    bytes: int
    sha256: str
    rejects: tuple[tuple[str, str, str], ...]
    done: Mapping[str, int]


def write_shard(task: Task, marker: Marker) -> ShardResult:
    """Converts a shard's sources, and commits the shard and its result.

    Args:
        task: What to write, and where.
        marker: Told of each source.

    Raises:
        SourceError: `on_error` is `fail` and a source cannot be converted.
        OSError: The output cannot be written (full disk, read-only folder).
    """
    rows = index.Rows(task.kind, task.types)
    rejects: list[tuple[str, str, str]] = []
    done: Counter[str] = Counter()
    digest = hashlib.sha256()
    offset = 0
    with storage.atomic_file(task.shard) as file:
        for row, content in enumerate(_contents(task)):
            try:
                stored, sha256 = _convert(task, row, content, marker)
            except RejectError as error:
                name = task.rows.names.path(row)
                if task.config.on_error == "fail":
                    raise SourceError(f"{storage.join(task.root, name)}: {error}; --on_error=reject goes on") from error
                rejects.append((name, error.code, error.detail))
                marker.advance()
                continue
            record = _record(task, row, stored, sha256)
            before, encoded, after = schema.encode_parts(record)
            header, footer = framing(before, encoded, after)
            parts = (header + before, encoded, after + footer)
            for part in parts:
                file.write(part)
                digest.update(part)
            length = sum(map(len, parts))
            place = (task.shard_number, offset, length, stored.height, stored.width, stored.code)
            rows.add(place, task.rows.digests[row], record.filename, record.label, record.columns.values())
            done.update(stored.done)
            offset += length
            marker.advance()
    result = ShardResult(
        records=len(rows),
        bytes=offset,
        sha256=digest.hexdigest(),
        rejects=tuple(rejects),
        done=dict(sorted(done.items())),
    )
    save_result(task.result, asdict(result), rows.arrays())
    return result


def _contents(task: Task) -> Iterator[bytes | RejectError]:
    return read_ahead(task.root, zip(task.rows.names, task.rows.places or repeat(None), strict=False))


def _convert(task: Task, row: int, content: bytes | RejectError, marker: Marker) -> tuple[Stored, str]:
    """One source, checked and ready to store, and the hexadecimal SHA-256 of what is stored."""
    if isinstance(content, RejectError):
        raise content
    if google_crc32c.value(content) != int(task.rows.checksums[row]):
        raise RejectError("changed_while_reading", "the content differs from when the source was scanned")
    if row in task.barred:
        raise RejectError(*task.barred[row])
    marker.begin(row)
    try:
        stored = transcode(content, task.config)
    except MemoryError:
        detail = f"decoding needed more than --worker_mib={task.config.worker_mib}"
        raise RejectError("out_of_memory", detail) from None
    finally:
        marker.end()
    if stored.encoded == content:
        return stored, task.rows.digests[row].tobytes().hex()
    return stored, hashlib.sha256(stored.encoded).hexdigest()


def _record(task: Task, row: int, stored: Stored, sha256: str) -> schema.Record:
    label = task.rows.labels[row]
    text: str | tuple[str, ...] | None = None
    if isinstance(label, tuple):
        text = tuple(task.classes[number] for number in label)
    elif isinstance(label, int):
        text = task.classes[label]
    return schema.Record(
        encoded=stored.encoded,
        format=stored.format,
        height=stored.height,
        width=stored.width,
        label=label,
        text=text,
        filename=task.rows.names[row],
        sha256=sha256,
        columns={name: values[row] for name, values in task.rows.columns.items()},
    )


def save_result(path: str, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Commits a shard's result: a JSON-able head and the arrays of its index."""
    buffer = io.BytesIO()
    np.savez(buffer, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    storage.write_bytes(path, buffer.getvalue())


def load_result(path: str) -> ShardResult | None:
    """The result of a shard that an earlier run committed, or None if there is none."""
    try:
        with load_arrays(path) as saved:
            head = json.loads(bytes(saved["head"]).decode())
    except FileNotFoundError:
        return None
    rejects = tuple((str(path), str(code), str(detail)) for path, code, detail in head.pop("rejects"))
    return ShardResult(rejects=rejects, **head)


def load_arrays(path: str) -> Any:
    """The arrays of a result by name, each read when it is asked for; a context manager."""
    return np.load(io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else path)
