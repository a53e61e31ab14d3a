"""What the figures of a study allow to say: arithmetic on who was right where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_DRAWS = 4000
_LEVEL = 0.05
LEAST_IN_BIN = 10  # images: a share of fewer says nothing


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference of two accuracies.

    Attributes:
        mean: In [-1, 1].
        low: Lower end of its interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether it excludes 0."""
        return self.low > 0 or self.high < 0


def difference(one: np.ndarray, other: np.ndarray, *, comparisons: int, seed: int = 0) -> Interval:
    """How much more often one was right than the other.

    A paired bootstrap (Efron and Tibshirani, "An introduction to the bootstrap", 1993) over images and repeats: both
    are drawn again, with replacement, the same ones for both. Percentiles at 5 % divided by the number of comparisons
    (Bonferroni).

    Args:
        one: bool [R, N], repeats and images.
        other: The same of the other, in the same order of repeats and images.
        comparisons: How many such intervals have to hold together.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    gap = one.astype(np.float64) - other
    repeats, images = gap.shape
    drawn = np.empty(_DRAWS)
    for number in range(_DRAWS):
        # How often each was drawn, as weights: the same as taking the rows and columns, in less memory.
        rows = np.bincount(rng.integers(0, repeats, repeats), minlength=repeats)
        columns = np.bincount(rng.integers(0, images, images), minlength=images)
        drawn[number] = rows @ gap @ columns / (repeats * images)
    tail = 100 * _LEVEL / (2 * comparisons)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(mean=float(gap.mean()), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Who is ahead.

    Attributes:
        best: The arm with the highest mean accuracy.
        ahead: Whether it is more accurate than each of the others, beyond what repeats and images scatter.
        over: For every other arm, the difference to it.
    """

    best: str
    ahead: bool
    over: dict[str, Interval]


def verdict(correct: Mapping[str, np.ndarray]) -> Verdict:
    """Compares the best arm with each of the others.

    Args:
        correct: From an arm's name to bool [R, N], whether each repeat was right about each image.
    """
    best = max(correct, key=lambda name: float(correct[name].mean()))
    others = [name for name in correct if name != best]
    over = {name: difference(correct[best], correct[name], comparisons=len(others)) for name in others}
    return Verdict(best=best, ahead=all(each.low > 0 for each in over.values()), over=over)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images of a kind.

    Attributes:
        name: Its bounds, in words.
        images: bool [N], which ones.
    """

    name: str
    images: np.ndarray


def size_bins(height: np.ndarray, width: np.ndarray) -> list[Bin]:
    """Thirds of the images by the side of a square of as many pixels; fewer where many are equally large."""
    side = np.sqrt(height.astype(np.float64) * width)
    edges = np.unique(np.quantile(side, [1 / 3, 2 / 3]))
    group = np.searchsorted(edges, side, side="left")
    return [
        Bin(name=f"{side[group == each].min():.0f} to {side[group == each].max():.0f} px", images=group == each)
        for each in np.unique(group)
    ]


def aspect_bins(height: np.ndarray, width: np.ndarray) -> list[Bin]:
    """Nearly square, moderately long, and long images (longer over shorter side); only kinds that there are."""
    ratio = np.maximum(height, width) / np.minimum(height, width)
    bounds = (("up to 1.25 : 1", 0.0, 1.25), ("1.25 to 1.6 : 1", 1.25, 1.6), ("over 1.6 : 1", 1.6, np.inf))
    found = [Bin(name=name, images=(ratio > low) & (ratio <= high)) for name, low, high in bounds]
    return [each for each in found if each.images.any()]


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine of the angle between an image's features, float64 [N] of float [N, F] twice."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(axis=1) / np.maximum(lengths, 1e-30))
