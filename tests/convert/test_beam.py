"""The engine `beam`: real pipelines, mostly in two worker processes, and the same bytes as the local engine's."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from irv2data import Dataset
from irv2data.convert import ConvertConfig, convert, run, survey
from irv2data.convert.verify import verify
from irv2data.errors import DatasetError, UsageError
from irv2data.tools import main

SHARDS = ConvertConfig(splits="folders", shard_mib=0.4)
PROCESSES = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
HERE = ("--runner=FnApiRunner",)  # the same runner in this process: no second of start-up
RETRYING = ("--runner=BundleBasedDirectRunner",)  # of Beam's local runners the one that tries a failed bundle again

# A module of its own, because workers import it.
WORK = """
import os
from pathlib import Path
from irv2data import storage
from irv2data.convert.writer import write_shard

NOTES = Path(os.environ["NOTES_OF_TEST_BEAM"])

def note(task):
    # Whether it is the first time, of the first two shards: a bundle that holds them all is tried four times at most.
    path = NOTES / os.path.basename(task.shard)
    first = not path.exists() and len(list(NOTES.iterdir())) < 2
    with path.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return first

def noted(task, marker):
    note(task)
    return write_shard(task, marker)

def until_one_is_finished(task, marker):
    if list(Path(task.result).parent.glob("*.npz")):
        raise OSError(28, "No space left on device")
    return write_shard(task, marker)

def fails_within(task, marker):
    if note(task):
        with storage.atomic_file(task.shard) as file:
            file.write(b"half")
            raise OSError(5, "Input/output error")
    return write_shard(task, marker)

def fails_behind(task, marker):
    first = note(task)
    result = write_shard(task, marker)
    if first:
        raise OSError(5, "Input/output error")
    return result

def nothing(task, marker):
    note(task)
"""


@pytest.fixture
def beam():
    """Apache Beam; where it is not installed (it needs an environment of its own), the test is skipped."""
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: make test-beam")
    return importlib.import_module("irv2data.convert.beam")


@pytest.fixture
def work(beam, serial, tmp_path, monkeypatch):
    """`work(name)` puts a function of `WORK` in the place of `write_shard`; its notes are in the folder returned."""
    (tmp_path / "work").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "work" / "work_of_test_beam.py").write_text(WORK)
    monkeypatch.setenv("NOTES_OF_TEST_BEAM", str(tmp_path / "notes"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "work"), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path / "work")
    sys.modules.pop("work_of_test_beam", None)

    def use(name: str) -> Path:
        monkeypatch.setattr(run, "write_shard", getattr(importlib.import_module("work_of_test_beam"), name))
        return tmp_path / "notes"

    return use


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> Path:
    """`photos` as the local engine converts them, in two worker processes."""
    folder = tmp_path_factory.mktemp("local") / "out"
    convert(photos, folder, SHARDS, workers=2)
    assert sum(len(split.shards) for split in Dataset(folder).splits.values()) > 5
    return folder


def differing(one: Path, other: Path) -> list[str]:
    """Names of the files, at any depth, that are not byte for byte the same in both folders."""
    first, second = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    )
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tfrecord"))


def versions(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each shard what changes when it is written again."""
    stats = {name: (folder / name).stat() for name in shards(folder)}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_the_comparison_sees_one_byte_a_stray_and_a_lost_file(expected, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(expected, copy)
    assert differing(expected, copy) == []
    content = bytearray((copy / shards(copy)[0]).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / shards(copy)[0]).write_bytes(content)
    (copy / "index" / "train" / ".label.npy.1.partial").touch()
    (copy / "rejects.jsonl").unlink()
    assert differing(expected, copy) == ["index/train/.label.npy.1.partial", "rejects.jsonl", shards(copy)[0]]


def test_two_worker_processes_give_the_bytes_of_the_local_engine(work, photos, expected, tmp_path, monkeypatch):
    notes = work("noted")
    monkeypatch.chdir(tmp_path)  # workers elsewhere have another one: no path may be relative to it
    steps = []
    report = convert(
        os.path.relpath(photos),
        "out",
        SHARDS,
        engine="beam",
        beam_options=PROCESSES,
        progress=lambda *step: steps.append(step),
    )
    assert differing(expected, tmp_path / "out") == []
    assert {name: split["records"] for name, split in report.splits.items()} == {"train": 120, "validation": 60}
    assert steps[-1] == ("converting", 180, 180)
    pids = {path.name: path.read_text().split() for path in notes.iterdir()}
    assert sorted(pids) == shards(expected)
    assert {len(of_shard) for of_shard in pids.values()} == {1}
    assert str(os.getpid()) not in {pid for of_shard in pids.values() for pid in of_shard}


def test_a_failed_pipeline_leaves_no_dataset_and_resume_goes_on(work, photos, expected, tmp_path):
    out = tmp_path / "out"
    work("until_one_is_finished")
    with pytest.raises(DatasetError) as failed:
        convert(photos, out, SHARDS, engine="beam", beam_options=PROCESSES)
    message = str(failed.value)
    assert message.startswith(f"{out}/")
    assert ".tfrecord: a Beam worker could not convert it ([Errno 28] No space left on device); finished" in message
    assert message.endswith("go on with --resume (an append: with --append)")
    with pytest.raises(DatasetError, match=r"it has no dataset\.json"):
        Dataset(out)
    kept = versions(out)
    assert 0 < len(kept) < len(shards(expected))
    notes = work("noted")
    convert(photos, out, SHARDS, engine="beam", beam_options=HERE, resume=True)
    assert differing(expected, out) == []
    assert sorted(path.name for path in notes.iterdir()) == sorted(set(shards(expected)) - kept.keys())
    assert kept.items() <= versions(out).items()


@pytest.mark.parametrize(("how", "repeated"), [("fails_within", 2), ("fails_behind", 0)])
def test_a_bundle_that_is_tried_again_leaves_nothing_twice(work, photos, expected, tmp_path, how, repeated):
    notes = work(how)
    convert(photos, tmp_path / "out", SHARDS, engine="beam", beam_options=RETRYING)
    assert differing(expected, tmp_path / "out") == []
    tries = {path.name: len(path.read_text().split()) for path in notes.iterdir()}
    assert tries.keys() == set(shards(expected))
    # A shard that failed within is written again; one whose result is there, whatever failed then, is not.
    assert sum(tries.values()) == len(tries) + repeated


def test_a_bundle_that_runs_twice_does_no_harm(work, photos, expected, tmp_path):
    notes = work("noted")
    again = "--direct_runner_bundle_repeat=1"
    convert(photos, tmp_path / "out", SHARDS, engine="beam", beam_options=(*HERE, again))
    assert differing(expected, tmp_path / "out") == []
    assert sorted(path.name for path in notes.iterdir()) == shards(expected)


@pytest.fixture
def cut(photos, tmp_path) -> Path:
    """`photos` with one JPEG cut in half: `train/.../cut.jpg`."""
    shutil.copytree(photos, tmp_path / "cut")
    whole = min((tmp_path / "cut" / "train").rglob("*.jpg"))
    (whole.parent / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return tmp_path / "cut"


def test_a_bad_source_ends_the_run_in_its_own_words_or_is_a_reject(beam, serial, cut, tmp_path):
    options = {"splits": "folders", "shard_mib": 0.4}
    fail, reject = (ConvertConfig(on_error=name, **options) for name in ("fail", "reject"))
    with pytest.raises(DatasetError, match=r"worker could not convert it .*cut\.jpg: truncated: .*--on_error=reject"):
        convert(cut, tmp_path / "out", fail, engine="beam", beam_options=HERE)
    assert not (tmp_path / "out" / "dataset.json").exists()
    report = convert(cut, tmp_path / "out", reject, engine="beam", beam_options=HERE, resume=True)
    assert (report.sources, report.rejected, report.rejects) == (181, 1, {"truncated": 1})
    convert(cut, tmp_path / "local", reject)
    assert differing(tmp_path / "local", tmp_path / "out") == []
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_an_append_adds_what_the_local_engine_adds(beam, serial, small_source, picture, tmp_path):
    shutil.copytree(small_source, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "local")
    shutil.copytree(tmp_path / "local", tmp_path / "out")
    picture(30, 50, 99).save(tmp_path / "source" / "ant" / "new.jpg")
    convert(tmp_path / "source", tmp_path / "local", append=True)
    report = convert(tmp_path / "source", tmp_path / "out", append=True, engine="beam", beam_options=HERE)
    assert (report.added, report.present) == (1, 24)
    assert differing(tmp_path / "local", tmp_path / "out") == []


def test_sources_and_dataset_may_be_uris(beam, serial, small_source, tmp_path):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.put(str(small_source), "/photographs", recursive=True)
    try:
        convert("memory://photographs", "memory://flowers", engine="beam", beam_options=HERE)
        memory.get("/flowers", str(tmp_path / "out"), recursive=True)
    finally:
        memory.store.clear()
    convert(small_source, tmp_path / "local")
    assert differing(tmp_path / "local", tmp_path / "out") == []


def test_workers_that_do_not_see_the_sources_reject_none_of_them(beam, serial, photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "source")
    real = survey.hash_sources

    def unmount(*listing, **rest):
        hashed = real(*listing, **rest)
        (tmp_path / "source").rename(tmp_path / "elsewhere")
        return hashed

    monkeypatch.setattr(survey, "hash_sources", unmount)
    with pytest.raises(DatasetError, match=rf"{tmp_path}/source: a worker does not see it; use a URI or a file system"):
        convert(tmp_path / "source", tmp_path / "out", SHARDS, engine="beam", beam_options=HERE)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_pipeline_that_ends_without_its_shards_is_no_success(work, photos, expected, tmp_path):
    work("nothing")
    with pytest.raises(
        DatasetError, match=r"00000-of-.*: the pipeline ended without it; do its workers write to anoth"
    ):
        convert(photos, tmp_path / "out", SHARDS, engine="beam", beam_options=HERE)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_an_interrupted_pipeline_is_cancelled(beam):
    class Running:
        cancelled = False

        def run(self):
            return self

        def wait_until_finish(self):
            raise KeyboardInterrupt

        def cancel(self):
            self.cancelled = True

    running = Running()
    with pytest.raises(KeyboardInterrupt):
        beam._run(running)
    assert running.cancelled


@pytest.mark.parametrize(
    ("options", "runner"),
    [
        ((), "SwitchingDirectRunner"),
        (("--direct_running_mode=multi_processing",), "FnApiRunner"),
        (PROCESSES, "FnApiRunner"),
        (("--runner=PrismRunner", "--direct_running_mode=multi_threading"), "PrismRunner"),
        (("--runner", "FlinkRunner", "--parallelism=8"), "FlinkRunner"),
        (("--runner=SparkRunner",), "SparkRunner"),
    ],
)
def test_options_reach_the_runner_that_they_name(beam, options, runner):
    from apache_beam.options.pipeline_options import DirectOptions, FlinkRunnerOptions

    pipeline = beam.new_pipeline(options)
    assert type(pipeline.runner).__name__ == runner
    assert pipeline.options.view_as(DirectOptions).direct_num_workers == (2 if options == PROCESSES else 1)
    assert pipeline.options.view_as(FlinkRunnerOptions).parallelism == (8 if "--parallelism=8" in options else -1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--runner=Nobody", "beam_options: Unexpected pipeline runner: Nobody. Valid values are "),
        ("--runner=os.nothing", "beam_options: module 'os' has no attribute 'nothing'"),
        ("--direct_num_workers=two", "beam_options: argument --direct_num_workers: invalid int value: 'two'"),
        ("--runner='", """beam_options must be quoted as for a shell, got "--runner='" (No closing quotation)"""),
    ],
)
def test_options_that_beam_refuses_are_one_line_before_any_work(beam, photos, tmp_path, capfd, options, message):
    words = ["convert", str(photos), str(tmp_path / "out"), "--engine=beam", f"--beam_options={options}"]
    assert main.run(main.parse(["irv2data", *words])) == 2
    error = capfd.readouterr().err
    assert error.splitlines()[-1].startswith(f"irv2data convert: {message}")
    assert "usage:" not in error
    assert not (tmp_path / "out").exists()


def test_flags_that_beam_does_not_know_are_its_warning(beam, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in the command: pytest has one of its own
    assert beam.new_pipeline((*HERE, "--paralelism=8")).runner is not None
    assert "Discarding unparseable args: ['--paralelism=8']" in capsys.readouterr().err


def test_the_command_hands_its_options_to_beam(beam, serial, photos, expected, tmp_path, capfd):
    words = ["convert", str(photos), str(tmp_path / "out"), "--splits=folders", "--shard_mib=0.4", "--json"]
    beam_words = ["--engine=beam", "--beam_options=--runner FnApiRunner --direct_runner_bundle_repeat=1"]
    assert main.run(main.parse(["irv2data", *words, *beam_words])) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["sources"], report["rejected"]) == (180, 0)
    assert differing(expected, tmp_path / "out") == []


def test_without_the_extra_one_line_says_what_to_install(photos, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "irv2data.convert.beam", raising=False)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(
        UsageError, match=r"^engine=beam needs the 'beam' extra, pip install 'irv2data\[beam\]' \(.*\)$"
    ):
        convert(photos, tmp_path / "out", engine="beam")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine must be one of ('local', 'beam'), got 'spark'"),
        ({"beam_options": HERE}, "beam_options go with engine='beam', got engine='local'"),
    ],
)
def test_engines_and_options_that_do_not_go_together_are_refused(photos, tmp_path, options, message):
    with pytest.raises(UsageError) as refused:
        convert(photos, tmp_path / "out", **options)
    assert str(refused.value) == message
