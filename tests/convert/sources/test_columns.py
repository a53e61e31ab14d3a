"""Which type a column becomes, and that none of them changes a value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from irv2data.convert.sources.columns import FIELD, Column, Columns, finish, finish_all, json_cell
from irv2data.errors import SourceError
from irv2data.packed import Packed


def column(cells) -> Column:
    made = Column()
    for row, cell in enumerate(cells):
        made.put(row, cell)
    return made


def fields(*texts: str) -> Column:
    return column((FIELD, text.encode()) for text in texts)


def values(*values) -> Column:
    return column(json_cell(value) for value in values)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (fields("1", " -2 ", "+3"), np.array([1, -2, 3], np.int64)),
        (fields("9223372036854775807", "-9223372036854775808"), np.array([2**63 - 1, -(2**63)], np.int64)),
        (fields("1", "", "2.5"), np.array([1, math.nan, 2.5], np.float32)),
        (fields("1e3", "nan", "-inf"), np.array([1000, math.nan, -math.inf], np.float32)),
        (fields("", ""), np.array([math.nan] * 2, np.float32)),
        (fields("16777216", ""), np.array([16777216, math.nan], np.float32)),
        (values(1, None, 2), np.array([1, math.nan, 2], np.float32)),
        (values(1.5, 2), np.array([1.5, 2], np.float32)),
        # Whatever float32 or int64 would change stays as it was written.
        (fields("16777217", ""), [b"16777217", b""]),
        (fields("9223372036854775808"), [b"9223372036854775808"]),
        (fields("007", "12"), [b"007", b"12"]),
        (fields("1e39"), [b"1e39"]),
        (fields("9" * 5000), [b"9" * 5000]),
        (fields("1_000"), [b"1_000"]),
        (fields("1", "x", ""), [b"1", b"x", b""]),
        (values("1", "2"), [b"1", b"2"]),
        (values(True, None, 1), [b"true", b"", b"1"]),
        (values([1, "é"], {"a": None}, "é", ""), ['[1, "é"]'.encode(), b'{"a": null}', "é".encode(), b""]),
        (values("\ud800", "caf\udce9"), [b"?", "caf\ufffd".encode()]),
    ],
)
def test_types(cells, expected):
    made = finish(cells)
    if isinstance(expected, list):
        assert isinstance(made, Packed)
        assert list(made) == expected
    else:
        assert isinstance(made, np.ndarray)
        assert made.dtype == expected.dtype
        np.testing.assert_array_equal(made, expected)


def test_cells_that_were_not_put_are_empty():
    columns = Columns()
    columns.put(2, "late", (FIELD, b"5"))
    columns.put(0, "early", (FIELD, b"7"))
    columns.pad(4)
    assert [list(column.cells()) for column in columns.values()] == [
        [(0, b""), (0, b""), (1, b"5"), (0, b"")],
        [(1, b"7"), (0, b""), (0, b""), (0, b"")],
    ]
    assert list(columns["late"].take(np.array([2, -1, 2])).cells()) == [(1, b"5"), (0, b""), (1, b"5")]


def test_a_table_cannot_grow_columns_for_ever():
    columns = Columns()
    for number in range(1000):
        columns.put(number, f"c{number}", (FIELD, b"1"))
    with pytest.raises(SourceError, match=r"more than 1000 columns \(row 1001 adds 'c1000'\)"):
        columns.put(1000, "c1000", (FIELD, b"1"))


@pytest.mark.parametrize("name", ["label", "canvas", "pad_value", "image/key", "caf\udce9", "two\nlines"])
def test_names_that_cannot_be_columns(name):
    with pytest.raises(SourceError, match=r"^t\.csv: .*; rename it$"):
        finish_all({name: fields("1")}, [], "t.csv")
    assert finish_all({name: fields("1"), "ok": fields("2")}, [name], "t.csv").keys() == {"ok"}
