"""The unit of decoding: one chunk of a batch, its images decoded one after another straight into one canvas.

One worker a chunk, not a worker an image: no scheduling for each image, no waiting for the slowest of a batch, and
padding, stacking and the copy into the batch are a single operation.
"""

from __future__ import annotations

import tensorflow as tf

from irv2data import schema
from irv2data.pipeline.decode import decode_window
from irv2data.pipeline.read import read_records

# What goes to the device with the canvas; the rest of a plan says how to decode and stays behind.
CARRIED = ("box", "size", "flip", "draws", "label", "record", "weight")


def decode_chunk(
    plan: dict[str, tf.Tensor], paths: tf.Tensor, *, key: str = schema.ENCODED, columns: tuple[str, ...] = ()
) -> tf.data.Dataset:
    """A dataset of one element: the finished chunk.

    Args:
        plan: The fields of `plan.Batches` for one chunk, each with the leading dimension N; `canvas` int32 [2].
            Filler stands at the end.
        paths: string [S], the split's shards.
        key: Key of the compressed image in a record.
        columns: Names of further columns to carry along.

    Returns:
        A dataset of one dict: `canvas` uint8 [N, H, W, 3], zero outside each image, and the `CARRIED` fields and
        `columns`. Iterating it raises what `read_records` raises.
    """
    count = tf.shape(plan["record"])[0]
    real = tf.math.count_nonzero(plan["record"] >= 0, dtype=tf.int32)
    how = tf.data.Dataset.from_tensor_slices(tuple(plan[name][:real] for name in ("format", "scale", "crop", "reduce")))
    encoded = read_records(paths, plan["shard"][:real], plan["offset"][:real], key)
    images = tf.data.Dataset.zip((encoded, how)).map(lambda image, how: decode_window(image, *how))
    filler = tf.data.Dataset.from_tensors(tf.zeros([1, 1, 3], tf.uint8)).repeat(tf.cast(count - real, tf.int64))
    shape = tf.cast(tf.concat([plan["canvas"], [3]], axis=0), tf.int64)
    batched = images.concatenate(filler).padded_batch(tf.cast(count, tf.int64), padded_shapes=shape)

    def finish(canvas: tf.Tensor) -> dict[str, tf.Tensor]:
        canvas = tf.ensure_shape(canvas, [plan["record"].shape[0], None, None, 3])
        return {"canvas": canvas, **{name: plan[name] for name in (*CARRIED, *columns)}}

    return batched.map(finish)


def join_chunks(chunks: dict[str, tf.Tensor], size: int) -> dict[str, tf.Tensor]:
    """Several chunks [C, N, ..] of one replica's batch into [size, ..]; filler that evened them out is cut off."""

    def join(value: tf.Tensor) -> tf.Tensor:
        rows = tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], 0))[:size]
        return tf.ensure_shape(rows, [size, *value.shape[2:]])

    return {name: join(value) for name, value in chunks.items()}
