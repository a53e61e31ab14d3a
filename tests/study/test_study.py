"""A study of real photographs, with a small network of the real one's kinds of layers."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from irv2data import Pipeline
from irv2data.device import preprocess
from irv2data.errors import UsageError
from irv2data.report.study_page import study_page
from irv2data.study import StudyConfig, run, study
from irv2data.study.config import RESIZERS
from irv2data.study.features import Extractor
from irv2data.study.heads import predictions, records_of, train_head
from irv2data.study.images import Images
from irv2data.tools import main
from irv2data.training.strategy import make_strategy
from irv2data.training.weights import BASE

CONFIG = StudyConfig(
    image_size=(75, 75),
    weights="none",
    epochs=6,
    views=2,
    repeats=3,
    batch_size=12,
    learning_rate=1e-2,
    rounds=2,
    seconds=0.05,
)


def small_model(*, image_size, **others) -> keras.Model:
    """Padded and unpadded convolutions, normalisation, both poolings, and a head, in a twentieth of a second."""
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(16, 5, strides=4, use_bias=False)(images)
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization(scale=False)(x))
    x = keras.layers.MaxPooling2D(3, 2)(x)
    x = keras.layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    x = keras.layers.AveragePooling2D(3, 1, padding="same")(x)
    base = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x), name=BASE)
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, keras.layers.Dense(2)(base(inputs)))


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "build_model", small_model)
        yield


@pytest.fixture(scope="module")
def done(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "study"
    lines: list[str] = []
    report = study(str(dataset.folder), folder, CONFIG, make_strategy(2), log=lines.append)
    return folder, report, lines


def test_every_fit_is_reported(done):
    _, report, lines = done
    assert [arm["name"] for arm in report["arms"]] == list(CONFIG.fits)
    for arm in report["arms"]:
        assert len(arm["repeats"]) == 3
        assert arm["accuracy"]["mean"] == pytest.approx(np.mean(arm["repeats"]))
        assert arm["accuracy"]["low"] <= arm["accuracy"]["mean"] <= arm["accuracy"]["high"]
        assert arm["images_per_second"]["low"] > 0
        assert sum(each["images"] for each in arm["by_size"]) == 60
        mean = sum(each["images"] * each["accuracy"] for each in arm["by_size"]) / 60
        assert mean == pytest.approx(arm["accuracy"]["mean"])
    waste = {arm["name"]: arm["padding_waste"] for arm in report["arms"]}
    assert waste["unbucketed"] > waste["random_resized_crop"]
    assert report["chance"] == 0.2
    assert report["pretrained"] is False
    assert "random weights" in lines[0]


def test_the_files_hold_what_was_found(done, dataset):
    folder, report, _ = done
    assert sorted(path.name for path in folder.iterdir()) == ["images.csv", "study.csv", "study.html", "study.json"]
    assert json.loads((folder / "study.json").read_text()) == json.loads(json.dumps(report))
    with open(folder / "study.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fit"] for row in rows] == list(CONFIG.fits)
    assert [float(row["accuracy_mean"]) for row in rows] == [arm["accuracy"]["mean"] for arm in report["arms"]]
    with open(folder / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    split = dataset.splits["validation"]
    assert [int(row["record"]) for row in rows] == list(range(60))
    assert [row["source"] for row in rows] == [split.source(number) for number in range(60)]
    assert [int(row["height"]) for row in rows] == split.array("height").tolist()
    for arm in report["arms"]:
        right = sum(int(row[arm["name"]]) for row in rows)
        assert right / (3 * 60) == pytest.approx(arm["accuracy"]["mean"])


def test_the_page(done):
    folder, report, _ = done
    page = (folder / "study.html").read_text()
    assert "does not speak of transfer learning" in page
    for sentence in report["conclusion"]:
        assert sentence in page
    assert page.count("<svg ") == 6
    assert "http://" not in re.sub(r'xmlns(:xlink)?="http://[^"]+"', "", page)  # nothing is fetched
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 3 * 5
    assert "center_crop, random_resized_crop, unbucketed" in page  # evaluated alike
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in pictures]
    assert all(size == (75, 75) for size in sizes[:12])
    assert any(size != (75, 75) for size in sizes[12:])  # native


def test_names_are_no_markup(done):
    _, report, _ = done
    evil = {**report, "dataset": {**report["dataset"], "folder": "<script>alert(1)</script>\udcff"}}
    page = study_page(evil, seen=[], not_pretrained="x < y")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "x &lt; y" in page


def test_pretrained_pages_do_not_warn(done):
    _, report, _ = done
    page = study_page({**report, "pretrained": True}, seen=[], not_pretrained="WARNING")
    assert "WARNING" not in page


@pytest.mark.parametrize("name", ["center_crop", "native", "random_resized_crop"])
def test_features_are_those_of_the_network(dataset, name):
    keras.utils.set_random_seed(0)
    strategy = make_strategy(2)
    with strategy.scope():
        model = small_model(image_size=None)
    base = model.get_layer(BASE)
    images = Images(dataset, CONFIG)
    (arm,) = (arm for arm in CONFIG.arms if arm.name == name)
    found = Extractor(model, strategy)(images.all_of("train", arm.pictures), masked=arm.masked, epoch=1).values
    pipeline = images.all_of("train", arm.pictures)
    expected = np.zeros_like(found)
    for batch in pipeline.batches(1):
        finished = np.asarray(preprocess(batch, pipeline.output))
        for image, size, record in zip(finished, batch["size"].numpy(), batch["record"].numpy(), strict=True):
            alone = image[: max(75, size[0]), : max(75, size[1])] if arm.masked else image
            expected[record] = base(alone[None])[0]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - expected[::-1]).max() > 0.01


def test_a_head_learns_in_the_batches_of_the_plan(dataset):
    images = Images(dataset, CONFIG)
    plan = images.training(CONFIG.arms[0], seed=3).plan
    pipeline = Pipeline(dataset, fit="resize", image_size=(75, 75), batch_size=12, seed=3)
    expected = [batch["record"].numpy() for batch in pipeline.batches(2)]
    np.testing.assert_array_equal(list(records_of(plan, 2)), expected)
    rng = np.random.default_rng(0)
    label = images.column("train", "label")
    views = [rng.normal(size=(120, 8)).astype(np.float32) for _ in range(2)]
    for view in views:
        view[:, :5] += 3 * np.eye(5, dtype=np.float32)[label]
    head = train_head(views, label, plan, classes=5, epochs=6, highest=0.05, seed=1)
    right = (predictions(head, views[0]) == label).mean()
    assert right > 0.9
    shuffled = train_head(views, rng.permutation(label), plan, classes=5, epochs=6, highest=0.05, seed=1)
    assert (predictions(shuffled, views[0]) == label).mean() < 0.6
    again = train_head(views, label, plan, classes=5, epochs=6, highest=0.05, seed=1)
    for one, other in zip(head.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_few_of_many_images(dataset):
    images = Images(dataset, replace(CONFIG, max_images=20, seed=5))
    rows = images.rows("train")
    assert len(rows) == len(set(rows.tolist())) == 20
    assert rows.tolist() != Images(dataset, replace(CONFIG, max_images=20, seed=6)).rows("train").tolist()
    np.testing.assert_array_equal(images.column("train", "height"), dataset.splits["train"].array("height")[rows])
    pipeline = images.all_of("train", {"fit": "resize"}, rows=np.array([3, 7]))
    assert pipeline.plan.split.source(1) == dataset.splits["train"].source(int(rows[7]))


def test_resizers_differ(done):
    moved = done[1]["movement"]["resizers"]
    assert moved["names"] == list(RESIZERS)
    mean = np.array(moved["mean"])
    np.testing.assert_allclose(np.diag(mean), 1)
    assert (mean[~np.eye(4, dtype=bool)] < 0.99999).all()
    assert done[1]["movement"]["fits"]["names"] == ["resize", "center_crop", "native_crop", "letterbox", "native"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fits": ("resize",)}, "fits must be two or more of resize, center_crop, .* got resize"),
        ({"fits": ("resize", "stretch")}, "fits must be two or more of"),
        ({"repeats": 1}, "repeats must be 2 or more, to see a spread, got 1"),
        ({"image_size": (64, 64)}, "image_size must be at least 75"),
        ({"split": "validation"}, "split and validation_split are both 'validation'"),
        ({"max_images": 8, "batch_size": 12}, "max_images must be at least a batch, 12, got 8"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        StudyConfig(**options)


def test_the_command(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["irv2data", "study", str(dataset.folder), str(out), "--weights=none", "--fits=resize,letterbox"]
    arguments += ["--image_size=75", "--batch_size=12", "--epochs=1", "--repeats=2", "--seconds=0", "--max_images=24"]
    assert main.run(main.parse([*arguments, "--json"])) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dataset"]["validation_images"] == 24
    assert all(arm["images_per_second"] is None for arm in report["arms"])
    assert main.run(main.parse(arguments)) == 2
    assert "holds a study; choose another folder or give --overwrite" in capsys.readouterr().err
    assert main.run(main.parse([*arguments, "--overwrite"])) == 0
    assert str(out / "study.html") in capsys.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("dear diary")
    arguments[3] = str(tmp_path / "full")
    assert main.run(main.parse([*arguments, "--overwrite"])) == 2
    assert "is not empty and no study" in capsys.readouterr().err
    assert tf.io.gfile.exists(str(tmp_path / "full" / "diary.txt"))
