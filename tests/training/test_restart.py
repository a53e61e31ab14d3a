"""A run that was stopped or killed goes on as if it had not been: same batches, same weights, same history."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import irv2data
from irv2data.errors import DatasetError, InterruptedRunError, UsageError
from irv2data.pipeline.build import Pipeline
from irv2data.training import TrainConfig, train
from irv2data.training.checkpoint import Checkpoints
from irv2data.training.step import Preprocessor
from irv2data.training.strategy import make_strategy
from tests.training.small_run import small_network

CONFIG = TrainConfig(
    image_size=(75, 75),
    batch_size=12,
    head_epochs=1,
    fine_epochs=2,
    unfreeze=(1,),
    fine_learning_rate=1e-3,
    warmup_steps=2,
    weight_decay=0.01,
    label_smoothing=0.1,
    class_weights="balanced",
    ema=0.8,
    max_steps=4,
)
ALONE = replace(CONFIG, validation_split=None)  # the same weights, in less time
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _small():
    with small_network():
        yield


class Stop:
    """Says stop after so many steps in all."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left < 0


def weights(folder):
    return [np.array(value) for value in keras.models.load_model(folder / "model.keras").get_weights()]


def without_times(metrics):
    """And without what depends on times: the chunks that a service's workers did not give in time."""
    history = [
        {
            name: value
            for name, value in row.items()
            if name not in ("images_per_second", "input_wait", "peak_memory_mib", "made_here")
        }
        for row in metrics["history"]
    ]
    return json.loads(json.dumps({**metrics, "history": history}))


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A run that was not stopped: its weights and metrics."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with small_network():
        metrics = train(dataset, folder, CONFIG, make_strategy(2))
    return weights(folder), metrics


def assert_same(folder, metrics, whole):
    for ours, theirs in zip(weights(folder), whole[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert without_times(metrics) == without_times(whole[1])


# In the first epoch, after it (where the network begins to learn), and before the last step.
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_stopped_run_goes_on(dataset, tmp_path, whole, steps):
    run, strategy = tmp_path / "run", make_strategy(2)
    with pytest.raises(InterruptedRunError, match=r"stopped after .*; --resume goes on from there"):
        train(dataset, run, CONFIG, strategy, stop=Stop(steps))
    assert not (run / "metrics.json").exists()
    metrics = train(dataset, run, CONFIG, strategy, resume=True)
    assert_same(run, metrics, whole)


def test_stopped_again_and_again(dataset, tmp_path, whole):
    run, strategy, consumed = tmp_path / "run", make_strategy(2), []
    shown = Preprocessor.__call__

    def noted(self, batch):
        parts = strategy.experimental_local_results(batch["record"])
        consumed.append(np.concatenate([part.numpy() for part in parts]))
        return shown(self, batch)

    for _ in range(30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Preprocessor, "__call__", noted)
            try:
                train(dataset, run, ALONE, strategy, resume=True, stop=Stop(1))
                break
            except InterruptedRunError:
                continue
    for ours, theirs in zip(weights(run), whole[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pipeline = Pipeline(dataset, fit="random_resized_crop", image_size=(75, 75), batch_size=12)
    expected = [pipeline.plan.batch(epoch, step).record[0] for epoch in range(3) for step in range(4)]
    np.testing.assert_array_equal(consumed, expected)


def test_a_stopped_run_goes_on_with_other_replicas(dataset, tmp_path, whole):
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(dataset, run, ALONE, make_strategy(2), stop=Stop(5))
    metrics = train(dataset, run, ALONE, make_strategy(3), resume=True)
    for ours, theirs in zip(weights(run), whole[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert metrics["replicas"] == 3


def test_the_last_checkpoints_are_kept(dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, replace(ALONE, checkpoint_steps=3, keep_checkpoints=3), make_strategy(1))
    assert sorted(os.listdir(run / "checkpoints")) == ["0002-0000000", "0002-0000003", "0003-0000000"]


def stopped(dataset, run, config=ALONE, steps=5):
    """A run without evaluation, stopped in its second epoch."""
    with pytest.raises(InterruptedRunError):
        train(dataset, run, config, make_strategy(1), stop=Stop(steps))


def test_other_options_are_refused(dataset, tmp_path):
    run = tmp_path / "run"
    stopped(dataset, run)
    before = sorted(path.name for path in run.rglob("*"))
    for options, message in (
        ({"seed": 1}, "checkpoint: of a run with other options: seed was 0, is 1"),
        ({"augment": irv2data.Augment(rotate=3)}, "augment was None, is {"),
        ({"fine_epochs": 3}, "fine_epochs was 2, is 3"),
        ({"batch_size": 24}, "batch_size was 12, is 24"),
    ):
        with pytest.raises(UsageError) as error:
            train(dataset, run, replace(ALONE, **options), make_strategy(1), resume=True)
        assert message in str(error.value)
        assert sorted(path.name for path in run.rglob("*")) == before


def test_another_class_list_is_refused(dataset, tmp_path, without_a_class):
    run = tmp_path / "run"
    stopped(dataset, run)
    with pytest.raises(
        UsageError, match=r"of another class list, 5 classes; the dataset has 4, it lacks \w+; give --over"
    ):
        train(without_a_class, run, replace(ALONE, max_steps=2, warmup_steps=0), make_strategy(1), resume=True)


@pytest.fixture
def without_a_class(photos, tmp_path, serial):
    from irv2data.convert import ConvertConfig, convert

    source = shutil.copytree(photos, tmp_path / "source")
    for split in sorted(source.iterdir()):
        shutil.rmtree(sorted(split.iterdir())[0])
    convert(source, tmp_path / "fewer", ConvertConfig(splits="folders"))
    return irv2data.Dataset(tmp_path / "fewer")


def test_a_run_in_the_way(dataset, tmp_path):
    run = tmp_path / "run"
    stopped(dataset, run)
    with pytest.raises(UsageError, match="holds a run that was stopped; --resume goes on with it, --overwrite begins"):
        train(dataset, run, ALONE, make_strategy(1))
    with pytest.raises(UsageError, match="resume and overwrite exclude each other"):
        train(dataset, run, ALONE, make_strategy(1), resume=True, overwrite=True)
    with pytest.raises(InterruptedRunError, match="after step 1 of epoch 1"):
        train(dataset, run, ALONE, make_strategy(1), overwrite=True, stop=Stop(0))


def test_a_damaged_checkpoint_is_named(dataset, tmp_path):
    run = tmp_path / "run"
    stopped(dataset, run)
    (newest,) = sorted((run / "checkpoints").iterdir())[-1:]
    size = (newest / "variables.npz").stat().st_size
    os.truncate(newest / "variables.npz", size // 2)
    with pytest.raises(DatasetError, match=r"0001-0000002: cannot be read .*remove it to go on from the one before"):
        train(dataset, run, ALONE, make_strategy(1), resume=True)
    shutil.rmtree(newest)
    assert train(dataset, run, ALONE, make_strategy(1), resume=True)["history"][-1]["epoch"] == 2


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    variable = keras.Variable(np.arange(6.0).reshape(2, 3))
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.latest() is None
    checkpoints.save("0000-0000001", [variable], {"number": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(DatasetError, match=r"0000-0000002: cannot be written \(No space left on device\)"):
            checkpoints.save("0000-0000002", [variable], {"number": 2})
    assert checkpoints.latest() == {"number": 1}
    variable.assign(np.zeros((2, 3)))
    checkpoints.restore([variable])
    np.testing.assert_array_equal(variable, np.arange(6.0).reshape(2, 3))
    with pytest.raises(DatasetError, match="is of another network or optimizer"):
        checkpoints.restore([keras.Variable(np.zeros((3, 2)))])


def command(dataset, run, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.small_run", str(dataset.folder), str(run), "--image_size=75",
         "--batch_size=12", "--head_epochs=1", "--fine_epochs=2", "--unfreeze=1", "--fine_learning_rate=1e-3",
         "--warmup_steps=2", "--weight_decay=0.01", "--label_smoothing=0.1", "--class_weights=balanced", "--ema=0.8",
         "--max_steps=4", "--replicas=2", "--validation_split=", *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for(process, path):
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)


def test_a_terminated_and_a_killed_process_end_as_one_that_was_not(dataset, tmp_path, whole):
    run = tmp_path / "run"
    first = command(dataset, run, "--checkpoint_steps=1")
    wait_for(first, run / "checkpoints")
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=300)
    assert first.returncode == 75, err
    assert "--resume goes on from there" in err.strip().splitlines()[-1]
    reached = sorted(os.listdir(run / "checkpoints"))[-1]
    second = command(dataset, run, "--checkpoint_steps=1", "--resume")
    for _ in range(1200):
        there = sorted(name for name in os.listdir(run / "checkpoints") if not name.startswith("partial"))
        if there[-1] > reached or second.poll() is not None:
            break
        time.sleep(0.05)
    second.kill()
    second.communicate()
    last = command(dataset, run, "--resume")
    _, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    for ours, theirs in zip(weights(run), whole[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
