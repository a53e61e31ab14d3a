"""Two processes that `TF_CONFIG` makes one job of: they do what two replicas of one process do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from irv2data.errors import UsageError
from irv2data.training import TrainConfig, train
from irv2data.training.strategy import make_strategy
from tests.training.small_run import small_network

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(
    image_size=(75, 75), batch_size=12, head_epochs=1, fine_epochs=1, unfreeze=(1,), ema=0.8, max_steps=4
)


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(dataset, run, *flags):
    """Both processes of a job."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = [
        sys.executable, "-m", "tests.training.small_run", str(dataset.folder), str(run), "--image_size=75",
        "--batch_size=12", "--head_epochs=1", "--fine_epochs=1", "--unfreeze=1", "--ema=0.8", "--max_steps=4", *flags,
    ]  # fmt: skip
    return [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TF_CONFIG": json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            )},
        )
        for index in range(2)
    ]  # fmt: skip


def ended(processes):
    """Exit codes, and what each printed on standard error."""
    told = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], told


def weights(folder):
    return [np.array(value) for value in keras.models.load_model(folder / "model.keras").get_weights()]


def test_two_processes_train_as_two_replicas(dataset, tmp_path):
    with small_network():
        expected = train(dataset, tmp_path / "one", CONFIG, make_strategy(2))
    codes, told = ended(start(dataset, tmp_path / "two"))
    assert codes == [0, 0], told
    assert "epoch 2/2 (fine)" in told[0]
    assert "epoch" not in told[1]  # one speaks for both
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["replicas"] == 2
    for name in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        ours, theirs = ([row[name] for row in each["history"]] for each in (metrics, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert metrics["validation_after"]["records"] == 60
    for ours, theirs in zip(weights(tmp_path / "two"), weights(tmp_path / "one"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_one_that_is_terminated_stops_both_and_the_job_goes_on(dataset, tmp_path):
    alone = replace(CONFIG, validation_split=None)
    with small_network():
        train(dataset, tmp_path / "one", alone, make_strategy(2))
    job = start(dataset, tmp_path / "two", "--validation_split=", "--checkpoint_steps=1")
    for _ in range(1200):
        if (tmp_path / "two" / "checkpoints").exists() or job[1].poll() is not None:
            break
        time.sleep(0.05)
    job[1].send_signal(signal.SIGTERM)  # not the one that writes
    codes, told = ended(job)
    assert codes == [75, 75], told
    assert not (tmp_path / "two" / "metrics.json").exists()
    codes, told = ended(start(dataset, tmp_path / "two", "--validation_split=", "--resume"))
    assert codes == [0, 0], told
    for ours, theirs in zip(weights(tmp_path / "two"), weights(tmp_path / "one"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_ends_both_and_the_job_goes_on(dataset, tmp_path, victim):
    alone = replace(CONFIG, validation_split=None)
    with small_network():
        train(dataset, tmp_path / "one", alone, make_strategy(2))
    job = start(dataset, tmp_path / "two", "--validation_split=", "--checkpoint_steps=1")
    for _ in range(1200):
        whole = (tmp_path / "two" / "checkpoints").glob("[0-9]*")
        if next(whole, None) is not None or job[1].poll() is not None:
            break
        time.sleep(0.05)
    job[victim].kill()
    codes, told = ended(job)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 75, told[1 - victim]
    last = told[1 - victim].strip().splitlines()[-1]
    assert "another host of the job went away" in last
    assert "start all of them again with --resume" in last
    codes, told = ended(start(dataset, tmp_path / "two", "--validation_split=", "--resume"))
    assert codes == [0, 0], told
    for ours, theirs in zip(weights(tmp_path / "two"), weights(tmp_path / "one"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "replicas", "message"),
    [
        ("{", 0, "TF_CONFIG is not the JSON that TensorFlow wants"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', 2, "TF_CONFIG names the hosts, .* leave out replicas=2"),
    ],
)
def test_what_tf_config_cannot_be(monkeypatch, text, replicas, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=message):
        make_strategy(replicas)


def test_one_host_is_no_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}')
    assert make_strategy(2).num_replicas_in_sync == 2
