"""`irv2data convert --near_duplicates=report`: the file, the text and the JSON, and what it is refused beside."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import photographs
import pytest
from PIL import Image

from irv2data import Dataset
from irv2data.convert import verify
from irv2data.tools import main

FILE = "near_duplicates.json"


@pytest.fixture
def alone(serial, monkeypatch):
    """Conversions and searches in this process."""
    serial_run = importlib.import_module("irv2data.convert.run").run_local
    monkeypatch.setattr(importlib.import_module("irv2data.near_duplicates.search"), "run_local", serial_run)


@pytest.fixture
def command(alone, capsys):
    """`command("convert", ...)` in this process: exit code, standard output, standard error."""

    def run(*words):
        capsys.readouterr()
        code = main.run(main.parse(["irv2data", *map(str, words)]))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def source(tmp_path) -> Path:
    """Four photographs of two classes in two splits; two of them are one, once small and once large."""
    places = {
        "train/cats/chelsea.jpg": ("skimage:chelsea.png", 400, 90),
        "train/people/astronaut.jpg": ("skimage:astronaut.png", 300, 90),
        "test/cats/small.jpg": ("skimage:chelsea.png", 200, 75),
        "test/people/rocket.jpg": ("skimage:rocket.jpg", 300, 90),
    }
    for name, (photograph, side, quality) in places.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(photographs.source_path(photograph)) as opened:
            image = opened.convert("RGB")
        image.thumbnail((side, side))
        image.save(path, quality=quality)
    return tmp_path / "source"


def report(folder: Path) -> dict:
    return json.loads((folder / FILE).read_text())


def test_the_report_lies_in_the_folder_and_is_no_part_of_the_dataset(command, source, tmp_path):
    out = tmp_path / "out"
    code, printed, errors = command("convert", source, out, "--near_duplicates=report")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[-2:] == [
        "images that look alike: 2 in 1 groups, 0 of them byte for byte, 1 across splits, 0 with different labels: "
        f"{out}/{FILE}",
        f"{report(out)['groups'][0]['largest_distance']:>4} of 64 bits: test/cats/small.jpg in test, "
        "train/cats/chelsea.jpg in train",
    ]
    found = report(out)
    assert found["fingerprint"] == Dataset(out).fingerprint
    (group,) = found["groups"]
    assert [(one["split"], one["source"], one["label"]) for one in group["members"]] == [
        ("test", "test/cats/small.jpg", "cats"), ("train", "train/cats/chelsea.jpg", "cats")
    ]  # fmt: skip
    assert (group["leak"], group["conflict"], group["contents"]) == (True, False, 2)
    assert group["largest_distance"] <= found["counts"]["distance"] == 8
    assert verify(str(out), deep=True) == []
    # The same dataset without it, and the same file of the same sources.
    assert command("convert", source, tmp_path / "plain")[0] == 0
    assert not (tmp_path / "plain" / FILE).exists()
    assert Dataset(tmp_path / "plain").fingerprint == found["fingerprint"]
    first = (out / FILE).read_bytes()
    assert command("convert", source, out, "--overwrite", "--near_duplicates=report")[0] == 0
    assert (out / FILE).read_bytes() == first
    assert command("convert", source, out, "--overwrite")[0] == 0
    assert not (out / FILE).exists()


def test_json_has_the_counts(command, source, tmp_path):
    code, printed, _ = command("convert", source, tmp_path / "out", "--near_duplicates=report", "--json")
    told = json.loads(printed)
    assert code == 0
    assert told["near_duplicates"] == report(tmp_path / "out")["counts"] == {
        "distance": 8, "records": 4, "groups": 1, "members": 2, "exact": 0, "leaks": 1, "conflicts": 0, "flat": 0,
        "damaged": 0,
    }  # fmt: skip
    assert told["sources"] == told["rejected"] + told["dropped"] + sum(s["records"] for s in told["splits"].values())
    _, printed, _ = command("convert", source, tmp_path / "plain", "--json")
    assert set(told) - set(json.loads(printed)) == {"near_duplicates"}


def test_an_append_looks_at_all_records_and_an_old_report_goes(command, source, tmp_path):
    out = tmp_path / "out"
    assert command("convert", source, out)[0] == 0
    # Nothing new: only the report is made.
    manifest = (out / "dataset.json").read_bytes()
    code, printed, _ = command("convert", source, out, "--append", "--near_duplicates=report", "--json")
    assert (code, json.loads(printed)["near_duplicates"]["groups"]) == (0, 1)
    assert (out / "dataset.json").read_bytes() == manifest
    with Image.open(source / "train/people/astronaut.jpg") as image:
        image.save(source / "test/people/again.jpg", quality=60)
    assert command("convert", source, out, "--append")[0] == 0
    assert not (out / FILE).exists()  # it told of fewer records
    assert command("convert", source, out, "--append", "--near_duplicates=report")[0] == 0
    groups = [[one["source"] for one in group["members"]] for group in report(out)["groups"]]
    assert sorted(groups) == [
        ["test/cats/small.jpg", "train/cats/chelsea.jpg"], ["test/people/again.jpg", "train/people/astronaut.jpg"]
    ]  # fmt: skip
    assert report(out)["fingerprint"] == Dataset(out).fingerprint


def test_flat_images_and_none_alike_are_told(command, source, tmp_path):
    shutil.rmtree(source / "test" / "cats")
    Image.fromarray(np.full((40, 60, 3), 77, np.uint8)).save(source / "train" / "cats" / "blank.png")
    code, printed, _ = command("convert", source, tmp_path / "out", "--near_duplicates=report")
    assert code == 0
    assert printed.splitlines()[-2:] == [
        f"images that look alike: none of 4: {tmp_path}/out/{FILE}",
        "  1 images have hardly any contrast and were compared byte for byte only",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("out", "--dry_run"), "near_duplicates=report looks at what a conversion wrote; --dry_run writes nothing"),
        (("out", "--advise"), "near_duplicates=report looks at what a conversion wrote; --advise writes nothing"),
        (
            ("s3://bucket/out",),
            "s3://bucket/out: near_duplicates=report would fetch every shard again; write to a local",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused_before_any_work(command, source, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, printed, errors = command("convert", source, *words, "--near_duplicates=report")
    assert (code, printed) == (2, "")
    assert errors.startswith(f"irv2data convert: {message}")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_imagehash_nothing_is_converted(command, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    code, _, errors = command("convert", source, tmp_path / "out", "--near_duplicates=report")
    assert (code, errors) == (
        2, "irv2data convert: near duplicates need the 'report' extra: pip install 'irv2data[report]'\n"
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_signal_meanwhile_leaves_the_finished_dataset(command, source, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("irv2data.near_duplicates.search"), "run_local", interrupted)
    out = tmp_path / "out"
    code, _, errors = command("convert", source, out, "--near_duplicates=report")
    assert (code, errors) == (
        75,
        "irv2data convert: interrupted; the dataset is finished, and what looks alike was not written; "
        f"--append --near_duplicates=report looks again: {out}\n",
    )
    assert verify(str(out), deep=True) == []
    assert not (out / FILE).exists()
    assert not (out / ".convert").exists()
