"""`cache="device"`: kept images in the memory of every device, from which the batches of a step are gathered there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.pipeline.batch import Maker
from irv2data.pipeline.cache import HostCache, gather_tiles, outside_strategies
from irv2data.pipeline.distribute import devices_of, distribute
from irv2data.pipeline.faults import with_filler
from irv2data.pipeline.feed import chunked
from irv2data.pipeline.plan import WINDOW, Plan
from irv2data.pipeline.planned import FILLER, Batches

_TAKEN = ("first", "pitch", "crop")  # what `gather_tiles` takes


class DeviceCache:
    """A copy of all kept images on each device of a strategy, from the end of the first epoch on.

    A step then costs the host one call of a function: what is planned of a window goes into variables on the devices
    once a window, and a step says which of its batches it wants. (As arguments of the function it would cost 2 ms a
    step in Python.) No input thread runs, and no pixel moves between host and device.

    Args:
        plan: The plan.
        strategy: Whose devices.
        through_host: From (epoch, step) and an input context to the dataset of that epoch's batches from that step on,
            which decodes and keeps images in the host's memory.
        maker: From an input context to what finishes batches.
        fill: Gives the host's cache with all images in it, to be forgotten; those that are missing are damaged, and
            become filler.
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
        # A device each; empty until an epoch has decoded all images.
        self._tiles: list[tf.Variable] = []
        self._rows: list[dict[str, tf.Variable]] = []
        self._loaded: tuple[int, int] | None = None  # epoch and window that `_rows` are of
        # One a canvas shape, so that shapes are static and a second trace of any of them would show.
        self.graphs: dict[tuple[int, int], Any] = {}

    @property
    def filled(self) -> bool:
        """Whether they are there."""
        return bool(self._tiles)

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
        if self._tiles:  # by another iterator meanwhile; graphs know the variables that it made
            return
        self._maker = dataclasses.replace(self._make_maker(contexts[0]), cache=None)
        cache = self._fill()
        self._there, self._residence = cache.there, cache.residence
        self._tiles = outside_strategies(lambda: [_copy(cache.tiles, device) for device in self._devices])
        self._rows = [{} for _ in self._devices]
        self._numbers = [tf.constant(number, tf.int64) for number in range(WINDOW)]

    def _from_devices(self, epoch: int, step: int) -> Iterator[dict[str, Any]]:
        first, skip = self._plan.place(epoch, step)
        for window in range(first, self._plan.windows_per_epoch()):
            batches = self._plan.window(epoch, window)
            canvases = batches.canvas.tolist()
            for number in range(skip if window == first else 0, len(canvases)):
                if self._loaded != (epoch, window):  # or another iterator has loaded one of its own
                    self._load(batches)
                    self._loaded = (epoch, window)
                yield self._graph(*canvases[number])(self._numbers[number])

    def _load(self, batches: Batches) -> None:
        """Puts what is needed of a window's batches on the devices, each those rows that are its own."""
        share = self._maker.share
        arrays = chunked(batches, share)
        record = arrays["record"]
        sound = (record < 0) | self._there[np.maximum(record, 0)]
        rows = with_filler({name: arrays[name] for name in self._maker.needed}, sound, self._maker.config.columns)
        known = np.maximum(rows["record"], 0)
        rows["first"] = np.where(rows["record"] == FILLER, 0, self._residence.first[known])
        rows["pitch"] = self._residence.pitch[known]
        self._dtypes = {name: tf.as_dtype(array.dtype) for name, array in rows.items()}
        self._dtypes |= dict.fromkeys(_TAKEN, tf.int64)
        for name, array in rows.items():
            # Chunks [batches * replicas * chunks, N, ..], with what lies beyond a replica's rows in its last chunk.
            array = array.reshape(len(batches), share.replicas, share.chunks * share.chunk, *array.shape[2:])
            array = array[:, :, : share.size].astype(np.int64 if array.dtype == np.int32 else array.dtype)
            whole = np.zeros((WINDOW, *array.shape[1:]), array.dtype)
            whole[: len(array)] = array
            for device, variables in enumerate(self._rows):
                _assign(variables, name, whole[:, device], self._devices[device])

    def _graph(self, height: int, width: int) -> Any:
        if (height, width) not in self.graphs:

            def replica(number: tf.Tensor) -> dict[str, tf.Tensor]:
                tiles, rows = self._tiles[self._local()], self._rows[self._local()]
                plan = {
                    name: tf.cast(variable.sparse_read(number), self._dtypes[name]) for name, variable in rows.items()
                }
                size = tf.constant([height, width], tf.int64)
                canvas = gather_tiles(tiles, plan["first"], plan["pitch"], plan["crop"], size)
                return self._maker.finish(plan, tf.ensure_shape(canvas, [None, height, width, 3]))

            self.graphs[height, width] = tf.function(lambda number: self._strategy.run(replica, args=(number,)))
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


def _copy(tiles: tf.Tensor, device: str) -> tf.Variable:
    with tf.device(device):
        return tf.Variable(tiles, trainable=False, name="kept_tiles")


def _assign(variables: dict[str, tf.Variable], name: str, value: np.ndarray, device: str) -> None:
    if name in variables:
        variables[name].assign(value)
        return

    def make() -> tf.Variable:
        # int64 for int32, of which TensorFlow has no variables on GPUs, and strings stay on the host.
        with tf.device("CPU:0" if value.dtype == object else device):
            return tf.Variable(value, trainable=False, name=f"planned_{name}")

    variables[name] = outside_strategies(make)
