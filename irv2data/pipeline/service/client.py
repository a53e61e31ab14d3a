"""A client of the tf.data service: its batches from workers, in order; those that do not come it makes itself."""

from __future__ import annotations

import itertools
import logging
import queue
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.machine import available_memory
from irv2data.pipeline.batch import Maker
from irv2data.pipeline.faults import BadRecords, chunk_dataset, reason
from irv2data.pipeline.feed import answered, chunk_specs, chunked, shaped
from irv2data.pipeline.leaving import LeavingError, call, close_at_exit
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.service.address import check_reachable
from irv2data.pipeline.service.in_order import in_order
from irv2data.pipeline.service.parts import PIXELS, SHAPE, Chunk, join
from irv2data.pipeline.service.request import TOKENS, Request, Steps, answer_specs

_LOG = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds without any batch from any worker
_HELD = (32, 1024)  # chunks held back for one that is missing: at first, and at most if memory allows
_POSITION = "position"


class Service:
    """The batches of one iterator, by way of the service.

    Args:
        address: Of the dispatcher, as `PipelineConfig.service`.
        request: What workers are told.
        plan: The plan.
        maker: Makes chunks, for the request's share.
        bad: Told of the damaged records that workers put filler in the place of.
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
        made: Callable[[tf.data.Dataset, Maker], tf.data.Dataset],
    ):
        check_reachable(address)
        self._address, self._plan, self._maker, self._bad = address, plan, maker, bad
        self._share, self._steps = request.share, Steps(plan, request.begins)
        there = _made_there(tf.constant(request.encode()), len(self._steps), plan, replace(maker, packed=True))
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
        self._spec = self._batch_spec(there.element_spec[2])

    def dataset(self) -> tf.data.Dataset:
        """Batches of replicas, as the pipeline has them without a service."""
        return tf.data.Dataset.from_generator(self._batches, output_signature=self._spec)

    def _batches(self) -> Iterator[Chunk]:
        received = _Receiver(self._from_workers, self._address)
        close_at_exit(received)
        share = self._share
        total = len(self._steps) * share.replicas * share.chunks
        chunks = in_order(received, total, self._made_here, most=_HELD[0], limit=self._most_held())
        try:
            while True:
                with call():
                    batch = self._joined(list(itertools.islice(chunks, share.chunks)))
                if batch is None:
                    return
                yield batch
        except (_ClosedError, LeavingError):
            return
        finally:
            received.close()

    def _joined(self, parts: list[tuple[np.ndarray, Chunk]]) -> Chunk | None:
        """The batch of some chunks, each with the records planned for it; None of none."""
        for planned, chunk in parts:
            for record in np.setdiff1d(planned, chunk["record"]).tolist():
                self._bad.add(record, ValueError("a worker's log says why"))
        return join([chunk for _, chunk in parts], self._share.size) if parts else None

    def _made_here(self, position: int) -> tuple[np.ndarray, Chunk]:
        """The chunk at a position, and the records planned for it."""
        number, part = divmod(position, self._share.replicas * self._share.chunks)
        epoch, step = self._steps.at(number)
        window, place = self._plan.place(epoch, step)
        planned = chunked(self._plan.window(epoch, window)[place : place + 1], self._share)
        chunk = self._make({name: array[part : part + 1] for name, array in planned.items()})
        arrays = {name: np.asarray(value) for name, value in chunk.items()}
        return arrays["record"], arrays  # damaged ones are noted already

    def _batch_spec(self, chunk: dict[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
        rows = None if self._maker.varies else self._share.size

        def of(name: str, spec: tf.TensorSpec) -> tf.TensorSpec:
            shape = (None, None, 3) if name in PIXELS and spec.shape.rank == 1 else spec.shape[1:]
            return tf.TensorSpec((rows, *shape), spec.dtype)

        return {name: of(name, spec) for name, spec in chunk.items() if name not in (SHAPE, "rows")}

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


class _ClosedError(Exception):
    """Nobody wants any more elements."""


class _Receiver:
    """Takes elements from the service in a thread of its own, so that nobody has to wait for one that is lost.

    Args:
        dataset: Of (position, planned, batch).
        address: Of the dispatcher.
    """

    def __init__(self, dataset: tf.data.Dataset, address: str):
        self._address = address
        self._queue: queue.Queue[Any] = queue.Queue(2)  # one that came, and that there will be no more
        self._room = threading.Semaphore(1)
        self._closed = self._quiet = self._ended = False
        # Within TensorFlow it waits for workers, for ever if there are none, and cannot be woken.
        threading.Thread(target=self._receive, args=(dataset,), daemon=True).start()

    def __call__(self) -> tuple[int, tuple[np.ndarray, Chunk]] | None:
        """The next element; None where nothing came for some seconds, or will.

        Raises:
            ValueError: A worker could not make one. (TensorFlow makes an InvalidArgumentError of it.)
            _ClosedError: It is closed.
        """
        if self._ended:
            return None
        try:
            # Once nothing has come for so long, whatever comes is taken, but nothing is waited for.
            came = self._queue.get(timeout=0 if self._quiet else _PATIENCE)
        except queue.Empty:
            if not self._quiet:
                _LOG.warning("%s: no worker gave a batch for %.0f s; they are made here", self._address, _PATIENCE)
            self._quiet = True
            return None
        if self._closed:
            raise _ClosedError
        self._room.release()
        if isinstance(came, tf.errors.OpError):
            raise ValueError(_told(self._address, came)) from None
        if self._quiet:
            _LOG.warning("%s: workers give batches again", self._address)
        self._quiet, self._ended = False, came is None
        return None if came is None else came

    def close(self) -> None:
        """Ends the waiting for elements; the thread ends when it next gets one."""
        self._closed = True
        self._room.release()
        self._queue.put(None)

    def _receive(self, dataset: tf.data.Dataset) -> None:
        try:
            for position, planned, batch in dataset:
                # Views of TensorFlow's memory, not copies.
                arrays = {name: np.asarray(value) for name, value in batch.items()}
                if not self._put((int(position), (np.asarray(planned), arrays))):
                    return
            self._put(None)
        except tf.errors.OpError as error:
            self._put(error)

    def _put(self, came: Any) -> bool:
        """Hands something on as soon as the one before it is taken; whether anybody takes it."""
        self._room.acquire()
        if not self._closed:
            self._queue.put(came)
        return not self._closed


def _told(address: str, error: tf.errors.OpError) -> str:
    """What a worker said, without what TensorFlow says around it."""
    found = re.search(r"ValueError: (.*?)\n", str(error))
    return f"{address}: {found.group(1) if found else reason(error)}"
