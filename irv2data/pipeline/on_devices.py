"""`cache="device"`: kept images in the memory of every device, from which the batches of a step are gathered there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.pipeline.batch import Maker
from irv2data.pipeline.cache import HostCache, gather_tiles, outside_strategies
from irv2data.pipeline.distribute import distribute
from irv2data.pipeline.faults import with_filler
from irv2data.pipeline.feed import chunked
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.planned import FILLER

_TAKEN = ("first", "pitch", "crop")  # what `gather_tiles` takes


class DeviceCache:
    """A copy of all kept images on each device of a strategy, from the end of the first epoch on.

    A step then costs the host one call of a function: the rows of a window's batches go to the devices once a window,
    and a step says which of them it wants. No input thread runs, and no pixel moves between host and device.

    Args:
        plan: The plan.
        strategy: Whose devices.
        through_host: From (epoch, step) and an input context to the dataset of that epoch's batches from that step on,
            which decodes and keeps images in the host's memory.
        maker: From an input context to what finishes batches.
        fill: Gives the host's cache with all images in it; those that are missing are damaged, and become filler.
    """

    def __init__(
        self,
        plan: Plan,
        strategy: tf.distribute.Strategy,
        *,
        through_host: Callable[[tuple[int, int], tf.distribute.InputContext], tf.data.Dataset],
        maker: Callable[[tf.distribute.InputContext], Maker],
        fill: Callable[[], HostCache],
    ):
        self._plan, self._strategy = plan, strategy
        self._through_host, self._make_maker, self._fill = through_host, maker, fill
        self._devices = devices_of(strategy)
        self._tiles: list[tf.Variable] = []  # empty until an epoch has decoded all images
        # One a canvas shape, so that shapes are static and a second trace of any of them would show.
        self.graphs: dict[tuple[int, int], Any] = {}

    def epoch(self, begin: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """The batches of an epoch from (epoch, step) on, as `Pipeline.distribute` gives them."""
        if self._tiles:
            yield from self._from_devices(*begin)
            return
        contexts = []

        def dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            contexts.append(context)
            return self._through_host(begin, context)

        yield from distribute(self._strategy, dataset)
        self._maker, cache = self._make_maker(contexts[0]), self._fill()
        self._there, self._residence = cache.there, cache.residence
        self._tiles = outside_strategies(lambda: [_copy(cache.tiles, device) for device in self._devices])

    def _from_devices(self, epoch: int, step: int) -> Iterator[dict[str, Any]]:
        first, skip = self._plan.place(epoch, step)
        for window in range(first, self._plan.windows_per_epoch()):
            batches = self._plan.window(epoch, window)[skip if window == first else 0 :]
            rows = self._on_devices(self._rows(chunked(batches, self._maker.share)))
            for number, canvas in enumerate(batches.canvas.tolist()):
                yield self._graph(*canvas)(rows, tf.constant(number, tf.int64))

    def _rows(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is needed of a window's batches, for each replica that this process feeds: [replicas, steps, b, ..]."""
        share = self._maker.share
        needed = {name: arrays[name] for name in self._maker.needed}
        record = needed["record"]
        sound = (record < 0) | self._there[np.maximum(record, 0)]
        needed = with_filler(needed, sound, self._maker.config.columns)
        known = np.maximum(needed["record"], 0)
        needed["first"] = np.where(needed["record"] == FILLER, 0, self._residence.first[known])
        needed["pitch"] = self._residence.pitch[known]
        needed |= {name: needed[name].astype(np.int64) for name in _TAKEN}
        # Chunks [steps * replicas * chunks, N, ..], the rows beyond a replica's in its last chunk.
        shape = (-1, share.replicas, share.chunks * share.chunk)
        return {
            name: np.moveaxis(array.reshape(*shape, *array.shape[2:])[:, :, : share.size], 1, 0)
            for name, array in needed.items()
        }

    def _on_devices(self, rows: dict[str, np.ndarray]) -> Any:
        """The rows of each replica on its device, as per-replica values."""

        def one(context: tf.distribute.ValueContext, array: np.ndarray) -> tf.Tensor:
            local = context.replica_id_in_sync_group - self._maker.share.first
            with tf.device(self._devices[local]):
                return tf.constant(array[local])

        return {
            name: self._strategy.experimental_distribute_values_from_function(
                lambda context, array=array: one(context, array)
            )
            for name, array in rows.items()
        }

    def _graph(self, height: int, width: int) -> Any:
        if (height, width) not in self.graphs:

            def replica(rows: dict[str, tf.Tensor], number: tf.Tensor) -> dict[str, tf.Tensor]:
                # Not `value[number]`, which computes int32 on the host.
                plan = {name: tf.gather(value, number) for name, value in rows.items()}
                size = tf.constant([height, width], tf.int64)
                tiles = self._tiles[self._local()]
                canvas = gather_tiles(tiles, plan["first"], plan["pitch"], plan["crop"], size)
                return self._maker.finish(plan, tf.ensure_shape(canvas, [None, height, width, 3]))

            self.graphs[height, width] = tf.function(
                lambda rows, number: self._strategy.run(replica, args=(rows, number))
            )
        return self.graphs[height, width]

    def _local(self) -> int:
        """Which of this process's replicas it is that is traced."""
        context = tf.distribute.get_replica_context()
        number = tf.get_static_value(context.replica_id_in_sync_group)
        return int(number or 0) - self._maker.share.first if len(self._devices) > 1 else 0


class DeviceEpochs:
    """The batches of some epochs, (epoch, first step) each, as per-replica values; iterable any number of times."""

    def __init__(self, cache: DeviceCache, begins: list[tuple[int, int]]):
        self._cache, self._begins = cache, begins

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """From the first one on."""
        for begin in self._begins:
            yield from self._cache.epoch(begin)


def devices_of(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """The devices of a strategy's replicas in this process, in their order."""
    try:
        return tuple(strategy.extended.worker_devices)
    except RuntimeError:  # the default strategy, which has one replica and names no device
        accelerators = [device.name for device in tf.config.list_logical_devices("GPU")]
        return ((accelerators or ["CPU:0"])[0],)


def _copy(tiles: tf.Tensor, device: str) -> tf.Variable:
    with tf.device(device):
        return tf.Variable(tiles, trainable=False, name="kept_tiles")
