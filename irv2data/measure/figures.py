"""What a few paired measurements allow to say: medians, their intervals, and a verdict. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
FASTER, SLOWER, ALIKE = "faster", "slower", "alike"


def spread(values: Sequence[float] | np.ndarray, digits: int | None = None) -> dict[str, float]:
    """Median, lowest and highest; rounded where `digits` says so."""
    every = np.asarray(values, float)
    found = {"median": float(np.median(every)), "low": float(every.min()), "high": float(every.max())}
    return found if digits is None else {name: round(value, digits) for name, value in found.items()}


def interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """An interval that holds the median, whatever the distribution.

    Between the k-th smallest and the k-th largest of n independent values the median lies with probability
    1 - 2 P(X < k), X binomial (n, 1/2) (David and Nagaraja, "Order statistics", 3rd edition, 7.1).

    Args:
        values: Independent ones.
        confidence: At least this is wanted. Six values are the fewest that reach 0.95.

    Returns:
        Lower end, upper end, and the probability that the interval really has, which with few values is below
        `confidence` (the interval is then that of all values).
    """
    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    below = np.cumsum([math.comb(n, k) for k in range(n)]) / 2.0**n  # P(X <= k)
    k = max(1, int(np.searchsorted(below, (1 - confidence) / 2, side="right")))
    return float(ordered[k - 1]), float(ordered[n - k]), float(1 - 2 * below[k - 1])


def verdict(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Whether the second of two is faster, judged by the ratios of paired rounds.

    Args:
        first: Rates, one a round.
        second: The other's, of the same rounds.

    Returns:
        `ratio` of second over first: `median`, `low` and `high` (the ends of its interval); `confidence` of that
        interval; `verdict`: `faster` or `slower` if the interval leaves out 1 and is one of 0.95 or more, or `alike`.
    """
    ratio = np.asarray(second, float) / np.asarray(first, float)
    low, high, confidence = interval(ratio)
    sure = confidence >= CONFIDENCE
    judged = FASTER if sure and low > 1 else SLOWER if sure and high < 1 else ALIKE
    return {
        "ratio": {"median": float(np.median(ratio)), "low": low, "high": high},
        "confidence": confidence,
        "verdict": judged,
    }
