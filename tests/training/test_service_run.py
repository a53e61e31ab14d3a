"""A run whose batches come from workers learns what one learns that decodes itself, and goes on with the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from irv2data.errors import InterruptedRunError
from irv2data.training import train
from irv2data.training.strategy import make_strategy
from tests.pipeline.servers import Servers
from tests.training.small_run import small_network
from tests.training.test_restart import CONFIG, Stop, assert_same, weights

ROOT = Path(__file__).parents[2]


@pytest.fixture
def servers(tmp_path):
    each = Servers(tmp_path / "dispatcher")
    each.start_dispatcher()
    each.start_worker()
    yield each
    each.close()


def run_small(*arguments):
    """`irv2data` with a small network in place of Inception-ResNet-v2: its metrics."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.small_run", *map(str, arguments), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_same_weights(servers, dataset, tmp_path):
    options = ["--image_size=75", "--batch_size=12", "--head_epochs=1", "--fine_epochs=1", "--unfreeze=1"]
    ours = run_small(dataset.folder, tmp_path / "ours", *options)
    theirs = run_small(dataset.folder, tmp_path / "theirs", *options, f"--service={servers.address}")
    assert theirs["config"].pop("service") == servers.address
    assert ours["config"].pop("service") is None
    assert_same(tmp_path / "theirs", theirs, (weights(tmp_path / "ours"), ours))


def test_a_run_is_stopped_with_the_service_and_goes_on_without(servers, dataset, tmp_path):
    config = replace(CONFIG, service=servers.address)
    with small_network():
        whole = train(dataset, tmp_path / "whole", CONFIG, make_strategy(2))
        with pytest.raises(InterruptedRunError):
            train(dataset, tmp_path / "run", config, make_strategy(2), stop=Stop(3))
        metrics = train(dataset, tmp_path / "run", CONFIG, make_strategy(2), resume=True)
    assert_same(tmp_path / "run", metrics, (weights(tmp_path / "whole"), whole))
