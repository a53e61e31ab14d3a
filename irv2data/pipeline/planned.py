"""What a plan says of some batches: arrays, one row an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

FILLER = -1  # the record of a row that stands for no image


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Planned batches; every array has the leading dimensions [batches, B], `canvas` and `rows` have [batches].

    Attributes:
        record: int64, row of the split's index; -1 for filler.
        label: int64, class number (-1 where the dataset has no labels); float32, where labels are numbers; float32
            [.., classes], 1 for each of a record's classes, where it may have several. 0 for filler.
        weight: float32, 1, or 0 for filler.
        shard: int32, number of the shard.
        offset: int64, byte where the record starts in it.
        format: int32, how the image is stored (`manifest.FORMAT_NAMES`).
        scale: int32, JPEG is decoded at one over it.
        crop: int32 [.., 4], y, x, height, width of the window to decode, in pixels at that scale.
        reduce: int32 [.., 2], whole numbers to average rows and columns by.
        box: float32 [.., 4], y, x, height, width of the source box, in pixels of the window so reduced.
        output: int32 [.., 2], height and width that the box is resampled to.
        size: int32 [.., 2], valid height and width of the canvas: of the window, or (`native`) of the output.
        flip: bool, mirror left to right.
        draws: float32 [.., num_draws], uniform in [0, 1): 8 for the user, then those of the augmentations.
        canvas: int32 [batches, 2], height and width of the batch's canvas.
        rows: int32 [batches], how many rows the batch has; where batches differ, further rows are to be left out.
        columns: The further columns that the options name: int64, float32 or bytes; 0 or empty for filler.
    """

    record: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    format: np.ndarray
    scale: np.ndarray
    crop: np.ndarray
    reduce: np.ndarray
    box: np.ndarray
    output: np.ndarray
    size: np.ndarray
    flip: np.ndarray
    draws: np.ndarray
    canvas: np.ndarray
    rows: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.record)

    def arrays(self) -> dict[str, np.ndarray]:
        """Field or column name to array, without copies."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "columns"}
        return own | dict(self.columns)

    def __getitem__(self, batches: slice) -> Batches:
        """Some of the batches, as views."""
        arrays = {name: array[batches] for name, array in self.arrays().items()}
        columns = {name: arrays.pop(name) for name in self.columns}
        return Batches(columns=columns, **arrays)

    def cut(self, rows: int) -> Batches:
        """The first so many rows of each batch, as views."""
        arrays = {
            name: array if name in ("canvas", "rows") else array[:, :rows] for name, array in self.arrays().items()
        }
        columns = {name: arrays.pop(name) for name in self.columns}
        return Batches(columns=columns, **arrays)
