"""Planned records out of the shards, inside the graph: by offset, one after another, in the plan's order."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from irv2data import schema
from irv2data.split import Split

# Reading one record from a given offset: header and payload are read as two exact reads. Any read-ahead would fetch
# bytes of neighbours that this plan does not want.
_UNBUFFERED = 0
_AT_ONCE = 8  # requests of a chunk: a store takes its time to answer one, and answers many in the same time
_SAMPLE = 16384  # records


def request_bytes(split: Split) -> int:
    """How much to ask a store for, from the beginning of a record: of ten records nine come with one request."""
    length = split.array("length")
    return int(np.quantile(length[:: -(-len(length) // _SAMPLE)], 0.9))


def read_records(
    path: tf.Tensor, offset: tf.Tensor, key: str = schema.ENCODED, request: int | None = None
) -> tf.data.Dataset:
    """The compressed images of some records: what `read_raw` gives, at the key of the compressed image."""
    return read_raw(path, offset, request).map(lambda record: schema.parse(record, (key,))[key])


def read_raw(path: tf.Tensor, offset: tf.Tensor, request: int | None = None) -> tf.data.Dataset:
    """Some records, as they are stored.

    An offset at or past the end of a shard gives TensorFlow no record and no error: whoever takes the result has to
    count. (A check of each record here would cost a hundredth of the pipeline's time.)

    Args:
        path: string [N], the shard that each record is in.
        offset: int64 [N], byte where it starts.
        request: Bytes to ask for at once, where each answer takes its time; None where shards are local files.

    Returns:
        A dataset of N string scalars, fewer where a shard ends before a record. Iterating it raises
        `tf.errors.DataLossError` on a damaged record, and `tf.errors.NotFoundError` on a missing shard. With `request`,
        a record that is not there is a `tf.errors.InvalidArgumentError`.
    """

    def read_one(path: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        files, starts = path[None], start[None]
        if request is not None:
            # Of files that are all on S3 TensorFlow reads 127 MiB at once, whatever it is told (`kS3BlockSize` in its
            # tf_record_dataset_op.cc). Hence one more, an empty one.
            files, starts = tf.stack([path, os.devnull]), tf.stack([start, 0])
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=files, compression_type="", buffer_size=request or _UNBUFFERED, byte_offsets=starts
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)

    places = tf.data.Dataset.from_tensor_slices((path, offset))
    if request is None:
        return places.flat_map(read_one)
    return places.map(
        lambda path, start: read_one(path, start).get_single_element(),
        num_parallel_calls=_AT_ONCE,
        deterministic=True,
    )
