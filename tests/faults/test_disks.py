"""A disk that is full or read-only: one line, exit code 1, nothing half-written; with room again, --resume goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from faulty import CONFIG, OPTIONS, command, inodes, make_source, tree
from PIL import Image

from irv2data import Dataset
from irv2data.convert import convert, repair, verify
from irv2data.errors import DatasetError

LARGE = 40_000  # bytes, more or less, of the one large image of `heavy`


@pytest.fixture(scope="module")
def heavy(tmp_path_factory) -> tuple[Path, Path]:
    """A source whose last shard but one or so is large, and the dataset of it."""
    folder = tmp_path_factory.mktemp("heavy")
    source = make_source(folder / "source", 24)
    pixels = np.random.default_rng(0).integers(0, 255, (130, 130, 3), np.uint8)
    Image.fromarray(pixels).save(source / "cow" / "noise.png")
    assert (source / "cow" / "noise.png").stat().st_size > LARGE
    convert(source, folder / "dataset", CONFIG, workers=1)
    return source, folder / "dataset"


@pytest.fixture
def mounted(tmp_path):
    """`mounted(options)`: an empty file system in memory of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")

    def again(options: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
        return folder

    yield again
    subprocess.run(["umount", "-l", folder], check=True)


def resumes(source: Path, out: Path, whole: Path) -> None:
    """Nothing looks finished, no file is partial, and with room again the same dataset comes of it."""
    with pytest.raises(DatasetError, match=r"not a dataset, it has no dataset\.json"):
        Dataset(out)
    assert not list(out.rglob("*.partial"))
    finished = {path.name.removesuffix(".npz") for path in out.glob(".convert/*.npz")}
    kept = {name: where for name, where in inodes(out).items() if name in finished}
    assert kept
    assert command("convert", source, out, *OPTIONS, "--resume", "--workers=1")[::2] == (0, "")
    assert tree(out) == tree(whole)
    assert kept.items() <= inodes(out).items()


def test_a_limit_on_the_size_of_files(heavy, tmp_path):
    source, whole = heavy
    out = tmp_path / "out"
    limit = (LARGE // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    code, printed, errors = command(
        "convert", source, out, *OPTIONS, "--json", "--workers=1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    message = f"{out}: cannot be written (File too large); --resume goes on"
    assert (code, errors) == (1, f"irv2data convert: {message}\n")
    assert json.loads(printed) == {"error": {"type": "DatasetError", "message": message, "exit_code": 1}}
    resumes(source, out, whole)


def test_a_full_disk(heavy, mounted):
    source, whole = heavy
    out = mounted("size=80k") / "out"
    code, printed, errors = command("convert", source, out, *OPTIONS, "--workers=1")
    assert (code, printed) == (1, "")
    assert errors.startswith(f"irv2data convert: {out}")
    assert errors.endswith(": cannot be written (No space left on device); --resume goes on\n")
    assert errors.count("\n") == 1
    mounted("size=10m")
    resumes(source, out, whole)


def test_a_disk_without_room_for_anything(heavy, mounted):
    source, _ = heavy
    disk = mounted("size=4k")
    (disk / "fill").write_bytes(bytes(4096))
    code, printed, errors = command("convert", source, disk / "out", *OPTIONS, "--workers=1")
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert "cannot be written (No space left on device)" in errors
    assert not (disk / "out" / "dataset.json").exists()


@pytest.mark.parametrize("pages", [8, 24])  # full while shards are written, and while the index is
def test_a_disk_that_is_full_for_an_append_leaves_the_dataset_as_it_was(serial, mounted, tmp_path, pages):
    disk = mounted("size=10m")
    convert(make_source(tmp_path / "old", 6), disk / "out", CONFIG)
    more = make_source(tmp_path / "more", 30)
    before = tree(disk / "out")
    status = os.statvfs(disk)
    (disk / "fill").write_bytes(bytes((status.f_bavail - pages) * status.f_frsize))
    code, printed, errors = command("convert", more, disk / "out", *OPTIONS, "--append", "--workers=1")
    assert (code, printed) == (1, "")
    assert errors.endswith(": cannot be written (No space left on device); --append again goes on\n")
    assert {name: digest for name, digest in tree(disk / "out").items() if name in before} == before
    assert verify(str(disk / "out"), deep=True) == []
    (disk / "fill").unlink()
    convert(more, disk / "out", CONFIG, append=True)
    whole = tmp_path / "whole"
    convert(tmp_path / "old", whole, CONFIG)
    convert(more, whole, CONFIG, append=True)
    assert tree(disk / "out") == tree(whole)


def test_a_read_only_disk(serial, heavy, mounted, sound):
    source, _ = heavy
    disk = mounted("size=10m")
    shutil.copytree(sound, disk / "sound")
    shutil.copytree(sound, disk / "broken")
    next((disk / "broken").glob("*.tfrecord")).write_bytes(b"")
    disk = mounted("ro")
    for word in ((), ("--dry_run", "--overwrite")):
        if word:
            assert command("convert", source, disk / "sound", *OPTIONS, *word)[0] == 0
            continue
        code, printed, errors = command("convert", source, disk / "new", *OPTIONS)
        place = disk / "new"
        assert (code, printed) == (1, "")
        assert errors.startswith(f"irv2data convert: {place}")
        assert errors.endswith(": cannot be written (Read-only file system)\n")
    assert verify(str(disk / "sound"), deep=True) == []
    with pytest.raises(DatasetError, match=r"cannot be written \(Read-only file system\); repair again$"):
        repair(str(disk / "broken"))


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission(source, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    code, printed, errors = command("convert", source, tmp_path / "closed" / "out", *OPTIONS)
    assert (code, printed) == (1, "")
    assert errors.endswith(": cannot be written (Permission denied)\n")


def test_outputs_that_cannot_be_and_one_that_can(serial, source, sound, tmp_path):
    (tmp_path / "file").write_text("x")
    code, printed, errors = command("convert", source, tmp_path / "file" / "out", *OPTIONS)
    assert (code, printed, errors) == (
        1, "", f"irv2data convert: {tmp_path / 'file' / 'out'}: cannot be used (Not a directory)\n"
    )  # fmt: skip
    code, printed, errors = command("convert", source, tmp_path / "file", *OPTIONS)
    assert (code, printed) == (2, "")
    assert errors == f"irv2data convert: {tmp_path / 'file'}: is a file; DATASET is a folder to make\n"
    assert (tmp_path / "file").read_text() == "x"
    convert(source, tmp_path / "parents" / "are" / "made", CONFIG)
    assert tree(tmp_path / "parents" / "are" / "made") == tree(sound)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_output_that_cannot_be_printed(source, sound, tmp_path):
    with open("/dev/full", "w") as full:
        code, _, errors = command("convert", source, tmp_path / "out", *OPTIONS, "--json", stdout=full)
    assert (code, errors) == (
        1, "irv2data convert: output cannot be written (No space left on device)\n"
    )  # fmt: skip
    assert tree(tmp_path / "out") == tree(sound)  # that much was done before
    with open("/dev/full", "w") as full:
        code, printed, _ = command("verify", sound, "--json", stderr=full)
    assert (code, json.loads(printed)) == (0, {"sound": True, "problems": []})


def test_progress_that_fails_is_no_dataset(serial, source, tmp_path):
    def broken(stage: str, done: int, total: int | None) -> None:
        if stage == "converting" and done:
            raise OSError(28, os.strerror(28))

    with pytest.raises(DatasetError, match=r"cannot be written \(No space left on device\); --resume goes on"):
        convert(source, tmp_path / "out", CONFIG, progress=broken)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert not list(tmp_path.rglob("*.partial"))
