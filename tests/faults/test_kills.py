"""`kill -9` at any moment leaves no dataset or a whole one, and going on ends as if nothing had been killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from faulty import (
    CONFIG,
    HERE,
    OPTIONS,
    PATIENCE,
    command,
    inodes,
    kill,
    make_source,
    payloads,
    spawn,
    start,
    tree,
    wait_until,
)

from irv2data import Dataset
from irv2data.convert import convert, verify
from irv2data.errors import DatasetError

NO_DATASET = (
    "OUT: not a dataset, it has no dataset.json; make one with `irv2data convert`, "
    "or finish an interrupted conversion with --resume"
)
NOTHING = "OUT: is a finished dataset, there is nothing to resume; --overwrite replaces it"


@pytest.fixture(scope="module")
def killed():
    """`killed(scenario)`: what came of a kill before each change to the file system."""
    memory = "/dev/shm"  # where a few hundred small trees take seconds; any folder would do
    root = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    drivers = {}
    for scenario in ("convert", "overwrite", "append", "repair"):  # side by side
        (root / scenario).mkdir()
        drivers[scenario] = spawn([sys.executable, str(HERE / "killed.py"), scenario, str(root / scenario)])

    def run(scenario: str) -> list[dict]:
        printed, errors = drivers[scenario].communicate(timeout=PATIENCE * 3)
        assert (drivers[scenario].returncode, errors) == (0, "")
        return json.loads(printed)

    yield run
    for driver in drivers.values():
        kill(driver)
    shutil.rmtree(root)


def states(runs: list[dict]) -> list[str]:
    """The different states in their order; each must come in one piece."""
    found = [run["state"] for number, run in enumerate(runs) if not number or runs[number - 1]["state"] != run["state"]]
    assert len(set(found)) == len(found)
    return found


def test_a_conversion(killed):
    runs = killed("convert")
    nothing = "OUT: no such folder; make a dataset with `irv2data convert SOURCE OUT`"
    assert [state for state in states(runs) if state not in ("before", nothing)] == [NO_DATASET, "after"]
    assert all(run["equal"] and run["kept"] for run in runs)
    assert {run["finished"] for run in runs} >= {0, 1, 2, 3, 4, 5}
    # Only with the very last changes is nothing left that tells of a conversion to go on with.
    assert {run["refused"] for run in runs if run["state"] != "after"} == {""}
    assert {run["refused"] for run in runs} == {"", NOTHING}
    assert len(runs) > 80


def test_an_overwrite(killed):
    runs = killed("overwrite")
    assert states(runs) == ["before", NO_DATASET, "after"]
    assert all(run["equal"] and run["kept"] for run in runs)
    assert {run["refused"] for run in runs if run["state"] == NO_DATASET} == {""}
    assert {run["finished"] for run in runs} >= {0, 1, 2, 3, 4, 5}


def test_an_append(killed):
    runs = killed("append")
    assert states(runs) == ["before", "after"]
    assert all(run["equal"] and run["kept"] and not run["refused"] for run in runs)
    assert {run["finished"] for run in runs} >= {0, 1, 2}


def test_a_repair(killed):
    runs = killed("repair")
    first, between, last = states(runs)
    assert (first, last) == ("before", "after")
    assert between.startswith("OUT/train-00000-of-00003.tfrecord: has ")  # never opens as if it were sound
    assert all(run["equal"] and run["originals"] and not run["refused"] for run in runs)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, Path]:
    """A source of 60 images, one shard for each few of them, and the dataset of it."""
    folder = tmp_path_factory.mktemp("large")
    make_source(folder / "source", 60)
    convert(folder / "source", folder / "dataset", CONFIG, workers=2)
    return folder / "source", folder / "dataset"


def finished(out: Path) -> set[str]:
    """Names of the shards that `--resume` may keep."""
    return {path.name.removesuffix(".npz") for path in out.glob(".convert/[!.]*.npz")} if out.exists() else set()


@pytest.mark.parametrize(("shards", "group"), [(0, True), (3, False), (9, True)])
def test_a_real_conversion_killed_at_so_many_shards(large, tmp_path, shards, group):
    source, whole = large
    out = tmp_path / "out"
    process = start("convert", source, out, *OPTIONS, "--workers=2")
    wait_until(lambda: (out / ".convert" / "lock").exists() and len(finished(out)) >= shards, process)
    if group:
        kill(process)
    else:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)  # ends when no worker holds the pipes: they die with their parent
    with pytest.raises(DatasetError, match=r"not a dataset, it has no dataset\.json"):
        Dataset(out)
    kept = {name: inode for name, inode in inodes(out).items() if name in finished(out)}
    assert len(kept) >= shards
    code, printed, errors = command("convert", source, out, *OPTIONS, "--workers=2", "--resume", "--json")
    assert (code, errors) == (0, "")
    assert json.loads(printed)["sources"] == 60
    assert tree(out) == tree(whole)
    assert kept.items() <= inodes(out).items()


def test_a_real_append_killed_in_its_middle(large, tmp_path):
    source, _ = large
    small = make_source(tmp_path / "small", 12)
    convert(small, tmp_path / "out", CONFIG, workers=1)
    out, whole = tmp_path / "out", Path(shutil.copytree(tmp_path / "out", tmp_path / "whole"))
    before = payloads(out)
    assert command("convert", source, whole, *OPTIONS, "--append")[0] == 0
    process = start("convert", source, out, *OPTIONS, "--append")
    wait_until(lambda: len(finished(out)) >= 3, process)
    kill(process)
    assert payloads(out) == before
    assert verify(str(out), deep=True, workers=1) == []
    kept = {name: inode for name, inode in inodes(out).items() if name in finished(out)}
    assert command("convert", source, out, *OPTIONS, "--resume")[::2] == (
        2,
        f"irv2data convert: {out}: it is an append that was interrupted; --append again goes on\n",
    )
    code, printed, errors = command("convert", source, out, *OPTIONS, "--append", "--json")
    assert (code, errors) == (0, "")
    report = json.loads(printed)
    assert (report["sources"], report["added"], report["present"]) == (60, 48, 12)
    assert tree(out) == tree(whole)
    assert kept.items() <= inodes(out).items()


def test_an_append_of_other_sources_drops_what_a_killed_one_wrote(serial, large, folder, tmp_path):
    source, _ = large
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    other = make_source(tmp_path / "other", 6, first=500)
    convert(other, whole, CONFIG, append=True)
    process = start("convert", source, folder, *OPTIONS, "--append", "--workers=1")
    wait_until(lambda: len(finished(folder)) >= 2, process)
    kill(process)
    convert(other, folder, CONFIG, append=True)
    assert tree(folder) == tree(whole)


@pytest.mark.parametrize("source_is", ["gone", "changed"])
def test_a_commit_that_only_lacks_its_tidying_up_needs_no_source(serial, folder, sound, tmp_path, source_is):
    there = inodes(folder, "*")
    (folder / ".convert").mkdir()
    (folder / ".convert" / "plan.json").write_text('{"digest": "1", "clearing": false, "appended": 0}')
    (folder / ".convert" / "train-00000-of-00007.tfrecord.npz").write_bytes(b"")
    (folder / "index-append1").mkdir()
    if source_is == "changed":
        make_source(tmp_path / "source", 3, first=700)
    report = convert(tmp_path / "source", folder, CONFIG, resume=True)
    assert tree(folder) == tree(sound)
    assert inodes(folder, "*") == there
    records = sum(split["records"] for split in report.splits.values())
    assert (report.sources, report.rejected, report.dropped, report.added) == (26, 1, 1, 24)
    assert (records, report.rejects, report.classes, report.over_budget) == (24, {"not_an_image": 1}, 3, False)
