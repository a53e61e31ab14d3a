"""The unit of decoding: one chunk of a batch, its images decoded one after another straight into one canvas.

One worker a chunk, not a worker an image: no scheduling for each image, no waiting for the slowest of a batch, and
padding, stacking and the copy into the batch are a single operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tensorflow as tf

from irv2data import schema
from irv2data.pipeline import host
from irv2data.pipeline.cache import Cache
from irv2data.pipeline.config import LETTERBOX, NATIVE, PipelineConfig
from irv2data.pipeline.decode import decode_window
from irv2data.pipeline.distribute import Share
from irv2data.pipeline.others import Decoder
from irv2data.pipeline.read import read_records

# What goes to the device beside the pixels; the rest of a plan says how to decode and stays behind.
CARRIED = ("size", "flip", "draws", "label", "record", "weight")

# What is needed to read one image, to decode it, and to finish it.
PATH = "path"
_PLACE, _HOW, _FINISH = ("shard", "offset"), ("format", "scale", "crop", "reduce"), ("box", "output", "flip")


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes chunks; what is the same for all of them.

    Attributes:
        paths: string [S], the split's shards.
        config: The pipeline's options.
        on_host: Images are resized here, not on the device.
        share: Whose rows, and in how many chunks.
        key: Key of the compressed image in a record.
        cache: Where decoded images are kept; None if they are not.
        packed: Canvases are left to whoever gets the chunk: its pixels come one image after another.
        request: As in `read_records`.
        others: Decoders of other formats than JPEG and PNG, as in `decode_window`.
    """

    paths: tf.Tensor
    config: PipelineConfig
    on_host: bool
    share: Share
    key: str = schema.ENCODED
    cache: Cache | None = None
    packed: bool = False
    request: int | None = None
    others: Mapping[int, Decoder] = field(default_factory=dict)

    @property
    def packs(self) -> bool:
        """Whether pixels come without canvas; where all images are of one size, that would save nothing."""
        return self.packed and None in self._static

    @property
    def varies(self) -> bool:
        """Whether batches differ in their number of images."""
        return self.config.max_pixels_per_batch is not None

    @property
    def carried(self) -> tuple[str, ...]:
        """The fields of a plan that go to the device as they are."""
        return (*CARRIED, *self.config.columns)

    @property
    def needed(self) -> tuple[str, ...]:
        """The fields of a plan that a batch of kept images is made with."""
        return (*self.carried, "box", "crop", "output")

    @property
    def dtype(self) -> tf.DType:
        """Of the pixels."""
        return tf.float32 if self.on_host else tf.uint8

    def make(self, plan: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One chunk in one go: from its plan, as for `stack`, to what `finish` gives; raises what `images` raises."""
        return self.finish(plan, self.pixels(plan))

    def pixels(self, plan: dict[str, tf.Tensor]) -> tf.Tensor:
        """The pictures of a chunk in one tensor, as `stack` gives them; raises what `images` raises."""
        rows, number = real_rows(plan)
        if self.cache is None:
            return self.stack(plan, self.images(rows), number)
        missing = self.cache.missing(rows["record"])
        with tf.control_dependencies([tf.cond(tf.reduce_any(missing), lambda: self._keep(rows, missing), _nothing)]):
            return self.cache.gather(plan["record"], plan["crop"], plan["canvas"])

    def cut(self, plan: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The rows of a chunk that are its own, where batches differ in size; all of them where they do not."""
        if not self.varies:
            return plan
        rows = -(-plan["rows"] // self.share.chunks)
        whole = ("canvas", "rows")
        return {name: value if name in whole else value[:rows] for name, value in plan.items()}

    def images(self, plan: dict[str, tf.Tensor]) -> tf.data.Dataset:
        """The pictures of some rows, none of them filler, as they go onto a canvas or, resized here, into a batch.

        Args:
            plan: The fields of `planned.Batches`, [M, ..].

        Returns:
            A dataset of uint8 or (with `on_host`) float32 [h, w, 3]. Iterating it raises what `read_records` raises,
            and `tf.errors.InvalidArgumentError` where an image cannot be decoded.
        """
        how = tf.data.Dataset.from_tensor_slices(tuple(plan[name] for name in (*_HOW, *_FINISH)))
        encoded = read_records(self._path(plan), plan["offset"], self.key, self.request)
        return tf.data.Dataset.zip((encoded, how)).map(self._image, name="decode")

    def _keep(self, rows: dict[str, tf.Tensor], missing: tf.Tensor) -> tf.Tensor:
        """Decodes those images of some rows that are missing in the cache."""
        assert self.cache is not None
        rows = {name: tf.boolean_mask(rows[name], missing) for name in ("record", *_PLACE, "format")}
        encoded = read_records(self._path(rows), rows["offset"], self.key, self.request)

        def decode(scale: tf.Tensor, window: tf.Tensor, reduce: tf.Tensor) -> tf.data.Dataset:
            how = tf.data.Dataset.from_tensor_slices((rows["format"], scale, window, reduce))
            return tf.data.Dataset.zip((encoded, how)).map(
                lambda encoded, how: decode_window(encoded, *how, others=self.others), name="decode"
            )

        with tf.control_dependencies([self.cache.fill(rows["record"], decode)]):
            return _nothing()

    def stack(self, plan: dict[str, tf.Tensor], images: tf.data.Dataset, number: tf.Tensor) -> tf.Tensor:
        """The pictures of a chunk in one tensor, filler behind them.

        Args:
            plan: The fields of `planned.Batches` for one chunk, each [N, ..]; `canvas` int32 [2].
            images: One for each of the first rows; those without are filler.
            number: int32 [], how many there are; `tf.errors.InvalidArgumentError` where there are fewer.

        Returns:
            uint8 or (with `on_host`) float32 [N, H, W, 3], zero outside each image; or what `_packed` gives.
        """
        if self.packs:
            return self._packed(images, number)
        count = tf.cast(tf.shape(plan["record"])[0], tf.int64)
        same = None not in self._static  # all of one size: nothing to pad, and padding would clear the memory first
        shape = tf.concat([self.height_and_width(plan), [3]], axis=0)
        blank = tf.zeros(shape if same else [1, 1, 3], self.dtype)
        filler = tf.data.Dataset.from_tensors(blank).repeat(count - tf.cast(number, tf.int64))
        # One worker a chunk, hence no parallelism of its own; one element, hence nothing is left over to lose.
        every = images.concatenate(filler)
        stacked = (
            every.batch(count, name="batch")
            if same
            else every.padded_batch(count, padded_shapes=tf.cast(shape, tf.int64), name="batch")
        )
        # An error where images are missing: reading says nothing of a shard that ends before a record.
        return tf.reshape(stacked.get_single_element(), tf.concat([[tf.cast(count, tf.int32)], shape], axis=0))

    def _packed(self, images: tf.data.Dataset, number: tf.Tensor) -> tf.Tensor:
        """The pixels of some pictures one after another, as `stack` takes them: uint8 or float32 [pixels * 3]."""
        nothing = tf.raw_ops.EmptyTensorList(
            element_shape=tf.constant([-1]), max_num_elements=-1, element_dtype=self.dtype
        )

        def listed(image: tf.Tensor) -> tf.Tensor:
            return tf.raw_ops.TensorListPushBack(input_handle=nothing, tensor=tf.reshape(image, [-1]))

        # A list holds pixels without copying them, and a batch of lists is one of references: the one copy is that of
        # the concatenation. (`Dataset.reduce` would need no batch, but makes its function anew for every chunk.)
        first = tf.data.Dataset.from_tensors(tf.zeros([0], self.dtype))  # none could not be concatenated
        lists = first.map(listed).concatenate(images.map(listed))
        count = tf.cast(number, tf.int64) + 1
        held = lists.batch(count, drop_remainder=True).get_single_element()
        every = tf.while_loop(
            lambda row, _: row < number + 1,
            lambda row, so_far: (
                row + 1,
                tf.raw_ops.TensorListConcatLists(input_a=so_far, input_b=held[row], element_dtype=self.dtype),
            ),
            (0, nothing),
        )[1]
        return tf.raw_ops.TensorListConcatV2(
            input_handle=every,
            element_shape=tf.constant([-1]),
            leading_dims=tf.zeros([0], tf.int64),
            element_dtype=self.dtype,
        ).tensor

    def finish(self, plan: dict[str, tf.Tensor], pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """The finished chunk: its pixels as `stack` gives them, and what goes along.

        Returns:
            `canvas` uint8 [N, H, W, 3] and `box` float32 [N, 4]; or (`on_host`) `image` float32 [N, h, w, 3]; `fitted`
            int32 [N, 4] for `letterbox`; the `CARRIED` fields and the columns. Where it `packs`, pixels are 1-D, and
            `shape` int32 [2] is their canvas'.
        """
        pixels = tf.ensure_shape(pixels, [None] if self.packs else [plan["record"].shape[0], *self._static, 3])
        carried = {name: plan[name] for name in self.carried}
        if self.packs:
            carried["shape"] = plan["canvas"]
        if self.varies and self.share.chunks > 1:
            carried["rows"] = plan["rows"]  # for `join`
        if self.config.fit == LETTERBOX:
            carried["fitted"] = tf.concat([self._margin(plan["output"]), plan["output"]], axis=1)
        if self.on_host:
            return {"image": pixels, **carried, "size": plan["output"]}
        box = plan["box"]
        if self.config.fit == NATIVE:  # resized already: all of the picture is wanted
            box = tf.concat([tf.zeros_like(box[:, :2]), tf.cast(plan["size"], tf.float32)], axis=1)
        return {"canvas": pixels, "box": box, **carried}

    def height_and_width(self, plan: dict[str, tf.Tensor]) -> tf.Tensor:
        """Of the chunk's pixels: int32 [2]."""
        return plan["canvas"] if None in self._static else tf.constant(self.config.image_size)

    def join(self, chunks: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Several chunks [C, N, ..] of one replica's batch into [B, ..]; filler that evened them out is cut off."""
        size = chunks["rows"][0] if self.varies else self.share.size

        def joined(value: tf.Tensor) -> tf.Tensor:
            rows = tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], 0))[:size]
            return tf.ensure_shape(rows, [None if self.varies else size, *value.shape[2:]])

        return {name: joined(value) for name, value in chunks.items() if name != "rows"}

    def _image(self, encoded: tf.Tensor, how: tuple[tf.Tensor, ...]) -> tf.Tensor:
        window = decode_window(encoded, *how[: len(_HOW)], others=self.others)
        box, output, flip = how[len(_HOW) :]
        config = self.config
        if not self.on_host and config.fit != NATIVE:
            return window
        if config.fit == NATIVE:
            pixels = host.native(window, box, output, antialias=config.antialias, method=config.method)
        else:
            pixels = host.resize_box(window, box, output, antialias=config.antialias, method=config.method)
        if config.flips:
            pixels = tf.cond(flip, lambda: tf.reverse(pixels, [1]), lambda: pixels)
        if self.on_host:
            pixels = host.normalize(pixels)
        if config.fit == LETTERBOX:
            before = self._margin(output)
            after = tf.constant(config.image_size) - output - before
            margins = tf.concat([tf.stack([before, after], axis=1), [[0, 0]]], axis=0)
            pixels = tf.pad(pixels, margins, constant_values=host.normalize(tf.constant(config.pad_value)))
        return pixels

    def _path(self, rows: dict[str, tf.Tensor]) -> tf.Tensor:
        """Of the shard that each record is in: string [M]. On another machine, where it lies there."""
        return rows[PATH] if PATH in rows else tf.gather(self.paths, rows["shard"])

    def _margin(self, output: tf.Tensor) -> tf.Tensor:
        """Above and left of a letterboxed picture: int32 [.., 2]."""
        return (tf.constant(self.config.image_size) - output) // 2

    @property
    def _static(self) -> tuple[int | None, ...]:
        return self.config.image_size if self.on_host and self.config.fit != NATIVE else (None, None)


def _nothing() -> tf.Tensor:
    return tf.constant(True)


def real_rows(plan: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """The rows of a chunk before its filler, of the fields that say how to make an image; and their number."""
    real = tf.math.count_nonzero(plan["record"] >= 0, dtype=tf.int32)
    return {name: plan[name][:real] for name in ("record", PATH, *_PLACE, *_HOW, *_FINISH) if name in plan}, real
