"""What a study may claim, on figures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from irv2data.study.conclusion import conclusion
from irv2data.study.movement import moved
from irv2data.study.statistics import aspect_bins, cosines, difference, size_bins, verdict


def answers(rng: np.random.Generator, *, accuracy: float, hard: np.ndarray, repeats: int = 5) -> np.ndarray:
    """Right or wrong: images differ in how hard they are, repeats scatter a little."""
    chance = np.clip(accuracy + hard, 0, 1)
    return rng.random((repeats, len(hard))) < chance


def test_the_difference_is_the_mean_of_the_pairs():
    one = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], bool)
    other = np.array([[0, 1, 0, 1], [0, 0, 0, 1]], bool)
    found = difference(one, other, comparisons=1)
    assert found.mean == pytest.approx(0.25)
    assert found.low <= 0.25 <= found.high
    assert difference(one, one, comparisons=1).low == difference(one, one, comparisons=1).high == 0


def test_the_interval_is_as_wide_as_it_should_be():
    """Of independent answers the standard error is known: sqrt(2 p (1 - p) / n), one repeat."""
    rng = np.random.default_rng(0)
    one, other = (rng.random((1, 2000)) < 0.5 for _ in range(2))
    found = difference(one, other, comparisons=1)
    error = np.sqrt(2 * 0.25 / 2000)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.05)
    wider = difference(one, other, comparisons=6)  # 5 % / 6: 2.64 standard errors
    assert (wider.high - wider.low) / (2 * 2.64) == pytest.approx(error, rel=0.08)


def test_equal_ways_have_no_winner():
    claims = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        hard = rng.normal(0, 0.2, 120)
        found = verdict({name: answers(rng, accuracy=0.6, hard=hard) for name in "abcd"})
        claims += found.ahead
    assert claims <= 2  # 5 %


def test_a_better_way_is_found():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.2, 400)
    correct = {name: answers(rng, accuracy=level, hard=hard) for name, level in (("a", 0.5), ("b", 0.7), ("c", 0.52))}
    found = verdict(correct)
    assert (found.best, found.ahead, set(found.over)) == ("b", True, {"a", "c"})
    assert all(each.decided for each in found.over.values())
    assert found.over["a"].mean == pytest.approx(correct["b"].mean() - correct["a"].mean())


def test_one_lucky_repeat_is_no_winner():
    """The images agree, the repeats do not: without drawing repeats again, this would be claimed."""
    base = np.arange(500) % 2 == 0
    lucky = np.stack([base | (np.arange(500) % 4 == 1), base, base])
    found = difference(lucky, np.stack([base] * 3), comparisons=1)
    assert found.mean > 0.08
    assert found.low <= 0


def test_bins():
    height, width = np.array([10, 20, 30, 40, 50, 60]), np.array([10, 20, 30, 40, 50, 60])
    found = size_bins(height, width)
    assert [each.name for each in found] == ["10 to 20 px", "30 to 40 px", "50 to 60 px"]
    assert [np.flatnonzero(each.images).tolist() for each in found] == [[0, 1], [2, 3], [4, 5]]
    assert [each.name for each in size_bins(np.full(9, 64), np.full(9, 36))] == ["48 to 48 px"]
    found = aspect_bins(np.array([10, 10, 13, 10]), np.array([10, 17, 10, 12]))
    assert [(each.name, np.flatnonzero(each.images).tolist()) for each in found] == [
        ("up to 1.25 : 1", [0, 3]),
        ("1.25 to 1.6 : 1", [2]),
        ("over 1.6 : 1", [1]),
    ]


def test_cosines():
    one = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]], np.float32)
    other = np.array([[0.0, 2.0], [6.0, 8.0], [1.0, 1.0]], np.float32)
    np.testing.assert_allclose(cosines(one, other), [0.0, 1.0, 0.0])
    found = moved({"a": one[:2], "b": other[:2]})
    assert (found["names"], found["images"]) == (["a", "b"], 2)
    np.testing.assert_allclose(found["mean"], [[1, 0.5], [0.5, 1]], atol=1e-6)
    np.testing.assert_allclose(found["low"][0][1], 0.05, atol=1e-6)


def arm(name: str, accuracy: float, low: float, high: float) -> dict:
    return {
        "name": name,
        "accuracy": {"mean": accuracy},
        "images_per_second": {"median": (low + high) / 2, "low": low, "high": high},
    }


def said(correct: dict[str, np.ndarray], arms: list[dict], chance: float = 0.2) -> str:
    return " ".join(conclusion(verdict(correct), arms, chance=chance, images=400))


def test_what_is_said():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.1, 400)
    correct = {name: answers(rng, accuracy=level, hard=hard) for name, level in (("a", 0.5), ("b", 0.7), ("c", 0.52))}
    arms = [arm("a", 0.5, 90, 110), arm("b", 0.7, 300, 320), arm("c", 0.52, 100, 305)]
    text = said(correct, arms)
    assert "b is the most accurate on these images, 70.0%" in text
    assert "above c, the next one" in text
    assert "b feeds 310 images/s; c cannot be told from it. The slowest, a, takes 3.1 times as long an image." in text

    correct["c"] = answers(rng, accuracy=0.695, hard=hard)
    text = said(correct, arms)
    assert text.startswith("No winner:")
    assert "a is less accurate than" in text

    arms[2] = arm("c", 0.52, 100, 105)
    assert "b feeds fastest, 310 images/s." in said(correct, arms)
    assert "decides nothing here" in said(correct, arms, chance=0.9)
    for each in arms:
        each["images_per_second"] = None
    assert "images/s" not in said(correct, arms)
