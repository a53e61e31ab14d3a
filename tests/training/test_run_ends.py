"""How a run ends: early with its best weights, with averages, after a kill, in the place of an older run."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from irv2data.errors import InterruptedRunError
from irv2data.training import train
from irv2data.training.phases import best_epoch
from irv2data.training.strategy import make_strategy
from tests.training.small_blocks import CONFIG, evaluated, saved_variables, small_blocks
from tests.training.test_restart import Stop, assert_same, weights


@pytest.fixture(scope="module")
def small():
    with small_blocks():
        yield


# The rate rises until it is far too high: the loss falls first, then no more.
ENDING = replace(
    CONFIG, head_epochs=9, patience=1, head_learning_rate=3.0, warmup_steps=40, validation_split="train", ema=0.6
)


@pytest.fixture(scope="module")
def ended(small, dataset, tmp_path_factory):
    """Folder and metrics of a run that ended early."""
    folder = tmp_path_factory.mktemp("runs") / "ended"
    return folder, train(dataset, folder, ENDING, make_strategy(2))


def assert_best(folder, metrics, dataset):
    history = metrics["history"]
    losses = [row["validation_loss"] for row in history]
    best = best_epoch(losses)
    assert best > 0
    assert len(history) == best + 1 + ENDING.patience < ENDING.head_epochs
    assert losses[-1] > 1.01 * losses[best]  # so that the last weights would be found out
    figures = evaluated(folder, dataset, split="train")
    for name in ("loss", "accuracy", "top5"):
        assert figures[name] == pytest.approx(history[best][f"validation_{name}"], rel=1e-4)
        assert metrics["validation_after"][name] == history[best][f"validation_{name}"]
    assert figures["records"] == metrics["validation_after"]["records"] == 120
    assert os.listdir(folder / "best") == [f"{best:04d}"]


def test_a_run_with_averages_ends_early_with_its_best_ones(ended, dataset):
    assert_best(*ended, dataset)


def test_a_run_ends_early_with_its_best_weights(small, dataset, tmp_path):
    metrics = train(dataset, tmp_path / "run", replace(ENDING, ema=0.0), make_strategy(2))
    assert_best(tmp_path / "run", metrics, dataset)


def test_a_stopped_run_ends_early_in_the_same_way(ended, dataset, tmp_path):
    folder, metrics = ended
    run, strategy = tmp_path / "run", make_strategy(2)
    with pytest.raises(InterruptedRunError):  # in the epoch after the best one
        train(dataset, run, ENDING, strategy, stop=Stop(5 * (len(metrics["history"]) - 1) + 1))
    assert_same(run, train(dataset, run, ENDING, strategy, resume=True), (weights(folder), metrics))


def test_a_run_that_was_killed_before_its_end_was_written(ended, dataset, tmp_path):
    folder, metrics = ended
    run, lines = shutil.copytree(folder, tmp_path / "run"), []
    for name in ("metrics.json", "classes.json", "model.keras"):  # in what order ever they are written
        (run / name).unlink()
    found = train(dataset, run, ENDING, make_strategy(2), resume=True, log=lines.append)
    assert_same(run, found, (weights(folder), metrics))
    assert lines == ["random weights: this shows the machinery, not the accuracy"]  # no epoch more


def test_averages_are_of_the_weights_that_training_goes_through(small, dataset, tmp_path):
    config = replace(CONFIG, head_epochs=2, head_learning_rate=0.05, ema=0.75, checkpoint_steps=1, keep_checkpoints=99)
    strategy = make_strategy(2)
    metrics = train(dataset, tmp_path / "averaged", config, strategy)
    train(dataset, tmp_path / "plain", replace(config, ema=0.0, validation_split=None), strategy)
    states = {}
    for run in ("averaged", "plain"):
        states[run] = [saved_variables(path) for path in sorted((tmp_path / run / "checkpoints").iterdir())]
        assert len(states[run]) == 10
    saved = weights(tmp_path / "averaged")
    average = None
    for own, plain in zip(states["averaged"], states["plain"], strict=True):
        for ours, theirs in zip(own[: len(saved)], plain, strict=False):
            np.testing.assert_array_equal(ours, theirs)
        raw = own[: len(saved)]
        average = raw if average is None else [0.75 * a + 0.25 * b for a, b in zip(average, raw, strict=True)]
    for found, expected in zip(saved, average, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(saved, raw, strict=True)) > 1e-4
    figures, last = evaluated(tmp_path / "averaged", dataset), metrics["history"][-1]
    assert figures["loss"] == pytest.approx(last["validation_loss"], rel=1e-5)
    plain_loss = evaluated(tmp_path / "plain", dataset)["loss"]
    assert abs(plain_loss - last["validation_loss"]) > 1e-3 * last["validation_loss"]


def test_overwrite_leaves_nothing_of_the_old_run(ended, dataset, tmp_path):
    run = shutil.copytree(ended[0], tmp_path / "run")
    assert {"best", "checkpoints", "tensorboard"} <= {path.name for path in run.iterdir()}
    config = replace(CONFIG, tensorboard=False, validation_split=None)
    metrics = train(dataset, run, config, make_strategy(1), overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "classes.json", "history.csv", "metrics.json", "model.keras"
    ]  # fmt: skip
    assert os.listdir(run / "checkpoints") == ["0001-0000000"]
    assert json.loads((run / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert len((run / "history.csv").read_text().splitlines()) == 2
