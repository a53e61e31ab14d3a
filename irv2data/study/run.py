"""A study, from the dataset to the page."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.labels import CLASS
from irv2data.manifest import Dataset
from irv2data.measure.figures import spread
from irv2data.measure.stages import finished
from irv2data.measure.turns import in_turns
from irv2data.pipeline.config import RESIZE
from irv2data.pipeline.distribute import share_of
from irv2data.study.conclusion import NOT_PRETRAINED, conclusion
from irv2data.study.config import Arm, StudyConfig
from irv2data.study.features import Extractor
from irv2data.study.heads import predictions, train_head
from irv2data.study.images import AllFeatures, Images
from irv2data.study.movement import fits_moved, resizers_moved
from irv2data.study.output import prepare, write
from irv2data.study.statistics import LEAST_IN_BIN, aspect_bins, size_bins, verdict
from irv2data.training.config import AUTO
from irv2data.training.model import build_model, set_statistics
from irv2data.training.step import Preprocessor
from irv2data.training.strategy import precision_on

Progress = Callable[[str, int, int], None]


def study(
    dataset: Dataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: StudyConfig,
    strategy: tf.distribute.Strategy,
    *,
    overwrite: bool = False,
    log: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Trains the same head under each way of fitting images, and writes down what each costs.

    The network is frozen, so that an image's features are worked out once for each way (for random crops, several
    times), and heads are trained on them in the very batches that the pipeline would have made: the same seeds, the
    same number of steps, several repeats.

    Args:
        dataset: The dataset, with one class an image, or the path or URI of its folder.
        out: Folder for `study.html`, `study.csv` (a row for each way), `images.csv` (one for each image that accuracy
            was measured on) and `study.json`.
        config: What to do.
        strategy: Where to do it.
        overwrite: Replace an earlier study.
        log: Called with a line now and then.
        progress: Called as `progress(stage, done, total)`.

    Returns:
        The content of `study.json`.

    Raises:
        UsageError: An option does not fit the dataset, or the folder is taken.
        WeightsError: The weights cannot be had.
        DatasetError: The dataset cannot be read, or the folder not be written.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    if dataset.contents.labels != CLASS:
        kind = dataset.contents.labels
        raise UsageError(f"{dataset.folder}: labels are of kind {kind!r}; study needs one class each")
    images = Images(dataset, config)
    for arm in config.arms:  # whatever does not fit the dataset or the replicas shows before the network is built
        share_of(images.training(arm, seed=config.seed).plan, strategy.num_replicas_in_sync)
    folder = prepare(out, overwrite=overwrite)
    features = AllFeatures(images, Extractor(_network(images, config, strategy, log), strategy), progress)
    correct, arms = {}, []
    for number, arm in enumerate(config.arms):
        correct[arm.name], rate = _trained(arm, images, features, config)
        progress("heads", number + 1, len(config.arms))
        log(f"{arm.name}: accuracy {correct[arm.name].mean():.3f}")
        arms.append(_row(arm, correct[arm.name], rate, images, config))
    if config.seconds:
        pipelines = {arm.name: images.training(arm, seed=config.seed) for arm in config.arms}
        turns = in_turns(
            {name: finished(pipeline) for name, pipeline in pipelines.items()},
            rounds=config.rounds,
            seconds=config.seconds,
            progress=lambda done, total: progress("speed", done, total),
        )
        for row in arms:
            row["images_per_second"] = spread(turns[row["name"]].images_per_second)
    label = images.column(config.validation_split, "label")
    chance = float(np.bincount(label).max() / len(label))
    found = verdict(correct)
    report = {
        "config": {name: value for name, value in asdict(config).items() if name != "arms"},
        "pretrained": config.weights != "none",
        "dataset": {
            "folder": str(dataset.folder),
            "fingerprint": dataset.fingerprint,
            "classes": len(dataset.classes),
            "training_images": len(images.rows(config.split)),
            "validation_images": len(label),
        },
        "chance": chance,
        "arms": arms,
        "verdict": asdict(found),
        "movement": {
            "fits": fits_moved(config, features),
            "resizers": resizers_moved(config, images, features),
        },
        "conclusion": conclusion(found, arms, chance=chance, images=len(label)),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "replicas": strategy.num_replicas_in_sync,
    }
    write(folder, report, correct, images, config)
    return report


def _network(
    images: Images, config: StudyConfig, strategy: tf.distribute.Strategy, log: Callable[[str], None]
) -> keras.Model:
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        precision = precision_on(strategy, AUTO)
        model = build_model(classes=2, image_size=None, weights=config.weights, precision=precision)
    if config.weights == "none":
        log(NOT_PRETRAINED)
        first = images.all_of(config.split, {"fit": RESIZE})
        batch = next(iter(first.distribute(strategy)))
        set_statistics(model, Preprocessor(strategy, first.output)(batch), strategy)
    return model


def _trained(arm: Arm, images: Images, features: AllFeatures, config: StudyConfig) -> tuple[np.ndarray, float | None]:
    """Whether each repeat was right about each image, bool [repeats, N]; and the images/s of the frozen network."""
    views = [features(config.split, arm.pictures, epoch=view) for view in range(config.views if arm.random else 1)]
    held_out = features(config.validation_split, arm.evaluation)
    truth = images.column(config.validation_split, "label")
    right = []
    for repeat in range(config.repeats):
        head = train_head(
            [view.values for view in views],
            images.column(config.split, "label"),
            images.training(arm, seed=config.seed + repeat).plan,
            classes=len(images.dataset.classes),
            epochs=config.epochs,
            highest=config.learning_rate,
            seed=config.seed + repeat,
        )
        right.append(predictions(head, held_out.values) == truth)
    return np.stack(right), held_out.images_per_second


def _row(arm: Arm, correct: np.ndarray, rate: float | None, images: Images, config: StudyConfig) -> dict[str, Any]:
    """What the page tells of a way of fitting images."""
    repeats = correct.mean(axis=1)
    height, width = (images.column(config.validation_split, name) for name in ("height", "width"))
    described = images.training(arm, seed=config.seed).describe()

    def by(bins: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": each.name,
                "images": int(each.images.sum()),
                "accuracy": float(correct[:, each.images].mean()),
            }
            for each in bins
            if each.images.sum() >= LEAST_IN_BIN
        ]

    return {
        "name": arm.name,
        "about": arm.about,
        "accuracy": {"mean": float(repeats.mean()), "low": float(repeats.min()), "high": float(repeats.max())},
        "repeats": repeats.tolist(),
        "by_size": by(size_bins(height, width)),
        "by_aspect": by(aspect_bins(height, width)),
        "images_per_second": None,
        "network_images_per_second": rate,
        "padding_waste": described["padding_waste"],
        "bytes_per_image": described["bytes_per_image"],
        "class_entropy": described["class_entropy"]["bucketed"],
    }
