"""Decoded images kept in memory: each is decoded once, by the first chunk that needs it, and gathered ever after."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from irv2data.pipeline.residence import MOST_TILES, TILE, Residence


class HostCache:
    """Kept images in the host's memory, for one pipeline.

    Memory is taken as images come in, not at the start. What is kept, chunks of any epoch share: each writes the tiles
    of its own images, and says that they are there only after that. Two that decode the same image at the border of
    two epochs write the same bytes.

    Args:
        residence: Where each image lies.

    Raises:
        tf.errors.ResourceExhaustedError: The machine has not so much address space.
    """

    def __init__(self, residence: Residence):
        # In a thread of its own, which has no strategy: in a strategy's scope every replica would get a copy.
        with ThreadPoolExecutor(1) as pool:
            self._made: dict[str, Any] = pool.submit(_make, residence).result()
        self._tiles: tf.Variable = self._made["tiles"]
        self._there: tf.Variable = self._made["there"]
        self._scatter(tf.constant([0], tf.int64), tf.zeros([1, TILE * 3], tf.uint8))

    @property
    def records(self) -> int:
        """How many images are there."""
        return int(tf.math.count_nonzero(self._there))

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
        places = tf.data.Dataset.from_tensor_slices(
            (tf.gather(self._made["first"], record), tf.gather(self._made["pitch"], record))
        )
        count = tf.size(record, tf.int64)
        # Not `reduce`, which has every chunk's dataset optimized anew.
        stored = tf.data.Dataset.zip((images, places)).map(lambda image, place: self._store(image, *place))
        with tf.control_dependencies([tf.debugging.assert_equal(tf.size(_all(stored, count), tf.int64), count)]):
            return tf.raw_ops.ResourceScatterUpdate(
                resource=self._there.handle, indices=record, updates=tf.ones_like(record, tf.bool)
            )

    def gather(self, record: tf.Tensor, crop: tf.Tensor, height_and_width: tf.Tensor) -> tf.Tensor:
        """Windows of kept images, on canvases.

        Args:
            record: int64 [B], all of them there; -1 for filler.
            crop: int32 [B, 4], y, x, height, width of the windows in kept pixels, x a multiple of `TILE`.
            height_and_width: int32 [2], of the canvas; the width is a multiple of `TILE`.

        Returns:
            uint8 [B, H, W, 3], black outside of the windows' tiles.
        """
        known = tf.maximum(record, 0)
        pitch = tf.gather(self._made["pitch"], known)
        first = tf.cast(tf.gather(self._made["first"], known), tf.int32)
        y, x, height, width = tf.unstack(crop, axis=1)
        # Tile 0 is black: what lies outside of a window, above or beside it, ends up there. Two steps for each tile,
        # for they are many.
        row, column = tf.range(height_and_width[0]), tf.range(height_and_width[1] // TILE)
        start = (first + y * pitch + x // TILE)[:, None] + row * pitch[:, None]
        start = tf.where(row < height[:, None], start, -MOST_TILES)
        along = tf.where(column < -(-width // TILE)[:, None], column, -MOST_TILES)
        tile = tf.maximum(start[:, :, None] + along[:, None], 0)
        tiles = tf.raw_ops.ResourceGather(resource=self._tiles.handle, indices=tile, dtype=tf.uint8)
        return tf.reshape(tiles, [-1, height_and_width[0], height_and_width[1], 3])

    def _store(self, image: tf.Tensor, first: tf.Tensor, pitch: tf.Tensor) -> tf.Tensor:
        rows = tf.shape(image)[0]
        beyond = tf.zeros([rows, pitch * TILE - tf.shape(image)[1], 3], tf.uint8)
        padded = tf.concat([image, beyond], axis=1)  # row by row, which `tf.pad` does value by value
        number = tf.cast(rows * pitch, tf.int64)
        with tf.control_dependencies([self._scatter(first + tf.range(number), tf.reshape(padded, [-1, TILE * 3]))]):
            return tf.constant(1, tf.int64)

    def _scatter(self, tile: tf.Tensor, values: tf.Tensor) -> tf.Operation:
        return tf.raw_ops.ResourceScatterUpdate(resource=self._tiles.handle, indices=tile, updates=values)


def _all(elements: tf.data.Dataset, count: tf.Tensor) -> tf.Tensor:
    """Up to so many elements, one after another, in one tensor."""
    return elements.batch(count).get_single_element()


def _make(residence: Residence) -> dict[str, Any]:
    """The variables of a cache, still without any image, and what is known of the images."""
    with tf.device("CPU:0"):
        # Not zeros: they would be written, and so take all of the memory at once.
        empty = tf.raw_ops.Empty(shape=[residence.tiles, TILE * 3], dtype=tf.uint8, init=False)
        return {
            "tiles": tf.Variable(empty, trainable=False, name="kept_tiles"),
            "there": tf.Variable(tf.zeros([len(residence.first)], tf.bool), trainable=False, name="kept_there"),
            **{name: tf.constant(getattr(residence, name)) for name in ("scale", "reduce", "crop", "pitch", "first")},
        }
