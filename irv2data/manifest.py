"""What a dataset folder holds: manifest, index, fingerprint. Neither TensorFlow nor the converter is needed to read it.

`dataset.json` is written last, so a folder without it is not a dataset. `index/SPLIT/ARRAY.npy` are the arrays of
`irv2data.index`, memory-mapped one by one, because scanning one column of a structured memory map would make the
whole file resident.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, schema
from irv2data.errors import DatasetError, RecordError, UsageError, one_line
from irv2data.index import BASELINE, FORMAT_NAMES, PNG, PROGRESSIVE
from irv2data.labels import CLASS, KINDS
from irv2data.packed import Packed
from irv2data.tfrecord import read_frames

__all__ = ["BASELINE", "FORMAT_NAMES", "PNG", "PROGRESSIVE", "Dataset", "Shard", "Split"]

MANIFEST = "dataset.json"
INDEX = "index"
REJECTS = "rejects.jsonl"
DUPLICATES = "duplicates.jsonl"
QUARANTINE = "quarantine"
VERSION = 2
_SEAL = "sha256"

_REPAIR = "`irv2data verify --repair` makes a new one"


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
class Contents:
    """What is the same for all records of a dataset.

    Attributes:
        classes: Class names; a label of kind `class` or `classes` is made of indices into them.
        labels: What a label is, of `irv2data.labels.KINDS`.
        columns: Further columns: name to type, of `irv2data.index.TYPES`, in the order of their numbers.
        encoded_key: Key of the compressed image in a record.
        label_key: Key of the label in a record.
        adopted: The shards were written by others: records may lie apart, and carry other keys than ours.
        index_folder: Name of the folder that holds the index.
    """

    classes: tuple[str, ...] = ()
    labels: str = CLASS
    columns: Mapping[str, str] = field(default_factory=dict)
    encoded_key: str = schema.ENCODED
    label_key: str = schema.LABEL
    adopted: bool = False
    index_folder: str = INDEX


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a dataset, with its index.

    Attributes:
        name: For example `train`.
        folder: The dataset folder.
        shards: The split's files in order; column `shard` of the index counts them from 0.
        index: Name of each array of the index to the hexadecimal SHA-256 of its `.npy` file.
        contents: What all records of the dataset have in common.
    """

    name: str
    folder: Path
    shards: tuple[Shard, ...]
    index: Mapping[str, str]
    contents: Contents

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

    @property
    def arrays(self) -> dict[str, tuple[np.dtype[Any], bool]]:
        """The arrays of the index, as `irv2data.index.spec` describes them."""
        return index.spec(self.contents.labels, tuple(self.contents.columns.values()))

    def array(self, name: str) -> np.ndarray:
        """One array of the index, memory-mapped read-only; shape and dtype as `irv2data.index.spec` says.

        Raises:
            DatasetError: The file is missing or damaged, or does not have one row a record where it should.
        """
        path = array_path(self.folder, self.name, name, self.contents.index_folder)
        try:
            try:
                array = np.load(path, mmap_mode="r")
            except ValueError:  # an empty array cannot be mapped
                array = np.load(path)
        except Exception as error:  # NumPy evaluates the header as Python text, and raises whatever that raises
            raise DatasetError(f"{path}: the index cannot be read ({one_line(error)}); {_REPAIR}") from error
        dtype, by_row = self.arrays[name]
        if array.dtype != dtype or (by_row and len(array) != self.num_records):
            raise DatasetError(
                f"{path}: holds {array.dtype} {list(array.shape)}, the manifest says {dtype} "
                f"[{self.num_records}]; {_REPAIR}"
            )
        return array

    def column(self, name: str) -> np.ndarray | Packed:
        """One column of the index: a place column, `label` (one class or number a record), or a further column.

        Returns:
            [num_records] of the column's dtype, memory-mapped read-only; `Packed` where rows are strings.

        Raises:
            UsageError: There is no such column.
            DatasetError: The index is missing or damaged.
        """
        if name in self.contents.columns:
            stem = index.stem(list(self.contents.columns).index(name))
            return self.packed(stem) if self.contents.columns[name] == index.STRING else self.array(stem)
        if name not in self.arrays or not self.arrays[name][1]:
            there = ", ".join(self.contents.columns) or "none"
            raise UsageError(f"{self.folder} has no column {name!r}; it has {there}")
        return self.array(name)

    def packed(self, name: str) -> Packed:
        """A column of strings, by the name of its array: `filename`, for one."""
        return Packed(self.array(name), self.array(name + index.END))

    def multi_hot(self, rows: np.ndarray) -> np.ndarray:
        """The labels of a split whose records have any number of classes.

        Args:
            rows: int [B], rows of the index.

        Returns:
            float32 [B, number of classes], 1 for each class that the record has.
        """
        values, ends = self.array(index.LABEL), self.array(index.LABEL + index.END)
        hot = np.zeros((len(rows), len(self.contents.classes)), np.float32)
        for number, row in enumerate(np.asarray(rows).tolist()):
            hot[number, values[ends[row - 1] if row else 0 : ends[row]]] = 1
        return hot

    def locate(self, row: int) -> tuple[str, int, int]:
        """Where a record lies: (file name of the shard, number within the shard, byte offset).

        Raises:
            UsageError: The split has no such record.
        """
        if not 0 <= row < self.num_records:
            raise UsageError(f"{self.folder}: {self.name} has records 0 to {self.num_records - 1}, got {row}")
        shard = int(self.array("shard")[row])
        before = sum(part.records for part in self.shards[:shard])
        return self.shards[shard].file, row - before, int(self.array("offset")[row])

    def source(self, row: int) -> str:
        """The path of the file that a record was made of, as it was named; undecodable bytes as surrogate escapes.

        Raises:
            UsageError: The split has no such record.
        """
        self.locate(row)
        return self.packed(index.FILENAME).path(row)

    def read(self, row: int) -> schema.Record:
        """One record, read and checked; for looking, not for training.

        Raises:
            UsageError: The split has no such record.
            RecordError: The shard is damaged there.
        """
        file, number, offset = self.locate(row)
        try:
            with open(self.folder / file, "rb") as stream:
                stream.seek(offset)
                _, payload = next(read_frames(stream, file), (0, b""))
            return schema.decode(payload, self.contents.labels, self.contents.columns)
        except RecordError as error:
            raise RecordError(error.reason, shard=file, record=number) from error
        except (OSError, ValueError) as error:
            raise RecordError(one_line(error), shard=file, record=number) from error


class Dataset:
    """An irv2data dataset folder, opened and checked against its manifest (files, sizes and index; no data is read).

    Args:
        folder: The folder that holds `dataset.json`.
        check_sizes: Compare the shards' sizes with the manifest's; only a repair does without.

    Attributes:
        folder: The folder as a `pathlib.Path`.
        contents: What all records have in common: classes, what a label is, further columns.
        classes: Class names.
        splits: Split name to `Split`.
        source: What the converter counted (`sources`, `rejected`, `dropped`, `done`) and the options it ran with.
        appended: How often `--append` added shards.

    Raises:
        DatasetError: No such folder, no dataset, a version this release cannot read, or a shard that is missing or
            has another size than the manifest says.
    """

    def __init__(self, folder: str | os.PathLike[str], *, check_sizes: bool = True):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        try:
            self.contents = Contents(
                classes=tuple(manifest["classes"]),
                labels=manifest["labels"],
                columns={column["name"]: column["type"] for column in manifest["columns"]},
                encoded_key=manifest["encoded_key"],
                label_key=manifest["label_key"],
                adopted=manifest["adopted"],
                index_folder=_plain(manifest["index_folder"]),
            )
            self.source: dict[str, Any] = manifest["source"]
            self.appended: int = manifest["appended"]
            self.splits: dict[str, Split] = {
                _plain(name): Split(
                    name=name,
                    folder=self.folder,
                    shards=tuple(Shard(**{**shard, "file": _plain(shard["file"])}) for shard in split["shards"]),
                    index=split["index"],
                    contents=self.contents,
                )
                for name, split in manifest["splits"].items()
            }
            for name, split in self.splits.items():
                counted = {"records": split.num_records, "bytes": split.num_bytes}
                if {key: manifest["splits"][name][key] for key in counted} != counted:
                    raise KeyError(f"{name} does not add up")
            unknown = {self.contents.labels} - set(KINDS) | set(self.contents.columns.values()) - set(index.TYPES)
            if unknown:
                raise KeyError(unknown.pop())
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_ours(self.folder / MANIFEST, error) from error
        for split in self.splits.values() if check_sizes else ():
            for shard, path in zip(split.shards, split.paths, strict=True):
                _check_size(path, shard.bytes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.contents.classes

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
            "labels": self.contents.labels,
            "columns": dict(self.contents.columns),
            "encoded_key": self.contents.encoded_key,
            "splits": {
                name: {"shards": [asdict(shard) for shard in split.shards], "index": dict(split.index)}
                for name, split in self.splits.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def array_path(folder: Path, split: str, array: str, index_folder: str = INDEX) -> Path:
    """Where an array of a split's index lies."""
    return folder / index_folder / split / f"{array}.npy"


def classes_sha256(classes: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of a class list: two datasets whose labels mean the same have the same."""
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()


def manifest_text(
    *,
    contents: Contents,
    splits: Mapping[str, tuple[Sequence[Shard], Mapping[str, str]]],
    source: Mapping[str, Any],
    appended: int = 0,
) -> str:
    """The content of `dataset.json`; equal arguments give equal text (no times, no absolute paths).

    Args:
        contents: What all records have in common.
        splits: Split name to its shards and the digests of its index arrays.
        source: What the converter counted and the options it ran with; JSON-able.
        appended: How often shards were added.
    """
    content = {
        "format": "irv2data",
        "version": VERSION,
        "classes": list(contents.classes),
        "classes_sha256": classes_sha256(contents.classes),
        "labels": contents.labels,
        "columns": [{"name": name, "type": type} for name, type in contents.columns.items()],
        "encoded_key": contents.encoded_key,
        "label_key": contents.label_key,
        "adopted": contents.adopted,
        "index_folder": contents.index_folder,
        "appended": appended,
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
    return seal(content)


def seal(content: Mapping[str, Any]) -> str:
    """The text of a manifest: its content and, last, the digest of the text without it."""
    bare = {name: value for name, value in content.items() if name != _SEAL}
    digest = hashlib.sha256(json.dumps(bare, indent=1).encode()).hexdigest()
    return json.dumps({**bare, _SEAL: digest}, indent=1) + "\n"


def is_sealed(text: bytes) -> bool:
    """Whether the text of a manifest is to the byte what `seal` made."""
    try:
        return seal(json.loads(text)).encode() == text
    except (ValueError, AttributeError):
        return False


def _plain(name: str) -> str:
    """The name, unless it could reach outside the dataset's folder: a manifest may come from anywhere."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise KeyError(f"{name!r} is no plain file name")
    return name


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
        # Checked here, before anything relies on the classes.
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
