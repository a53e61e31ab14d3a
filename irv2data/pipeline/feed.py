"""The plan into the graph: windows planned in Python, one call each, cut into the chunks that workers decode."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.labels import CLASSES, NUMBER
from irv2data.pipeline.config import DRAWS
from irv2data.pipeline.distribute import Share
from irv2data.pipeline.plan import FILLER, WINDOW, Plan

# dtype and shape behind the leading dimensions of each field of `plan.Batches` but `canvas`, `label` and `columns`.
_FIELDS: dict[str, tuple[tf.DType, tuple[int, ...]]] = {
    "record": (tf.int64, ()),
    "weight": (tf.float32, ()),
    "shard": (tf.int32, ()),
    "offset": (tf.int64, ()),
    "format": (tf.int32, ()),
    "scale": (tf.int32, ()),
    "crop": (tf.int32, (4,)),
    "reduce": (tf.int32, (2,)),
    "size": (tf.int32, (2,)),
    "box": (tf.float32, (4,)),
    "flip": (tf.bool, ()),
    "draws": (tf.float32, (DRAWS,)),
}


def planned_chunks(plan: Plan, begins: list[tuple[int, int]], share: Share) -> tf.data.Dataset:
    """The chunks to decode, in order.

    Args:
        plan: The plan.
        begins: For each epoch wanted, (epoch, first step); every epoch runs to its end.
        share: Which rows of each batch, and in how many chunks.

    Returns:
        A dataset of dicts of the fields of `plan.Batches`, each [N, ..] with N = `share.chunk`, and `canvas` int32
        [2]. Chunks of one replica follow one another, then those of the next, then the next batch.

    Raises:
        UsageError: An epoch has no such step.
    """
    calls = []
    for epoch, step in begins:
        steps = plan.steps_per_epoch(epoch)
        if epoch < 0:
            raise UsageError(f"epoch must be 0 or more, got {epoch}")
        if not 0 <= step <= steps:
            raise UsageError(f"epoch {epoch} has steps 0 to {steps}, got step {step}")
        first = step // WINDOW
        calls += [
            (epoch, window, step % WINDOW if window == first else 0)
            for window in range(first, plan.windows_per_epoch())
        ]
    rows = _FIELDS | _of_dataset(plan)
    specs = {name: tf.TensorSpec((None, share.chunk, *shape), dtype) for name, (dtype, shape) in rows.items()}
    specs["canvas"] = tf.TensorSpec((None, 2), tf.int32)
    names = tuple(specs)

    def planned(call: np.ndarray) -> list[np.ndarray]:
        epoch, window, skip = (int(number) for number in call)
        batches = plan.window(epoch, window)[skip:]
        arrays = {name: _chunked(name, array, share) for name, array in batches.arrays().items()}
        return [arrays[name] for name in names]

    def in_graph(call: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = tf.numpy_function(planned, [call], [specs[name].dtype for name in names], stateful=False)
        return {name: tf.ensure_shape(tensor, specs[name].shape) for name, tensor in zip(names, tensors, strict=True)}

    windows = tf.data.Dataset.from_tensor_slices(np.array(calls, np.int64).reshape(-1, 3)).map(in_graph)
    # The next window is planned while this one is decoded.
    return windows.prefetch(1).flat_map(tf.data.Dataset.from_tensor_slices)


def _of_dataset(plan: Plan) -> dict[str, tuple[tf.DType, tuple[int, ...]]]:
    """As `_FIELDS`, of what depends on the dataset: its kind of label, and the further columns asked for."""
    contents = plan.split.contents
    label: dict[str, tuple[tf.DType, tuple[int, ...]]] = {
        NUMBER: (tf.float32, ()),
        CLASSES: (tf.float32, (len(contents.classes),)),
    }
    columns = {name: (tf.as_dtype(contents.columns[name]), ()) for name in plan.config.columns}
    return {"label": label.get(contents.labels, (tf.int64, ())), **columns}


def _chunked(name: str, array: np.ndarray, share: Share) -> np.ndarray:
    """[batches, B, ..] into [batches * replicas * chunks, N, ..]; the last chunk of a replica ends in filler."""
    if name == "canvas":
        return np.repeat(array, share.replicas * share.chunks, axis=0)
    rows = array[:, share.start : share.start + share.replicas * share.size]
    rows = rows.reshape(len(array) * share.replicas, share.size, *array.shape[2:])
    missing = share.chunks * share.chunk - share.size
    if missing:
        value = FILLER if name == "record" else b"" if rows.dtype == object else 0
        rows = np.pad(rows, [(0, 0), (0, missing)] + [(0, 0)] * (rows.ndim - 2), constant_values=value)
    return np.ascontiguousarray(rows.reshape(-1, share.chunk, *array.shape[2:]))
