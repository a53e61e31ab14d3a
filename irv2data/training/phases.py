"""Which epoch is of which phase, size and learning rate: arithmetic of the options alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from irv2data.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Epochs in which the same blocks learn, with an optimizer of their own.

    Attributes:
        name: `head` or `fine`.
        first: Its first epoch.
        epochs: How many it has.
        unfreeze: How many top blocks learn.
        learning_rate: The highest, of the head and of the topmost block.
    """

    name: str
    first: int
    epochs: int
    unfreeze: int
    learning_rate: float


def phases(config: TrainConfig) -> tuple[Phase, ...]:
    """The phases of a run, in order."""
    found = []
    if config.head_epochs:
        found.append(
            Phase(name="head", first=0, epochs=config.head_epochs, unfreeze=0, learning_rate=config.head_learning_rate)
        )
    for number, top in enumerate(config.unfreeze):
        found.append(
            Phase(
                name="fine",
                first=config.head_epochs + number * config.fine_epochs,
                epochs=config.fine_epochs,
                unfreeze=top,
                learning_rate=config.fine_learning_rate,
            )
        )
    return tuple(found)


def image_sizes(config: TrainConfig) -> list[tuple[int, int]]:
    """The size of each epoch's images: the progressive ones and `image_size`, for equally many epochs each.

    Where that does not go up, the larger ones get the epochs that are left.
    """
    sizes = [*config.progressive, config.image_size]
    epochs = sum(phase.epochs for phase in phases(config))
    return [sizes[min(epoch // (epochs // len(sizes)), len(sizes) - 1)] for epoch in range(epochs)]


def class_weights(config: TrainConfig, labels: np.ndarray, classes: Sequence[str]) -> tuple[float, ...] | None:
    """What an image's loss weighs, for each class; None for 1.

    `balanced` is N / (classes * images of the class), as scikit-learn's `compute_class_weight`: all classes together
    then weigh the same, and an image 1 on average. A class without images has 1.

    Args:
        config: The options.
        labels: int [N], of the training images.
        classes: Their names.
    """
    if config.class_weights is None or isinstance(config.class_weights, tuple):
        return config.class_weights
    counts = np.bincount(labels, minlength=len(classes))
    there = np.count_nonzero(counts)
    return tuple(float(len(labels) / (there * count)) if count else 1.0 for count in counts.tolist())


def best_epoch(losses: Sequence[float]) -> int:
    """The first epoch of the smallest loss; one that is no number is larger than any."""
    return int(np.argmin(np.nan_to_num(losses, nan=np.inf)))


def stops_early(losses: Sequence[float], patience: int) -> bool:
    """Whether so many epochs have passed since the best one; never with 0."""
    return patience > 0 and len(losses) > patience and len(losses) - 1 - best_epoch(losses) >= patience
