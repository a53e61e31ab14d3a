"""The examples run, and do what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import irv2data
from irv2data.device import Preprocess

EXAMPLE = Path(__file__).parents[1] / "examples" / "fit.py"
STEPS, EPOCHS, KILLED_AT = 5, 3, 6  # of the second epoch, the second step is the next

# The example on two replicas, as every record comes by written to a file, and killed behind a checkpoint if asked to.
WATCHED = f"""
import os, pathlib, runpy, signal, sys
import keras
import tensorflow as tf
from irv2data.device import Preprocess
from irv2data.training import make_strategy

keras.utils.set_random_seed(0)  # of the first weights, which two runs have to share
records, killed_at, *arguments = sys.argv[1:]
two_replicas = make_strategy(2)
tf.distribute.MirroredStrategy = lambda: two_replicas
call, replace = Preprocess.call, pathlib.Path.replace

def watched_call(self, inputs, training=None):
    tf.print(inputs["record"], summarize=-1, output_stream="file://" + records)
    return call(self, inputs, training=training)

def watched_replace(source, target):
    replace(source, target)
    if target.name == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)

Preprocess.call, pathlib.Path.replace = watched_call, watched_replace
sys.argv = ["fit.py", *arguments]
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""


def start(dataset, run: Path, records: Path, killed_at: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", WATCHED, str(records), killed_at, str(dataset.folder), str(run)]
    return subprocess.Popen(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}, stdout=subprocess.DEVNULL)


def seen(records: Path) -> list[int]:
    """What the replicas saw, in the order of the steps."""
    lines = records.read_text().splitlines()
    return [int(number) for line in lines for number in line.strip("[]").split()]


def planned(dataset, first: int) -> list[list[int]]:
    """The records of each step from that one on, counted over all epochs."""
    pipeline = irv2data.Pipeline(dataset, fit="random_resized_crop", image_size=(96, 96), batch_size=24)
    assert pipeline.steps_per_epoch() == STEPS
    return [
        sorted(pipeline.plan.batch(*divmod(step, STEPS)).record[0].tolist()) for step in range(first, EPOCHS * STEPS)
    ]


def steps_of(records: list[int]) -> list[list[int]]:
    """The same of what was seen; within a step, replicas come in any order."""
    return [sorted(records[first : first + 24]) for first in range(0, len(records), 24)]


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A run that nobody stops, and one that is killed and started again."""
    folder = tmp_path_factory.mktemp("fit")
    whole = start(dataset, folder / "whole", folder / "whole.txt")
    killed = start(dataset, folder / "run", folder / "killed.txt", f"{KILLED_AT:08d}.keras")
    assert killed.wait() == -signal.SIGKILL
    assert start(dataset, folder / "run", folder / "again.txt").wait() == 0
    assert whole.wait() == 0
    return folder


def test_a_run_of_keras_fit_goes_on_in_mid_epoch(runs, dataset):
    assert steps_of(seen(runs / "whole.txt")) == planned(dataset, 0)
    assert steps_of(seen(runs / "killed.txt")) == planned(dataset, 0)[:KILLED_AT]
    assert steps_of(seen(runs / "again.txt")) == planned(dataset, KILLED_AT)
    assert planned(dataset, KILLED_AT) != planned(dataset, 1)[: EPOCHS * STEPS - KILLED_AT]


def test_it_ends_with_the_weights_of_a_run_that_was_not_killed(runs):
    whole, again, early = (
        keras.models.load_model(runs / place, custom_objects={"Preprocess": Preprocess}).get_weights()
        for place in ("whole/00000015.keras", "run/00000015.keras", "run/00000006.keras")
    )
    for ours, theirs in zip(again, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(np.abs(ours - theirs).max() for ours, theirs in zip(early, whole, strict=True)) > 1e-3


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 40
