"""The main job: Inception-ResNet-v2 on real photographs, two replicas, head first and then the top block."""

from __future__ import annotations

import csv
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from irv2data import Pipeline
from irv2data.errors import UsageError
from irv2data.tools import main
from irv2data.training import TrainConfig, evaluate, train
from irv2data.training.strategy import make_strategy

CONFIG = TrainConfig(
    image_size=(75, 75),
    batch_size=12,
    weights="none",
    head_epochs=2,
    fine_epochs=1,
    unfreeze=(1,),
    fine_learning_rate=1e-4,
)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    lines: list[str] = []
    done: list[tuple[str, int, int]] = []
    strategy = make_strategy(2)
    metrics = train(dataset, folder, CONFIG, strategy, log=lines.append, progress=lambda *report: done.append(report))
    return folder, metrics, lines, done


def test_loss_falls(run):
    history = run[1]["history"]
    assert history[0]["loss_first_fifth"] > history[1]["loss_last_fifth"]
    assert history[1]["loss"] < math.log(5)  # below that of guessing
    assert history[2]["loss"] < history[0]["loss"]


def test_history_says_what_was_done(run):
    metrics = run[1]
    assert metrics["replicas"] == 2
    assert [row["phase"] for row in metrics["history"]] == ["head", "head", "fine"]
    assert [row["steps"] for row in metrics["history"]] == [10, 10, 10]
    assert metrics["validation_before"]["records"] == metrics["validation_after"]["records"] == 60
    assert metrics["validation_after"]["loss"] == metrics["history"][-1]["validation_loss"]
    assert all(0 <= row["input_wait"] <= 1 for row in metrics["history"])


def test_what_a_person_sees(run):
    _, _, lines, done = run
    assert "random weights" in lines[0]
    assert lines[1].startswith("epoch 1/3 (head): loss ")
    assert lines[3].startswith("epoch 3/3 (fine): loss ")
    validation = [("validation", step, 5) for step in range(1, 6)]
    assert done == validation + [
        each
        for epoch in (1, 2, 3)
        for each in [*((f"epoch {epoch}/3", step, 10) for step in range(1, 11)), *validation]
    ]


def test_saved_model_is_the_trained_one(run, dataset):
    folder, metrics, _, _ = run
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert json.loads((folder / "classes.json").read_text()) == list(dataset.classes)
    model = keras.models.load_model(folder / "model.keras")
    pipeline = Pipeline(
        dataset,
        split="validation",
        fit="center_crop",
        image_size=(75, 75),
        batch_size=12,
        shuffle=None,
        drop_remainder=False,
    )
    result = evaluate(model, pipeline, tf.distribute.get_strategy())
    assert result.loss == pytest.approx(metrics["validation_after"]["loss"], rel=1e-3)
    assert result.accuracy == metrics["validation_after"]["accuracy"]


def test_evaluate_command(run, dataset, capsys, tmp_path, monkeypatch):
    folder, metrics, _, _ = run
    found = []

    def kept(*given, **options):
        found.append(evaluate(*given, **options))
        return found[-1]

    monkeypatch.setattr("irv2data.training.evaluate", kept)
    arguments = ["irv2data", "evaluate", str(folder), str(dataset.folder), "--batch_size=12", "--replicas=2"]
    assert main.run(main.parse([*arguments, "--json", f"--output={tmp_path / 'out'}"])) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == sum(row["records"] for row in report["classes"]) == 60
    for name in ("loss", "accuracy", "top5"):
        assert report[name] == pytest.approx(metrics["validation_after"][name], rel=1e-4)
    confusion = np.array(report["confusion"])
    assert np.trace(confusion) == round(60 * report["accuracy"])
    with open(tmp_path / "out" / "confusion.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["class", *dataset.classes]
    assert [[name, *map(int, counts)] for name, *counts in rows] == [
        [name, *counts] for name, counts in zip(dataset.classes, confusion.tolist(), strict=True)
    ]
    with open(tmp_path / "out" / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(dataset.classes)
    assert [row["recall"] for row in rows] == [str(row["recall"]) for row in report["classes"]]
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert min(picture.size) > 400
    # For people, of the same evaluation: a second one would find the same, and takes half a minute.
    monkeypatch.setattr("irv2data.training.evaluate", lambda *_, **__: found[0])
    assert main.run(main.parse(arguments)) == 0
    text = capsys.readouterr().out
    assert f"accuracy {report['accuracy']:.3f}" in text
    assert "least recognised" in text


def test_evaluate_needs_a_run_of_these_classes(run, dataset, capsys, tmp_path):
    def failing(folder):
        assert main.run(main.parse(["irv2data", "evaluate", str(folder), str(dataset.folder)])) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "holds no finished run of `irv2data train` (metrics.json" in failing(tmp_path)
    for name in ("metrics.json", "classes.json"):
        (tmp_path / name).write_bytes((run[0] / name).read_bytes())
    names = list(dataset.classes)
    (tmp_path / "classes.json").write_text(json.dumps([*names[1:], "zebra"]))
    assert f"are not those that {tmp_path} was trained on: it lacks zebra and adds {names[0]}" in failing(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(names[::-1]))
    assert "has them in another order" in failing(tmp_path)


def test_statistics_give_features_a_scale(run):
    model = keras.models.load_model(run[0] / "model.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 75, 75, 3)).astype("float32")
    features = np.array(model.get_layer("inception_resnet_v2")(images))
    assert features.std() > 0.1  # 0.02 with the initial statistics


def test_a_finished_run_is_not_overwritten(run, dataset):
    before = (run[0] / "metrics.json").read_bytes()
    with pytest.raises(UsageError, match="holds a finished run; choose another folder or give --overwrite"):
        train(dataset, run[0], CONFIG, tf.distribute.get_strategy())
    assert (run[0] / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (74, 99)}, "sizes must be at least 75 .* got"),
        ({"fit": "stretch"}, "fit must be one of .* got 'stretch'"),
        ({"head_epochs": 0}, "nothing to train"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"head_learning_rate": 0.0}, "head_learning_rate must be positive"),
        ({"max_steps": -1}, "max_steps must be 0"),
    ],
)
def test_options_are_checked_when_made(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_strategy_of_logical_cpus():
    assert make_strategy(2).num_replicas_in_sync == 2
    assert make_strategy(0).num_replicas_in_sync == 1
    with pytest.raises(UsageError, match="replicas must be 0"):
        make_strategy(-1)
    with pytest.raises(UsageError, match="64 logical CPU devices must be set up before"):
        make_strategy(64)
