"""The plan: for any (seed, epoch, step), which records form the batch, and how each is decoded and fitted. NumPy only.

An epoch is planned in windows of whole batches. A window is computed by itself from (seed, epoch, window): the keyed
permutation names its records, their boxes and decode windows follow from the index, and what each needs decides the
canvas. Nothing is carried from window to window, so any step of any epoch costs one window to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from irv2data.errors import DatasetError, UsageError
from irv2data.labels import CLASSES, NONE, NUMBER
from irv2data.manifest import PNG, Split
from irv2data.packed import Packed
from irv2data.pipeline import buckets, fits, order
from irv2data.pipeline.config import DRAWS, PipelineConfig
from irv2data.pipeline.geometry import decode_windows

WINDOW = 64  # batches: enough that leftovers cost little padding, few enough that the first batch is there at once
FILLER = -1
_SAMPLE = 16384  # records whose sizes decide the canvases


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Planned batches; every array has the leading dimensions [batches, B], `canvas` has [batches].

    Attributes:
        record: int64, row of the split's index; -1 for filler.
        label: int64, class number (-1 where the dataset has no labels); float32, where labels are numbers; float32
            [.., classes], 1 for each of a record's classes, where it may have several. 0 for filler.
        weight: float32, 1, or 0 for filler.
        shard: int32, number of the shard.
        offset: int64, byte where the record starts in it.
        format: int32, how the image is stored (`manifest.FORMAT_NAMES`).
        scale: int32, JPEG is decoded at one over it.
        crop: int32 [.., 4], y, x, height, width to decode, in pixels at that scale.
        reduce: int32 [.., 2], whole numbers to average rows and columns by.
        size: int32 [.., 2], valid height and width of the canvas.
        box: float32 [.., 4], y, x, height, width of the source box in canvas pixels.
        flip: bool, mirror left to right.
        draws: float32 [.., DRAWS], uniform in [0, 1).
        canvas: int32 [batches, 2], height and width of the batch's canvas.
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
    size: np.ndarray
    box: np.ndarray
    flip: np.ndarray
    draws: np.ndarray
    canvas: np.ndarray
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


class Plan:
    """Plans the epochs of one split.

    Args:
        split: The split, with its index.
        config: The pipeline's options.

    Attributes:
        canvases: Canvas shapes (height, width) from small to large.

    Raises:
        DatasetError: The split is too small for one batch.
        UsageError: The canvases given by hand do not hold what has to be decoded.
    """

    def __init__(self, split: Split, config: PipelineConfig):
        self.split = split
        self.config = config
        self._columns = {name: split.array(name) for name in ("shard", "offset", "height", "width", "format")}
        self._extra = {name: split.column(name) for name in config.columns}
        if self.steps_per_epoch() == 0:
            if split.num_records == 0:
                raise DatasetError(f"{split.folder}: split {split.name!r} has no records; use another split")
            raise DatasetError(
                f"{split.folder}: split {split.name!r} has {split.num_records} records, a batch needs "
                f"{config.batch_size}; use a smaller batch_size or another split"
            )
        self.canvases = config.canvases or self._choose_canvases()
        self._check_largest()

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Exactly how many batches an epoch has, whatever the buckets."""
        records, batch = self.split.num_records, self.config.batch_size
        return records // batch if self.config.drop_remainder else -(-records // batch)

    def windows_per_epoch(self) -> int:
        """How many windows an epoch is planned in."""
        return -(-self.steps_per_epoch() // WINDOW)

    def window(self, epoch: int, window: int) -> Batches:
        """The batches `window * WINDOW` and following of an epoch, at most `WINDOW`.

        Args:
            epoch: 0 or more.
            window: In [0, windows_per_epoch()).
        """
        config = self.config
        batches = min(WINDOW, self.steps_per_epoch() - window * WINDOW)
        records = self._records(epoch, window, batches * config.batch_size)
        planned = self._decisions(records, epoch, window)
        rows, canvas = buckets.group(planned["size"], self.canvases, config.batch_size)
        if config.shuffle is None:
            turn = np.argsort(rows[:, 0], kind="stable")
        else:
            turn = np.argsort(order.uniforms(config.seed, epoch, window, "batches", (batches,)), kind="stable")
        rows, canvas = rows[turn], canvas[turn]
        # Filler has the window's last positions and `group` keeps their order: it stands at the end of its batch, where
        # it can be appended instead of read.
        shapes = np.array(self.canvases, np.int32)[canvas]
        arrays = {name: array[rows] for name, array in planned.items()}
        columns = {name: arrays.pop(name) for name in self._extra}
        return Batches(canvas=shapes, columns=columns, **arrays)

    def batch(self, epoch: int, step: int) -> Batches:
        """One batch, with a leading dimension of 1."""
        return self.window(epoch, step // WINDOW)[step % WINDOW : step % WINDOW + 1]

    def padding_waste(self, epoch: int = 0, windows: int = 16) -> float:
        """Share of the canvas pixels that is padding, over the first `windows` windows of an epoch."""
        valid = total = 0.0
        for window in range(min(windows, self.windows_per_epoch())):
            batches = self.window(epoch, window)
            valid += float(np.prod(batches.size, axis=-1, dtype=np.float64).sum())
            total += float(np.prod(batches.canvas, axis=-1, dtype=np.float64).sum()) * self.config.batch_size
        return 1 - valid / total

    def _records(self, epoch: int, window: int, count: int) -> np.ndarray:
        """The records of a window in its order, -1 past the end of the split: int64 [count]."""
        config, n = self.config, self.split.num_records
        position = window * WINDOW * config.batch_size + np.arange(count)
        inside = position < n
        if config.shuffle == "full":
            record = order.permute(position[inside], n, config.seed, epoch)
        elif config.shuffle == "blocks":
            record = order.permute_blocks(position[inside], n, config.seed, epoch)
            record = record[np.argsort(order.uniforms(config.seed, epoch, window, "mix", record.shape), kind="stable")]
        else:
            record = position[inside]
        return np.concatenate([record, np.full(count - len(record), FILLER, np.int64)])

    def _decisions(self, record: np.ndarray, epoch: int, window: int) -> dict[str, np.ndarray]:
        """Everything about each record of a window but its batch: the fields of `Batches`, [N, ..]."""
        config, count = self.config, len(record)
        real = record != FILLER
        columns = {name: np.where(real, column[np.where(real, record, 0)], 0) for name, column in self._columns.items()}
        image_size = np.stack([columns["height"], columns["width"]], axis=1).astype(np.int64)
        image_size[~real] = 1  # filler is a black pixel, so that its box is valid
        crop_draws = np.zeros((count, 0))
        if config.fit == "random_resized_crop":
            crop_draws = order.uniforms(config.seed, epoch, window, "crop", (count, fits.CROP_DRAWS))
        boxes = fits.source_boxes(image_size[:, 0], image_size[:, 1], crop_draws, config)
        decoded = decode_windows(boxes, image_size, columns["format"] != PNG, config.image_size, self.canvases[-1])
        flip = np.zeros(count, bool)
        if config.flips:
            flip = order.uniforms(config.seed, epoch, window, "flip", (count,)) < 0.5
        return {
            "record": record,
            "label": self._labels(record, real),
            "weight": real.astype(np.float32),
            "shard": columns["shard"].astype(np.int32),
            "offset": columns["offset"].astype(np.int64),
            "format": columns["format"].astype(np.int32),
            "scale": decoded.scale,
            "crop": decoded.crop,
            "reduce": decoded.reduce,
            "size": decoded.size,
            "box": decoded.box,
            "flip": flip,
            "draws": order.uniforms(config.seed, epoch, window, "draws", (count, DRAWS)).astype(np.float32),
            **{name: _values(column, record, real) for name, column in self._extra.items()},
        }

    def _labels(self, record: np.ndarray, real: np.ndarray) -> np.ndarray:
        kind = self.split.contents.labels
        if kind == NONE:
            return np.where(real, -1, 0).astype(np.int64)
        if kind == CLASSES:
            return self.split.multi_hot(np.where(real, record, 0)) * real[:, None].astype(np.float32)
        labels = _values(self.split.array("label"), record, real)
        return labels if kind == NUMBER else labels.astype(np.int64)

    def _choose_canvases(self) -> tuple[tuple[int, int], ...]:
        """The ladder for the sizes of a sample of the split, spread over the whole index."""
        config, n = self.config, self.split.num_records
        pixels = config.max_canvas_pixels or config.image_size[0] * config.image_size[1] * 64 / 9
        times = (pixels / (config.image_size[0] * config.image_size[1])) ** 0.5
        least = _reducible(config)
        bound = (max(int(config.image_size[0] * times), least[0]), max(int(config.image_size[1] * times), least[1]))
        self.canvases = (bound,)  # what decides the reductions while the sample is taken
        sample = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
        sizes = self._decisions(sample, 0, 0)["size"]
        # No canvas needs to be larger than the largest image; none may be too small to reduce onto (see geometry).
        largest = np.minimum([self._columns["height"].max(), self._columns["width"].max()], least)
        level = int(buckets.level_of(np.array([largest]), config.image_size)[0])
        ladder = buckets.choose_canvases(sizes, config.image_size, config.buckets, level)
        # Rounding up to the grid must not exceed the bound; every size was made to fit into it.
        return tuple((min(height, bound[0]), min(width, bound[1])) for height, width in ladder)

    def _check_largest(self) -> None:
        largest = np.array([self._columns["height"].max(), self._columns["width"].max()])
        needed = np.minimum(largest, _reducible(self.config))
        if (needed > self.canvases[-1]).any():
            raise UsageError(
                f"canvases: the largest must be at least {needed[0]}x{needed[1]} for image_size "
                f"{self.config.image_size[0]}x{self.config.image_size[1]}, got {self.canvases[-1]}"
            )


def _values(column: np.ndarray | Packed, record: np.ndarray, real: np.ndarray) -> np.ndarray:
    """A column at some records, 0 or empty where there is none: [N]."""
    if isinstance(column, Packed):
        values = np.full(len(record), b"", object)
        values[real] = [column[row] for row in record[real].tolist()]
        return values
    return np.where(real, column[np.where(real, record, 0)], np.zeros((), column.dtype))


def _reducible(config: PipelineConfig) -> tuple[int, int]:
    return 2 * config.image_size[0] + 2, 2 * config.image_size[1] + 2
