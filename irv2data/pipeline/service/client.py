"""A client of the tf.data service: its batches from workers, in order; those that do not come it makes itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import tensorflow as tf

from irv2data.machine import available_cores, available_memory
from irv2data.pipeline.batch import Maker
from irv2data.pipeline.faults import BadRecords, chunk_dataset
from irv2data.pipeline.feed import answered, chunk_specs, chunked, shaped
from irv2data.pipeline.leaving import LeavingError, call, close_at_exit
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.service.address import check_reachable
from irv2data.pipeline.service.in_order import in_order
from irv2data.pipeline.service.parts import PIXELS, SHAPE, Chunk, join, pack
from irv2data.pipeline.service.receiver import ClosedError, Receiver
from irv2data.pipeline.service.request import TOKENS, Request, Steps, answer_specs
from irv2data.pipeline.service.tally import Chunks

_HELD = (32, 1024)  # chunks held back for one that is missing: at first, and at most if memory allows
_JOINING = 8  # batches that are put together at once
_POSITION = "position"


class Service:
    """The batches of one iterator, by way of the service.

    Args:
        address: Of the dispatcher, as `PipelineConfig.service`.
        request: What workers are told.
        plan: The plan.
        maker: Makes chunks, for the request's share.
        bad: Told of the damaged records that workers put filler in the place of.
        chunks: Told where chunks come from.
        made: From plans of chunks to chunks, here; one that does not come is made with it.

    Raises:
        UsageError: Nothing answers at the address; or an epoch has no such step.
    """

    def __init__(
        self,
        address: str,
        request: Request,
        plan: Plan,
        maker: Maker,
        bad: BadRecords,
        chunks: Chunks,
        made: Callable[[tf.data.Dataset, Maker], tf.data.Dataset],
    ):
        check_reachable(address)
        self._address, self._plan, self._maker, self._bad = address, plan, maker, bad
        self._tally = chunks
        self._share, self._steps = request.share, Steps(plan, request.begins)
        packing = replace(maker, packed=True)
        self._packs = packing.packs
        there = _made_there(tf.constant(request.encode()), len(self._steps), plan, packing)
        self._chunk = there.element_spec[2]
        self._from_workers = there.apply(
            # Each step goes to the worker that asks first. Pixels do not get smaller by compression.
            tf.data.experimental.service.distribute(
                tf.data.experimental.service.ShardingPolicy.DYNAMIC, address, compression=None
            )
        )
        specs = {
            name: tf.TensorSpec((1, *spec.shape[1:]), spec.dtype)
            for name, spec in chunk_specs(plan, self._share).items()
        }
        self._make = tf.function(
            lambda chunk: made(tf.data.Dataset.from_tensor_slices(chunk), maker).get_single_element(),
            input_signature=[specs],
            autograph=False,
        )
        self._spec = self._batch_spec()

    def dataset(self) -> tf.data.Dataset:
        """Batches of replicas, as the pipeline has them without a service."""
        parts = tf.data.Dataset.from_generator(self._parts, output_signature=(self._chunk,) * self._share.chunks)
        # Several at once: to put pixels into a canvas takes a core for a millisecond or two, most of it for new memory.
        return parts.map(self._batch, num_parallel_calls=min(_JOINING, available_cores()), deterministic=True)

    def _parts(self) -> Iterator[tuple[Chunk, ...]]:
        """The chunks of each batch."""
        received = Receiver(self._from_workers, self._address)
        close_at_exit(received)
        share = self._share
        total = len(self._steps) * share.replicas * share.chunks
        ordered = in_order(received, total, self._made_here, most=_HELD[0], limit=self._most_held())
        chunks = self._noted(ordered)
        try:
            while True:
                with call():
                    parts = tuple(itertools.islice(chunks, share.chunks))
                if not parts:
                    return
                yield parts
        except (ClosedError, LeavingError):
            return
        finally:
            received.close()

    def _noted(self, chunks: Iterator[tuple[np.ndarray, Chunk]]) -> Iterator[Chunk]:
        """Chunks of which each comes with the records planned for it; those that a worker left out are noted."""
        for planned, chunk in chunks:
            for record in np.setdiff1d(planned, chunk["record"]).tolist():
                self._bad.add(record, ValueError("a worker's log says why"))
            self._tally.total += 1
            yield chunk

    def _batch(self, *chunks: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        names, spec = sorted(self._chunk), self._spec

        def joined(*values: np.ndarray) -> list[np.ndarray]:
            with call():
                each = [dict(zip(names, part, strict=True)) for part in zip(*[iter(values)] * len(names), strict=True)]
                batch = join(each, self._share.size)
                return [batch[name] for name in spec]

        values = [chunk[name] for chunk in chunks for name in names]
        types = [each.dtype for each in spec.values()]
        return shaped(tf.numpy_function(joined, values, types, stateful=False), spec)

    def _made_here(self, position: int) -> tuple[np.ndarray, Chunk]:
        """The chunk at a position, and the records planned for it."""
        self._tally.here += 1
        number, part = divmod(position, self._share.replicas * self._share.chunks)
        epoch, step = self._steps.at(number)
        window, place = self._plan.place(epoch, step)
        planned = chunked(self._plan.window(epoch, window)[place : place + 1], self._share)
        chunk = self._make({name: array[part : part + 1] for name, array in planned.items()})
        arrays = {name: np.asarray(value) for name, value in chunk.items()}
        arrays = pack(arrays) if self._packs else arrays
        return arrays["record"], arrays  # damaged ones are noted already

    def _batch_spec(self) -> dict[str, tf.TensorSpec]:
        rows = None if self._maker.varies else self._share.size

        def of(name: str, spec: tf.TensorSpec) -> tf.TensorSpec:
            shape = (None, None, 3) if name in PIXELS and spec.shape.rank == 1 else spec.shape[1:]
            return tf.TensorSpec((rows, *shape), spec.dtype)

        return {name: of(name, spec) for name, spec in self._chunk.items() if name not in (SHAPE, "rows")}

    def _most_held(self) -> int:
        pixels = max(height * width for height, width in self._plan.shapes)
        size = 3 * pixels * self._maker.dtype.size * self._share.chunk
        return int(np.clip((available_memory() or 0) // 8 // size, *_HELD))


def _made_there(request: tf.Tensor, steps: int, plan: Plan, maker: Maker) -> tf.data.Dataset:
    """What a worker runs: position, planned records and content of every chunk of the steps that it takes."""
    share = maker.share
    chunk = tf.range(share.replicas * share.chunks, dtype=tf.int64)

    def ask(step: tf.Tensor, types: list[tf.DType]) -> list[tf.Tensor]:
        # Stateless, for the service warns of all that is not.
        answer = tf.raw_ops.PyFuncStateless(input=[request, step], token=TOKENS[0], Tout=types[:-1])
        return [*answer, step * tf.size(chunk, tf.int64) + chunk]

    def make(plan: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        position = plan[_POSITION]
        plan = {name: value for name, value in plan.items() if name != _POSITION}
        made = chunk_dataset(plan, _Elsewhere(maker, request)).get_single_element()
        return position, maker.cut(plan)["record"], made

    specs = {**answer_specs(plan, share), _POSITION: tf.TensorSpec((None,), tf.int64)}
    # The service deals out the numbers of this range; what follows runs on the worker that has asked for one.
    chunks = answered(tf.data.Dataset.range(steps), ask, specs)
    options = tf.data.Options()
    # It would ask for many steps at once, which other workers could have had, and which are lost with this one.
    options.experimental_optimization.map_parallelization = False
    # Not as many as there are cores, which are others there: TensorFlow tunes it, on the worker.
    return chunks.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).with_options(options)


class _Elsewhere:
    """What stands for a `Recovery` that is on the worker."""

    def __init__(self, maker: Maker, request: tf.Tensor):
        self.maker = maker
        self._request = request

    def in_graph(self, plan: dict[str, tf.Tensor], spec: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
        """As `Recovery.in_graph`."""
        spec = dict(sorted(spec.items()))
        values = [self._request, *(plan[name] for name in sorted(plan))]
        types = [each.dtype for each in spec.values()]
        return shaped(tf.raw_ops.PyFuncStateless(input=values, token=TOKENS[1], Tout=types), spec)
