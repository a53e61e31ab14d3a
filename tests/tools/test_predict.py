"""`irv2data predict`: what evaluation sees of a dataset's records, it sees of the files they were made of."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import irv2data
from irv2data.device import preprocess
from irv2data.tools import main
from irv2data.training import TrainConfig
from irv2data.training import files as files_module
from tests.conftest import run_serial
from tests.training.small_run import small_network

SIZE = (75, 90)
FITS = ("resize", "center_crop", "random_resized_crop", "letterbox")  # evaluated by themselves, the third by the second
CLASSES = 5


@pytest.fixture(autouse=True)
def _serial(monkeypatch):
    monkeypatch.setattr(files_module, "run_local", run_serial)


def evaluation(dataset, fit, split="validation"):
    """The pipeline that evaluates what was trained with a fit."""
    fit = "center_crop" if fit == "random_resized_crop" else fit
    return irv2data.Pipeline(
        dataset, split=split, fit=fit, image_size=SIZE, batch_size=16, shuffle=None, drop_remainder=False
    )


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network whose logits tell images apart."""
    keras.utils.set_random_seed(1)
    images = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(16, 7, strides=3, activation="relu")(images)
    x = keras.layers.Conv2D(16, 5, strides=3, activation="relu")(x)
    return keras.Model(images, 4 * keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def runs(dataset, model, tmp_path_factory):
    """Fit to the folder of a run that was trained with it."""
    base = tmp_path_factory.mktemp("runs")
    for fit in FITS:
        folder = base / fit
        folder.mkdir()
        model.save(folder / "model.keras")
        (folder / "classes.json").write_text(json.dumps(list(dataset.classes)))
        canvases = evaluation(dataset, fit).plan.canvases
        metrics = {"config": asdict(TrainConfig(fit=fit, image_size=SIZE)), "evaluation_canvases": canvases}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return base


@pytest.fixture
def predict(capsys):
    """`predict(RUN, FILES, ...)` in this process: exit code, standard output, standard error."""

    def call(*words):
        capsys.readouterr()
        try:
            code = main.run(main.parse(["irv2data", "predict", *map(str, words)]))
        except SystemExit as stop:  # of the argument parser
            code = stop.code
        return code, *capsys.readouterr()

    return call


def probabilities(report) -> dict[str, np.ndarray]:
    """Path to the probabilities in the order of class names."""
    return {
        row["path"]: np.array([each["probability"] for each in sorted(row["top"], key=lambda each: each["class"])])
        for row in report["predictions"]
    }


@pytest.mark.parametrize("fit", ["resize", "random_resized_crop", "letterbox"])
def test_files_are_predicted_as_their_records_are_evaluated(predict, runs, dataset, photos, model, fit):
    code, out, _ = predict(runs / fit, photos / "validation", "--json", "--batch_size=16")
    report = json.loads(out)
    found = probabilities(report)
    assert (code, report["files"], report["failed"]) == (0, 60, 0)
    assert list(found) == sorted(str(path) for path in (photos / "validation").rglob("*.*"))

    pipeline = evaluation(dataset, fit)
    seen = 0
    for batch in pipeline.batches():
        expected = tf.nn.softmax(model(preprocess(batch, pipeline.output))).numpy()
        for record, wanted in zip(batch["record"].numpy(), expected, strict=True):
            if record < 0:
                continue
            path = photos / os.fsdecode(pipeline.plan.split.read(int(record)).filename)
            np.testing.assert_allclose(found[str(path)], wanted, atol=2e-5, err_msg=str(path))
            seen += 1
    assert seen == 60
    rows = np.array(list(found.values()))
    # So that one image's probabilities are not another's: no two are within a hundred times that bound.
    apart = np.abs(rows[:, None] - rows[None]).max(axis=-1) + np.eye(60)
    assert apart.min() > 2e-3


def test_a_run_of_train_is_predicted_as_it_is_evaluated(predict, dataset, photos, tmp_path, capsys):
    with small_network():
        flags = ("--image_size=75", "--batch_size=12", "--max_steps=4", "--fit=letterbox", "--weights=none")
        assert main.run(main.parse(["irv2data", "train", str(dataset.folder), str(tmp_path / "run"), *flags])) == 0
    capsys.readouterr()
    assert main.run(main.parse(["irv2data", "evaluate", str(tmp_path / "run"), str(dataset.folder), "--json"])) == 0
    expected = np.array(json.loads(capsys.readouterr().out)["confusion"])
    found = np.zeros_like(expected)
    number = {name: label for label, name in enumerate(dataset.classes)}
    for row in json.loads(predict(tmp_path / "run", photos / "validation", "--json")[1])["predictions"]:
        found[number[Path(row["path"]).parent.name], number[row["class"]]] += 1
    np.testing.assert_array_equal(found, expected)
    assert np.count_nonzero(found.sum(axis=0)) > 1  # not all taken for one class


def test_csv_and_jsonl_say_the_same(predict, runs, dataset, photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    given = (runs / "resize", photos / "validation" / "table", broken, "--top_k=2")
    report = json.loads(predict(*given, "--json")[1])
    code, out, _ = predict(*given, f"--output={tmp_path / 'found.csv'}")
    assert (code, out) == (3, f"13 files, 1 that are no images: {tmp_path / 'found.csv'}\n")
    with open(tmp_path / "found.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2", "error"]
    code, out, _ = predict(*given, f"--output={tmp_path / 'found.jsonl'}", "--json")
    summary = {"run": str(runs / "resize"), "files": 13, "failed": 1}
    assert (code, json.loads(out)) == (3, {**summary, "output": str(tmp_path / "found.jsonl")})
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert lines == report["predictions"]
    assert {**report, "predictions": 13} == {**summary, "predictions": 13}
    for line, row in zip(lines[:-1], rows[:-1], strict=True):
        first, second = line["top"]
        assert first["probability"] >= second["probability"] > 0
        assert {first["class"], second["class"]} < set(dataset.classes)
        assert (line["class"], line["probability"]) == (first["class"], first["probability"])
        assert row == {
            "path": line["path"],
            "class": first["class"],
            "probability": str(first["probability"]),
            "class_2": second["class"],
            "probability_2": str(second["probability"]),
            "error": "",
        }
    assert lines[-1] == {"path": str(broken), "error": {"code": "not_an_image", "detail": "no image signature"}}
    assert rows[-1] == {**dict.fromkeys(rows[0], ""), "path": str(broken), "error": "not_an_image: no image signature"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jpg", "found.csv", "found.jsonl"]


def test_a_line_a_file_for_people(predict, runs, photos, tmp_path):
    broken = tmp_path / "cut.jpg"
    photo = next((photos / "validation" / "table").glob("*.jpg"))
    broken.write_bytes(photo.read_bytes()[:-2000])
    code, out, err = predict(runs / "resize", broken, photo, "--top_k=2")
    (row,) = json.loads(predict(runs / "resize", photo, "--top_k=2", "--json")[1])["predictions"]
    assert code == 3
    assert out == f"{photo}: " + ", ".join(f"{top['class']} {top['probability']:.3f}" for top in row["top"]) + "\n"
    assert err.startswith(f"{broken}: ")
    assert err.endswith("(truncated)\n")


def test_files_in_the_order_given_and_one_may_be_named_twice(predict, runs, photos):
    one, *_, other = sorted((photos / "validation" / "table").iterdir())
    given = [str(other), str(one), str(other)]
    report = json.loads(predict(runs / "resize", *given, "--json", "--batch_size=2")[1])
    assert [row["path"] for row in report["predictions"]] == given
    first, second, third = (np.array([top["probability"] for top in row["top"]]) for row in report["predictions"])
    np.testing.assert_allclose(first, third, atol=2e-5)  # of different batches
    assert np.abs(first - second).max() > 2e-3


def test_a_photograph_turned_by_exif_is_predicted_upright(predict, runs, photos, tmp_path):
    with Image.open(next((photos / "validation" / "portrait").glob("*.png"))) as image:
        upright = image.convert("RGB")
    upright.save(tmp_path / "upright.png")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    turned.save(tmp_path / "plain.png")
    found = probabilities(json.loads(predict(runs / "resize", tmp_path, "--json")[1]))
    upright, turned, plain = (found[str(tmp_path / f"{name}.png")] for name in ("upright", "turned", "plain"))
    np.testing.assert_array_equal(turned, upright)
    assert np.abs(plain - upright).max() > 0.01


@pytest.fixture
def strange(photos, tmp_path) -> tuple[Path, bytes]:
    """A photograph, and a copy of it whose name is not UTF-8."""
    photo = next((photos / "validation" / "table").glob("*.jpg"))
    copy = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    shutil.copy(photo, copy)
    return photo, copy


def test_paths_in_any_bytes_by_a_real_process(runs, strange, tmp_path):
    photo, copy = strange
    output = tmp_path / "found.csv"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "irv2data.tools.main", "predict", str(runs / "center_crop"), "-"),
            *("--json", f"--output={output}"),
        ],
        input=os.fsencode(photo) + b"\n" + copy + b"\n",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["files"] == 2
    _, first, second = output.read_bytes().splitlines()
    assert first.startswith(os.fsencode(photo) + b",")
    assert second == copy + first.removeprefix(os.fsencode(photo))


def test_paths_of_find_print0(predict, runs, strange, monkeypatch):
    photo, copy = strange
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\0".join([copy, os.fsencode(photo), b""]))))
    report = json.loads(predict(runs / "resize", "-", "--json")[1])
    assert [row["path"] for row in report["predictions"]] == [os.fsdecode(copy), str(photo)]
    code, out, _ = predict(runs / "resize", os.fsdecode(copy))
    assert (code, out.partition(": ")[0]) == (0, os.fsdecode(copy).replace("\udce9", "\\udce9"))


def test_standard_input_without_paths(predict, runs, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert predict(runs / "resize", "-") == (2, "", "irv2data predict: no files: standard input names none\n")


def test_a_file_that_takes_its_worker_down_is_reported(predict, runs, photos, monkeypatch):
    bad, *others = sorted((photos / "validation" / "table").iterdir())

    def crashing(function, tasks, *, finished, lost, **limits):
        again = (
            lost(task, 0, "decoder_crashed", "the decoder ended its process") if str(bad) in task.paths else task
            for task in tasks
        )
        run_serial(function, again, finished=finished, **limits)

    monkeypatch.setattr(files_module, "run_local", crashing)
    report = json.loads(predict(runs / "resize", bad, *others, "--json")[1])
    first, *rest = report["predictions"]
    assert first["error"] == {"code": "decoder_crashed", "detail": "the decoder ended its process"}
    assert all("class" in row for row in rest)
    assert report["failed"] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("{missing} {photo}", 2, "{missing}: holds no finished run of `irv2data train` (metrics.json: [Errno 2]"),
        ("{odd} {photo}", 2, "{odd}: holds no finished run of `irv2data train` (metrics.json: is none of its files"),
        ("{cut} {photo}", 1, "{cut}/model.keras: cannot be loaded ("),
        ("{other} {photo}", 1, "{other}/model.keras: tells 5 classes apart, {other}/classes.json names 2; they are of"),
        ("{run} {empty}", 1, "{empty}: holds no images"),
        ("{run} {missing}.jpg", 1, "{missing}.jpg: No such file or directory (unreadable)"),
        ("{run} {missing}.jpg {text}", 1, "none of 2 files is an image that can be read; {missing}.jpg: No such"),
        ("{run} {photo} --output={empty}/found.txt", 2, "output: {empty}/found.txt must end in .csv or .jsonl"),
        ("{run} {photo} --output={missing}/a.csv", 1, "{missing}/a.csv: cannot be written (No such file or directory)"),
        ("{run} {photo} --top_k=0", 2, "top_k must be 1 or more, got 0"),
        ("{run} {photo} --batch_size=0", 2, "batch_size must be 1 or more, got 0"),
        ("{run} {photo} --workers=-1", 2, "workers must be 0 (all cores) or more, got -1"),
        ("{run}", 2, "the following arguments are required: FILES"),
    ],
)
def test_wrong_use_is_one_line(predict, runs, photos, tmp_path, words, code, message):
    names = {name: tmp_path / name for name in ("missing", "odd", "cut", "other", "empty")}
    for name in ("odd", "cut", "other"):
        shutil.copytree(runs / "resize", names[name])
    (names["odd"] / "metrics.json").write_text('{"config": {}}')
    (names["cut"] / "model.keras").write_bytes((runs / "resize" / "model.keras").read_bytes()[:500])
    (names["other"] / "classes.json").write_text('["ant", "bee"]')
    names["empty"].mkdir()
    (tmp_path / "text.jpg").write_text("text")
    names |= {"run": runs / "resize", "text": tmp_path / "text.jpg"}
    names["photo"] = next((photos / "validation" / "table").glob("*.jpg"))
    got, out, err = predict(*words.format(**names).split())
    assert (got, out) == (code, "")
    assert message.format(**names) in err
    assert len([line for line in err.splitlines() if not line.startswith(("usage:", " "))]) == 1
    assert not list(names["empty"].iterdir())


def test_nothing_is_written_when_all_fail(predict, runs, tmp_path):
    code, out, _ = predict(runs / "resize", Path(__file__), "--json", f"--output={tmp_path / 'found.csv'}")
    message = f"{__file__}: no image signature (not_an_image)"
    assert (code, json.loads(out)) == (1, {"error": {"type": "SourceError", "message": message, "exit_code": 1}})
    assert list(tmp_path.iterdir()) == []
