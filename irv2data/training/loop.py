"""The fine-tuning loop: the head first, then the top blocks, under a `tf.distribute` strategy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.labels import CLASS
from irv2data.manifest import Dataset
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import CACHE_OPTIONS
from irv2data.training.checkpoint import prepare_run, save_run
from irv2data.training.config import TrainConfig
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
    log: Log = lambda line: None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Fine-tunes Inception-ResNet-v2 on a dataset and saves model and metrics.

    Args:
        dataset: The dataset.
        run: Folder for `model.keras` (images in [-1, 1] to logits), `classes.json` and `metrics.json`.
        config: What to do.
        strategy: Where to do it.
        overwrite: Replace a finished run.
        log: Called with one line an epoch.
        progress: Called as `progress(stage, done, total)` in steps.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: An option does not fit the dataset or the strategy, or the run's folder is taken.
        WeightsError: The pretrained weights cannot be had.
        DatasetError: The dataset cannot be read.
    """
    if dataset.contents.labels != CLASS:
        kind = dataset.contents.labels
        raise UsageError(f"{dataset.folder}: labels are of kind {kind!r}; train needs one class each")
    # Everything that can be wrong is found before the minutes that building and tracing the network take.
    kept = {name: getattr(config, name) for name in CACHE_OPTIONS}
    training = _pipeline(
        dataset, config, config.split, fit=config.fit, drop_remainder=True, augment=config.augment, **kept
    )
    batches = training.distribute(strategy)
    validation = None
    if config.validation_split is not None:
        fit = "center_crop" if config.fit == "random_resized_crop" else config.fit
        validation = _pipeline(dataset, config, config.validation_split, fit=fit, drop_remainder=False, shuffle=None)
    folder = prepare_run(run, overwrite=overwrite)

    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = build_model(classes=len(dataset.classes), image_size=config.image_size, weights=config.weights)
    preprocess = Preprocessor(strategy, training.output)
    if config.weights == "none":
        log("random weights: this shows the machinery, not the accuracy")
        set_statistics(model, preprocess(next(iter(batches))), strategy)
    # Where training augments, evaluation has a device stage of its own.
    shared = preprocess if config.augment is None else None
    validate = None if validation is None else Evaluator(model, validation, strategy, shared)
    before = after = None if validate is None else validate()
    history: list[dict[str, Any]] = []
    step: TrainStep | None = None
    for epoch in range(config.head_epochs + config.fine_epochs):
        fine = epoch >= config.head_epochs
        if epoch in (0, config.head_epochs):
            if fine:
                unfreeze(model, config.unfreeze)
            rate = config.fine_learning_rate if fine else config.head_learning_rate
            with strategy.scope():
                optimizer = keras.optimizers.Adam(rate)
            step = TrainStep(strategy, model, optimizer, config.batch_size, training.output)
        assert step is not None
        row = _epoch(training, strategy, epoch, step, preprocess, config.max_steps, progress)
        row = {"epoch": epoch, "phase": "fine" if fine else "head", **row}
        if validate is not None:
            after = validate()
            row |= {"validation_loss": after.loss, "validation_accuracy": after.accuracy}
        history.append(row)
        log(_line(row, config.head_epochs + config.fine_epochs))
    metrics = {
        "config": asdict(config),
        "dataset": {"fingerprint": dataset.fingerprint, "classes": len(dataset.classes)},
        "replicas": strategy.num_replicas_in_sync,
        "canvases": training.plan.canvases,
        "validation_before": None if before is None else asdict(before),
        "validation_after": None if after is None else asdict(after),
        "history": history,
    }
    save_run(folder, model, dataset.classes, metrics)
    return metrics


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
    strategy: tf.distribute.Strategy,
    epoch: int,
    step: TrainStep,
    preprocess: Preprocessor,
    max_steps: int,
    progress: Progress,
) -> dict[str, Any]:
    """Trains one epoch; returns its mean loss and accuracy, rate, and the share of time spent waiting for input.

    The rate leaves out the first step, which traces the graphs.
    """
    steps = pipeline.steps_per_epoch(epoch)
    steps = min(steps, max_steps) if max_steps else steps
    batches = iter(pipeline.distribute(strategy, epoch))
    sums: list[np.ndarray] = []
    waiting = 0.0
    started = time.perf_counter()
    for number in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - asked
        # Reading the sums waits for the step; the pipeline goes on meanwhile in its own threads.
        sums.append(step(preprocess(batch), batch).numpy())
        if number == 0:
            started, waiting = time.perf_counter(), 0.0
        progress(f"epoch {epoch + 1}", number + 1, steps)
    seconds = max(time.perf_counter() - started, 1e-9)
    some = max(1, steps // 5)
    loss, hits, images = np.stack(sums).astype(np.float64).sum(axis=0).tolist()
    return {
        "steps": steps,
        "loss": loss / images,
        "accuracy": hits / images,
        "loss_first_fifth": _mean_loss(sums[:some]),
        "loss_last_fifth": _mean_loss(sums[-some:]),
        "images_per_second": (steps - 1) * pipeline.config.batch_size / seconds if steps > 1 else None,
        "input_wait": waiting / seconds if steps > 1 else None,
    }


def _mean_loss(sums: list[np.ndarray]) -> float:
    loss, _, images = np.stack(sums).astype(np.float64).sum(axis=0).tolist()
    return float(loss / images)


def _line(row: dict[str, Any], epochs: int) -> str:
    line = f"epoch {row['epoch'] + 1}/{epochs} ({row['phase']}): loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}"
    if "validation_loss" in row:
        line += f", validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}"
    if row["images_per_second"] is not None:
        line += f", {row['images_per_second']:.1f} images/s, {row['input_wait']:.1%} waiting for input"
    return line
