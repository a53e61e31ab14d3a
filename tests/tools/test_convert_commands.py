"""The commands convert, verify and info: exit codes, one JSON object on standard output, one line on standard error."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irv2data import Dataset
from irv2data.convert import ConvertConfig, convert
from irv2data.tools import main


@pytest.fixture
def source(tmp_path) -> Path:
    """Two classes of five images each, and one text that is named as an image."""
    for number in range(10):
        folder = tmp_path / "source" / ("ant", "bee")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    (tmp_path / "source" / "ant" / "text.jpg").write_text("text")
    return tmp_path / "source"


@pytest.fixture
def command(serial, capsys):
    """`command("convert", ...)` in this process: exit code, standard output, standard error."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words):
        capsys.readouterr()
        try:
            code = main.run(main.parse(["irv2data", *map(str, words)]))
        except SystemExit as stop:  # of the argument parser
            code = stop.code
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)


def process(*words, **options) -> subprocess.Popen:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    arguments = [sys.executable, "-m", "irv2data.tools.main", *map(str, words)]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_convert_verify_and_info_as_processes(source, tmp_path):
    out = tmp_path / "out"
    done = process("convert", source, out, "--json", "--workers=2", "--max_bad_fraction=0.5")
    printed, errors = done.communicate()
    assert (done.returncode, errors) == (0, "")
    report = json.loads(printed)
    assert {"dataset", "sources", "rejected", "dropped", "splits", "seconds"} <= report.keys()
    assert (report["dataset"], report["sources"], report["rejected"], report["dropped"]) == (str(out), 11, 1, 0)
    assert all(split.keys() == {"records", "shards", "bytes"} for split in report["splits"].values())
    assert report["sources"] == report["rejected"] + sum(split["records"] for split in report["splits"].values())
    assert report["seconds"] > 0

    shard = Path(Dataset(out).split("train").paths[0])
    data = shard.read_bytes()
    shard.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    done = process("verify", out, "--deep", "--json")
    printed, errors = done.communicate()
    assert (done.returncode, errors) == (1, "")
    (problem,) = json.loads(printed)["problems"]
    assert (problem["file"], problem["record"], sorted(problem)) == (shard.name, 0, ["file", "reason", "record"])


def test_text_output_of_convert(command, source, tmp_path):
    code, printed, errors = command("convert", source, tmp_path / "out")
    assert (code, errors) == (3, "")  # one reject among eleven is over the default budget of 5 %
    lines = printed.splitlines()
    assert lines[0].split() == ["split", "records", "shards", "size"]
    assert lines[3].startswith("11 sources in 2 classes: 1 rejected, 0 dropped as duplicates; ")
    assert lines[4].split(maxsplit=1) == ["10", "compressed image data untouched, metadata removed"]
    assert lines[-4:] == [
        f"rejects: 1 not_an_image; which and why: {tmp_path / 'out'}/rejects.jsonl",
        "note: no records in validation",
        "rejects: 9.1% of the sources, more than --max_bad_fraction; exit code 3, the rest is usable",
        f"dataset written: {tmp_path / 'out'}",
    ]
    assert command("verify", tmp_path / "out", "--deep") == (0, "sound\n", "")


def test_every_flag_reaches_the_conversion(command, source, tmp_path):
    flags = {
        "splits": "a=0.5,b=0.5",
        "shard_mib": 0.002,
        "max_short_side": 16,
        "quality": 50,
        "seed": 3,
        "duplicates": "drop",
        "on_error": "reject",
        "max_bad_fraction": 0.5,
        "max_megapixels": 0.00082,  # of 30 x 20 to 30 x 29 pixels, all but the two largest
        "labels": "class",
        "path_column": "place",
        "label_separator": ";",
        "image_root": "elsewhere",
        "shrink_megapixels": 5.0,
        "png": "auto",
        "background": "1,2,3",
        "decode_seconds": 50.0,
        "worker_mib": 1000,
    }
    switches = {"exact_splits": True, "follow_links": True}
    words = [*(f"--{name}={value}" for name, value in flags.items()), *(f"--{name}" for name in switches)]
    code, printed, _ = command("convert", source, tmp_path / "out", "--json", *words)
    assert (code, json.loads(printed)["rejected"]) == (0, 3)
    dataset = Dataset(tmp_path / "out")
    values = {
        **flags,
        **switches,
        "label_depth": 1,
        "label_column": "",
        "splits": (("a", 0.5), ("b", 0.5)),
        "background": (1, 2, 3),
    }
    assert dataset.source["options"] == json.loads(json.dumps(values))
    assert {name for name in values if values[name] == getattr(ConvertConfig(), name)} == {
        "label_column",
        "label_depth",
        "on_error",
    }
    sizes = [split.column(side) for split in dataset.splits.values() for side in ("height", "width")]
    assert min(np.concatenate(sizes)) == 16
    convert(source, tmp_path / "api", ConvertConfig(**values))
    assert Dataset(tmp_path / "api").fingerprint == dataset.fingerprint


def test_dry_run_overwrite_and_on_error(command, source, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = command("convert", source, out, "--dry_run")
    assert (code, printed.splitlines()[-1], out.exists()) == (0, f"dataset would be written: {out}", False)
    assert command("convert", source, out, "--on_error=fail")[0] == 1
    assert command("convert", source, out, "--overwrite", "--max_bad_fraction=1")[0] == 0
    assert command("convert", source, out)[0] == 2
    assert command("convert", source, out, "--overwrite")[0] == 3


@pytest.mark.parametrize(
    ("words", "code", "kind", "message"),
    [
        (
            ["convert", "{tmp}/missing", "{tmp}/out"],
            1,
            "SourceError",
            "{tmp}/missing: no such folder; SOURCE is a folder",
        ),
        (["convert", "{tmp}/source", "{tmp}/source/out"], 2, "UsageError", "{tmp}/source/out: lies inside the source"),
        (["convert", "{tmp}/source", "{tmp}/file"], 2, "UsageError", "{tmp}/file: is a file; DATASET is a folder to"),
        (["convert", "{tmp}/source", "{tmp}/file/out"], 1, "DatasetError", "{tmp}/file/out"),
        (["convert", "{tmp}/source", "{tmp}"], 2, "UsageError", "{tmp}: is not empty and no dataset of irv2data"),
        (["convert", "{tmp}/source", "{tmp}/out", "--quality=0"], 2, "UsageError", "quality must be between 1 and 100"),
        (["convert", "{tmp}/source", "{tmp}/out", "--splits=a"], 2, "UsageError", "splits must look like train=0.9"),
        (["convert", "{tmp}/source", "{tmp}/out", "--splits=a=1,b=x"], 2, "UsageError", "splits must look like train"),
        (["convert", "{tmp}/source", "{tmp}/out", "--workers=-1"], 2, "UsageError", "workers must be 0 (all cores) or"),
        (
            ["convert", "{tmp}/source", "{tmp}/out", "--on_error=fail"],
            1,
            "SourceError",
            "{tmp}/source/ant/text.jpg: not",
        ),
        (
            ["convert", "{tmp}/source", "{tmp}/out", "--resume", "--overwrite"],
            2,
            "UsageError",
            "overwrite removes what",
        ),
        (["verify", "{tmp}/missing"], 1, "DatasetError", "{tmp}/missing: no such folder; make a dataset with"),
        (["verify", "{tmp}/source"], 1, "DatasetError", "{tmp}/source: not a dataset, it has no dataset.json"),
        (["info", "{tmp}/source"], 1, "DatasetError", "{tmp}/source: not a dataset, it has no dataset.json"),
        (["info", "{tmp}/file"], 1, "DatasetError", "{tmp}/file: no such folder"),
    ],
)
def test_every_error_is_one_line_and_one_object(command, source, tmp_path, words, code, kind, message):
    (tmp_path / "file").write_text("x")
    words = [word.format(tmp=tmp_path) for word in words]
    message = message.format(tmp=tmp_path)
    assert_error(command(*words), words[0], code, message, printed="")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)  # what was begun in it
    found, printed, errors = command(*words, "--json")
    error = json.loads(printed)
    assert error.keys() == {"error"}
    assert (error["error"]["type"], error["error"]["exit_code"]) == (kind, code)
    assert_error((found, printed, errors), words[0], code, error["error"]["message"], printed=printed)


def assert_error(result, command, code, message, printed) -> None:
    assert result[:2] == (code, printed)
    assert result[2].startswith(f"irv2data {command}: {message}")
    assert result[2].count("\n") == 1


@pytest.mark.parametrize(
    "words", [["convert"], ["convert", "a", "b", "--nonsense"], ["verify", "a", "b"], ["nonsense"]]
)
def test_a_wrong_command_line_exits_2(command, words):
    code, printed, errors = command(*words)
    assert (code, printed) == (2, "")
    assert errors.startswith("usage: irv2data")


def test_verify_prints_one_line_a_problem_with_names_made_printable(command, source, tmp_path):
    out = tmp_path / "out"
    command("convert", source, out)
    shards = [path.name for path in out.glob("*.tfrecord")]
    for name in shards:
        (out / name).unlink()
    code, printed, _ = command("verify", out)
    assert (code, printed.splitlines()) == (
        1,
        [
            *(f"{name}: missing" for name in sorted(shards)),
            "problems: 2; --repair keeps what can be read and names what is lost",
        ],
    )
    found = json.loads(command("verify", out, "--json")[1])
    problems = [{"file": name, "record": None, "reason": "missing"} for name in sorted(shards)]
    assert found == {"sound": False, "problems": problems}


def test_verify_of_a_sound_dataset(command, dataset):
    assert command("verify", dataset.folder, "--json")[:2] == (0, '{"sound": true, "problems": []}\n')


def test_info_counts(command, dataset):
    code, printed, _ = command("info", dataset.folder, "--json")
    info = json.loads(printed)
    assert (code, info["fingerprint"], info["classes"]) == (0, dataset.fingerprint, list(dataset.classes))
    for name, split in dataset.splits.items():
        counted = info["splits"][name]
        assert (counted["records"], counted["shards"]) == (split.num_records, len(split.shards))
        assert counted["bytes"] == sum(os.path.getsize(path) for path in split.paths)
        assert counted["labels"] == np.bincount(split.column("label"), minlength=5).tolist()
        formats = np.bincount(split.column("format"), minlength=3).tolist()
        assert list(counted["formats"].items()) == list(zip(["baseline", "progressive", "png"], formats, strict=True))
        assert min(formats[0], formats[2]) > 0
        height = np.array(split.column("height"))
        assert counted["height"] == {"least": height.min(), "median": int(np.median(height)), "most": height.max()}
    text = command("info", dataset.folder)[1]
    assert text.startswith(f"{dataset.folder}  ({dataset.fingerprint[:16]})\n")
    assert "180 sources, 0 rejected, 0 dropped" in text


def test_names_that_are_not_utf8_are_printed(command, source, tmp_path):
    os.mkdir(os.fsencode(source) + b"/caf\xe9\n")
    shutil.copy(source / "ant" / "0.jpg", os.fsencode(source) + b"/caf\xe9\n/1.jpg")
    out = tmp_path / "out"
    code, printed, _ = command("convert", source, out, "--json")
    assert (code, json.loads(printed)["classes"]) == (3, 3)
    assert json.loads(command("info", out, "--json")[1])["classes"] == ["ant", "bee", "caf\udce9\n"]
    text = command("info", out)[1]
    text.encode("utf-8")
    assert "caf\\udce9\\n" in text
    assert command("verify", out, "--deep")[:2] == (0, "sound\n")


@pytest.fixture(scope="module")
def slow_source(tmp_path_factory) -> Path:
    """24 different files of one image that takes a while to shrink."""
    folder = tmp_path_factory.mktemp("slow") / "source"
    (folder / "ant").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    Image.fromarray(pixels).resize((1600, 1200)).save(folder / "ant" / "0.jpg", quality=80)
    for number in range(1, 24):
        (folder / "ant" / f"{number}.jpg").write_bytes((folder / "ant" / "0.jpg").read_bytes() + bytes([number]))
    return folder


SLOW = ("--shard_mib=0.001", "--max_short_side=1100", "--quality=60")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_can_be_resumed(command, slow_source, tmp_path, sent):
    out = tmp_path / "a" / "out"
    running = process("convert", slow_source, out, "--json", "--workers=1", *SLOW)
    while running.poll() is None and not list(out.glob(".convert/*.npz")):
        pass
    running.send_signal(sent)
    printed, errors = running.communicate()
    assert running.returncode == 75
    error = json.loads(printed)["error"]
    assert (error["type"], error["exit_code"]) == ("InterruptedRunError", 75)
    assert errors == f"irv2data convert: {error['message']}\n"
    assert not (out / "dataset.json").exists()
    assert not list(out.rglob("*.partial"))
    kept = {
        path: path.stat().st_ino for path in out.glob("*.tfrecord") if (out / ".convert" / f"{path.name}.npz").exists()
    }
    assert 1 <= len(kept) < 24
    assert command("verify", out)[0] == 1
    assert command("convert", slow_source, out, *SLOW)[0] == 2
    assert command("convert", slow_source, out, "--resume", *SLOW, "--seed=1")[0] == 1
    assert command("convert", slow_source, out, "--resume", *SLOW)[0] == 0
    assert {path: path.stat().st_ino for path in kept} == kept
    count = f"{len(kept)} of {len(list(out.glob('*.tfrecord')))}"
    assert error["message"] == (
        f"interrupted; finished shards are kept, go on with --resume ({count} are written): {out}"
    )
    assert command("convert", slow_source, tmp_path / "b" / "out", *SLOW)[0] == 0
    for path in (tmp_path / "b" / "out").rglob("*.*"):
        assert (out / path.relative_to(tmp_path / "b" / "out")).read_bytes() == path.read_bytes()
    assert not (out / ".convert").exists()


def test_a_full_disk_is_one_line_and_leaves_no_dataset(source, tmp_path):
    limit = (8192, 8192)  # bytes a file: less than a shard has, and a page more than the memory that workers share
    words = ("convert", source, tmp_path / "out", "--json", "--workers=1")
    done = process(*words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    printed, errors = done.communicate()
    assert done.returncode == 1
    error = json.loads(printed)["error"]
    assert error["message"] == f"{tmp_path / 'out'}: cannot be written (File too large); --resume goes on"
    assert errors == f"irv2data convert: {error['message']}\n"
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))
