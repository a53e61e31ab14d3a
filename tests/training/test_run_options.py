"""Whole runs with the options of a run, each against what it promises; on real photographs, with two replicas."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.device import preprocess
from irv2data.errors import InterruptedRunError, UsageError
from irv2data.pipeline.build import Pipeline
from irv2data.tools import main
from irv2data.training import loop, train
from irv2data.training import model as models
from irv2data.training.strategy import make_strategy
from irv2data.training.weights import base_with_weights
from tests.pipeline.test_cache import damage
from tests.training.small_blocks import BLOCKS, CONFIG, saved_variables, small_blocks
from tests.training.test_restart import Stop, assert_same, weights


@pytest.fixture(scope="module")
def small():
    with small_blocks():
        yield


GROWING = replace(
    CONFIG,
    progressive=((75, 75), (75, 80)),
    image_size=(96, 90),
    fine_epochs=2,
    unfreeze=(1, 3),
    fine_learning_rate=1e-2,
    block_decay=0.5,
    keep_checkpoints=9,
)


class Noted:
    """Batches for a strategy; each time that they are taken, what they are is written down."""

    def __init__(self, batches, note):
        self._batches = batches
        self._note = note

    def __iter__(self):
        for batch in self._batches:
            self._note(batch["record"])
            yield batch


@pytest.fixture(scope="module")
def growing(small, dataset, tmp_path_factory):
    """Its folder, its metrics, and what each batch was: split, size of the images, records."""
    folder, seen = tmp_path_factory.mktemp("runs") / "growing", []
    distribute = Pipeline.distribute

    def noted(self, strategy, *position, **options):
        def note(record):
            parts = strategy.experimental_local_results(record)
            whole = np.concatenate([part.numpy() for part in parts])
            seen.append((self.plan.split.name, self.config.image_size, whole))

        return Noted(distribute(self, strategy, *position, **options), note)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "distribute", noted)
        metrics = train(dataset, folder, GROWING, make_strategy(2))
    return folder, metrics, seen


def test_sizes_grow_and_records_are_those_of_the_plan(growing, dataset):
    _, metrics, seen = growing
    assert [row["image_size"] for row in metrics["history"]] == ["75x75", "75x80", "96x90", "96x90", "96x90"]
    trained = [(size, record) for split, size, record in seen if split == "train"][1:]  # the first: statistics
    sizes = [(75, 75)] * 5 + [(75, 80)] * 5 + [(96, 90)] * 15
    assert [size for size, _ in trained] == sizes
    for number, (size, record) in enumerate(trained):
        pipeline = Pipeline(dataset, fit="random_resized_crop", image_size=size, batch_size=24)
        np.testing.assert_array_equal(record, pipeline.plan.batch(*divmod(number, 5)).record[0])
    validated = [(size, record) for split, size, record in seen if split == "validation"]
    assert {size for size, _ in validated} == {(96, 90)}
    records = np.concatenate([record for _, record in validated])
    assert np.bincount(records[records >= 0]).tolist() == [6] * 60  # before, and after each epoch


@pytest.mark.parametrize("replicas", [1, 2])
def test_batches_that_are_counted_end_in_an_error(dataset, replicas):
    strategy = make_strategy(replicas)
    pipeline = Pipeline(dataset, image_size=(32, 32), batch_size=24)

    def records(batch):
        return [part.numpy().tolist() for part in strategy.experimental_local_results(batch["record"])]

    expected = [records(batch) for batch in pipeline.distribute(strategy)]
    batches = iter(pipeline.distribute(strategy, counted=True))
    assert [records(next(batches)) for _ in range(5)] == expected
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain an infinite number"):
        next(batches)


def test_blocks_learn_in_their_phases(growing):
    folder, _, _ = growing
    paths = [variable.path for variable in keras.models.load_model(folder / "model.keras").weights]
    states = [saved_variables(path)[: len(paths)] for path in sorted((folder / "checkpoints").iterdir())]

    def changed(before, after):
        pairs = zip(paths, states[before], states[after], strict=True)
        return {path.removeprefix("inception_resnet_v2/") for path, *values in pairs if not np.array_equal(*values)}

    head = {"head/kernel", "head/bias"}
    assert len(states) == 5
    assert changed(0, 1) == changed(0, 2) == head | {"conv_7b/kernel"}
    for before, after in ((2, 3), (3, 4)):
        assert changed(before, after) == head | {f"{first}/kernel" for first, _ in BLOCKS[1:]}


def test_a_block_has_its_share_of_the_learning_rate(growing):
    """Adam moves all weights alike at first, whatever their gradients, so that what they moved shows their rates."""
    folder, _, _ = growing
    paths = [variable.path for variable in keras.models.load_model(folder / "model.keras").weights]
    states = [saved_variables(path) for path in sorted((folder / "checkpoints").iterdir())]
    moved = {
        path.split("/")[-2]: np.abs(after - before).max()
        for path, before, after in zip(paths, states[2], states[3], strict=False)
    }
    assert all(0 < moved[lower] < moved[upper] for (lower, _), (upper, _) in pairwise(BLOCKS[1:]))
    assert moved["head"] > 2 * moved["block35_1_conv"]


def test_a_run_goes_on_in_the_first_epoch_of_a_larger_size(growing, dataset, tmp_path):
    folder, metrics, _ = growing
    run, strategy = tmp_path / "run", make_strategy(2)
    with pytest.raises(InterruptedRunError, match="stopped after step 2 of epoch 3"):
        train(dataset, run, GROWING, strategy, stop=Stop(11))
    assert_same(run, train(dataset, run, GROWING, strategy, resume=True), (weights(folder), metrics))


def test_history_csv_is_the_history(growing):
    folder, metrics, _ = growing
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    history = metrics["history"]
    assert rows == [{name: "" if value is None else str(value) for name, value in row.items()} for row in history]
    assert {"validation_loss", "learning_rate", "padding_waste", "peak_memory_mib", "bad_records"} <= history[0].keys()
    assert all(0 <= row["padding_waste"] < 1 and row["bad_records"] == 0 for row in history)
    assert all(row["peak_memory_mib"] > 100 for row in history)
    assert [row["learning_rate"] for row in history] == pytest.approx([1e-3] + [1e-2] * 4)


def test_tensorboard_has_the_same_scalars_and_the_images_of_each_phase(growing, dataset):
    folder, metrics, _ = growing
    (file,) = (folder / "tensorboard").iterdir()
    scalars, pictures = {}, {}
    for event in tf.compat.v1.train.summary_iterator(os.fspath(file)):
        for value in event.summary.value:
            if value.HasField("image"):
                pictures[value.tag] = event.step, tf.io.decode_png(value.image.encoded_image_string).numpy()
            elif not value.tag.startswith("pipeline/"):  # of test_figures
                scalars[event.step, value.tag] = value.simple_value
    expected = {
        (5 * number, name.replace("validation_", "validation/") if "validation_" in name else f"train/{name}"): value
        for number, row in enumerate(metrics["history"], 1)
        for name, value in row.items()
        if name not in ("phase", "image_size")
    }
    assert scalars == pytest.approx(expected, rel=1e-6)
    phases = (("head epoch 1", (75, 75), 0), ("fine epoch 2", (75, 80), 1), ("fine epoch 4", (96, 90), 3))
    assert set(pictures) == {f"{name}/{number}" for name, _, _ in phases for number in range(8)}
    for name, size, epoch in phases:
        pipeline = Pipeline(dataset, fit="random_resized_crop", image_size=size, batch_size=24)
        images = preprocess(next(iter(pipeline.batches(epoch))), pipeline.output).numpy()
        for number in range(8):
            step, pixels = pictures[f"{name}/{number}"]
            assert (step, pixels.shape) == (5 * epoch, (*size, 3))
            assert np.abs(pixels - (images[number] + 1) * 127.5).max() < 0.51
            assert np.abs(pixels - (images[number + 1] + 1) * 127.5).max() > 20


# Bad records, parts of a batch, precision.


def test_damaged_records_are_counted_and_weigh_nothing(small, dataset, tmp_path):
    copy, damaged = irv2data.Dataset(shutil.copytree(dataset.folder, tmp_path / "copy")), (7, 61)
    for record in damaged:
        damage(copy, record)
    # A rate at which nothing changes: the mean over the epoch is then that of the saved model.
    config = replace(
        CONFIG, fit="resize", head_epochs=2, head_learning_rate=1e-12, max_bad_records=2, validation_split=None
    )
    lines = []
    metrics = train(copy, tmp_path / "run", config, make_strategy(2), log=lines.append)
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    pipeline = Pipeline(dataset, fit="resize", image_size=(75, 75), batch_size=1, shuffle=None)
    losses, hits = np.zeros(120), np.zeros(120)
    for record, batch in enumerate(pipeline.batches()):
        logits, label = model(preprocess(batch, pipeline.output)), batch["label"]
        losses[record] = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)[0]
        hits[record] = tf.argmax(logits, axis=1)[0] == label[0]
    sound = ~np.isin(np.arange(120), damaged)
    for row in metrics["history"]:
        assert row["bad_records"] == 2
        assert row["loss"] == pytest.approx(losses[sound].mean(), rel=1e-5)
        assert row["accuracy"] == pytest.approx(hits[sound].mean())
    assert abs(losses.mean() - losses[sound].mean()) > 1e-4 * losses.mean()
    assert lines[1].endswith(", 2 damaged records left out")


PLAIN = replace(CONFIG, fine_epochs=1, unfreeze=(2,), fine_learning_rate=0.01, validation_split=None)


@pytest.fixture(scope="module")
def plain(small, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    return folder, train(dataset, folder, PLAIN, make_strategy(2))


def test_parts_of_a_batch_by_the_command(plain, dataset, tmp_path, capsys):
    run, (folder, metrics) = tmp_path / "run", plain
    words = (
        *("--image_size=75", "--batch_size=24", "--weights=none", "--head_epochs=1", "--schedule=constant"),
        *("--fine_epochs=1", "--unfreeze=2", "--fine_learning_rate=0.01", "--validation_split=", "--replicas=2"),
        *("--accumulate=3", "--no-tensorboard", "--json"),
    )
    assert main.run(main.parse(["irv2data", "train", str(dataset.folder), str(run), *words])) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == json.loads(json.dumps({**metrics["config"], "accumulate": 3, "tensorboard": False}))
    for ours, theirs in zip(found["history"], metrics["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["accuracy"] == theirs["accuracy"]
    for ours, theirs in zip(weights(run), weights(folder), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (folder / "tensorboard").exists()
    assert not (run / "tensorboard").exists()


def test_bfloat16_keeps_weights_and_logits_in_float32(plain, dataset, tmp_path):
    _, metrics = plain
    found = train(dataset, tmp_path / "run", replace(PLAIN, precision="bfloat16"), make_strategy(2))
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert {layer.compute_dtype for layer in models.base_of(model).layers[1:]} == {"bfloat16"}
    assert {variable.dtype for variable in model.weights} == {"float32"}
    assert model(np.zeros((1, 75, 75, 3), np.float32)).dtype == tf.float32
    for ours, theirs in zip(found["history"], metrics["history"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        assert ours["loss"] != theirs["loss"]


def test_every_learning_variable_of_the_real_network_has_its_block_s_rate(monkeypatch):
    """Built in bfloat16, so that one network serves two questions."""
    monkeypatch.setattr(models, "base_with_weights", base_with_weights)
    model = models.build_model(classes=5, image_size=(75, 75), weights="none", precision="bfloat16")
    assert {variable.dtype for variable in model.weights} == {"float32"}
    assert models.base_of(model).compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    blocks = models.blocks(models.base_of(model))
    for top in (1, 4, 44):
        models.unfreeze(model, top)
        groups = models.learning_groups(model, top, 0.5)
        assert [share for share, _ in groups] == [1.0, *(0.5**depth for depth in range(top))]
        held = [variable.path for _, variables in groups for variable in variables]
        assert sorted(held) == sorted(variable.path for variable in model.trainable_variables)
        assert len(set(held)) == len(held)
        assert [variable.path for variable in groups[0][1]] == ["head/kernel", "head/bias"]
        for block, (_, variables) in zip(blocks[::-1], groups[1:], strict=False):
            convolutions = [layer for layer in block if isinstance(layer, keras.layers.Conv2D)]
            assert [v.path for v in variables] == [v.path for layer in convolutions for v in layer.weights]


@pytest.fixture
def no_network(monkeypatch):
    """Nothing is built."""
    monkeypatch.setattr(loop, "build_model", lambda **options: pytest.fail("a network is built"))


# What cannot be is refused before anything is built or removed.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": (1.0, 2.0, 3.0)}, "class_weights has 3 weights for 5 classes"),
        # The head's phase has ten steps, the fine one five.
        (
            {"head_epochs": 2, "fine_epochs": 1, "unfreeze": (1,), "warmup_steps": 5},
            "warmup_steps must be less than the steps of a phase, 5, got 5",
        ),
        ({"accumulate": 24}, "batch_size 24 is not divisible by 2 replicas times accumulate 24; use 48"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(no_network, dataset, tmp_path, options, message):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError) as error:
        train(dataset, run, replace(CONFIG, **options), make_strategy(2), overwrite=True)
    assert str(error.value) == message
    assert os.listdir(run) == ["checkpoints"]
