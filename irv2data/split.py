"""One split of a dataset: its shards, its index, and single records of it. Nothing here needs TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, schema, storage
from irv2data.errors import DatasetError, RecordError, UsageError, one_line
from irv2data.labels import CLASS
from irv2data.packed import Packed
from irv2data.tfrecord import read_frames

INDEX = "index"

_REPAIR = "`irv2data verify --repair` makes a new one"
_SECONDS = 120  # that one record of a remote shard may take


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
        formats: Of `irv2data.index.OTHERS`, those that images are stored in beside JPEG and PNG; in their order.
    """

    classes: tuple[str, ...] = ()
    labels: str = CLASS
    columns: Mapping[str, str] = field(default_factory=dict)
    encoded_key: str = schema.ENCODED
    label_key: str = schema.LABEL
    adopted: bool = False
    index_folder: str = INDEX
    formats: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a dataset, with its index.

    Attributes:
        name: For example `train`.
        folder: The dataset folder.
        shards: The split's files in order; column `shard` of the index counts them from 0.
        index: Name of each array of the index to the hexadecimal SHA-256 of its `.npy` file.
        contents: What all records of the dataset have in common.
        fetch: Brings shards here, where the dataset is remote; None where they lie in the folder, and with `uri`.
        uri: The remote dataset's folder, where shards are read directly; None where they are, or are brought, here.
    """

    name: str
    folder: Path
    shards: tuple[Shard, ...]
    index: Mapping[str, str]
    contents: Contents
    fetch: Callable[[Sequence[Shard]], None] | None = None
    uri: str | None = None

    @cached_property  # the plan asks for it in every window
    def num_records(self) -> int:
        """Number of records in the split."""
        return sum(shard.records for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of the split's shards in bytes."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def paths(self) -> tuple[str, ...]:
        """Path of every shard, in order; or its URI, where the dataset was opened with `direct`."""
        return tuple(storage.join(self.uri or str(self.folder), shard.file) for shard in self.shards)

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
            DatasetError: The shard is remote and cannot be fetched.
        """
        file, number, offset = self.locate(row)
        if self.fetch is not None:
            self.fetch([shard for shard in self.shards if shard.file == file])
        try:
            framed = self._framed(file, offset, int(self.array("length")[row]))
            _, payload = next(read_frames(io.BytesIO(framed), file), (0, b""))
            return schema.decode(payload, self.contents.labels, self.contents.columns)
        except RecordError as error:
            raise RecordError(error.reason, shard=file, record=number) from error
        except (OSError, ValueError) as error:
            raise RecordError(one_line(error), shard=file, record=number) from error

    def _framed(self, file: str, offset: int, length: int) -> bytes:
        """The bytes of one record with its framing; fewer where the shard ends before."""
        if self.uri is None:
            with open(self.folder / file, "rb") as stream:
                stream.seek(offset)
                return stream.read(length)
        stop = offset + length
        try:
            data = storage.read_range(storage.join(self.uri, file), offset, stop, seconds=_SECONDS)
        except Exception as error:  # each store's library has its own
            raise OSError(one_line(error)) from error
        return data if len(data) <= length else data[offset:stop]  # some servers know no ranges


def array_path(folder: Path, split: str, array: str, index_folder: str = INDEX) -> Path:
    """Where an array of a split's index lies."""
    return folder / index_folder / split / f"{array}.npy"
