"""Medians, their intervals, and verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from irv2data.measure.figures import interval, spread, verdict


def test_spread():
    assert spread(np.array([3.0, 1.0, 2.04])) == {"median": 2.04, "low": 1.0, "high": 3.0}
    assert spread([3.0, 1.0, 2.04], 1) == {"median": 2.0, "low": 1.0, "high": 3.0}


@pytest.mark.parametrize(
    ("count", "low", "high", "confidence"),
    [
        (1, 0, 0, 0.0),
        (5, 0, 4, 0.9375),  # 1 - 2 / 2^5
        (6, 0, 5, 0.96875),
        (8, 0, 7, 1 - 2 / 2**8),
        (9, 1, 7, 1 - 2 * (1 + 9) / 2**9),  # the first count at which the outermost can go
        (20, 5, 14, 0.9586),  # table of the sign test
    ],
)
def test_the_interval_of_a_median(count, low, high, confidence):
    values = np.random.default_rng(0).permutation(count).astype(float)
    found = interval(values)
    assert found[:2] == (low, high)
    assert found[2] == pytest.approx(confidence, abs=1e-4)


def test_the_interval_holds_the_median_as_often_as_it_says():
    draws = np.random.default_rng(1).exponential(size=(4000, 9))  # median ln 2
    held = [low <= np.log(2) <= high for low, high, _ in map(interval, draws)]
    assert np.mean(held) == pytest.approx(interval(draws[0])[2], abs=0.01)


@pytest.mark.parametrize(
    ("second", "judged"),
    [
        ([1.1, 1.2, 1.3, 1.1, 1.2, 1.1, 1.4], "faster"),
        ([0.9, 0.8, 0.7, 0.9, 0.99, 0.9, 0.9], "slower"),
        ([1.1, 1.2, 1.3, 0.9, 1.2, 1.1, 1.4], "alike"),
        ([2.0, 2.0, 2.0, 2.0, 2.0], "alike"),  # five rounds are too few to be sure
    ],
)
def test_a_verdict_needs_all_of_few_rounds(second, judged):
    drift = np.array([100.0, 50, 200, 100, 70, 100, 90])[: len(second)]  # of the machine: pairs take it out
    found = verdict(drift, drift * np.array(second))
    assert found["verdict"] == judged
    assert found["ratio"]["median"] == pytest.approx(np.median(second))
