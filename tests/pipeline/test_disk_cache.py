"""`cache="disk"`: the batches of the cache in memory, from files that outlive the process."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.errors import DatasetError, UsageError
from irv2data.pipeline import disk_cache
from tests.pipeline.test_cache import epoch_of
from tests.pipeline.test_device_cache import assert_same


def make(dataset, folder=None, **options):
    kept = {"cache": "disk", "cache_dir": folder} if folder else {"cache": "host"}
    given = {"image_size": (24, 24), "batch_size": 30, "fit": "random_resized_crop", **kept, **options}
    return irv2data.Pipeline(dataset, **given)


def state_of(folder):
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def expected(dataset):
    """The first two epochs, from memory."""
    pipeline = make(dataset)
    return [*epoch_of(pipeline), *epoch_of(pipeline, 1)]


@pytest.fixture
def copy(dataset, tmp_path):
    """A copy of the dataset, to be taken away."""
    return irv2data.Dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))


def without_shards(copy):
    for path in copy.split("train").paths:
        os.remove(path)


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "resize", "shuffle": None, "drop_remainder": False, "batch_size": 32},
        {"fit": "letterbox", "pad_value": 127, "cache_short_side": 48},
    ],
)
def test_batches_are_those_of_the_cache_in_memory(dataset, tmp_path, options):
    pipeline, memory = make(dataset, tmp_path, **options), make(dataset, **options)
    for epoch in (0, 1):
        for found, wanted in zip(epoch_of(pipeline, epoch), epoch_of(memory, epoch), strict=True):
            for name in wanted.keys() - {"canvas"}:
                np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
            for one, other, (height, width) in zip(found["canvas"], wanted["canvas"], wanted["size"], strict=True):
                np.testing.assert_array_equal(one[:height, :width], other[:height, :width])
                assert not one[height:].any()
                assert not one[:, width:].any()


def images_of(batches):
    """Record and valid pixels of every image."""
    return {
        (step, row): (record, canvas[:height, :width].tobytes())
        for step, batch in enumerate(batches)
        for row, (record, canvas, (height, width)) in enumerate(
            zip(batch["record"].tolist(), batch["canvas"], batch["size"].tolist(), strict=True)
        )
    }


def test_a_later_run_decodes_nothing(copy, tmp_path, expected, monkeypatch):
    folder = tmp_path / "kept"
    first = make(copy, folder)
    assert images_of([*epoch_of(first), *epoch_of(first, 1)]) == images_of(expected)
    assert first.cache.there.all()
    assert state_of(folder)["complete"] is True
    without_shards(copy)
    monkeypatch.setattr(disk_cache, "_boot", lambda: "another")  # and after the machine was started anew
    again = make(copy, folder)
    assert again.cache.there.all()
    assert images_of([*epoch_of(again), *epoch_of(again, 1)]) == images_of(expected)


def test_part_of_the_images_is_used_until_the_machine_stops(copy, tmp_path, expected, monkeypatch):
    folder, pipeline = tmp_path / "kept", make(copy, tmp_path / "kept")
    epoch_of(pipeline, 0, 2)
    assert pipeline.cache.there.sum() == 60
    assert state_of(folder)["complete"] is False
    later = make(copy, folder)
    np.testing.assert_array_equal(later.cache.there, pipeline.cache.there)
    monkeypatch.setattr(disk_cache, "_boot", lambda: "another")
    assert make(copy, folder).cache.there.sum() == 0
    monkeypatch.setattr(disk_cache, "_boot", lambda: None)  # where that cannot be known
    whole = make(copy, folder)
    assert whole.cache.there.sum() == 0
    assert images_of([*epoch_of(whole), *epoch_of(whole, 1)]) == images_of(expected)


@pytest.mark.parametrize("damage", ["pixels", "there", "json", "not json"])
def test_files_that_are_not_whole_are_made_anew(dataset, tmp_path, expected, damage):
    epoch_of(make(dataset, tmp_path))
    (path,) = tmp_path.glob(f"*.{damage.split()[-1]}")
    if damage == "not json":
        path.write_text("[")
    elif damage == "json":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    pipeline = make(dataset, tmp_path)
    assert pipeline.cache.there.sum() == 0
    assert images_of([*epoch_of(pipeline), *epoch_of(pipeline, 1)]) == images_of(expected)


def test_what_decides_the_pixels_names_the_files(dataset, tmp_path):
    paths = {
        make(dataset, tmp_path, **options).cache.path
        for options in ({}, {"cache_short_side": 25}, {"split": "validation"}, {"seed": 3}, {"fit": "resize"})
    }
    assert len(paths) == 3


RUN = """
import sys, os, signal
import tensorflow as tf
import irv2data
pipeline = irv2data.Pipeline(sys.argv[1], image_size=(24, 24), batch_size=30, fit="random_resized_crop", cache="disk",
                             cache_dir=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number, batch in enumerate(pipeline.batches()):
    if number == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def started(dataset, folder, steps):
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(dataset.folder), str(folder), str(steps)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process


def test_runs_at_once_and_a_killed_one_lose_nothing(dataset, tmp_path, expected):
    runs = [started(dataset, tmp_path, 1), started(dataset, tmp_path, 9)]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 2
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    assert [run.wait(300) for run in runs] == [-9, 0]
    pipeline = make(dataset, tmp_path)
    assert pipeline.cache.there.all()
    assert images_of([*epoch_of(pipeline), *epoch_of(pipeline, 1)]) == images_of(expected)


def test_too_little_room_is_said_before_it_starts(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1 << 20))
    with pytest.raises(UsageError, match=r"the decoded images take \d+ MiB, 1 MiB are free; use another cache_dir"):
        epoch_of(make(dataset, tmp_path))


def test_a_folder_that_cannot_be_made(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/kept: images cannot be kept there \(Not a directory\)"):
        epoch_of(make(dataset, tmp_path / "file" / "kept"))


def test_a_full_disk_ends_the_run_with_its_reason(dataset, tmp_path, monkeypatch, expected):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pipeline = make(dataset, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(tf.errors.InvalidArgumentError, match="No space left on device"):
            epoch_of(pipeline)
        assert pipeline.cache.there.sum() == 0
    assert images_of([*epoch_of(pipeline), *epoch_of(pipeline, 1)]) == images_of(expected)


def test_a_write_may_come_in_parts(dataset, tmp_path, monkeypatch, expected):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[: max(1, len(data) // 2)], at))
    pipeline = make(dataset, tmp_path)
    assert images_of([*epoch_of(pipeline), *epoch_of(pipeline, 1)]) == images_of(expected)


def test_reading_is_handed_over_without_a_copy():
    for shape in ((1, 3, 64, 3), (5, 448, 512, 3)):
        array = disk_cache._zeros(shape)
        assert array.shape == shape
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert not array.any()


def test_replicas(dataset, cpu_strategy, tmp_path, expected):
    strategy, pipeline = cpu_strategy(2), make(dataset, tmp_path)
    found = [
        {
            name: np.concatenate([part.numpy() for part in strategy.experimental_local_results(batch[name])])
            for name in ("record", "canvas", "size")
        }
        for batch in pipeline.distribute(strategy, epochs=2)
    ]
    assert images_of(found) == images_of(expected)
    assert_same([{"record": batch["record"]} for batch in found], [{"record": batch["record"]} for batch in expected])
