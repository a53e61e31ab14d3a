"""The plan: for any (seed, epoch, step), which records form the batch, and how each is decoded and fitted. NumPy only.

An epoch is planned in windows of whole batches. A window is computed by itself from (seed, epoch, window): the keyed
permutation names its records, their boxes and decode windows follow from the index, and what each needs decides the
canvas. Nothing is carried from window to window, so any step of any epoch costs one window to know. (Batches of a
constant number of pixels are the exception: how many a window has is known when it is planned, so a step of theirs
costs one pass over the sizes of the epoch.)
"""

from __future__ import annotations

import functools

import numpy as np

from irv2data.errors import DatasetError, UsageError
from irv2data.index import LABEL
from irv2data.labels import CLASS, CLASSES, NONE, NUMBER
from irv2data.manifest import PNG, Split
from irv2data.packed import Packed
from irv2data.pipeline import buckets, fits, order
from irv2data.pipeline.augmentation import DRAWS
from irv2data.pipeline.config import NATIVE, RANDOM_RESIZED_CROP, PipelineConfig
from irv2data.pipeline.geometry import decode_windows
from irv2data.pipeline.planned import FILLER, Batches
from irv2data.pipeline.residence import TILE, Residence, kept_windows, residence_for

WINDOW = 64  # batches: enough that leftovers cost little padding, few enough that the first batch is there at once
PIXEL_WINDOW = 4096  # records of a window where batches differ in size
_LARGEST_PIXEL_BATCH = PIXEL_WINDOW // 4  # images: of tiny ones a batch would take a whole window
_SAMPLE, _RUN = 16384, 64  # records whose sizes decide the canvases, and how many of them are neighbours
_KEPT = 1 << 22  # records up to which the index stays mapped: of more, the pages that were read would fill the memory
_KEPT_SAMPLE = 8  # windows whose batches decide the shapes of batches of kept images
_COLUMNS = ("shard", "offset", "height", "width", "format")


class Plan:
    """Plans the epochs of one split.

    Args:
        split: The split, with its index.
        config: The pipeline's options.

    Attributes:
        canvases: Canvas shapes (height, width) by rising area, which records are grouped by.
        batch_sizes: For each canvas, how many images a batch has over all replicas.
        cache: Where decoded images are kept: `none`, `host`, `device` or `disk`.
        residence: Where each of them lies there; None if they are not kept.
        shapes: Canvas shapes that batches come in: `canvases`, unless they show windows of kept images.

    Raises:
        DatasetError: The split is too small for one batch.
        UsageError: The canvases given by hand do not hold what has to be decoded, or no batch of the largest canvas
            fits `max_pixels_per_batch`.
    """

    def __init__(self, split: Split, config: PipelineConfig):
        self.split = split
        self.config = config
        if split.num_records == 0:
            raise DatasetError(f"{split.folder}: split {split.name!r} has no records; use another split")
        if config.augment is not None and config.augment.mixes and split.contents.labels == NONE:
            raise UsageError(f"{split.folder}: has no labels that mixup and cutmix could mix; leave them out")
        self._largest = np.array([int(split.array(name).max()) for name in ("height", "width")])
        kept = (*_COLUMNS, LABEL) if split.contents.labels in (CLASS, NUMBER) else _COLUMNS
        self._kept = {name: split.array(name) for name in kept if split.num_records <= _KEPT}
        self._extra = {name: split.column(name) for name in config.columns}
        self.residence: Residence | None = None
        self.canvases = config.canvases or self._choose_canvases()
        self._check_largest()
        self.batch_sizes = self._batch_sizes()
        if self.steps_per_epoch() == 0:
            size = "batch_size" if config.max_pixels_per_batch is None else "max_pixels_per_batch"
            raise DatasetError(
                f"{split.folder}: split {split.name!r} has {split.num_records} records, a batch needs "
                f"{self.batch_sizes[-1]}; use a smaller {size} or another split"
            )
        self.cache, self.residence = residence_for(split, config)
        self.shapes = self.canvases if self.residence is None else self._kept_shapes()

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Exactly how many batches an epoch has: whatever the buckets, unless batches differ in size."""
        if self.config.max_pixels_per_batch is not None:
            return int(self._steps(epoch)[-1])
        records, batch = self.split.num_records, self.config.batch_size
        return records // batch if self.config.drop_remainder else -(-records // batch)

    def check_step(self, epoch: int, step: int, *, beyond: bool = True) -> None:
        """Raises a `UsageError` unless the epoch has such a step; with `beyond`, the one after its last too."""
        if epoch < 0:
            raise UsageError(f"epoch must be 0 or more, got {epoch}")
        last = self.steps_per_epoch(epoch) - (not beyond)
        if not 0 <= step <= last:
            raise UsageError(f"epoch {epoch} has steps 0 to {last}, got step {step}")

    def windows_per_epoch(self) -> int:
        """How many windows an epoch is planned in."""
        if self.config.max_pixels_per_batch is not None:
            return -(-self.split.num_records // PIXEL_WINDOW)
        return -(-self.steps_per_epoch() // WINDOW)

    def place(self, epoch: int, step: int) -> tuple[int, int]:
        """The window of a step, and its number within it; for the step after the last, one window past the last."""
        if self.config.max_pixels_per_batch is None:
            return divmod(step, WINDOW) if step < self.steps_per_epoch() else (self.windows_per_epoch(), 0)
        steps = self._steps(epoch)
        window = int(np.searchsorted(steps, step, side="right")) - 1
        return window, step - int(steps[window])

    def window(self, epoch: int, window: int) -> Batches:
        """The batches of one window.

        Args:
            epoch: 0 or more.
            window: In [0, windows_per_epoch()).
        """
        arrays, canvas = self._arrays(epoch, window)
        columns = {name: arrays.pop(name) for name in self._extra}
        if self.residence is not None:
            canvas = buckets.smallest(_needed(arrays), self.shapes)
        return Batches(canvas=np.array(self.shapes, np.int32)[canvas], columns=columns, **arrays)

    def of_records(self, record: np.ndarray, size: int) -> Batches:
        """Given records in their order, in batches of `size`, the last one completed with filler.

        Args:
            record: int64 [M], rows of the index.
            size: Rows of each batch.
        """
        rows = np.concatenate([record, np.full(-len(record) % size, FILLER, np.int64)])
        arrays = {
            name: array[:-1].reshape(-1, size, *array.shape[1:])
            for name, array in self._decisions(rows, 0, 0)[0].items()
        }
        columns = {name: arrays.pop(name) for name in self._extra}
        canvas = np.array(self.shapes, np.int32)[buckets.smallest(_needed(arrays), self.shapes)]
        return Batches(canvas=canvas, rows=np.full(len(canvas), size, np.int32), columns=columns, **arrays)

    def _arrays(self, epoch: int, window: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The fields of a window's batches but their canvas, and the number of the canvas they were grouped by."""
        config = self.config
        records = self.records(epoch, window)
        planned, size = self._decisions(records, epoch, window)
        batches, canvas = self._group(size[: len(records)])
        if config.shuffle is None:
            turn = np.argsort([rows[0] for rows in batches], kind="stable")
        else:
            # The one with filler last: without filler, an epoch is whole batches and then a shorter one.
            filled = np.array([rows[-1] < 0 or records[rows[-1]] == FILLER for rows in batches], float)
            drawn = order.uniforms(config.seed, epoch, window, "batches", canvas.shape)
            turn = np.argsort(filled + drawn, kind="stable")
        # Filler has the window's last positions and `group` keeps their order: it stands at the end of its batch, where
        # it can be appended instead of read. -1, the row behind the last, is filler too.
        rows = np.full((len(batches), max(map(len, batches), default=0)), -1)
        for number, source in enumerate(turn):
            rows[number, : len(batches[source])] = batches[source]
        arrays = {name: array[rows] for name, array in planned.items()}
        return {**arrays, "rows": np.array([len(batches[source]) for source in turn], np.int32)}, canvas[turn]

    def batch(self, epoch: int, step: int) -> Batches:
        """One batch, with a leading dimension of 1."""
        window, number = self.place(epoch, step)
        batch = self.window(epoch, window)[number : number + 1]
        return batch.cut(int(batch.rows[0]))

    def padding_waste(self, epoch: int = 0, windows: int = 16) -> float:
        """Share of the canvas pixels that is padding, over the first `windows` windows of an epoch."""
        valid = total = 0.0
        for window in range(min(windows, self.windows_per_epoch())):
            batches = self.window(epoch, window)
            there = np.arange(batches.record.shape[1]) < batches.rows[:, None]
            valid += float((np.prod(batches.size, axis=-1, dtype=np.float64) * there).sum())
            total += float((np.prod(batches.canvas, axis=-1, dtype=np.float64) * batches.rows).sum())
        return 1 - valid / total

    def _group(self, size: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """The batches of a window: for each its positions (-1 for filler), and the number of its canvas."""
        batches, canvas, left = buckets.group(size, self.canvases, self.batch_sizes)
        if len(left) and not self.config.drop_remainder:
            missing = self.batch_sizes[-1] - len(left)
            batches.append(np.concatenate([left, np.full(missing, -1)]))
            canvas = np.append(canvas, len(self.canvases) - 1)
        return batches, canvas

    @functools.lru_cache(maxsize=2)  # noqa: B019  # a plan lives as long as its pipeline
    def _steps(self, epoch: int) -> np.ndarray:
        """Batches before each window, where they differ in size: int64 [windows + 1]."""
        counts = []
        for window in range(self.windows_per_epoch()):
            record = self.records(epoch, window)
            size = self._output_sizes(*(self._column(name)[record] for name in ("height", "width")))
            counts.append(len(self._group(size)[0]))
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def records(self, epoch: int, window: int) -> np.ndarray:
        """The records of a window in the epoch's order, before they are grouped by size: int64 [M].

        -1, for filler, past the end of the split.
        """
        config, n = self.config, self.split.num_records
        if config.max_pixels_per_batch is not None:
            first, count = window * PIXEL_WINDOW, min(PIXEL_WINDOW, n - window * PIXEL_WINDOW)
        else:
            first = window * WINDOW * config.batch_size
            count = min(WINDOW, self.steps_per_epoch() - window * WINDOW) * config.batch_size
        position = first + np.arange(count)
        inside = position < n
        if config.shuffle == "full":
            record = order.permute(position[inside], n, config.seed, epoch)
        elif config.shuffle == "blocks":
            record = order.permute_blocks(position[inside], n, config.seed, epoch)
            record = record[np.argsort(order.uniforms(config.seed, epoch, window, "mix", record.shape), kind="stable")]
        else:
            record = position[inside]
        return np.concatenate([record, np.full(count - len(record), FILLER, np.int64)])

    def _decisions(self, record: np.ndarray, epoch: int, window: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Everything about each record of a window but its batch: the fields of `Batches`, [N + 1, ..].

        The last row is filler, for a batch that has to be completed. Second, the sizes by which records are grouped,
        the same whether decoded images are kept or not: int32 [N + 1, 2].
        """
        config, count = self.config, len(record) + 1
        record = np.append(record, FILLER)
        real = record != FILLER
        columns = {name: _values(self._column(name), record, real) for name in _COLUMNS}
        image_size = np.stack([columns["height"], columns["width"]], axis=1).astype(np.int64)
        image_size[~real] = 1  # filler is a black pixel, so that its box is valid
        crop_draws = np.zeros((count, 0))
        if config.fit == RANDOM_RESIZED_CROP:
            crop_draws = order.uniforms(config.seed, epoch, window, "crop", (count, fits.CROP_DRAWS))
        boxes = fits.source_boxes(image_size[:, 0], image_size[:, 1], crop_draws, config)
        output = self._output_sizes(image_size[:, 0], image_size[:, 1])
        # A native image is resized, where it has to be, before it is put on the canvas.
        largest = None if config.fit == NATIVE else self.canvases[-1]
        decoded = decode_windows(boxes, image_size, columns["format"] < PNG, output, largest)
        flip = np.zeros(count, bool)
        if config.flips:
            flip = order.uniforms(config.seed, epoch, window, "flip", (count,)) < 0.5
        size = output.astype(np.int32) if config.fit == NATIVE else decoded.size
        window_fields = {"crop": decoded.crop, "size": size, "box": decoded.box}
        if self.residence is not None:
            window_fields = dict(zip(window_fields, kept_windows(self.residence, record, boxes), strict=True))
        return {
            "record": record,
            "label": self._labels(record, real),
            "weight": real.astype(np.float32),
            "shard": columns["shard"].astype(np.int32),
            "offset": columns["offset"].astype(np.int64),
            "format": columns["format"].astype(np.int32),
            "scale": decoded.scale,
            "reduce": decoded.reduce,
            **window_fields,
            "output": output.astype(np.int32),
            "flip": flip,
            "draws": self._draws(epoch, window, count),
            **{name: _values(column, record, real) for name, column in self._extra.items()},
        }, size

    def _draws(self, epoch: int, window: int, count: int) -> np.ndarray:
        """The user's own uniform numbers, and behind them each augmentation's: float32 [count, num_draws]."""
        augment = self.config.augment
        streams = {"draws": DRAWS} | {f"augment: {name}": n for name, n in (augment.streams if augment else {}).items()}
        numbers = [order.uniforms(self.config.seed, epoch, window, name, (count, n)) for name, n in streams.items()]
        # Cut off to what float32 holds of a number below 1, for rounding could make it 1.
        return (np.floor(np.concatenate(numbers, axis=1) * 2.0**24) * 2.0**-24).astype(np.float32)

    def _labels(self, record: np.ndarray, real: np.ndarray) -> np.ndarray:
        kind = self.split.contents.labels
        if kind == NONE:
            return np.where(real, -1, 0).astype(np.int64)
        if kind == CLASSES:
            return self.split.multi_hot(np.where(real, record, 0)) * real[:, None].astype(np.float32)
        labels = _values(self._column(LABEL), record, real)
        return labels if kind == NUMBER else labels.astype(np.int64)

    def _column(self, name: str) -> np.ndarray:
        """A column of the index; of a large one, a map that is given back when it is done with."""
        # A plain array: NumPy's class for maps takes as long to index as the indexing.
        return np.asarray(self._kept[name] if name in self._kept else self.split.array(name))

    def _output_sizes(self, height: np.ndarray, width: np.ndarray) -> np.ndarray:
        return fits.output_sizes(height, width, self.config, self.canvases[-1])

    def _choose_canvases(self) -> tuple[tuple[int, int], ...]:
        """The ladder for the sizes of a sample of the split, spread over the whole index."""
        config, n = self.config, self.split.num_records
        pixels = config.max_canvas_pixels or config.image_size[0] * config.image_size[1] * 64 / 9
        times = (pixels / (config.image_size[0] * config.image_size[1])) ** 0.5
        least = _reducible(config)
        bound = (max(int(config.image_size[0] * times), least[0]), max(int(config.image_size[1] * times), least[1]))
        self.canvases = (bound,)  # what decides the reductions while the sample is taken
        # Runs of neighbours, for every record read brings in a page of each column, and the pages around it.
        runs = np.linspace(0, max(0, n - _RUN), _SAMPLE // _RUN).astype(np.int64)
        sample = np.arange(n) if n <= _SAMPLE else np.unique(runs[:, None] + np.arange(_RUN))
        sizes = self._decisions(sample, 0, 0)[1][:-1]
        if config.fit == NATIVE:
            ladder = buckets.choose_shapes(sizes, config.buckets, self._largest_output())
        else:
            # No canvas needs to be larger than the largest image; none may be too small to reduce onto (see geometry).
            level = int(buckets.level_of(np.minimum(self._largest, least)[None], config.image_size)[0])
            ladder = buckets.choose_canvases(sizes, config.image_size, config.buckets, level)
        # Rounding up to the grid must not exceed the bound; every size was made to fit into it.
        clipped = {(min(height, bound[0]), min(width, bound[1])) for height, width in ladder}
        return tuple(sorted(clipped, key=lambda shape: (shape[0] * shape[1], shape)))

    def _kept_shapes(self) -> tuple[tuple[int, int], ...]:
        """The ladder for batches of kept images, chosen by what the batches of some windows need."""
        assert self.residence is not None
        some = np.unique(np.linspace(0, self.windows_per_epoch() - 1, _KEPT_SAMPLE).astype(int)).tolist()
        needed = np.concatenate([_needed(self._arrays(0, window)[0]) for window in some])
        shapes = buckets.choose_shapes(needed, self.config.buckets, self.residence.size.max(axis=0))
        wide = {(height, -(-width // TILE) * TILE) for height, width in shapes}
        return tuple(sorted(wide, key=lambda shape: (shape[0] * shape[1], shape)))

    def _largest_output(self) -> np.ndarray:
        """The largest height and width of any output: int64 [2]."""
        sides = [self.split.array(name) for name in ("height", "width")]
        parts = range(0, self.split.num_records, 1 << 20)
        most = [self._output_sizes(*(side[part : part + (1 << 20)] for side in sides)).max(axis=0) for part in parts]
        return np.max(most, axis=0)

    def _check_largest(self) -> None:
        needed = np.minimum(self._largest, _reducible(self.config))
        if self.config.fit != NATIVE and (needed > self.canvases[-1]).any():
            raise UsageError(
                f"canvases: the largest must be at least {needed[0]}x{needed[1]} for image_size "
                f"{self.config.image_size[0]}x{self.config.image_size[1]}, got {self.canvases[-1]}"
            )

    def _batch_sizes(self) -> tuple[int, ...]:
        most, multiple = self.config.max_pixels_per_batch, self.config.batch_multiple
        if most is None:
            return (self.config.batch_size,) * len(self.canvases)
        areas = [height * width for height, width in self.canvases]
        if areas[-1] * multiple > most:
            raise UsageError(
                f"max_pixels_per_batch must be at least {areas[-1] * multiple}, {multiple} (batch_multiple) images on "
                f"the canvas of {self.canvases[-1][0]}x{self.canvases[-1][1]}, got {most}"
            )
        return tuple(min(most // area, max(_LARGEST_PIXEL_BATCH, multiple)) // multiple * multiple for area in areas)


def _values(column: np.ndarray | Packed, record: np.ndarray, real: np.ndarray) -> np.ndarray:
    """A column at some records, 0 or empty where there is none: [N]."""
    if isinstance(column, Packed):
        values = np.full(len(record), b"", object)
        values[real] = [column[row] for row in record[real].tolist()]
        return values
    return np.where(real, column[np.where(real, record, 0)], np.zeros((), column.dtype))


def _needed(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Height and width that each batch needs: int [batches, 2]."""
    return np.asarray(arrays["size"].max(axis=1))


def _reducible(config: PipelineConfig) -> tuple[int, int]:
    return 2 * config.image_size[0] + 2, 2 * config.image_size[1] + 2
