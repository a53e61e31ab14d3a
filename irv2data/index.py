"""The index of a split: one `.npy` array a column, a row a record; pure arithmetic on arrays.

A column whose rows differ in length (names, several labels, text) is two arrays: `NAME` holds all rows end to end and
`NAME_end` says where each one ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from irv2data.labels import CLASS, CLASSES, NUMBER, Label
from irv2data.packed import Packed

# How an image is stored, in column `format`: the decoder and its speed depend on it. What comes before PNG is JPEG.
BASELINE, PROGRESSIVE, PNG = 0, 1, 2
# Never converted to, only adopted as others wrote them; a manifest that has them says so (`Contents.formats`).
WEBP, WEBP_ALPHA, AVIF = 3, 4, 5
FORMAT_NAMES = ("baseline", "progressive", "png", "webp", "webp_alpha", "avif")
OTHERS = FORMAT_NAMES[PNG + 1 :]

# `offset` and `length` are in bytes and span the record with its TFRecord framing. Height and width are in pixels.
PLACE_COLUMNS: dict[str, np.dtype[Any]] = {
    "shard": np.dtype(np.int32),
    "offset": np.dtype(np.int64),
    "length": np.dtype(np.int64),
    "height": np.dtype(np.int32),
    "width": np.dtype(np.int32),
    "format": np.dtype(np.uint8),
}
CONTENT = "content"  # uint8 [N, 32], SHA-256 of the source
FILENAME = "filename"
LABEL = "label"
END = "_end"

INT, FLOAT, STRING = "int64", "float32", "string"
TYPES = (INT, FLOAT, STRING)


def stem(number: int) -> str:
    """File name, without `.npy`, of the further column of that number: its own name may be no file name."""
    return f"column{number}"


def spec(kind: str, types: Sequence[str]) -> dict[str, tuple[np.dtype[Any], bool]]:
    """What an index holds: array name to its dtype and whether it has one row a record (else it has an `_end`).

    Args:
        kind: What a label is, of `labels.KINDS`.
        types: Type of each further column, of `TYPES`.
    """
    arrays: dict[str, tuple[np.dtype[Any], bool]] = {name: (dtype, True) for name, dtype in PLACE_COLUMNS.items()}
    arrays[CONTENT] = (np.dtype(np.uint8), True)
    ragged: dict[str, np.dtype[Any]] = {FILENAME: np.dtype(np.uint8)}
    if kind == CLASS:
        arrays[LABEL] = (np.dtype(np.int32), True)
    elif kind == NUMBER:
        arrays[LABEL] = (np.dtype(np.float32), True)
    elif kind == CLASSES:
        ragged[LABEL] = np.dtype(np.int32)
    for number, type in enumerate(types):
        if type == STRING:
            ragged[stem(number)] = np.dtype(np.uint8)
        else:
            arrays[stem(number)] = (np.dtype(type), True)
    for name, dtype in ragged.items():
        arrays[name] = (dtype, False)
        arrays[name + END] = (np.dtype(np.int64), True)
    return arrays


class Rows:
    """Gathers an index row by row.

    Args:
        kind: What a label is, of `labels.KINDS`.
        types: Type of each further column, of `TYPES`.
    """

    def __init__(self, kind: str, types: Sequence[str]):
        self._spec = spec(kind, types)
        self._values: dict[str, list[Any]] = {name: [] for name in self._spec if not name.endswith(END)}

    def __len__(self) -> int:
        return len(self._values["offset"])

    def add(
        self, place: tuple[int, ...], content: np.ndarray, filename: bytes, label: Label, columns: Iterable[Any]
    ) -> None:
        """One record.

        Args:
            place: Its values of `PLACE_COLUMNS`, in their order.
            content: uint8 [32], SHA-256 of its source.
            filename: Name of its source.
            label: As the kind says.
            columns: Values of the further columns, in their order.
        """
        for name, value in zip(PLACE_COLUMNS, place, strict=True):
            self._values[name].append(value)
        self._values[CONTENT].append(content)
        self._values[FILENAME].append(filename)
        if LABEL in self._values:
            self._values[LABEL].append(label)
        for number, value in enumerate(columns):
            self._values[stem(number)].append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that `spec` describes."""
        arrays = {}
        for name, values in self._values.items():
            dtype, by_row = self._spec[name]
            if by_row:
                shape = (len(values), 32) if name == CONTENT else (len(values),)
                arrays[name] = np.array(values, dtype).reshape(shape)
            elif dtype == np.uint8:
                packed = Packed.of(values)
                arrays[name], arrays[name + END] = packed.data, packed.ends
            else:
                arrays[name] = np.array([label for row in values for label in row], dtype)
                arrays[name + END] = np.cumsum([len(row) for row in values], dtype=np.int64)
        return arrays


def join(name: str, parts: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """One array of an index, joined from consecutive parts of it; `_end` arrays count on through all parts.

    Args:
        name: Name of the array.
        parts: The parts, each with that array and, for an `_end` array, the data it belongs to.
    """
    if not name.endswith(END):
        return np.concatenate([part[name] for part in parts])
    ends, base = [], 0
    for part in parts:
        ends.append(part[name] + base)
        base += len(part[name[: -len(END)]])
    return np.concatenate(ends)


def empty(name: str, dtype: np.dtype[Any]) -> np.ndarray:
    """An array of an index without records."""
    return np.empty((0, 32) if name == CONTENT else 0, dtype)


def take(arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """An index of some rows of another.

    Args:
        arrays: All arrays of an index.
        rows: int [K], the rows to keep, in order.
    """
    taken = {}
    for name, array in arrays.items():
        if name + END in arrays:
            ends = arrays[name + END]
            starts = np.where(rows > 0, ends[np.maximum(rows - 1, 0)], 0) if len(rows) else rows
            pieces = [array[start:stop] for start, stop in zip(starts, ends[rows], strict=True)]
            taken[name] = np.concatenate([array[:0], *pieces])
            taken[name + END] = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        elif not name.endswith(END):
            taken[name] = np.asarray(array)[rows]
    return {name: taken[name] for name in arrays}


def check(arrays: Mapping[str, np.ndarray], kind: str, types: Sequence[str], records: int) -> str | None:
    """What is wrong with the shapes and dtypes of an index, or None."""
    for name, (dtype, by_row) in spec(kind, types).items():
        array = arrays[name]
        shape = (records, 32) if name == CONTENT else (records,)
        if array.dtype != dtype or array.ndim != len(shape) or (by_row and array.shape != shape):
            return f"{name} holds {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}"
        if name.endswith(END):
            total = len(arrays[name[: -len(END)]])
            # The first subtraction of int64 ends cannot overflow within files that exist.
            if (records and int(array[-1]) != total) or (not records and total) or np.any(np.diff(array) < 0):
                return f"{name} does not end its rows at {total}"
    return None
