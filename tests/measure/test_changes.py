"""Gains on a machine that drifts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from irv2data.measure import changes
from irv2data.measure.turns import Samples


def test_a_gain_is_that_of_each_round(monkeypatch):
    rates = {"now": [100.0, 400.0, 900.0], "other": [300.0, 800.0, 200.0]}
    samples = {
        name: Samples(images_per_second=np.array(values), cpu_seconds=np.ones(3)) for name, values in rates.items()
    }
    monkeypatch.setattr(changes, "batches", lambda pipeline, strategy: pipeline)
    monkeypatch.setattr(changes, "in_turns", lambda subjects, *, rounds, seconds: {n: samples[n] for n in subjects})
    measured = SimpleNamespace(strategy=None, rounds=3, seconds=1.0)
    assert changes._ratio(measured, now="a", other="b") == pytest.approx(2)  # of medians: 0.75
    assert changes._ratio(measured, other="b", now="a") == pytest.approx(0.5)
