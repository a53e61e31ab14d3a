"""A shard that is damaged after the dataset was opened: an error that tells what and where, never a short epoch."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

import irv2data


@pytest.fixture
def copy(dataset, tmp_path):
    """An opened copy of the dataset, to be damaged."""
    return irv2data.Dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))


def read_all(dataset, **options):
    pipeline = irv2data.Pipeline(dataset, **{"image_size": (16, 16), **options})
    return [batch["record"].tolist() for batch in pipeline.batches().as_numpy_iterator()]


@pytest.mark.parametrize(("batch_size", "lost"), [(1, 1), (5, 1), (100, 7)])
def test_a_shard_cut_at_a_record_boundary(copy, batch_size, lost):
    split = copy.splits["train"]
    shard = 1
    rows = np.flatnonzero(split.column("shard") == shard)
    path = split.paths[shard]
    os.truncate(path, int(split.column("offset")[rows[-lost]]))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        read_all(copy, batch_size=batch_size, drop_remainder=False)
    assert "A shard ends before a planned record; run `irv2data verify DATASET`" in str(caught.value)
    assert path in str(caught.value)
    assert not any(other in str(caught.value) for other in split.paths if other != path)


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


@pytest.mark.parametrize("where", ["header", "payload"])
def test_a_flipped_byte(copy, where):
    split = copy.splits["train"]
    offset = int(split.column("offset")[40])
    with open(split.paths[split.column("shard")[40]], "r+b") as file:
        file.seek(offset + (2 if where == "header" else 500))
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(tf.errors.DataLossError):
        read_all(copy, batch_size=20)


def test_a_shard_cut_inside_its_last_record(copy):
    split = copy.splits["train"]
    os.truncate(split.paths[0], split.shards[0].bytes - 100)
    with pytest.raises(tf.errors.DataLossError):
        read_all(copy, batch_size=20)


def test_a_removed_shard(copy):
    path = copy.splits["train"].paths[1]
    os.remove(path)
    with pytest.raises(tf.errors.NotFoundError, match=os.path.basename(path)):
        read_all(copy, batch_size=20)


def test_damage_reaches_a_distributed_iterator(copy, cpu_strategy):
    split, strategy = copy.splits["train"], cpu_strategy(2)
    os.truncate(split.paths[0], int(split.column("offset")[1]))
    pipeline = irv2data.Pipeline(copy, image_size=(16, 16), batch_size=4)
    with pytest.raises(tf.errors.InvalidArgumentError, match=os.path.basename(split.paths[0])):
        for _ in pipeline.distribute(strategy):
            pass
