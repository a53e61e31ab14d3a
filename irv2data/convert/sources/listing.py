"""What every kind of source comes down to: named images with their labels, one row each, in columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from irv2data.packed import Packed


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where sources lie that are parts of larger files (tar archives).

    Attributes:
        containers: Paths of the archives relative to the listing's root.
        container: int32 [N], an index into `containers`.
        offset: int64 [N], byte of the archive at which the source's content begins.
        length: int64 [N], its length in bytes.
    """

    containers: tuple[str, ...]
    container: np.ndarray
    offset: np.ndarray
    length: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The sources of a conversion: one row each, in an order that depends on nothing but the source.

    Columnar on purpose: a million files are a handful of arrays, not a million objects; fewer than 200 bytes a file.

    Attributes:
        root: The folder (or URI) that names are relative to.
        names: Path of each source relative to `root`, in the file system's own bytes; a part of an archive is
            `ARCHIVE/MEMBER`. Names may repeat where a table lists a file twice.
        kind: What a label is, one of `irv2data.labels.KINDS`.
        classes: Class names in label order; empty unless `kind` is `class` or `classes`.
        labels: int32 [N] (`class`; -1 where there is none, which is a reject), float32 [N] (`number`), int32 [M]
            (`classes`, all rows end to end), or int32 [0] (`none`).
        label_ends: int64 [N], where each row's labels end in `labels`; None unless `kind` is `classes`.
        splits: Split names where the source says which; empty where splits are fractions.
        split: int32 [N], an index into `splits`; -1 where there is none. Empty where `splits` is.
        columns: Further columns by name: int64 [N], float32 [N], or `Packed` of N UTF-8 strings.
        places: Where the sources lie that are parts of archives; None where each is a file of its own.
        rejects: Row to (code, detail), of sources that the listing itself finds unfit.
        ignored: What was passed over: file name extension, or a description in parentheses, to a count.
    """

    root: str
    names: Packed
    kind: str
    classes: tuple[str, ...]
    labels: np.ndarray
    label_ends: np.ndarray | None = None
    splits: tuple[str, ...] = ()
    split: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    columns: Mapping[str, np.ndarray | Packed] = field(default_factory=dict)
    places: Places | None = None
    rejects: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)
