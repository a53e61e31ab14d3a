"""The fine-tuning loop: the head first, then the top blocks, under a `tf.distribute` strategy."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import InterruptedRunError, UsageError
from irv2data.labels import CLASS
from irv2data.manifest import Dataset
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import CACHE_OPTIONS, OutputSpec
from irv2data.training.checkpoint import Checkpoints, prepare_run, save_run
from irv2data.training.config import TrainConfig, evaluation_fit
from irv2data.training.done import Done
from irv2data.training.evaluation import Evaluator
from irv2data.training.model import build_model, normalisations, unfreeze
from irv2data.training.step import Preprocessor, TrainStep

Log = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def train(
    dataset: Dataset,
    run: str | os.PathLike[str],
    config: TrainConfig,
    strategy: tf.distribute.Strategy,
    *,
    overwrite: bool = False,
    resume: bool = False,
    log: Log = lambda line: None,
    progress: Progress = lambda stage, done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Fine-tunes Inception-ResNet-v2 on a dataset and saves model and metrics.

    Args:
        dataset: The dataset.
        run: Folder for `model.keras` (images in [-1, 1] to logits), `classes.json`, `metrics.json` and `checkpoints`.
        config: What to do.
        strategy: Where to do it.
        overwrite: Replace a finished run, or one that was stopped.
        resume: Go on with the run in the folder from its last checkpoint, if it has one: with the batch it would have
            seen next, whatever the number of replicas now.
        log: Called with one line an epoch.
        progress: Called as `progress(stage, done, total)` in steps.
        stop: Asked after every step; once it says so, a checkpoint is written and the run ends.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: An option does not fit the dataset or the strategy, or the run's folder is taken; or the run to go
            on with is of other options, classes or records.
        WeightsError: The pretrained weights cannot be had.
        DatasetError: The dataset cannot be read, or the run's folder not be written.
        InterruptedRunError: It was asked to stop.
    """
    if dataset.contents.labels != CLASS:
        kind = dataset.contents.labels
        raise UsageError(f"{dataset.folder}: labels are of kind {kind!r}; train needs one class each")
    # Everything that can be wrong is found before the minutes that building and tracing the network take.
    kept = {name: getattr(config, name) for name in CACHE_OPTIONS}
    training = _pipeline(
        dataset, config, config.split, fit=config.fit, drop_remainder=True, augment=config.augment, **kept
    )
    first = training.distribute(strategy)
    validation = None
    if config.validation_split is not None:
        fit = evaluation_fit(config.fit)
        validation = _pipeline(dataset, config, config.validation_split, fit=fit, drop_remainder=False, shuffle=None)
    folder = prepare_run(run, overwrite=overwrite, resume=resume)
    checkpoints = Checkpoints(folder, config.keep_checkpoints)
    saved = checkpoints.latest() if resume else None
    done = Done() if saved is None else Done.of(saved, config, training)

    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        weights = config.weights if saved is None else "none"  # those of the checkpoint follow
        model = build_model(classes=len(dataset.classes), image_size=config.image_size, weights=weights)
    preprocess = Preprocessor(strategy, training.output)
    if config.weights == "none":
        log("random weights: this shows the machinery, not the accuracy")
        if saved is None:
            set_statistics(model, preprocess(next(iter(first))), strategy)
    # Where training augments, evaluation has a device stage of its own.
    shared = preprocess if config.augment is None else None
    validate = None if validation is None else Evaluator(model, validation, strategy, shared)
    if validate is not None and saved is None:
        done.before = validate().figures()
    epochs = config.head_epochs + config.fine_epochs
    step: TrainStep | None = None
    batches: Iterator[Any] = iter(())
    for epoch in range(done.epoch, epochs):
        fine = epoch >= config.head_epochs
        if step is None or epoch == config.head_epochs:
            step = _new_step(model, config, fine, strategy, training.output)
            if saved is not None:
                # At the first step of a phase the optimizer is a new one, and the checkpoint's of the phase before.
                begins = done.step == 0 and epoch in (0, config.head_epochs)
                checkpoints.restore(step.weights if begins else step.variables)
                saved = None
        if epoch == done.epoch or config.max_steps:
            # One iterator for all epochs that are left, unless their ends are cut off.
            batches = iter(
                training.distribute(strategy, epoch, done.step, epochs=1 if config.max_steps else epochs - epoch)
            )
        save = functools.partial(_save, checkpoints, step, done, config, training)
        row = _epoch(training, batches, step, preprocess, config, done, progress, save, stop)
        row = {"epoch": epoch, "phase": "fine" if fine else "head", **row}
        if validate is not None:
            after = validate()
            row |= {f"validation_{name}": value for name, value in after.figures().items() if name != "records"}
            done.after = after.figures()
        done.history.append(row)
        log(_line(row, epochs))
        done.epoch, done.step, done.sums = epoch + 1, 0, []
        save()
        if stop() and epoch + 1 < epochs:
            raise _interrupted(done)
    metrics = {
        "config": asdict(config),
        "dataset": {"fingerprint": dataset.fingerprint, "classes": len(dataset.classes)},
        "replicas": strategy.num_replicas_in_sync,
        "canvases": training.plan.canvases,
        "validation_before": done.before,
        "validation_after": done.after,
        "history": done.history,
    }
    save_run(folder, model, dataset.classes, metrics)
    return metrics


def _new_step(
    model: keras.Model, config: TrainConfig, fine: bool, strategy: tf.distribute.Strategy, output: OutputSpec
) -> TrainStep:
    """The step of a phase, with an optimizer of its own."""
    if fine:
        unfreeze(model, config.unfreeze)
    with strategy.scope():
        optimizer = keras.optimizers.Adam(config.fine_learning_rate if fine else config.head_learning_rate)
    return TrainStep(strategy, model, optimizer, config.batch_size, output)


def set_statistics(model: keras.Model, images: Any, strategy: tf.distribute.Strategy) -> None:
    """Sets every batch normalisation of a randomly initialised network to the statistics of one batch.

    With their initial statistics they pass random features through unscaled, each layer shrinking them, until nothing
    is left for a head to learn from. In the manner of Mishkin and Matas, "All you need is a good init" (2016).

    The batch is put together from all replicas, so that the result does not depend on their number.

    Args:
        model: Of `build_model` with `weights="none"`.
        images: Per-replica images [b, h, w, 3].
        strategy: Where the model lives.
    """
    layers = normalisations(model)
    kept = [(layer.momentum, layer.trainable) for layer in layers]
    for layer in layers:
        layer.momentum, layer.trainable = 0.0, True  # one pass then replaces the statistics by the batch's
    with strategy.scope():
        model(tf.concat(strategy.experimental_local_results(images), axis=0), training=True)
    for layer, (momentum, trainable) in zip(layers, kept, strict=True):
        layer.momentum, layer.trainable = momentum, trainable


def _pipeline(dataset: Dataset, config: TrainConfig, split: str, **options: Any) -> Pipeline:
    return Pipeline(
        dataset,
        split=split,
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        **options,
    )


def _epoch(
    pipeline: Pipeline,
    batches: Iterator[Any],
    step: TrainStep,
    preprocess: Preprocessor,
    config: TrainConfig,
    done: Done,
    progress: Progress,
    save: Callable[[], None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Trains what is left of an epoch; returns its mean loss and accuracy, rate, and the share of time spent waiting.

    Rate and waiting leave out the first step, which traces the graphs.
    """
    steps = pipeline.steps_per_epoch(done.epoch)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    begun = done.step
    waiting = 0.0
    started = time.perf_counter()
    while done.step < steps:
        asked = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - asked
        # Reading the sums waits for the step; the pipeline goes on meanwhile in its own threads.
        done.sums.append(step(preprocess(batch), batch).numpy().tolist())
        if done.step == begun:
            started, waiting = time.perf_counter(), 0.0
        done.step += 1
        progress(f"epoch {done.epoch + 1}", done.step, steps)
        if done.step < steps:
            if stop():
                save()
                raise _interrupted(done)
            if config.checkpoint_steps and done.step % config.checkpoint_steps == 0:
                save()
    seconds, counted = max(time.perf_counter() - started, 1e-9), steps - begun - 1
    some = max(1, steps // 5)
    loss, hits, images = np.sum(done.sums, axis=0).tolist()
    return {
        "steps": steps,
        "loss": loss / images,
        "accuracy": hits / images,
        "loss_first_fifth": _mean_loss(done.sums[:some]),
        "loss_last_fifth": _mean_loss(done.sums[-some:]),
        "images_per_second": counted * pipeline.config.batch_size / seconds if counted > 0 else None,
        "input_wait": waiting / seconds if counted > 0 else None,
    }


def _save(checkpoints: Checkpoints, step: TrainStep, done: Done, config: TrainConfig, training: Pipeline) -> None:
    checkpoints.save(f"{done.epoch:04d}-{done.step:07d}", step.variables, done.state(config, training))


def _interrupted(done: Done) -> InterruptedRunError:
    where = f"after step {done.step} of epoch {done.epoch + 1}" if done.step else f"after epoch {done.epoch}"
    return InterruptedRunError(f"stopped {where}; --resume goes on from there")


def _mean_loss(sums: list[list[float]]) -> float:
    loss, _, images = np.sum(sums, axis=0).tolist()
    return float(loss / images)


def _line(row: dict[str, Any], epochs: int) -> str:
    line = f"epoch {row['epoch'] + 1}/{epochs} ({row['phase']}): loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}"
    if "validation_loss" in row:
        line += f", validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}"
    if row["images_per_second"] is not None:
        line += f", {row['images_per_second']:.1f} images/s, {row['input_wait']:.1%} waiting for input"
    return line
