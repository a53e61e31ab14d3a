"""What a dataset folder holds: manifest, index, fingerprint. Neither TensorFlow nor the converter is needed to read it.

`dataset.json` is written last, so a folder without it is not a dataset. `index/SPLIT/COLUMN.npy` holds one array
per column, a row a record; columns are memory-mapped one by one, because scanning one column of a structured
memory map would make the whole file resident.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from irv2data.errors import DatasetError, UsageError, one_line

MANIFEST = "dataset.json"
INDEX = "index"
REJECTS = "rejects.jsonl"
VERSION = 1

# How an image is stored, in the index column `format`: the decoder and its speed depend on it.
BASELINE, PROGRESSIVE, PNG = 0, 1, 2
FORMAT_NAMES = ("baseline", "progressive", "png")

# A row a record. `offset` and `length` are in bytes and span the record with its TFRecord framing, so that
# neighbours satisfy offset[i] + length[i] == offset[i + 1]. Height and width are in pixels.
COLUMNS: dict[str, np.dtype[Any]] = {
    "shard": np.dtype(np.int32),
    "offset": np.dtype(np.int64),
    "length": np.dtype(np.int64),
    "height": np.dtype(np.int32),
    "width": np.dtype(np.int32),
    "format": np.dtype(np.uint8),
    "label": np.dtype(np.int32),
}


def shard_name(split: str, number: int, of: int) -> str:
    """File name of a shard, in the form that TFDS and TensorFlow tools expect."""
    return f"{split}-{number:05d}-of-{of:05d}.tfrecord"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One TFRecord file: its name, number of records, size in bytes, and hexadecimal SHA-256."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a dataset, with its index.

    Attributes:
        name: For example `train`.
        folder: The dataset folder.
        shards: The split's files in order; column `shard` of the index counts them from 0.
        index: Column name to hexadecimal SHA-256 of its `.npy` file.
    """

    name: str
    folder: Path
    shards: tuple[Shard, ...]
    index: Mapping[str, str]

    @property
    def num_records(self) -> int:
        """Number of records in the split."""
        return sum(shard.records for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of the split's shards in bytes."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def paths(self) -> tuple[str, ...]:
        """Path of every shard, in order."""
        return tuple(str(self.folder / shard.file) for shard in self.shards)

    def column(self, name: str) -> np.ndarray:
        """One column of the index, memory-mapped read-only: shape [num_records], dtype as in `COLUMNS`.

        Raises:
            DatasetError: The file is missing, damaged, or does not have one row a record.
        """
        path = column_path(self.folder, self.name, name)
        try:
            column = np.load(path, mmap_mode="r") if self.num_records else np.load(path)
        except Exception as error:  # NumPy evaluates the header as Python text, and raises whatever that raises
            raise DatasetError(
                f"{path}: the index cannot be read ({one_line(error)}); convert the dataset again"
            ) from error
        if column.dtype != COLUMNS[name] or column.shape != (self.num_records,):
            raise DatasetError(
                f"{path}: holds {column.dtype} {list(column.shape)}, the manifest says {COLUMNS[name]} "
                f"[{self.num_records}]; convert the dataset again"
            )
        return column


class Dataset:
    """An irv2data dataset folder, opened and checked against its manifest (files, sizes and index; no data is read).

    Args:
        folder: The folder that holds `dataset.json`.

    Attributes:
        folder: The folder as a `pathlib.Path`.
        classes: Class names; a label is an index into them.
        splits: Split name to `Split`.
        source: What the converter counted: `sources`, `rejected`, `dropped`, and the options it ran with.

    Raises:
        DatasetError: No such folder, no dataset, a version this release cannot read, or a shard that is missing or
            has another size than the manifest says.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        try:
            self.classes: tuple[str, ...] = tuple(manifest["classes"])
            self.source: dict[str, Any] = manifest["source"]
            self.splits: dict[str, Split] = {
                name: Split(
                    name=name,
                    folder=self.folder,
                    shards=tuple(Shard(**shard) for shard in split["shards"]),
                    index=split["index"],
                )
                for name, split in manifest["splits"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_ours(self.folder / MANIFEST, error) from error
        for split in self.splits.values():
            for shard, path in zip(split.shards, split.paths, strict=True):
                _check_size(path, shard.bytes)

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            UsageError: There is none; the message lists those there are.
        """
        if name not in self.splits:
            raise UsageError(f"{self.folder} has no split {name!r}; it has {', '.join(sorted(self.splits))}")
        return self.splits[name]

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over the classes and every shard and index digest: equal exactly for equal content."""
        content = {
            "classes": self.classes,
            "splits": {
                name: {"shards": [asdict(shard) for shard in split.shards], "index": dict(split.index)}
                for name, split in self.splits.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def column_path(folder: Path, split: str, column: str) -> Path:
    """Where a column of a split's index lies."""
    return folder / INDEX / split / f"{column}.npy"


def classes_sha256(classes: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of a class list: two datasets whose labels mean the same have the same."""
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()


def manifest_text(
    *,
    classes: Sequence[str],
    splits: Mapping[str, tuple[Sequence[Shard], Mapping[str, str]]],
    source: Mapping[str, Any],
) -> str:
    """The content of `dataset.json`; equal arguments give equal text (no times, no absolute paths).

    Args:
        classes: Class names in label order.
        splits: Split name to its shards and the digests of its index columns.
        source: What the converter counted and the options it ran with; JSON-able.
    """
    content = {
        "format": "irv2data",
        "version": VERSION,
        "classes": list(classes),
        "classes_sha256": classes_sha256(classes),
        "splits": {
            name: {
                "records": sum(shard.records for shard in shards),
                "bytes": sum(shard.bytes for shard in shards),
                "shards": [asdict(shard) for shard in shards],
                "index": dict(index),
            }
            for name, (shards, index) in splits.items()
        },
        "source": dict(source),
    }
    return json.dumps(content, indent=1) + "\n"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not os.path.isdir(folder):
        raise DatasetError(f"{folder}: no such folder; make a dataset with `irv2data convert SOURCE {folder}`")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError(
            f"{folder}: not a dataset, it has no {MANIFEST}; make one with `irv2data convert`, "
            "or finish an interrupted conversion with --resume"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error
    try:
        manifest = json.loads(text)
        if manifest["format"] != "irv2data":
            raise KeyError("format")
        version = manifest["version"]
        if version == VERSION and classes_sha256(manifest["classes"]) != manifest["classes_sha256"]:
            raise DatasetError(f"{path}: the class list was changed by hand (its digest differs); convert again")
    except (ValueError, KeyError, TypeError) as error:
        raise _not_ours(path, error) from error
    if version != VERSION:
        raise DatasetError(f"{path}: written in format version {version}, this release reads {VERSION}; convert again")
    return dict(manifest)


def _not_ours(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: not a manifest of irv2data ({error!r}); convert the dataset again")


def _check_size(path: str, expected: int) -> None:
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise DatasetError(f"{path}: the shard is missing ({error.strerror}); restore it or convert again") from error
    if size != expected:
        raise DatasetError(f"{path}: has {size} bytes, the manifest says {expected}; restore it or convert again")
