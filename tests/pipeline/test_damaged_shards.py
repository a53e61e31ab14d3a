"""A shard that is damaged after the dataset was opened: an error that tells what and where, never a short epoch."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data import Pipeline, schema
from irv2data.convert import adopt
from irv2data.pipeline import faults
from irv2data.tfrecord import frame


@pytest.fixture
def copy(dataset, tmp_path):
    """An opened copy of the dataset, to be damaged."""
    return irv2data.Dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))


def read_all(dataset, **options):
    pipeline = irv2data.Pipeline(dataset, **{"image_size": (16, 16), **options})
    return [batch["record"].tolist() for batch in pipeline.batches().as_numpy_iterator()]


def named(error, copy, record):
    """Whether a message names a record by shard, number, source and byte, and says what to do."""
    place = Pipeline(copy, shuffle=None, batch_size=1, image_size=(16, 16)).locate(0, record)[0]
    wanted = (
        f"{copy.folder}: {place.shard}, record {place.number} ({place.source}, byte {place.offset}): cannot be read"
    )
    return wanted in str(error) and f"`irv2data verify --deep {copy.folder}` looks at all records" in str(error)


def flip(copy, record, byte):
    split = copy.splits["train"]
    with open(split.paths[split.column("shard")[record]], "r+b") as file:
        file.seek(int(split.column("offset")[record]) + byte)
        (value,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 1]))


@pytest.mark.parametrize(("batch_size", "lost"), [(1, 1), (5, 1), (100, 7)])
def test_a_shard_cut_at_a_record_boundary(copy, batch_size, lost):
    split = copy.splits["train"]
    rows = np.flatnonzero(split.column("shard") == 1)
    os.truncate(split.paths[1], int(split.column("offset")[rows[-lost]]))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read_all(copy, batch_size=batch_size, drop_remainder=False)
    assert any(named(caught.value, copy, row) for row in rows[-lost:].tolist())
    assert "cannot be read or decoded: the shard ends before it" in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"resize_on": "host", "batch_size": 20}, {"fit": "native", "max_pixels_per_batch": 2_000_000}]
)
def test_a_shard_cut_at_a_record_boundary_where_batches_are_made_otherwise(copy, options):
    split = copy.splits["train"]
    (*_, last) = np.flatnonzero(split.column("shard") == 1).tolist()
    os.truncate(split.paths[1], int(split.column("offset")[last]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="the shard ends before it") as caught:
        read_all(copy, drop_remainder=False, **options)
    assert named(caught.value, copy, last)
    batches = read_all(copy, drop_remainder=False, max_bad_records=1, **options)
    assert sorted(record for batch in batches for record in batch if record >= 0) == [
        record for record in range(split.num_records) if record != last
    ]


def test_an_empty_shard(copy):
    split = copy.splits["train"]
    os.truncate(split.paths[-1], 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=os.path.basename(split.paths[-1])):
        read_all(copy, batch_size=1)


def test_batches_before_the_damage_are_delivered(copy):
    split = copy.splits["train"]
    pipeline = irv2data.Pipeline(copy, image_size=(16, 16), batch_size=5, shuffle=None, buckets=1)
    rows = np.flatnonzero(split.column("shard") == 2)
    os.truncate(split.paths[2], int(split.column("offset")[rows[3]]))
    batches = pipeline.batches().as_numpy_iterator()
    whole = int(rows[3]) // 5
    assert [next(batches)["record"].tolist() for _ in range(whole)] == np.arange(whole * 5).reshape(-1, 5).tolist()
    with pytest.raises(tf.errors.InvalidArgumentError):
        next(batches)


@pytest.mark.parametrize("byte", [2, 9, 500], ids=["length", "its checksum", "payload"])
@pytest.mark.parametrize("resize_on", ["device", "host"])
def test_a_flipped_bit(copy, byte, resize_on):
    flip(copy, 40, byte)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read_all(copy, batch_size=20, resize_on=resize_on)
    assert named(caught.value, copy, 40)
    assert "cannot be read or decoded: corrupted record at" in str(caught.value)
    assert not named(caught.value, copy, 41)


def test_the_first_of_several_is_named(copy):
    for record in (11, 7, 13):
        flip(copy, record, 300)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read_all(copy, batch_size=20, shuffle=None, buckets=1)
    assert named(caught.value, copy, 7)


def test_a_shard_cut_inside_its_last_record(copy):
    os.truncate(copy.splits["train"].paths[0], copy.splits["train"].shards[0].bytes - 100)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read_all(copy, batch_size=20)
    assert named(caught.value, copy, copy.splits["train"].shards[0].records - 1)


def test_a_removed_shard(copy):
    path = copy.splits["train"].paths[1]
    os.remove(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match=os.path.basename(path)):
        read_all(copy, batch_size=20)


def test_bytes_that_are_no_image(tmp_path, dataset):
    # Adopted records may hold anything; their checksums are right.
    record = dataset.split("train").read(0)
    shard = tmp_path / "train-00000-of-00001.tfrecord"
    good = schema.encode(record)
    shard.write_bytes(b"".join(frame(payload) for payload in (good, good, good, good)))
    adopted = tmp_path / "adopted"
    adopt([str(shard)], adopted)
    copy = irv2data.Dataset(adopted)
    payloads = [good] * 4
    # Another image of the same length in its place: the index still fits.
    swapped = schema.encode(replace(record, encoded=bytes(len(record.encoded))))
    assert len(swapped) == len(good)
    payloads[2] = swapped
    os.remove(copy.splits["train"].paths[0])
    Path(copy.splits["train"].paths[0]).write_bytes(b"".join(frame(payload) for payload in payloads))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read_all(copy, batch_size=2)
    assert named(caught.value, copy, 2)
    assert [-1 in batch for batch in read_all(copy, batch_size=4, max_bad_records=1)] == [True]


def test_a_disk_that_fails_for_a_moment_costs_nothing(copy, monkeypatch):
    path = copy.splits["train"].paths[1]
    os.rename(path, path + ".away")
    real = faults.Recovery.chunk

    def when_it_is_back(*arguments):
        if os.path.exists(path + ".away"):
            os.rename(path + ".away", path)
        return real(*arguments)

    monkeypatch.setattr(faults.Recovery, "chunk", when_it_is_back)
    pipeline = Pipeline(copy, image_size=(16, 16), batch_size=20, shuffle=None, buckets=1)
    sound = Pipeline(copy, image_size=(16, 16), batch_size=20, shuffle=None, buckets=1)
    read = list(pipeline.batches().as_numpy_iterator())
    assert not os.path.exists(path + ".away")
    for got, wanted in zip(read, sound.batches().as_numpy_iterator(), strict=True):
        for name, value in wanted.items():
            np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("resize_on", ["device", "host"])
@pytest.mark.parametrize("fit", ["random_resized_crop", "letterbox", "native"])
def test_tolerated_damage_is_filler_in_place(copy, dataset, fit, resize_on, caplog):
    options = {"fit": fit, "batch_size": 20, "image_size": (32, 32), "resize_on": resize_on}
    bad = (3, 40, 77)
    for record in bad:
        flip(copy, record, 300)
    pipeline = Pipeline(copy, **options, max_bad_records=3)
    sound = Pipeline(dataset, **options)
    pixels = "image" if resize_on == "host" else "canvas"
    blank = {"record": -1, "label": 0, "weight": 0, pixels: 0, "size": 1, "flip": 0}
    seen = 0
    for epoch in range(2):
        batches = zip(
            pipeline.batches(epoch).as_numpy_iterator(), sound.batches(epoch).as_numpy_iterator(), strict=True
        )
        for got, wanted in batches:
            lost = np.isin(wanted["record"], bad)
            seen += lost.sum()
            for name, value in wanted.items():
                np.testing.assert_array_equal(got[name][~lost], value[~lost])
                if name in blank:
                    assert (got[name][lost] == blank[name]).all()
            if "box" in got and fit != "native":
                assert (got["box"][lost] == [0, 0, 1, 1]).all()
    assert seen == 6
    # Told once each, whatever the epochs.
    assert sorted(place.record for place in pipeline.bad_records) == sorted(bad)
    assert len([line for line in caplog.messages if "filler of weight 0 takes its place" in line]) == 3
    for place in pipeline.bad_records:
        assert (place.shard, place.number, place.offset) == copy.splits["train"].locate(place.record)
        assert place.source == copy.splits["train"].source(place.record)
        assert any(str(place) in line for line in caplog.messages)


def test_more_damage_than_tolerated_stops(copy):
    for record in (3, 40, 77):
        flip(copy, record, 300)
    pipeline = Pipeline(copy, batch_size=20, image_size=(32, 32), max_bad_records=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"more than max_bad_records=2 damaged records, the last"):
        for _ in pipeline.batches():
            pass
    assert len(pipeline.bad_records) == 2
    # And again: what was one too many is not passed over the next time.
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than max_bad_records=2 damaged records"):
        for _ in pipeline.batches():
            pass


def test_what_is_no_damage_is_not_hidden(copy, monkeypatch):
    pipeline = Pipeline(copy, batch_size=20, image_size=(32, 32), max_bad_records=200)
    flip(copy, 40, 300)

    def full(self, *arguments):
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    real = faults.Recovery.chunk

    def without_memory(self, plan):
        self._row = full.__get__(self)
        return real(self, plan)

    monkeypatch.setattr(faults.Recovery, "chunk", without_memory)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be read or decoded: no memory"):
        for _ in pipeline.batches():
            pass
    assert pipeline.bad_records == ()


def test_a_whole_shard_may_be_lost(copy):
    split = copy.splits["train"]
    os.remove(split.paths[1])
    lost = np.flatnonzero(split.column("shard") == 1).tolist()
    records = read_all(copy, batch_size=7, drop_remainder=False, max_bad_records=len(lost))
    assert len(records) == 18
    assert sorted(row for batch in records for row in batch if row >= 0) == sorted(set(range(120)) - set(lost))
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than max_bad_records"):
        read_all(copy, batch_size=7, drop_remainder=False, max_bad_records=len(lost) - 1)


def test_damage_reaches_a_distributed_iterator(copy, cpu_strategy):
    split, strategy = copy.splits["train"], cpu_strategy(2)
    os.truncate(split.paths[0], int(split.column("offset")[1]))
    pipeline = irv2data.Pipeline(copy, image_size=(16, 16), batch_size=4)
    with pytest.raises(tf.errors.InvalidArgumentError, match=os.path.basename(split.paths[0])):
        for _ in pipeline.distribute(strategy):
            pass
