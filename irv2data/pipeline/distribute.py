"""Who gets which rows of a global batch: arithmetic, and the one call that hands it to a strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.pipeline.config import MAX_CHUNK


@dataclass(frozen=True, kw_only=True)
class Share:
    """The rows of every global batch that one input process provides.

    Attributes:
        start: First row.
        replicas: Replicas it feeds.
        size: Rows a replica.
        chunks: Chunks a replica's rows are decoded in.
    """

    start: int
    replicas: int
    size: int
    chunks: int

    @classmethod
    def of(cls, *, start: int, replicas: int, size: int) -> Share:
        """A share with the fewest chunks of at most `MAX_CHUNK` rows."""
        return cls(start=start, replicas=replicas, size=size, chunks=-(-size // MAX_CHUNK))

    @classmethod
    def whole(cls, batch_size: int) -> Share:
        """Everything, as for one replica."""
        return cls.of(start=0, replicas=1, size=batch_size)

    @property
    def chunk(self) -> int:
        """Rows a chunk; the last chunk of a replica may end in filler to be as long as the others."""
        return -(-self.size // self.chunks)


def share_of(batch_size: int, replicas: int) -> Callable[[tf.distribute.InputContext], Share]:
    """From an input process's context to its share; the replicas of one process are neighbours in the batch.

    Raises:
        UsageError: The replicas do not divide the batch.
    """
    if batch_size % replicas:
        nearest = [size for size in (batch_size // replicas * replicas, -(-batch_size // replicas) * replicas) if size]
        wanted = " or ".join(str(size) for size in nearest)
        raise UsageError(f"batch_size {batch_size} is not divisible by {replicas} replicas; use {wanted}")
    size = batch_size // replicas

    def share(context: tf.distribute.InputContext) -> Share:
        local = replicas // context.num_input_pipelines
        return Share.of(start=context.input_pipeline_id * local * size, replicas=local, size=size)

    return share


def distribute(
    strategy: tf.distribute.Strategy, dataset: Callable[[tf.distribute.InputContext], tf.data.Dataset]
) -> Any:
    """Hands each input process's dataset to the strategy, whose iterator deals its elements to the replicas in turn.

    That dealing is what makes replica r's element of a step row block r of the batch: `MultiDeviceIterator` gives
    element i to device i modulo their number.
    """
    return strategy.distribute_datasets_from_function(dataset)


def distribute_for_keras(
    strategy: tf.distribute.Strategy,
    dataset: Callable[[Share], tf.data.Dataset],
    batch_size: int,
) -> Any:
    """As `distribute`, in a form that `model.fit` of the installed Keras takes.

    Keras 3.8 takes no dataset made from a function (keras-team/keras#20134, mended in 3.9). It is given global batches
    instead, which the strategy cuts into the same blocks of rows, at the price of a copy.

    Raises:
        UsageError: The replicas do not divide the batch.
    """
    share = share_of(batch_size, strategy.num_replicas_in_sync)
    if tuple(int(part) for part in keras.__version__.split(".")[:2]) >= (3, 9):
        return distribute(strategy, lambda context: dataset(share(context)))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return strategy.experimental_distribute_dataset(dataset(Share.whole(batch_size)).with_options(options))
