"""What a run reads: the pipelines of its epochs and of its evaluation, made and checked before the network is built."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.labels import CLASS
from irv2data.manifest import Dataset
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import NATIVE
from irv2data.training.config import TrainConfig, evaluation_fit
from irv2data.training.masked import large_enough
from irv2data.training.phases import Phase, image_sizes
from irv2data.training.step import Preprocessor, check_parts


class Inputs:
    """Batches of a run.

    Args:
        dataset: The dataset.
        config: What to do.
        strategy: Where to do it.

    Attributes:
        validation: The pipeline that evaluates; None without.
        epochs: How many the run has.

    Raises:
        UsageError: An option does not fit the dataset or the strategy.
        DatasetError: The dataset cannot be read, or a split is too small for one batch.
    """

    def __init__(self, dataset: Dataset, config: TrainConfig, strategy: tf.distribute.Strategy):
        if dataset.contents.labels != CLASS:
            kind = dataset.contents.labels
            raise UsageError(f"{dataset.folder}: labels are of kind {kind!r}; train needs one class each")
        self._config = config
        self._strategy = strategy
        self._sizes = image_sizes(config)
        self.epochs = len(self._sizes)
        self._pipelines = {size: _training(dataset, config, size) for size in dict.fromkeys(self._sizes)}
        self._preprocessors = {
            size: Preprocessor(strategy, pipeline.output) for size, pipeline in self._pipelines.items()
        }
        self._first = self.training(0).distribute(strategy)
        check_parts(config.batch_size, strategy.num_replicas_in_sync, config.accumulate)
        self.validation: Pipeline | None = None
        if config.validation_split is not None:
            # The canvases of training, for which the network's graphs are there already.
            canvases = self.training(self.epochs).plan.canvases if config.fit == NATIVE else None
            self.validation = _pipeline(
                dataset,
                config,
                split=config.validation_split,
                fit=evaluation_fit(config.fit),
                image_size=config.image_size,
                canvases=canvases,
                drop_remainder=False,
                shuffle=None,
            )

    def training(self, epoch: int) -> Pipeline:
        """The pipeline of an epoch; behind the last, that of the last."""
        return self._pipelines[self._sizes[min(epoch, self.epochs - 1)]]

    def preprocess(self, epoch: int) -> Preprocessor:
        """The device stage of an epoch's batches."""
        return self._preprocessors[self._sizes[epoch]]

    def preprocess_validation(self) -> Preprocessor | None:
        """The device stage that evaluation may share; None where training augments, or decodes other canvases."""
        assert self.validation is not None
        last = self._preprocessors[self._config.image_size]
        return last if self.validation.output == self.training(self.epochs).output else None

    def steps(self, epoch: int) -> int:
        """Steps of an epoch."""
        steps = self.training(epoch).steps_per_epoch(epoch)
        return min(steps, self._config.max_steps) if self._config.max_steps else steps

    def steps_of(self, phase: Phase) -> int:
        """Steps of a phase."""
        return sum(self.steps(epoch) for epoch in range(phase.first, phase.first + phase.epochs))

    def first_inputs(self) -> Any:
        """What the network gets of the very first batch, per replica."""
        return self.preprocess(0)(next(iter(self._first)))

    def batches(self, epoch: int, step: int) -> Iterator[tuple[int, Iterator[Any]]]:
        """Each epoch from there on, with its batches; the last ones of an epoch cut short are left out.

        As few iterators as possible, for a new one takes a second or two: one for all epochs of a size.
        """
        while epoch < self.epochs:
            alike = 1 if self._config.max_steps else _run_length(self._sizes[epoch:])
            pipeline = self.training(epoch)
            # Counted, too, because asking other hosts for the end must not get between the collectives of a step.
            batches = iter(pipeline.distribute(self._strategy, epoch, step, epochs=alike, counted=True))
            epochs = range(epoch, epoch + alike)
            ahead = _ahead(batches, sum(map(self.steps, epochs)) - step)
            for number in epochs:
                yield number, ahead
            epoch, step = epoch + alike, 0


def _ahead(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """So many of them, each fetched while the one before is used: for several replicas that takes some Python."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches)
        for _ in range(count - 1):
            batch = coming.result()
            coming = thread.submit(next, batches)
            yield batch
        yield coming.result()


def _run_length(sizes: list[tuple[int, int]]) -> int:
    """How many of the first are equal."""
    return next((number for number, size in enumerate(sizes) if size != sizes[0]), len(sizes))


def _training(dataset: Dataset, config: TrainConfig, size: tuple[int, int]) -> Pipeline:
    def pipeline(canvases: tuple[tuple[int, int], ...] | None = None) -> Pipeline:
        return _pipeline(
            dataset,
            config,
            split=config.split,
            fit=config.fit,
            image_size=size,
            canvases=canvases,
            drop_remainder=True,
            augment=config.augment,
            **config.placing,
        )

    found = pipeline()
    # The masked network counts a small image as one that zeros fill up, but it has to lie on so large a canvas.
    return pipeline(large_enough(found.plan.canvases)) if config.fit == NATIVE else found


def _pipeline(dataset: Dataset, config: TrainConfig, *, fit: str, **options: Any) -> Pipeline:
    return Pipeline(dataset, fit=fit, batch_size=config.batch_size, seed=config.seed, **config.fitting(fit), **options)
