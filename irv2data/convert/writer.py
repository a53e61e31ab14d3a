"""One shard, written whole or not at all: the unit of work of every engine, a pure function of its arguments.

A shard is written under a temporary name, synced and renamed. Its index rows and rejects are committed the same way
beside it (the work folder's `SHARD.npz`), after the shard: that file is what `--resume` trusts.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from irv2data import schema
from irv2data.convert.config import ConvertConfig
from irv2data.convert.transcode import RejectError, transcode
from irv2data.errors import SourceError
from irv2data.manifest import COLUMNS
from irv2data.tfrecord import frame


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything a worker needs to write one shard.

    Attributes:
        root: Folder of the sources.
        paths: The shard's sources relative to `root`, in order.
        labels: int32 [len(paths)].
        digests: uint8 [len(paths), 32], the content that the layout was made for.
        classes: Class names.
        shard: Path of the shard to write.
        shard_number: Its number, for the index.
        result: Path of the result to commit after it.
        config: The conversion's options.
    """

    root: str
    paths: tuple[str, ...]
    labels: np.ndarray
    digests: np.ndarray
    classes: tuple[str, ...]
    shard: Path
    shard_number: int
    result: Path
    config: ConvertConfig


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What a written shard holds.

    Attributes:
        records: Number of records.
        bytes: Size of the file.
        sha256: Hexadecimal digest of the file.
        columns: The index rows of its records, by column.
        rejects: (path, code, detail) of each source that was not converted.
    """

    records: int
    bytes: int
    sha256: str
    columns: dict[str, np.ndarray]
    rejects: tuple[tuple[str, str, str], ...]


def read_source(root: str, path: str) -> bytes:
    """The content of a source.

    Raises:
        RejectError: It cannot be read, with code `unreadable`.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe that took an image's name would wait for ever.
        descriptor = os.open(os.path.join(root, path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RejectError("unreadable", "is a pipe or a device, no file")
            return file.read()
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from error


def write_shard(task: Task, advance: Callable[[], None] = lambda: None) -> ShardResult:
    """Converts a shard's sources, and commits the shard and its result.

    Args:
        task: What to write, and where.
        advance: Called once for each source.

    Raises:
        SourceError: `on_error` is `fail` and a source cannot be converted.
        OSError: The output cannot be written (full disk, read-only folder).
    """
    rows: dict[str, list[int]] = {name: [] for name in COLUMNS}
    rejects: list[tuple[str, str, str]] = []
    digest = hashlib.sha256()
    offset = 0
    with atomic_file(task.shard) as file:
        for path, label, expected in zip(task.paths, task.labels.tolist(), task.digests, strict=True):
            try:
                data = read_source(task.root, path)
                if hashlib.sha256(data).digest() != expected.tobytes():
                    raise RejectError("changed_while_reading", "the content differs from when the folder was scanned")
                stored = transcode(data, task.config)
            except RejectError as error:
                if task.config.on_error == "fail":
                    raise SourceError(f"{os.path.join(task.root, path)}: {error}; --on_error=reject goes on") from error
                rejects.append((path, error.code, error.detail))
                advance()
                continue
            record = schema.Record(
                encoded=stored.encoded,
                format=stored.format,
                height=stored.height,
                width=stored.width,
                label=label,
                text=task.classes[label],
                filename=os.fsencode(path),
                sha256=hashlib.sha256(stored.encoded).hexdigest(),
            )
            framed = frame(schema.encode(record))
            file.write(framed)
            digest.update(framed)
            row = (task.shard_number, offset, len(framed), stored.height, stored.width, stored.code, label)
            for column, value in zip(rows.values(), row, strict=True):
                column.append(value)
            offset += len(framed)
            advance()
    result = ShardResult(
        records=len(rows["offset"]),
        bytes=offset,
        sha256=digest.hexdigest(),
        columns={name: np.array(values, COLUMNS[name]) for name, values in rows.items()},
        rejects=tuple(rejects),
    )
    _save_result(task.result, result)
    return result


def load_result(path: Path) -> ShardResult | None:
    """The result of a shard that an earlier run committed, or None if there is none."""
    try:
        with np.load(path) as saved:
            head = json.loads(bytes(saved["head"]).decode())
            columns = {name: saved[name] for name in COLUMNS}
    except FileNotFoundError:
        return None
    rejects = tuple((str(path), str(code), str(detail)) for path, code, detail in head.pop("rejects"))
    return ShardResult(columns=columns, rejects=rejects, **head)


def _save_result(path: Path, result: ShardResult) -> None:
    head = {"records": result.records, "bytes": result.bytes, "sha256": result.sha256, "rejects": result.rejects}
    encoded = np.frombuffer(json.dumps(head).encode(), np.uint8)
    with atomic_file(path) as file:
        np.savez(file, head=encoded, **result.columns)  # type: ignore[arg-type]


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name complete and on the disk, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # without it a power cut can undo the rename
    finally:
        os.close(folder)
