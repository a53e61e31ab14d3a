"""The plan into the graph: windows planned in Python, one call each, cut into the chunks that workers decode."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from irv2data.labels import CLASSES, NUMBER
from irv2data.pipeline.config import MAX_CHUNK
from irv2data.pipeline.distribute import Share
from irv2data.pipeline.leaving import call
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.planned import FILLER, Batches

# The fields of `planned.Batches` that have a row an image and are the same for every dataset: dtype, and shape behind
# the leading dimensions.
_FIELDS: dict[str, tuple[tf.DType, tuple[int, ...]]] = {
    "record": (tf.int64, ()),
    "weight": (tf.float32, ()),
    "shard": (tf.int32, ()),
    "offset": (tf.int64, ()),
    "format": (tf.int32, ()),
    "scale": (tf.int32, ()),
    "crop": (tf.int32, (4,)),
    "reduce": (tf.int32, (2,)),
    "box": (tf.float32, (4,)),
    "output": (tf.int32, (2,)),
    "size": (tf.int32, (2,)),
    "flip": (tf.bool, ()),
}


def planned_chunks(
    plan: Plan,
    begins: list[tuple[int, int]] | Callable[[], int],
    share: Share,
    before: Callable[[int, int], None] | None = None,
) -> tf.data.Dataset:
    """The chunks to decode, in order.

    Args:
        plan: The plan.
        begins: For each epoch wanted, (epoch, first step); every epoch runs to its end. Or a function that every new
            iterator asks for the one epoch that it is to give.
        share: Which rows of each batch, and in how many chunks.
        before: Called with epoch and window before that is handed out; None for nothing.

    Returns:
        A dataset of dicts of the fields of `planned.Batches`, each [N, ..] with N = `share.chunk`, `canvas` int32 [2]
        and `rows` int32 [], how many rows the replica has of this batch. Chunks of one replica follow one another, then
        those of the next, then the next batch.

    Raises:
        UsageError: An epoch has no such step.
    """
    specs = chunk_specs(plan, share)

    def planned(which: np.ndarray) -> list[np.ndarray]:
        epoch, window, skip = (int(number) for number in which)
        with call():
            if before is not None:
                before(epoch, window)
            arrays = chunked(plan.window(epoch, window)[skip:], share)
        return [arrays[name] for name in specs]

    calls = _asked(plan, begins) if callable(begins) else _given(plan, begins)
    return answered(calls, lambda which, types: tf.numpy_function(planned, [which], types, stateful=False), specs)


def chunk_specs(plan: Plan, share: Share) -> dict[str, tf.TensorSpec]:
    """What a call for chunks is answered with: names in the order of the answer, and shapes [chunks, N, ..]."""
    rows = _FIELDS | _of_dataset(plan)
    specs = {name: tf.TensorSpec((None, share.chunk, *shape), dtype) for name, (dtype, shape) in rows.items()}
    return {**specs, "canvas": tf.TensorSpec((None, 2), tf.int32), "rows": tf.TensorSpec((None,), tf.int32)}


def answered(
    calls: tf.data.Dataset,
    ask: Callable[[tf.Tensor, list[tf.DType]], list[tf.Tensor]],
    specs: dict[str, tf.TensorSpec],
) -> tf.data.Dataset:
    """The chunks that calls are answered with.

    Args:
        calls: What is asked for, a tensor each.
        ask: From one of them and the dtypes of `specs` to its tensors; in the graph.
        specs: As `chunk_specs`.
    """

    def in_graph(which: tf.Tensor) -> dict[str, tf.Tensor]:
        return shaped(ask(which, [spec.dtype for spec in specs.values()]), specs)

    # The next call is answered while the chunks of this one are decoded.
    planned = calls.map(in_graph, name="plan").prefetch(1, name="planned")
    return planned.flat_map(tf.data.Dataset.from_tensor_slices)


def shaped(values: Iterable[tf.Tensor], specs: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """What a Python function returned, in the order of `specs`, with its names and shapes."""
    return {name: tf.ensure_shape(value, specs[name].shape) for name, value in zip(specs, values, strict=True)}


def _given(plan: Plan, begins: list[tuple[int, int]]) -> tf.data.Dataset:
    """The windows to plan: int64 [3], epoch, window, and how many of its batches to leave out."""
    calls = []
    for epoch, step in begins:
        plan.check_step(epoch, step)
        first, skip = plan.place(epoch, step)
        calls += [(epoch, window, skip if window == first else 0) for window in range(first, plan.windows_per_epoch())]
    return tf.data.Dataset.from_tensor_slices(np.array(calls, np.int64).reshape(-1, 3))


def _asked(plan: Plan, epoch: Callable[[], int]) -> tf.data.Dataset:
    """As `_given`, of the epoch that the function names when an iterator begins."""
    named = tf.data.Dataset.from_tensors(0).map(lambda _: tf.numpy_function(lambda: np.int64(epoch()), [], tf.int64))
    windows = tf.data.Dataset.range(plan.windows_per_epoch())
    return named.flat_map(lambda epoch: windows.map(lambda window: tf.stack([tf.reshape(epoch, []), window, 0])))


def record_chunks(plan: Plan, record: np.ndarray) -> tf.data.Dataset:
    """Some records in chunks of `MAX_CHUNK`, as `planned_chunks` gives those of an epoch."""
    return tf.data.Dataset.from_tensor_slices(chunked(plan.of_records(record, MAX_CHUNK), Share.whole(MAX_CHUNK)))


def _of_dataset(plan: Plan) -> dict[str, tuple[tf.DType, tuple[int, ...]]]:
    """As `_FIELDS`, of what depends on dataset and options: label, draws, and the further columns asked for."""
    contents = plan.split.contents
    label: dict[str, tuple[tf.DType, tuple[int, ...]]] = {
        NUMBER: (tf.float32, ()),
        CLASSES: (tf.float32, (len(contents.classes),)),
    }
    columns = {name: (tf.as_dtype(contents.columns[name]), ()) for name in plan.config.columns}
    draws = (tf.float32, (plan.config.output.num_draws,))
    return {"label": label.get(contents.labels, (tf.int64, ())), "draws": draws, **columns}


def chunked(batches: Batches, share: Share) -> dict[str, np.ndarray]:
    """The fields of batches [batches, B, ..] as those of chunks [batches * replicas * chunks, N, ..]."""
    arrays = batches.arrays()
    canvas, own = arrays.pop("canvas"), arrays.pop("rows") // share.total
    row = share.rows(own)
    times = share.replicas * share.chunks
    return {
        "canvas": np.repeat(canvas, times, axis=0),
        "rows": np.repeat(own, times),
        **{name: _cut(name, array, row).reshape(-1, share.chunk, *array.shape[2:]) for name, array in arrays.items()},
    }


def _cut(name: str, array: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Some rows of each batch, filler where they are -1: [batches, M, ..] of [batches, B, ..] and int [batches, M]."""
    taken = array[np.arange(len(array))[:, None], row]
    taken[row < 0] = FILLER if name == "record" else b"" if array.dtype == object else 0
    return taken
