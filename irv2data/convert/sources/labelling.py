"""Which kind of label a column holds, and its cells as labels."""

from __future__ import annotations

import json
import math
import os
import re
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from irv2data.convert.config import AUTO, COLUMN, SPLIT_NAME, ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources.columns import BOOL, DICT, EMPTY, FIELD, FLOAT, INT, LIST, Cell, Column, json_cell, number
from irv2data.errors import SourceError
from irv2data.labels import CLASS, CLASSES, NONE, NUMBER

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "filepath")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "y")

_DIGITS = re.compile(r"[+-]?[0-9]{1,100}", re.ASCII)
CANNOT_NAME_A_SPLIT = "cannot name a split; use letters, digits and '_', and not 'all'"

_NO_LABEL = ("no_label", "the label is empty")
_NamesOf = Callable[[Cell], Iterable[bytes]]
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(kw_only=True)
class Labels:
    """Labels of N rows as a `Listing` holds them, and the rows that have none."""

    kind: str
    classes: tuple[str, ...] = ()
    labels: np.ndarray
    label_ends: np.ndarray | None = None
    rejects: dict[int, tuple[str, str]] = field(default_factory=dict)


def no_labels() -> Labels:
    """Those of rows without labels."""
    return Labels(kind=NONE, labels=np.zeros(0, np.int32))


def find_column(names: Iterable[str], wanted: str, usual: tuple[str, ...]) -> str | None:
    """The column that an option names, or else the first of the usual ones, in any case; None if it is not there."""
    names = list(names)
    if wanted:
        return wanted if wanted in names else None
    lower = {name.lower(): name for name in reversed(names)}
    return next((name if name in names else lower[name] for name in usual if name in lower), None)


def label_column(columns: Mapping[str, Column], config: ConvertConfig, where: str, *, usual: tuple[str, ...]) -> str:
    """The name of the column that holds the labels; empty where there are none.

    Raises:
        SourceError: Labels are asked for, and no column holds them.
    """
    found = find_column(columns, config.label_column, usual)
    if found is not None:
        return found
    if config.label_column or config.labels not in (AUTO, NONE):
        wanted = config.label_column or f"one of {', '.join(usual)}"
        raise SourceError(
            f"{where}: has no label column {wanted}; its columns are {listed(columns)}; "
            f"--label_column names it, --labels=none does without"
        )
    return ""


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    names = list(names)
    return ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def labels_of(column: Column, config: ConvertConfig) -> Labels:
    """A column's cells as labels of the kind that the configuration asks for, or that they suggest."""
    kind = _kind(column) if config.labels == AUTO else config.labels
    if kind == NUMBER:
        return _numbers(column)
    if kind == CLASS:
        return _classes(column, lambda cell: (_single(cell),), kind)
    if kind == CLASSES:
        return _classes(column, lambda cell: _several(cell, config.label_separator), kind)
    return no_labels()


def _kind(column: Column) -> str:
    tags = set(np.unique(column.tags).tolist()) - {EMPTY}
    if LIST in tags:
        return CLASSES
    if FIELD not in tags:
        return NUMBER if FLOAT in tags and tags <= {INT, FLOAT} else CLASS
    broken = False  # a number that is not whole was seen
    for text in column.texts:
        if not text.strip():
            continue
        value = number(text)
        if value is None:
            return CLASS
        broken = broken or (math.isfinite(value) and value != int(value))
    return NUMBER if broken else CLASS


def _numbers(column: Column) -> Labels:
    values = array("f")
    rejects: dict[int, tuple[str, str]] = {}
    for row, (tag, text) in enumerate(column.cells()):
        value = None if tag in (BOOL, LIST, DICT) else number(text)
        if not text.strip():
            rejects[row] = _NO_LABEL
        elif value is None or not abs(value) <= _FLOAT32_MAX:
            rejects[row] = ("bad_label", f"{_shown(text)} is not a finite number")
        values.append(math.nan if row in rejects or value is None else value)
    return Labels(kind=NUMBER, labels=np.frombuffer(values, np.float32), rejects=rejects)


def _classes(column: Column, names_of: _NamesOf, kind: str) -> Labels:
    numbers: dict[bytes, int] = {}
    labels, ends = array("i"), array("q")
    rejects: dict[int, tuple[str, str]] = {}
    for row, cell in enumerate(column.cells()):
        try:
            labels.extend([numbers.setdefault(name, len(numbers)) for name in names_of(cell)])
        except RejectError as error:
            rejects[row] = (error.code, error.detail)
            if kind == CLASS:
                labels.append(-1)
        ends.append(len(labels))
    classes, rank = class_order(numbers, numeric=True)
    if kind == CLASS:
        return Labels(kind=kind, classes=classes, labels=rank[np.frombuffer(labels, np.int32)], rejects=rejects)
    values, stops = rank[np.frombuffer(labels, np.int32)], np.frombuffer(ends, np.int64)
    rows = np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
    values = values[np.lexsort((values, rows))]
    return Labels(kind=kind, classes=classes, labels=values, label_ends=stops, rejects=rejects)


def class_order(numbers: Mapping[bytes, int], *, numeric: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in label order, and int32 [len(numbers) + 1]: the label of each number given, and -1 for -1.

    Args:
        numbers: Class name to the number it goes by so far; 0 to len(numbers) - 1.
        numeric: Order names that are all whole numbers as numbers; else, and in any other case, by their bytes.
    """
    order = sorted(numbers)
    if numeric and all(_DIGITS.fullmatch(os.fsdecode(name)) for name in order):
        order.sort(key=int)
    rank = np.full(len(order) + 1, -1, np.int32)
    rank[[numbers[name] for name in order]] = np.arange(len(order))
    return tuple(os.fsdecode(name) for name in order), rank


def _single(cell: Cell) -> bytes:
    tag, text = cell
    if tag in (LIST, DICT):
        raise RejectError("bad_label", f"{_shown(text)} is not one class")
    if not text.strip():
        raise RejectError(*_NO_LABEL)
    return text.strip()


def _several(cell: Cell, separator: str) -> Iterable[bytes]:
    tag, text = cell
    if tag == FIELD:
        names = [part.strip() for part in text.split(separator.encode("utf-8", "surrogateescape"))]
    elif tag == LIST:
        names = [name.strip() for name in _list_items(text)]
    elif tag == DICT:
        raise RejectError("bad_label", f"{_shown(text)} is no list of classes")
    else:
        names = [text.strip()]
    return dict.fromkeys(name for name in names if name)


def _list_items(text: bytes) -> Iterable[bytes]:
    for tag, item in map(json_cell, json.loads(text.decode("utf-8", "surrogateescape"))):
        if tag in (LIST, DICT):
            raise RejectError("bad_label", f"{_shown(text)} is no list of classes")
        yield item


def _shown(text: bytes) -> str:
    shown = text.decode("utf-8", "replace")
    return repr(shown if len(shown) <= 60 else shown[:60] + "...")


@dataclass(kw_only=True)
class Splits:
    """The split of each row as a `Listing` holds it, and the rows that have none."""

    names: tuple[str, ...] = ()
    split: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    rejects: dict[int, tuple[str, str]] = field(default_factory=dict)


def splits_of(columns: Mapping[str, Column], config: ConvertConfig, where: str) -> tuple[str, Splits]:
    """The column that says each row's split, and what it says; an empty name where the splits are not in a column.

    Raises:
        SourceError: The column that `splits` names is missing, or a value in it cannot name a split.
    """
    if not isinstance(config.splits, str) or not config.splits.startswith(COLUMN):
        return "", Splits()
    name = config.splits[len(COLUMN) :]
    if name not in columns:
        raise SourceError(f"{where}: has no column {name!r} for --splits; its columns are {listed(columns)}")
    found = _classes(columns[name], lambda cell: (_single(cell),), CLASS)
    unfit = next((split for split in found.classes if not SPLIT_NAME.fullmatch(split)), None)
    if unfit is not None:
        raise SourceError(f"{where}: {unfit!r} in column {name!r} {CANNOT_NAME_A_SPLIT}")
    rejects = dict.fromkeys(found.rejects, ("bad_label", f"no split in column {name!r}"))
    return name, Splits(names=found.classes, split=found.labels, rejects=rejects)
