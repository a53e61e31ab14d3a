"""Who gets which rows of a global batch: arithmetic, and the one call that hands it to a strategy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.pipeline.config import AREA, AUTO, HOST, MAX_CHUNK, NATIVE
from irv2data.pipeline.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Share:
    """The rows of every global batch that one input process provides.

    Of a batch of B rows, replica r of R has rows [r B/R, (r+1) B/R).

    Attributes:
        first: The first replica that it feeds.
        replicas: How many it feeds.
        total: Replicas of all input processes, R.
        most: Rows of the largest global batch.
    """

    first: int
    replicas: int
    total: int
    most: int

    @classmethod
    def whole(cls, most: int) -> Share:
        """Everything, as for one replica."""
        return cls(first=0, replicas=1, total=1, most=most)

    @property
    def size(self) -> int:
        """Rows a replica, of the largest batch."""
        return self.most // self.total

    @property
    def chunks(self) -> int:
        """Chunks that a replica's rows are decoded in: the fewest of at most `MAX_CHUNK` rows."""
        return -(-self.size // MAX_CHUNK)

    @property
    def chunk(self) -> int:
        """Rows a chunk, of the largest batch; the last chunk of a replica may be shorter."""
        return -(-self.size // self.chunks)

    def rows(self, own: np.ndarray) -> np.ndarray:
        """Which row of its batch each place of each chunk stands for.

        Args:
            own: int [batches], rows a replica has of each batch.

        Returns:
            int64 [batches, replicas * chunks * chunk], -1 where a place stays empty.
        """
        own = own.astype(np.int64)[:, None, None, None]
        replica = self.first + np.arange(self.replicas)[:, None, None]
        chunk, place = np.arange(self.chunks)[:, None], np.arange(self.chunk)
        # All chunks of a batch are equally long, for they are joined.
        length = -(-own // self.chunks)
        row = chunk * length + place
        there = (place < length) & (row < own)
        return np.where(there, replica * own + row, -1).reshape(len(own), -1)


def share_of(plan: Plan, replicas: int) -> Callable[[tf.distribute.InputContext], Share]:
    """From an input process's context to its share; the replicas of one process are neighbours in the batch.

    Raises:
        UsageError: The replicas do not divide the batch, or into parts that cannot be paired for mixing.
    """
    config = plan.config
    name = "batch_size" if config.max_pixels_per_batch is None else "batch_multiple"
    unit = getattr(config, name)
    if unit % replicas:
        nearest = [size for size in (unit // replicas * replicas, -(-unit // replicas) * replicas) if size]
        wanted = " or ".join(str(size) for size in nearest)
        raise UsageError(f"{name} {unit} is not divisible by {replicas} replicas; use {wanted}")

    if config.augment is not None and config.augment.mixes and unit // replicas % 2:
        even = 2 * replicas
        raise UsageError(
            f"{name} {unit} gives {replicas} replicas {unit // replicas} images each, an odd number that mixup and "
            f"cutmix cannot pair; use {-(-unit // even) * even}"
        )

    def share(context: tf.distribute.InputContext) -> Share:
        local = replicas // context.num_input_pipelines
        return Share(
            first=context.input_pipeline_id * local, replicas=local, total=replicas, most=max(plan.batch_sizes)
        )

    return share


def devices_of(strategy: tf.distribute.Strategy | None) -> tuple[str, ...]:
    """The devices that are fed, one a replica of this host, in the order of the replicas.

    Args:
        strategy: The strategy; None, or the default one, which names no devices, for this machine's first.
    """
    if strategy is not None:
        with suppress(RuntimeError):  # what the default strategy raises
            return tuple(strategy.extended.worker_devices)
    accelerators = [device.name for device in tf.config.list_logical_devices() if device.device_type in ("GPU", "TPU")]
    return (*accelerators, "/device:CPU:0")[:1]


def are_processors(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether the devices are this machine's processor, which reading and decoding need as well."""
    return all("CPU" in device.upper() for device in devices_of(strategy))


def on_host(plan: Plan, strategy: tf.distribute.Strategy | None) -> bool:
    """Whether images are resized on the host: what `resize_on` says, and for `auto` what the devices are.

    On CPUs the stock operations are faster than the device stage's matrix products. On an accelerator the device's
    time costs least, unless a canvas is more bytes than a finished image of floats.

    Args:
        plan: The plan.
        strategy: The strategy that is fed; None where it is not known, for the machine's own devices.
    """
    config = plan.config
    # What is kept is gathered for the device to resize, and means of areas are the device stage's.
    if plan.residence is not None or config.method == AREA:
        return False
    if config.resize_on != AUTO:
        return config.resize_on == HOST
    if are_processors(strategy):
        return True
    if config.fit == NATIVE:
        return False
    canvas = np.prod(plan.window(0, 0).canvas, axis=1).mean()
    return bool(3 * canvas > 12 * config.image_size[0] * config.image_size[1])


def distribute(
    strategy: tf.distribute.Strategy,
    dataset: Callable[[tf.distribute.InputContext], tf.data.Dataset],
    *,
    counted: bool = False,
) -> Any:
    """Hands each input process's dataset to the strategy, whose iterator deals its elements to the replicas in turn.

    That dealing is what makes replica r's element of a step row block r of the batch: `MultiDeviceIterator` gives
    element i to device i modulo their number.

    Args:
        strategy: The strategy.
        dataset: From an input process's context to its dataset.
        counted: No more elements are taken than there are.
    """

    def endless(context: tf.distribute.InputContext) -> tf.data.Dataset:
        # Of any other, TensorFlow asks at every step which replicas still have an element, in Python, operation by
        # operation (b/133073708 in its distribute/input_lib.py). Measured: 10 ms a step instead of 3.
        infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return dataset(context).apply(infinite)

    return strategy.distribute_datasets_from_function(endless if counted else dataset)


def distribute_for_keras(
    strategy: tf.distribute.Strategy,
    dataset: Callable[[Share], tf.data.Dataset],
    plan: Plan,
) -> Any:
    """As `distribute`, in a form that `model.fit` of the installed Keras takes.

    Keras 3.8 takes no dataset made from a function (keras-team/keras#20134, mended in 3.9). It is given global batches
    instead, which the strategy cuts into the same blocks of rows, at the price of a copy.

    Raises:
        UsageError: The replicas do not divide the batch.
    """
    share = share_of(plan, strategy.num_replicas_in_sync)
    if tuple(int(part) for part in keras.__version__.split(".")[:2]) >= (3, 9):
        return distribute(strategy, lambda context: dataset(share(context)))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return strategy.experimental_distribute_dataset(dataset(Share.whole(max(plan.batch_sizes))).with_options(options))
