"""The commands bench and train: how each wrong use ends in one line and its exit code; and train's own flags."""

from __future__ import annotations

import json
import shutil

import pytest

from irv2data import Augment
from irv2data.tools import main
from irv2data.tools.common import parse_augment
from tests.tools.calls import call


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (
            "train {missing} {run}",
            1,
            "{missing}: no such folder; make a dataset with `irv2data convert SOURCE {missing}`",
        ),
        ("bench {empty}", 1, "{empty}: not a dataset, it has no dataset.json; make one with `irv2data convert`"),
        ("train {dataset} {run} --split=tset", 2, "{dataset} has no split 'tset'; it has train, validation"),
        ("train {dataset} {run} --validation_split=x", 2, "{dataset} has no split 'x'; it has train, validation"),
        (
            "train {dataset} {run} --replicas=2 --batch_size=33",
            2,
            "batch_size 33 is not divisible by 2 replicas; use 32 or 34",
        ),
        ("train {dataset} {run} --replicas=3 --batch_size=2", 2, "batch_size 2 is not divisible by 3 replicas; use 3"),
        ("train {dataset} {run} --batch_size=500", 1, "has 120 records, a batch needs 500; use a smaller batch_size"),
        (
            "train {dataset} {run} --image_size=60",
            2,
            "sizes must be at least 75 for Inception-ResNet-v2, got (60, 60)",
        ),
        ("train {dataset} {run} --image_size=large", 2, "an image size is 299 or HEIGHTxWIDTH, got 'large'"),
        ("train {dataset} {run} --weights={missing}", 1, "{missing}: no such weights file"),
        ("train {dataset} {file} --weights=none", 2, "{file}: is a file; RUN is a folder to make"),
        ("train {dataset} {dataset} --weights=none", 2, "{dataset}: is not empty and no run of irv2data"),
        ("train {dataset} {run} --seed=5000000000", 2, "seed must be between 0 and 2**32 - 1, got 5000000000"),
        ("bench {dataset} --seconds=nan", 2, "rounds and seconds must be positive, got 5 and nan"),
        ("bench {dataset} --split=none", 2, "{dataset} has no split 'none'; it has train, validation"),
        ("bench {dataset} --rounds=0", 2, "rounds and seconds must be positive, got 0 and 2.0"),
        ("bench {dataset} --batch_size=0", 2, "batch_size must be 1 or more, got 0"),
        ("bench {dataset} --fit=stretch", 2, "invalid choice: 'stretch'"),
        ("bench", 2, "the following arguments are required: DATASET"),
    ],
)
def test_wrong_use_is_one_line(capsys, dataset, tmp_path, command, code, message):
    names = {
        "dataset": dataset.folder,
        "missing": tmp_path / "missing",
        "empty": tmp_path / "empty",
        "run": tmp_path / "run",
        "file": tmp_path / "file",
    }
    names["empty"].mkdir()
    names["file"].touch()
    words = [word.format(**names) for word in command.split()]
    got, out, err = call(capsys, *words)
    assert got == code
    assert message.format(**names) in err
    assert out == ""
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if not line.startswith(("usage:", " "))]) == 1


def test_errors_as_json(capsys, tmp_path):
    code, out, _ = call(capsys, "train", str(tmp_path / "missing"), str(tmp_path / "run"), "--json")
    error = json.loads(out)["error"]
    assert code == error["exit_code"] == 1
    assert error["type"] == "DatasetError"
    assert str(tmp_path / "missing") in error["message"]


def test_wrong_flags_as_json(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["irv2data", "bench", "--json"])
    code, out, err = call(capsys, "bench", "--json")
    assert code == 2
    assert json.loads(out)["error"] == {
        "type": "UsageError",
        "message": "the following arguments are required: DATASET",
        "exit_code": 2,
    }
    assert "usage: irv2data bench" in err


def test_help_names_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(name in out for name in main.COMMANDS)


@pytest.mark.parametrize(
    "command", ["bench {0} --image_size=32 --batch_size=8 --rounds=1", "train {0} {1} --weights=none"]
)
def test_a_damaged_shard_is_one_line(capsys, dataset, tmp_path, command):
    copy = tmp_path / "copy"
    shutil.copytree(dataset.folder, copy)
    for shard in dataset.splits["train"].shards:
        damaged = bytearray((copy / shard.file).read_bytes())
        damaged[200] ^= 1
        (copy / shard.file).write_bytes(damaged)
    words = command.format(copy, tmp_path / "run").split()
    words += ["--image_size=75", "--batch_size=8"] if words[0] == "train" else []
    code, out, err = call(capsys, *words)
    assert (code, out) == (1, "")
    assert f"{copy}: a record cannot be read (" in err
    assert f"`irv2data verify --deep {copy}` says which" in err
    assert "Traceback" not in err


def test_a_failed_run_leaves_the_finished_one(capsys, dataset, tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    code, _, err = call(
        capsys, "train", str(dataset.folder), str(tmp_path), "--overwrite", "--weights=/nowhere.h5", "--batch_size=8"
    )
    assert (code, "no such weights file" in err) == (1, True)
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_a_wrong_flag_of_absl_is_a_usage_error(capsys, dataset):
    code, out, err = call(capsys, "info", str(dataset.folder), "--verbosity=loud")
    assert (code, out) == (2, "")
    assert "verbosity" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("rotate=15", Augment(rotate=15.0)),
        (
            "translate=0.1,fill_mode=reflect,rand_layers=2,mixup=0.2",
            Augment(translate=0.1, fill_mode="reflect", rand_layers=2, mixup=0.2),
        ),
    ],
)
def test_augment_flag(text, expected):
    assert parse_augment(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("turn=3", "augment has no 'turn'; it has translate, rotate"),
        ("rotate", "augment: rotate must be a number, got ''"),
        ("rotate=fast", "augment: rotate must be a number, got 'fast'"),
        ("rand_layers=1.5", "augment: rand_layers must be a number, got '1.5'"),
        ("rotate=500", "rotate must be a number between 0.0 and 180.0, got 500.0"),
        ("fill_mode=wrap", "fill_mode must be one of nearest, reflect, constant, got 'wrap'"),
    ],
)
def test_bad_augment_flags_end_in_one_line(capsys, dataset, tmp_path, text, message):
    code, out, err = call(capsys, "train", str(dataset.folder), str(tmp_path / "run"), f"--augment={text}")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
