"""Shards from a real S3 server through a proxy that spoils answers: fetched whole and once, or one clear line."""

# ruff: noqa: F401, F811  # fixtures are imported, and named again by whoever takes them

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys

import pytest

import irv2data
from irv2data import storage
from irv2data.convert.verify import check_index
from irv2data.errors import DatasetError, UsageError
from irv2data.remote import download
from irv2data.remote.cache import ShardCache
from tests.convert.test_remote import bucket, s3_server
from tests.faults.proxy import FAULTS
from tests.test_remote_dataset import MIB, all_kept, batches, kept, own, proxy, remote, stored, uri

# Opens a dataset, fetches a split, says so, and goes on as long as nobody closes its input.
CHILD = """
import sys
from irv2data import Dataset
from irv2data.errors import Irv2dataError
from irv2data.remote import download
download._FIRST = 0.01
uri, cache, first, last = sys.argv[1:5]
dataset = Dataset(uri, cache_dir=cache)
shards = dataset.split("train").shards[int(first) : int(last)]
try:
    dataset.cache.hold(dataset, shards)
except Irv2dataError as error:
    sys.exit(str(error))
print("there", flush=True)
sys.stdin.read()
"""


def child(uri, cache, first, last):
    arguments = [sys.executable, "-c", CHILD, uri, str(cache), str(first), str(last)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoiled_answer_is_asked_for_again(remote, local, proxy, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(download, "SECONDS", 2 if fault == "stalled" else 60)
    shards = remote.split("train").shards
    proxy.faults[shards[1].file] = [fault]
    remote.cache.fetch(shards[:3])
    for shard in shards[:3]:
        assert remote.cache.path(shard).read_bytes() == (local.folder / shard.file).read_bytes()
    assert kept(tmp_path / "cache") == all_kept(shards[:3])
    assert proxy.gets[shards[0].file] == 1
    assert proxy.gets[shards[1].file] == (1 if fault == "slow" else 2)


def test_a_lost_connection_costs_one_block(remote, local, proxy, monkeypatch):
    shard = remote.split("train").shards[0]
    monkeypatch.setattr(download, "BLOCK", shard.bytes // 4 + 1)
    proxy.faults[shard.file] = ["cut", "short", "busy"]
    remote.cache.fetch([shard])
    assert proxy.gets[shard.file] == 4 + 3
    assert remote.cache.path(shard).read_bytes() == (local.folder / shard.file).read_bytes()


def test_wrong_bytes_twice_are_an_error_that_names_shard_and_digests(remote, proxy, tmp_path):
    shard = remote.split("train").shards[2]
    proxy.faults[shard.file] = ["wrong", "wrong"]
    with pytest.raises(DatasetError) as caught:
        remote.cache.fetch([shard])
    line = rf"{remote.cache.uri}: {shard.file}: has the SHA-256 \w{{64}}, the manifest says {shard.sha256}; if the"
    assert re.match(line, str(caught.value))
    assert "\n" not in str(caught.value)
    assert kept(tmp_path / "cache") == {}
    remote.cache.fetch([shard])
    assert kept(tmp_path / "cache") == all_kept([shard])


def test_what_does_not_pass_is_one_line(own, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    first, second = own.split("train").shards[:2]
    proxy.faults[first.file] = ["short"] * 3
    with pytest.raises(DatasetError, match=rf"/{first.file}: cannot be fetched \(.+\); look at address") as caught:
        own.cache.fetch([first])
    assert "\n" not in str(caught.value)
    storage.remove(f"{own.cache.uri}/{second.file}")
    with pytest.raises(DatasetError, match=rf"/{second.file}: is not there \("):
        own.cache.fetch([second])
    assert (proxy.gets[second.file], kept(tmp_path / "cache")) == (1, {})
    with pytest.raises(Exception, match=rf"{second.file}: is not there") as caught:
        batches(own)
    assert type(caught.value).__name__ == "InvalidArgumentError"


def test_a_manifest_and_an_index_that_arrive_wrong(uri, proxy, tmp_path):
    proxy.faults |= {"dataset.json": ["wrong"], "offset.npy": ["wrong", "cut"], "label.npy": ["busy"]}
    dataset = irv2data.Dataset(uri, cache_dir=tmp_path / "cache")
    assert dataset.split("train").num_records == 120
    assert verify_index(dataset) == []
    proxy.faults["dataset.json"] = ["wrong", "wrong"]
    with pytest.raises(DatasetError, match=f"{uri}/dataset.json: not a manifest of irv2data, or changed since"):
        irv2data.Dataset(uri, cache_dir=tmp_path / "cache")
    proxy.faults["offset.npy"] = ["wrong", "wrong"]
    with pytest.raises(DatasetError, match=r"/index/\w+/offset.npy: has the SHA-256 \w+, the manifest says \w+; if"):
        irv2data.Dataset(uri, cache_dir=tmp_path / "another")
    assert not list((tmp_path / "another").rglob("dataset.json"))


def verify_index(dataset):
    return [problem for split in dataset.splits.values() for problem in check_index(split, deep=True)[1]]


def test_what_is_no_dataset_is_one_line(bucket, proxy, tmp_path):
    with pytest.raises(DatasetError, match=rf"{bucket}/none/dataset.json: is not there \("):
        irv2data.Dataset(f"{bucket}/none", cache_dir=tmp_path)
    with pytest.raises(UsageError, match=r"cache_mib .* must be a whole number of 1 or more, got 0"):
        irv2data.Dataset(f"{bucket}/none", cache_dir=tmp_path, cache_mib=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=f"{tmp_path}/file: shards cannot be kept there"):
        irv2data.Dataset(f"{bucket}/none", cache_dir=tmp_path / "file")


def test_two_processes_at_once_fetch_each_shard_once(uri, proxy, tmp_path):
    children = [child(uri, tmp_path / "cache", 0, 8) for _ in range(2)]
    for process in children:
        assert process.communicate()[0] == "there\n"
        assert process.returncode == 0
    shards = irv2data.Dataset(uri, cache_dir=tmp_path / "cache").split("train").shards[:8]
    assert kept(tmp_path / "cache") == all_kept(shards)
    assert [proxy.gets[shard.file] for shard in shards] == [1] * 8


def test_a_kill_in_the_middle_of_a_download_leaves_nothing_that_looks_whole(remote, uri, local, proxy, tmp_path):
    shard = remote.split("train").shards[0]
    proxy.faults[shard.file] = ["stalled"]
    process = child(uri, tmp_path / "cache", 0, 1)
    assert proxy.half.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(kept(tmp_path / "cache")) == [f"{shard.sha256}.partial"]
    assert len(list((tmp_path / "cache" / "leases").iterdir())) == 1
    bounded = ShardCache(folder=tmp_path / "cache", uri=uri, most=MIB)
    bounded.fetch(remote.split("train").shards[1:2])  # counts what the killed one left, for it has room
    assert len(kept(tmp_path / "cache")) == 2
    remote.cache.fetch([shard])
    assert remote.cache.path(shard).read_bytes() == (local.folder / shard.file).read_bytes()
    assert kept(tmp_path / "cache") == all_kept(remote.split("train").shards[:2])


def test_what_is_used_longest_ago_goes_first_and_what_anybody_reads_stays(remote, uri, proxy, tmp_path):
    shards = remote.split("train").shards
    process = child(uri, tmp_path / "cache", 0, 1)
    assert process.stdout.readline() == "there\n"
    most = sum(shard.bytes for shard in shards[:4]) + 1000
    cache = ShardCache(folder=tmp_path / "cache", uri=uri, most=most)
    (tmp_path / "cache" / "shards" / f"{'0' * 64}.partial").write_bytes(bytes(500_000))  # of one that was killed
    os.utime(tmp_path / "cache" / "shards" / f"{'0' * 64}.partial", (1, 1))
    train = type("Reader", (), {})
    reader = train()
    for number in (1, 2, 3):
        cache.hold(reader, [shards[number]])
    assert kept(tmp_path / "cache") == all_kept(shards[:4])
    cache.hold(reader, [shards[1]])  # now the oldest is 2
    cache.hold(reader, [shards[4]])
    left = kept(tmp_path / "cache")
    assert {all_kept([shard]).keys() <= left.keys() for shard in (shards[0], shards[4])} == {True}
    assert f"{shards[2].sha256}.tfrecord" not in left
    assert sum(left.values()) <= most
    with pytest.raises(DatasetError, match=r"takes \d+ MiB more than the \d+ MiB that .* may hold; give cache_mib"):
        cache.hold(reader, shards[4:9])
    assert f"{shards[0].sha256}.tfrecord" in kept(tmp_path / "cache")
    process.communicate()  # the process ends, and its lease with it
    del reader
    gc.collect()
    other = train()
    cache.hold(other, shards[9:12])
    assert f"{shards[0].sha256}.tfrecord" not in kept(tmp_path / "cache")
