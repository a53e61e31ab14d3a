"""A table's columns while it is read (typed cells, end to end), and what kind of array each becomes."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from irv2data.errors import SourceError
from irv2data.packed import Packed

EMPTY, FIELD, STRING, INT, FLOAT, BOOL, LIST, DICT = range(8)  # FIELD: of a CSV, where everything is text

RESERVED = frozenset(
    ("canvas", "box", "size", "flip", "draws", "label", "record", "weight", "image", "pad_value")  # keys of a batch
)
UNNAMED = "(column without a name)"

_WHOLE = re.compile(rb"[+-]?(0|[1-9][0-9]{0,99})")
# "007" is a code, not the number 7: as a number it would not come back as it was.
_CODE = re.compile(rb"[+-]?0[0-9]+")
_EXACT = 2**24  # float32 holds every whole number up to here
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MAX_COLUMNS = 1000

Cell = tuple[int, bytes]


class Column:
    """The cells of one column; a cell is a tag and a text, and those never put are empty."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q")
        self._tags = bytearray()

    def __len__(self) -> int:
        return len(self._tags)

    def put(self, row: int, cell: Cell) -> None:
        """Sets the cell of a row, which must not lie before one that was put."""
        self.pad(row)
        tag, text = cell
        self._data += text
        self._ends.append(len(self._data))
        self._tags.append(tag if text else EMPTY)

    def pad(self, rows: int) -> None:
        """Makes the column at least so many rows long, with empty cells."""
        while len(self._tags) < rows:
            self._ends.append(len(self._data))
            self._tags.append(EMPTY)

    def take(self, rows: np.ndarray) -> Column:
        """The cells of some rows, in that order; -1 is an empty one."""
        taken, texts = Column(), self.texts
        for number, row in enumerate(rows.tolist()):
            taken.put(number, (self._tags[row], texts[row]) if row >= 0 else (EMPTY, b""))
        return taken

    @property
    def texts(self) -> Packed:
        """The cells' texts: UTF-8, with the original bytes where a file was not."""
        return Packed(np.frombuffer(self._data, np.uint8), np.frombuffer(self._ends, np.int64))

    @property
    def tags(self) -> np.ndarray:
        """uint8 [N], what each cell is."""
        return np.frombuffer(self._tags, np.uint8)

    def cells(self) -> Iterator[Cell]:
        """All cells in order."""
        return zip(self._tags, self.texts, strict=True)


class Columns(dict[str, Column]):
    """Columns by name, each as long as the row that was put last."""

    def put(self, row: int, name: str, cell: Cell) -> None:
        """Sets one cell, in a column that may be new.

        Raises:
            SourceError: There are more columns than a table can sensibly have.
        """
        if name not in self:
            if len(self) >= _MAX_COLUMNS:
                raise SourceError(f"more than {_MAX_COLUMNS} columns (row {row + 1} adds {name!r})")
            self[name] = Column()
        self[name].put(row, cell)

    def pad(self, rows: int) -> None:
        """Makes all columns so many rows long."""
        for column in self.values():
            column.pad(rows)


def json_cell(value: Any) -> Cell:
    """A parsed JSON value as a cell; strings and scalars as their text, the rest as JSON."""
    if value is None:
        return EMPTY, b""
    if isinstance(value, str):
        return STRING, encode(value)
    tag = next(tag for kind, tag in _TAGS if isinstance(value, kind))
    return tag, encode(json.dumps(value, ensure_ascii=False))


_TAGS = ((bool, BOOL), (int, INT), (float, FLOAT), (list, LIST), (dict, DICT))


def encode(text: str) -> bytes:
    """A text as UTF-8, the bytes of a file that was not UTF-8 as they were."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair, which only JSON's \\u escapes can write
        return text.encode("utf-8", "replace")


def number(text: bytes) -> float | None:
    """The number that a text is, or None; `nan` and `inf` are numbers here."""
    if b"_" in text:  # Python reads 1_000 as a number, and no one else
        return None
    try:
        return float(text)
    except ValueError:
        return None


def is_whole(text: bytes) -> bool:
    """Whether a text is a whole number, written as one."""
    return _WHOLE.fullmatch(text.strip()) is not None


def finish(column: Column) -> np.ndarray | Packed:
    """A column as int64 [N] (all whole numbers), float32 [N] (numbers; empty is NaN) or UTF-8 strings.

    Whole numbers that float32 would change, and whole numbers with leading zeros, stay strings.
    """
    if not np.isin(column.tags, (BOOL, STRING, LIST, DICT)).any():
        texts = column.texts
        if all(is_whole(text) for text in texts) and all(-(2**63) <= int(text) < 2**63 for text in texts):
            return np.fromiter((int(text) for text in texts), np.int64, len(texts))
        if all(_fits_float(text) for text in texts):
            numbers = (float(text) if text.strip() else math.nan for text in texts)
            return np.fromiter(numbers, np.float32, len(texts))
    return Packed.of(text.decode("utf-8", "replace").encode() for text in column.texts)


def _fits_float(text: bytes) -> bool:
    text = text.strip()
    if not text:
        return True
    value = number(text)
    if value is None or _CODE.fullmatch(text):
        return False
    if abs(value) > _FLOAT32_MAX:
        return b"inf" in text.lower()  # else digits that would overflow
    return not is_whole(text) or abs(value) <= _EXACT


def finish_all(columns: Mapping[str, Column], used: Iterable[str], where: str) -> dict[str, np.ndarray | Packed]:
    """The further columns of a table, without those that are used.

    Args:
        columns: All columns, equally long.
        used: Names of the columns that became names, labels or splits.
        where: What holds them, for the message.

    Raises:
        SourceError: A column has a name that a batch or a record uses, or that is not UTF-8.
    """
    used = set(used)
    further = {name: column for name, column in columns.items() if name not in used and name}
    for name in further:
        if name in RESERVED or name.startswith("image/"):
            raise SourceError(f"{where}: a column cannot be called {name!r}, which a batch or record uses; rename it")
        if not name.isprintable():
            raise SourceError(f"{where}: the column name {name!r} has unprintable or undecodable characters; rename it")
    return {name: finish(column) for name, column in further.items()}
