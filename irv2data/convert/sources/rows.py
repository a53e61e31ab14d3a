"""CSV, TSV and JSON Lines as typed columns, row by row; what cannot be read as a row is kept as a broken one."""

from __future__ import annotations

import csv
import io
import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import BinaryIO

from irv2data.convert.sources.columns import EMPTY, FIELD, Columns, encode, json_cell
from irv2data.convert.sources.labelling import listed
from irv2data.errors import SourceError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_PROGRESS_EVERY = 1000


class Table:
    """The rows of one or more files, in columns.

    Attributes:
        columns: All columns, equally long once `finished` is called.
        broken: Row to what is wrong with it: too many or too few fields, no JSON object, no path.
    """

    def __init__(self) -> None:
        self.columns = Columns()
        self.broken: dict[int, str] = {}
        self._lines = array("q")
        self._starts: list[int] = []
        self._files: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    def where(self, row: int) -> str:
        """FILE:LINE of a row."""
        return f"{self._files[bisect_right(self._starts, row) - 1]}:{self._lines[row]}"

    def read(self, file: BinaryIO, name: str, progress: Callable[[int], None] = lambda rows: None) -> range:
        """Adds a file's rows.

        Args:
            file: Open for reading.
            name: Its name, whose suffix says what it is.
            progress: Called with the number of rows read since the last call.

        Returns:
            The rows added.

        Raises:
            SourceError: The file has no header, or one that is of no use.
        """
        start = len(self)
        self._starts.append(start)
        self._files.append(name)
        suffix = os.path.splitext(name)[1].lower()
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = self._json_lines(text) if suffix in (".jsonl", ".ndjson") else self._csv(text, name, suffix)
        for count, line in enumerate(rows, 1):
            self._lines.append(line)
            if count % _PROGRESS_EVERY == 0:
                progress(_PROGRESS_EVERY)
        progress((len(self) - start) % _PROGRESS_EVERY)
        text.detach()
        self.columns.pad(len(self))
        return range(start, len(self))

    def _csv(self, text: io.TextIOWrapper, name: str, suffix: str) -> Iterator[int]:
        # Not strict, a quote that is never closed would swallow the rest of the file without an error.
        reader = csv.reader(text, delimiter="\t" if suffix == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise SourceError(f"{name}: the first line cannot be read as names of columns ({error})") from error
        repeated = sorted({column for column in header if column and header.count(column) > 1})
        if repeated:
            raise SourceError(f"{name}: has several columns called {listed(repeated)}; rename them")
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                self.broken[len(self)] = f"{_lines(line, reader.line_num)}: {error}"
                yield line
                continue
            if row is None:
                return
            if len(row) == len(header):
                for column, value in zip(header, row, strict=True):
                    self.columns.put(len(self), column, (FIELD, encode(value)))
            elif not row:
                continue
            else:
                where = _lines(line, reader.line_num)
                self.broken[len(self)] = f"{where}: the number of fields is {len(row)}, the header has {len(header)}"
            yield line

    def _json_lines(self, text: io.TextIOWrapper) -> Iterator[int]:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                self.broken[len(self)] = f"{_lines(number, number)}: no JSON ({error})"
            else:
                if isinstance(values, dict):
                    for column, value in values.items():
                        if (cell := json_cell(value))[0] != EMPTY or column not in self.columns:
                            self.columns.put(len(self), column, cell)
                else:
                    self.broken[len(self)] = f"{_lines(number, number)}: no JSON object"
            yield number


def _lines(first: int, last: int) -> str:
    return f"line {first}" if last <= first else f"lines {first} to {last}"
