"""Shards that TensorFlow reads where they are: the batches of the local dataset, and nothing kept here."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.convert import ConvertConfig, convert
from irv2data.errors import DatasetError, UsageError
from irv2data.pipeline import tensorflow_io
from irv2data.pipeline.read import request_bytes
from irv2data.selection import select
from tests.test_remote_dataset import assert_same, batches, flip

pytest.importorskip("fsspec")


@pytest.fixture
def direct(local, tmp_path) -> irv2data.Dataset:
    """`local` behind a scheme that TensorFlow itself reads."""
    return irv2data.Dataset(f"file://{local.folder}", cache_dir=tmp_path / "cache", direct=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": None, "drop_remainder": False, "batch_size": 32, "resize_on": "host", "fit": "letterbox"},
        {"cache": "host", "fit": "center_crop", "shuffle": "blocks"},
        {"batch_size": 80},  # more than one chunk
    ],
)
def test_batches_are_those_of_the_local_dataset_and_nothing_is_kept(direct, local, tmp_path, options):
    assert direct.fingerprint == local.fingerprint
    assert_same(batches(direct, **options), batches(local, **options))
    assert list((tmp_path / "cache" / "shards").iterdir()) == []
    split = direct.split("train")
    assert split.paths == tuple(f"file://{local.folder}/{shard.file}" for shard in split.shards)
    assert (direct.cache, split.fetch, split.array("offset").tolist()) == (
        None, None, local.split("train").array("offset").tolist()
    )  # fmt: skip


def test_single_records_and_selections(direct, local):
    assert [direct.split("train").read(row) for row in (0, 7, 119)] == [
        local.split("train").read(row) for row in (0, 7, 119)
    ]
    rows = np.array([70, 3, 50, 21])
    assert select(direct, "train", rows).split("train").read(2) == local.split("train").read(50)
    options = {"batch_size": 4, "shuffle": None}
    assert_same(batches(select(direct, "train", rows), **options), batches(select(local, "train", rows), **options))


@pytest.fixture
def own(photos, serial, tmp_path) -> irv2data.Dataset:
    convert(photos, tmp_path / "own", ConvertConfig(splits="folders", shard_mib=0.3))
    return irv2data.Dataset(f"file://{tmp_path}/own", cache_dir=tmp_path / "cache", direct=True)


def test_damage_is_named_or_filler_takes_its_place(own, tmp_path, caplog):
    split = own.split("train")
    row = 33
    file, number, offset = split.locate(row)
    flip(tmp_path / "own" / file, offset + 300)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        batches(own)
    assert f"{file}, record {number} (" in str(raised.value)
    assert "corrupted record" in str(raised.value)
    assert "max_bad_records tolerates some" in str(raised.value)
    assert "irv2data verify" not in str(raised.value)  # which needs the folder itself
    with caplog.at_level(logging.WARNING, "irv2data"):
        found = np.concatenate([batch["record"] for batch in batches(own, max_bad_records=1, drop_remainder=False)])
    assert sorted(found.tolist()) == sorted([-1, *(set(range(120)) - {row})])


def test_a_shard_that_ends_early_loses_no_record_in_silence(own, tmp_path):
    split = own.split("train")
    file, _, offset = split.locate(40)
    with open(tmp_path / "own" / file, "r+b") as shard:
        shard.truncate(offset)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{file}, record \d+ .*: the shard ends before it"):
        batches(own, shuffle=None)


def test_of_ten_records_nine_come_with_one_request(local):
    length = local.split("train").array("length")
    assert 0.88 <= (length <= request_bytes(local.split("train"))).mean() <= 0.92


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        ("{folder}", {}, "direct: {folder} is a local folder, whose shards are read directly anyway; leave direct out"),
        (
            "file://{folder}",
            {"cache_mib": 100},
            "direct: no shard of file://{folder} is kept here for cache_mib to bound; leave one of them out",
        ),
    ],
)
def test_what_does_not_go_with_direct(local, uri, options, message):
    with pytest.raises(UsageError) as refused:
        irv2data.Dataset(uri.format(folder=local.folder), direct=True, **options)
    assert str(refused.value) == message.format(folder=local.folder)


def test_a_service_does_not_read_directly(direct):
    with pytest.raises(UsageError, match=r"^service: its workers have no tensorflow-io; open the dataset without"):
        irv2data.Pipeline(direct, batch_size=4, service="127.0.0.1:5000")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((True, ""), "reading memory:// directly needs tensorflow-io, which is not installed: pip install 'irv2data"),
        ((False, ""), "neither TensorFlow nor tensorflow-io reads memory://; leave direct out"),
    ],
)
def test_a_scheme_that_nobody_reads_is_one_line(local, tmp_path, monkeypatch, found, message):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    uri = f"memory://{tmp_path.name}"
    memory.put(str(local.folder), f"/{tmp_path.name}", recursive=True)
    monkeypatch.setattr(tensorflow_io, "_imported", lambda: found)
    try:
        dataset = irv2data.Dataset(uri, cache_dir=tmp_path, direct=True)
    finally:
        memory.store.clear()
    with pytest.raises(UsageError) as refused:
        irv2data.Pipeline(dataset, batch_size=4)
    assert str(refused.value).startswith(f"{uri}/train-00000-of-{len(dataset.split('train').shards):05d}")
    assert message in str(refused.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"dataset\.json: is not there"):
        irv2data.Dataset(f"file://{tmp_path}/nothing", cache_dir=tmp_path / "cache", direct=True)
