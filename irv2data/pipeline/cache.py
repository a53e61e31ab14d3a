"""Decoded images kept in memory: each is decoded once, by the first chunk that needs it, and gathered ever after."""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.pipeline.residence import MOST_TILES, TILE, Residence


class Cache(abc.ABC):
    """Kept images of one pipeline.

    What is kept, chunks of any epoch share: each writes the tiles of its own images, and says that they are there only
    after that. Two that decode the same image at the border of two epochs write the same bytes.

    Args:
        residence: Where each image lies.
        there: bool [records], which images are there already; None for none.
    """

    def __init__(self, residence: Residence, there: np.ndarray | None = None):
        self.residence = residence
        there = np.zeros(len(residence.first), bool) if there is None else there
        self._made = outside_strategies(lambda: _facts(residence, there))
        self._there: tf.Variable = self._made["there"]

    @property
    def there(self) -> np.ndarray:
        """Which images are there: bool [records]."""
        return np.asarray(self._there.numpy())

    def missing(self, record: tf.Tensor) -> tf.Tensor:
        """Which of some records are not there yet: bool [M]; filler (-1) never is missing."""
        there = tf.gather(self._there, tf.maximum(record, 0))
        return (record >= 0) & ~there

    def fill(
        self, record: tf.Tensor, decode: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.data.Dataset]
    ) -> tf.Operation:
        """Decodes images and keeps them.

        Args:
            record: int64 [M], records to decode.
            decode: From scale int32 [M], window int32 [M, 4] and reduction int32 [M, 2] of whole images (as
                `decode_window` takes them) to a dataset of the M images, uint8 [h, w, 3].
        """
        sides = tf.gather(self._made["crop"], record)
        images = decode(
            tf.gather(self._made["scale"], record),
            tf.concat([tf.zeros_like(sides), sides], axis=1),
            tf.gather(self._made["reduce"], record),
        )
        count = tf.size(record, tf.int64)
        numbered = tf.data.Dataset.zip((images, tf.data.Dataset.from_tensor_slices(record)))
        # Not `reduce`, which has every chunk's dataset optimized anew.
        stored = numbered.map(self._store).batch(count).get_single_element()
        with tf.control_dependencies([tf.debugging.assert_equal(tf.size(stored, tf.int64), count)]):
            updated = tf.raw_ops.ResourceScatterUpdate(
                resource=self._there.handle, indices=record, updates=tf.ones_like(record, tf.bool)
            )
        return self._filled(record, updated)

    @abc.abstractmethod
    def gather(self, record: tf.Tensor, crop: tf.Tensor, height_and_width: tf.Tensor) -> tf.Tensor:
        """Windows of kept images, on canvases.

        Args:
            record: int64 [B], all of them there; -1 for filler.
            crop: int32 [B, 4], y, x, height, width of the windows in kept pixels, x a multiple of `TILE`.
            height_and_width: int32 [2], of the canvas; the width is a multiple of `TILE`.

        Returns:
            uint8 [B, H, W, 3], black outside of the windows (or of their tiles).
        """

    @abc.abstractmethod
    def _store(self, image: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        """Keeps an image, uint8 [h, w, 3]; a scalar that is there when it is done."""

    def _filled(self, record: tf.Tensor, updated: tf.Operation) -> tf.Operation:
        """What is to be done after some records were kept."""
        return updated


class HostCache(Cache):
    """Kept images in the host's memory, which is taken as they come in, not at the start.

    Raises:
        tf.errors.ResourceExhaustedError: The machine has not so much address space.
    """

    def __init__(self, residence: Residence):
        super().__init__(residence)
        self._tiles = outside_strategies(lambda: _empty(residence.tiles))
        self._scatter(tf.constant([0], tf.int64), tf.zeros([1, TILE * 3], tf.uint8))

    @property
    def tiles(self) -> tf.Tensor:
        """All of them, uint8 [tiles, TILE * 3]; not a copy."""
        return self._tiles.read_value()

    def gather(self, record: tf.Tensor, crop: tf.Tensor, height_and_width: tf.Tensor) -> tf.Tensor:
        """As `Cache.gather`."""
        known = tf.maximum(record, 0)
        first = tf.cast(tf.gather(self._made["first"], known), tf.int32)
        return gather_tiles(self._tiles, first, tf.gather(self._made["pitch"], known), crop, height_and_width)

    def _store(self, image: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        first, pitch, rows = self._made["first"][record], self._made["pitch"][record], tf.shape(image)[0]
        beyond = tf.zeros([rows, pitch * TILE - tf.shape(image)[1], 3], tf.uint8)
        padded = tf.concat([image, beyond], axis=1)  # row by row, which `tf.pad` does value by value
        number = tf.cast(rows * pitch, tf.int64)
        with tf.control_dependencies([self._scatter(first + tf.range(number), tf.reshape(padded, [-1, TILE * 3]))]):
            return tf.constant(1, tf.int64)

    def _scatter(self, tile: tf.Tensor, values: tf.Tensor) -> tf.Operation:
        return tf.raw_ops.ResourceScatterUpdate(resource=self._tiles.handle, indices=tile, updates=values)


def gather_tiles(
    tiles: tf.Variable, first: tf.Tensor, pitch: tf.Tensor, crop: tf.Tensor, height_and_width: tf.Tensor
) -> tf.Tensor:
    """Windows of kept images, on canvases, on the device that holds them.

    Args:
        tiles: uint8 [tiles, TILE * 3], the first of them black.
        first: int [B], number of each image's first tile. Indices are worked out in its type: int32 is faster on CPUs;
            on GPUs TensorFlow keeps int32 in the host's memory, and only int64 is computed there.
        pitch: The same of [B], tiles a row.
        crop: The same of [B, 4], y, x, height, width of the windows in kept pixels, x a multiple of `TILE`.
        height_and_width: The same of [2], of the canvas; the width is a multiple of `TILE`.

    Returns:
        uint8 [B, H, W, 3], black outside of the windows' tiles.
    """
    y, x, height, width = tf.unstack(crop, axis=1)
    # Tile 0 is black: what lies outside of a window, above or beside it, ends up there. Two steps for each tile, for
    # they are many.
    beyond = tf.constant(-MOST_TILES, first.dtype)
    row, column = tf.range(height_and_width[0]), tf.range(height_and_width[1] // TILE)
    start = (first + y * pitch + x // TILE)[:, None] + row * pitch[:, None]
    start = tf.where(row < height[:, None], start, beyond)
    along = tf.where(column < -(-width // TILE)[:, None], column, beyond)
    tile = tf.maximum(start[:, :, None] + along[:, None], 0)
    # Not `tf.gather`: it reads the whole variable first, and has no GPU kernel for uint8.
    found = tf.raw_ops.ResourceGather(resource=tiles.handle, indices=tile, dtype=tf.uint8)
    return tf.reshape(found, [-1, height_and_width[0], height_and_width[1], 3])


def outside_strategies(make: Callable[[], Any]) -> Any:
    """What `make` returns, made in a thread of its own, which has no strategy: in one's scope, variables are copied."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


def _empty(tiles: int) -> tf.Variable:
    with tf.device("CPU:0"):
        # Not zeros: they would be written, and so take all of the memory at once.
        empty = tf.raw_ops.Empty(shape=[tiles, TILE * 3], dtype=tf.uint8, init=False)
        return tf.Variable(empty, trainable=False, name="kept_tiles")


def _facts(residence: Residence, there: np.ndarray) -> dict[str, Any]:
    with tf.device("CPU:0"):
        return {
            "there": tf.Variable(there, trainable=False, name="kept_there"),
            **{name: tf.constant(getattr(residence, name)) for name in ("scale", "reduce", "crop", "pitch", "first")},
        }
