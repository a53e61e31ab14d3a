"""Some records of a split, in any order, as a split of their own."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from irv2data import index
from irv2data.errors import UsageError
from irv2data.manifest import Dataset, Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection(Split):
    """Records of another split; their number among these is their place in `rows`.

    Attributes:
        whole: The other split.
        rows: int64 [M], rows of its index.
    """

    whole: Split
    rows: np.ndarray

    @cached_property
    def num_records(self) -> int:
        """Number of records selected."""
        return len(self.rows)

    @cached_property
    def _taken(self) -> dict[str, np.ndarray]:
        return index.take({name: self.whole.array(name) for name in self.arrays}, self.rows)

    def array(self, name: str) -> np.ndarray:
        """One array of the index, as `Split.array`, of the records selected; in memory."""
        return self._taken[name]

    def locate(self, row: int) -> tuple[str, int, int]:
        """As `Split.locate`."""
        if not 0 <= row < self.num_records:
            raise UsageError(f"{self.folder}: the selection has records 0 to {self.num_records - 1}, got {row}")
        return self.whole.locate(int(self.rows[row]))


def select(dataset: Dataset, split: str, rows: np.ndarray) -> Dataset:
    """A dataset whose one split holds some records of a split, under the same name.

    Args:
        dataset: The dataset; left as it is.
        split: Name of the split.
        rows: int64 [M], rows of its index.
    """
    whole = dataset.split(split)
    # Another selection is another dataset: whatever is kept or resumed by its fingerprint must not be mixed up.
    digests = {**whole.index, "selected": hashlib.sha256(np.ascontiguousarray(rows, "<i8").data).hexdigest()}
    selected = copy.copy(dataset)
    selected.__dict__.pop("fingerprint", None)
    selected.splits = {
        split: Selection(
            name=split,
            folder=whole.folder,
            shards=whole.shards,
            index=digests,
            contents=whole.contents,
            fetch=whole.fetch,
            uri=whole.uri,
            whole=whole,
            rows=rows,
        )
    }
    return selected
