"""Whole runs on images of differing sizes: trained, evaluated and predicted as each image alone would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from irv2data.device import preprocess
from irv2data.pipeline.build import Pipeline
from irv2data.tools import main
from irv2data.training import files as files_module
from irv2data.training import train
from irv2data.training.finished import FinishedRun
from irv2data.training.strategy import make_strategy
from tests.conftest import run_serial
from tests.training.small_blocks import CONFIG, small_blocks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small():
    with small_blocks():
        yield


NATIVE = replace(CONFIG, fit="native", max_pixels=96 * 96, buckets=2, head_epochs=3, head_learning_rate=0.05)


@pytest.fixture(scope="module")
def native(small, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "native"
    return folder, train(dataset, folder, NATIVE, make_strategy(2))


def irv2data_command(*words):
    """What a fresh process prints, which knows nothing of the layers of a run."""
    code = "import sys; from irv2data.tools import main; sys.exit(main.run(main.parse(['irv2data', *sys.argv[1:]])))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_native_images_of_a_run(native, dataset):
    folder, metrics = native
    history = metrics["history"]
    assert history[-1]["loss"] < 0.95 * history[0]["loss"]
    assert len(metrics["canvases"]) == 2
    assert metrics["canvases"] == metrics["evaluation_canvases"]
    assert min(min(canvas) for canvas in metrics["canvases"]) >= 75
    assert 0 < history[0]["padding_waste"] < 0.7
    report = irv2data_command("evaluate", folder, dataset.folder, "--json", "--batch_size=24")
    for name in ("loss", "accuracy", "top5", "records"):
        assert report[name] == pytest.approx(metrics["validation_after"][name], rel=1e-5)


def test_native_files_are_predicted_as_their_records_are_evaluated(native, dataset, photos, monkeypatch, capsys):
    monkeypatch.setattr(files_module, "run_local", run_serial)
    folder, _ = native
    assert main.run(main.parse(["irv2data", "predict", str(folder), str(photos / "validation"), "--json"])) == 0
    found = {
        row["path"]: np.array([each["probability"] for each in sorted(row["top"], key=lambda each: each["class"])])
        for row in json.loads(capsys.readouterr().out)["predictions"]
    }
    model, fitting = keras.models.load_model(folder / "model.keras"), FinishedRun.read(folder).fitting
    pipeline = Pipeline(dataset, split="validation", batch_size=20, shuffle=None, drop_remainder=False, **fitting)
    sizes, seen = set(), {}
    for batch in pipeline.batches():
        images = preprocess(batch, pipeline.output), batch["size"]
        for record, row in zip(batch["record"].numpy(), tf.nn.softmax(model(images)).numpy(), strict=True):
            path = photos / os.fsdecode(pipeline.plan.split.read(int(record)).filename)
            np.testing.assert_allclose(found[str(path)], row, atol=2e-5, err_msg=str(path))
            seen[str(path)] = row
        sizes.add(tuple(batch["canvas"].shape[1:3]))
    assert len(seen) == 60
    assert len(sizes) == 2
    rows = np.array(list(seen.values()))
    apart = np.abs(rows[:, None] - rows[None]).max(axis=-1) + np.eye(60)
    assert np.median(apart.min(axis=1)) > 1e-4  # so that one image's probabilities are not another's


def test_native_figures_are_those_of_each_image_alone(native, dataset):
    """The saved network's loss over the split by hand, each image on a canvas of its own size."""
    folder, metrics = native
    model, losses = keras.models.load_model(folder / "model.keras"), []
    options = {"split": "validation", "batch_size": 1, "shuffle": None, **FinishedRun.read(folder).fitting}
    for batch in Pipeline(dataset, **options).batches():
        height, width = np.maximum(batch["size"][0], 75)
        image = preprocess(batch, Pipeline(dataset, **options).output)[:, :height, :width]
        losses.append(
            tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], model((image, batch["size"])))[0].numpy()
        )
    assert np.mean(losses) == pytest.approx(metrics["validation_after"]["loss"], rel=1e-4)
