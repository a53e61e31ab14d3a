"""The fine-tuning loop: the head first, then the top blocks, under a `tf.distribute` strategy."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.manifest import Dataset
from irv2data.pipeline.config import NATIVE
from irv2data.training.checkpoint import BEST, TENSORBOARD, Checkpoints, prepare_run, save_run
from irv2data.training.config import TrainConfig
from irv2data.training.done import Done
from irv2data.training.inputs import Inputs
from irv2data.training.journal import Journal
from irv2data.training.model import build_model, set_statistics
from irv2data.training.optimizer import learning_rate
from irv2data.training.phases import class_weights, phases
from irv2data.training.profiling import Profile
from irv2data.training.run import Log, Progress, Run
from irv2data.training.step import Objective
from irv2data.training.strategy import hosts_together, is_chief, precision_on
from irv2data.training.weights import digest_of, weights_file


def train(
    dataset: Dataset | str | os.PathLike[str],
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
        dataset: The dataset, or the path or URI of its folder.
        run: Folder for `model.keras` (images in [-1, 1] to logits), `classes.json`, `metrics.json`, `history.csv`,
            `tensorboard` and `checkpoints`. Of several hosts, all have to see the same folder; the first one writes.
        config: What to do.
        strategy: Where to do it.
        overwrite: Replace a finished run, or one that was stopped.
        resume: Go on with the run in the folder from its last checkpoint, if it has one: with the batch it would have
            seen next, whatever the number of replicas now.
        log: Called with one line an epoch.
        progress: Called as `progress(stage, done, total)` in steps.
        stop: Asked after every step; once it says so (on any host), a checkpoint is written and the run ends.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: An option does not fit the dataset or the strategy, or the run's folder is taken; or the run to go
            on with is of other options, classes or records.
        WeightsError: The pretrained weights cannot be had.
        DatasetError: The dataset cannot be read, or the run's folder not be written.
        InterruptedRunError: It was asked to stop.
    """
    if not is_chief(strategy):  # one host speaks for all
        log, progress = (lambda line: None), (lambda stage, done, total: None)
    dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    config = replace(config, precision=precision_on(strategy, config.precision))
    # Everything that can be wrong is found before the minutes that building and tracing the network take.
    inputs = Inputs(dataset, config, strategy)
    weights = class_weights(config, inputs.training(0).plan.split.array("label"), dataset.classes)
    if weights is not None and len(weights) != len(dataset.classes):
        raise UsageError(f"class_weights has {len(weights)} weights for {len(dataset.classes)} classes")
    for phase in phases(config):  # of the later ones too, which begin after hours
        learning_rate(phase.learning_rate, inputs.steps_of(phase), config)
    folder = prepare_run(run, overwrite=overwrite, resume=resume) if is_chief(strategy) else Path(run)
    checkpoints = Checkpoints(folder, config.keep_checkpoints)
    saved = checkpoints.latest() if resume else None
    done = Done() if saved is None else Done.of(saved, config, inputs.training)
    if saved is None and (file := weights_file(config.weights)) is not None:
        done.weights_sha256 = digest_of(file, "sha256")
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = build_model(
            classes=len(dataset.classes),
            image_size=None if config.fit == NATIVE or config.progressive else config.image_size,
            weights=config.weights if saved is None else "none",  # those of the checkpoint follow
            precision=config.precision,
            masked=config.fit == NATIVE,
            sync_bn=config.sync_bn,
        )
    if config.weights == "none":
        log("random weights: this shows the machinery, not the accuracy")
        if saved is None:
            set_statistics(model, inputs.first_inputs(), strategy)
    profile = Profile(folder / TENSORBOARD, config.profile_steps if is_chief(strategy) else None)
    running = Run(
        model=model,
        inputs=inputs,
        config=config,
        objective=Objective(label_smoothing=config.label_smoothing, class_weights=weights),
        strategy=strategy,
        checkpoints=checkpoints,
        best=Checkpoints(folder, 1, BEST),
        journal=Journal(folder, tensorboard=config.tensorboard) if is_chief(strategy) else None,
        profile=profile,
        done=done,
        log=log,
        progress=progress,
        stop=stop,
    )
    with hosts_together(strategy), closing(profile):
        running.begin(resumed=saved is not None)
        running.train()
    with running.weights_to_save():
        metrics = {
            "config": asdict(config),
            "dataset": {"fingerprint": dataset.fingerprint, "classes": len(dataset.classes)},
            "replicas": strategy.num_replicas_in_sync,
            "canvases": inputs.training(inputs.epochs).plan.canvases,
            # By which `predict` reduces what is too large to be decoded whole, as evaluation did.
            "evaluation_canvases": (inputs.validation or inputs.training(inputs.epochs)).plan.canvases,
            "weights_sha256": done.weights_sha256,
            "validation_before": done.before,
            "validation_after": done.after,
            "history": done.history,
        }
        if is_chief(strategy):
            save_run(folder, model, dataset.classes, metrics)
    return metrics
