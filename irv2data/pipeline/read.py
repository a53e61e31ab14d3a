"""Planned records out of the shards, inside the graph: by offset, one after another, in the plan's order."""

from __future__ import annotations

import tensorflow as tf

from irv2data import schema

# Reading one record from a given offset: header and payload are read as two exact reads. Any read-ahead would fetch
# bytes of neighbours that this plan does not want.
_UNBUFFERED = 0


def read_records(path: tf.Tensor, offset: tf.Tensor, key: str = schema.ENCODED) -> tf.data.Dataset:
    """The compressed images of some records.

    An offset at or past the end of a shard gives TensorFlow no record and no error: whoever takes the result has to
    count. (A check of each record here would cost a hundredth of the pipeline's time.)

    Args:
        path: string [N], the shard that each record is in.
        offset: int64 [N], byte where it starts.
        key: Key of the compressed image in a record.

    Returns:
        A dataset of N string scalars, fewer where a shard ends before a record. Iterating it raises
        `tf.errors.DataLossError` on a damaged record, and `tf.errors.NotFoundError` on a missing shard.
    """

    def read_one(path: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=path[None], compression_type="", buffer_size=_UNBUFFERED, byte_offsets=start[None]
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)

    places = tf.data.Dataset.from_tensor_slices((path, offset))
    return places.flat_map(read_one).map(lambda record: schema.parse(record, (key,))[key])
