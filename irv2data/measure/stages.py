"""The pipeline cut off behind each of its stages: what it would deliver if nothing came after that one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.machine import available_cores
from irv2data.measure.turns import Subject, units
from irv2data.pipeline.batch import Maker, real_rows
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import LETTERBOX, MAX_CHUNK, NATIVE, NO_CACHE
from irv2data.pipeline.distribute import Share, on_host, share_of
from irv2data.pipeline.feed import planned_chunks
from irv2data.pipeline.read import read_raw, read_records
from irv2data.training.step import Preprocessor

PLAN, READ, PARSE, DECODE, RESIZE, BATCH = "plan", "read", "parse", "decode", "resize", "batch"
ABOUT = {
    PLAN: "which records, boxes, canvases: NumPy",
    READ: "records out of the shards, their checksums",
    PARSE: "the compressed image out of a record",
    DECODE: "the planned box, at the planned scale",
    RESIZE: "on the host, to the network's size",
    BATCH: "images onto their canvas, labels, prefetch",
}
_STEPS = 200_000  # planned, not run: enough that no round ever meets an end


def epochs_of(pipeline: Pipeline) -> int:
    """So many epochs that no measurement meets the end."""
    return -(-_STEPS // pipeline.steps_per_epoch())


def host_stages(pipeline: Pipeline, strategy: tf.distribute.Strategy) -> dict[str, Subject]:
    """The stages on the host, each with all those before it, as parallel as in the whole.

    Args:
        pipeline: Without cache and service, which have other stages.
        strategy: What is fed: it decides where images are resized.

    Returns:
        By name, in the order of an image's way; `resize` only where the host resizes.

    Raises:
        UsageError: The pipeline has a cache or a service.
    """
    if pipeline.plan.cache != NO_CACHE:
        raise UsageError("stages: once images are kept, an epoch reads and decodes nothing; leave the cache out")
    if pipeline.config.service is not None:
        raise UsageError("stages: a service's workers are elsewhere; run this on one of them, without service")
    resizes = on_host(pipeline.plan, strategy)
    names = [name for name in ABOUT if resizes or name != RESIZE]
    return {name: Subject(open=_Opened(pipeline, strategy, name), buffered=_buffered(strategy)) for name in names}


def batches(
    pipeline: Pipeline,
    strategy: tf.distribute.Strategy,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    kept: bool = True,
) -> Subject:
    """The whole host side, up to the batch; with a cache, the epochs after the first."""
    return Subject(open=_Opened(pipeline, strategy, BATCH), buffered=_buffered(strategy), within=within, kept=kept)


def finished(pipeline: Pipeline) -> Subject:
    """The same and the device stage, on this process's default strategy, up to images as the network sees them."""
    strategy = tf.distribute.get_strategy()
    finish = Preprocessor(strategy, pipeline.output)
    trace(finish, pipeline)

    def open_() -> Iterator[int]:
        made = _after_filling(pipeline, iter(pipeline.distribute(strategy, epochs=epochs_of(pipeline))))
        return units(made, pipeline.config.batch_size, lambda batch: wait(finish(batch)))

    return Subject(open=open_, buffered=_buffered(strategy))


def trace(finish: Preprocessor, pipeline: Pipeline) -> None:
    """Has the device stage's graphs made for all canvases of a pipeline of one replica, before a clock runs."""
    if on_host(pipeline.plan, tf.distribute.get_strategy()) or pipeline.config.max_pixels_per_batch is not None:
        return  # there is one graph, or there are many: they come as they are met
    size = pipeline.config.batch_size
    for height, width in pipeline.plan.shapes:
        box = np.tile(np.array([0, 0, height, width], np.float32), (size, 1))
        batch = {
            "canvas": tf.zeros((size, height, width, 3), tf.uint8),
            "box": tf.constant(box),
            "size": tf.cast(box[:, 2:], tf.int32),
            "flip": tf.zeros([size], tf.bool),
            "draws": tf.zeros([size, pipeline.output.num_draws]),
            "record": tf.zeros([size], tf.int64),
        }
        if pipeline.config.fit == LETTERBOX:
            batch["fitted"] = tf.tile(tf.constant([[0, 0, *pipeline.config.image_size]]), (size, 1))
        finish(batch)


def wait(images: Any) -> None:
    """Waits for finished images, of one replica or several."""
    for each in tf.nest.flatten(images, expand_composites=True):
        each[(0,) * each.shape.rank].numpy()


@dataclass(frozen=True)
class _Opened:
    """Opens a pipeline that ends behind a stage."""

    pipeline: Pipeline
    strategy: tf.distribute.Strategy
    stage: str

    def __call__(self) -> Iterator[int]:
        pipeline, replicas = self.pipeline, self.strategy.num_replicas_in_sync
        share = share_of(pipeline.plan, replicas)(tf.distribute.InputContext(1, 0, replicas))
        begins = [(epoch, 0) for epoch in range(epochs_of(pipeline))]
        if self.stage == BATCH:
            made = _after_filling(pipeline, iter(pipeline.host_batches(begins, share, self.strategy)), replicas)
            return (int(np.count_nonzero(batch["record"].numpy() >= 0)) for batch in made)
        chunks = planned_chunks(pipeline.plan, begins, share, pipeline.ahead())
        return (int(np.count_nonzero(row.numpy() >= 0)) for row in self._cut_off(chunks, share))

    def _cut_off(self, chunks: tf.data.Dataset, share: Share) -> tf.data.Dataset:
        maker, cores = self.pipeline.maker(share, self.strategy), available_cores()
        if self.stage == PLAN:
            return chunks.map(lambda plan: plan["record"]).prefetch(2)

        def worked(plan: dict[str, tf.Tensor]) -> tf.data.Dataset:
            # A number an image: nothing is put together, so that nothing but the stage is measured.
            return self._until(maker, plan).batch(MAX_CHUNK)

        made = chunks.interleave(worked, cycle_length=cores, num_parallel_calls=cores, deterministic=True)
        return made.prefetch(2 * share.replicas)

    def _until(self, maker: Maker, plan: dict[str, tf.Tensor]) -> tf.data.Dataset:
        rows, _ = real_rows(plan)
        if self.stage in (READ, PARSE):
            path = tf.gather(maker.paths, rows["shard"])
            stored = (
                read_raw(path, rows["offset"], maker.request)
                if self.stage == READ
                else read_records(path, rows["offset"], maker.key, maker.request)
            )
            return stored.map(tf.strings.length)
        if self.stage == DECODE and maker.config.fit != NATIVE:  # whose images are never cut without being resized
            maker = replace(maker, on_host=False)
        return maker.images(rows).map(tf.size)


def _after_filling(pipeline: Pipeline, made: Iterator[Any], elements: int = 1) -> Iterator[Any]:
    """Without the epoch that fills the cache, if there is one: it is not what a cache is for."""
    filling = 0 if pipeline.plan.cache == NO_CACHE else elements * pipeline.steps_per_epoch()
    return itertools.islice(made, filling, None)


def _buffered(strategy: tf.distribute.Strategy) -> int:
    """Units that wait behind a stage at most: those that are prefetched, and each worker's own."""
    return 2 * strategy.num_replicas_in_sync + 2 * available_cores()
