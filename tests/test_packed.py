"""Packed byte strings are a sequence like any other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irv2data.packed import Packed

STRINGS = st.lists(st.binary(max_size=5))


@given(strings=STRINGS)
def test_round_trip(strings):
    packed = Packed.of(iter(strings))
    assert list(packed) == strings
    assert [packed[row] for row in range(len(packed))] == strings
    assert [packed[row - len(strings)] for row in range(len(packed))] == strings
    assert (packed.data.dtype, packed.ends.dtype) == (np.uint8, np.int64)
    assert packed.ends.tolist() == np.cumsum([len(string) for string in strings]).tolist()


@given(strings=STRINGS, cut=st.slices(12))
def test_slices_are_those_of_a_list(strings, cut):
    assert list(Packed.of(strings)[cut]) == strings[cut]


@given(strings=STRINGS.filter(len), data=st.data())
def test_take(strings, data):
    rows = data.draw(st.lists(st.integers(0, len(strings) - 1)))
    assert list(Packed.of(strings).take(np.array(rows, np.int64))) == [strings[row] for row in rows]


def test_an_index_outside_is_an_error():
    packed = Packed.of([b"a", b"b"])
    for row in (2, -3):
        with pytest.raises(IndexError):
            packed[row]
    assert list(packed[5:]) == list(Packed.of([])) == []


def test_paths_keep_bytes_that_are_not_utf8():
    packed = Packed.of([b"caf\xe9", "é\n".encode()])
    assert [packed.path(row) for row in (0, 1)] == list(packed.paths()) == ["caf\udce9", "é\n"]
