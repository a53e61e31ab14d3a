"""Planned records out of the shards, inside the graph: by offset, one after another, in the plan's order."""

from __future__ import annotations

import tensorflow as tf

from irv2data import schema

# Reading one record from a given offset: header and payload are read as two exact reads. Any read-ahead would fetch
# bytes of neighbours that this plan does not want.
_UNBUFFERED = 0


def read_records(paths: tf.Tensor, shard: tf.Tensor, offset: tf.Tensor, key: str = schema.ENCODED) -> tf.data.Dataset:
    """The compressed images of some records.

    An offset at or past the end of a shard gives TensorFlow no record and no error, which would shorten an epoch in
    silence or pair an image with its neighbour's plan: here it is an error.

    Args:
        paths: string [S], the split's shards.
        shard: int32 [N], which shard each record is in.
        offset: int64 [N], byte where it starts.
        key: Key of the compressed image in a record.

    Returns:
        A dataset of N string scalars. Iterating it raises `tf.errors.DataLossError` on a damaged record,
        `tf.errors.NotFoundError` on a missing shard, and `tf.errors.InvalidArgumentError`, which names the shard, on
        one that ends before a record.
    """

    def read_one(path: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=path[None], compression_type="", buffer_size=_UNBUFFERED, byte_offsets=start[None]
        )
        record = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        # Reached only where there is no record.
        return record.concatenate(tf.data.Dataset.from_tensors((path, start)).map(_ended)).take(1)

    places = tf.data.Dataset.from_tensor_slices((tf.gather(paths, shard), offset))
    return places.flat_map(read_one).map(lambda record: schema.parse(record, (key,))[key])


def _ended(path: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    message = "A shard ends before a planned record; run `irv2data verify DATASET`. Shard and byte offset:"
    with tf.control_dependencies([tf.debugging.Assert(False, [message, path, start])]):
        return tf.constant("")
