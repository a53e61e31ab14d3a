"""Datasets on a real S3 server, behind a proxy that spoils answers: the local dataset's batches, or one clear line."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import irv2data
from irv2data import storage
from irv2data.convert import ConvertConfig, convert, verify
from irv2data.errors import DatasetError, UsageError
from irv2data.pipeline import ahead, build, plan
from irv2data.remote import download
from irv2data.remote.cache import ShardCache
from irv2data.remote.view import view_folder
from irv2data.storage import alone
from irv2data.tools import main
from tests.convert.test_remote import bucket, forget_connections, s3_server, upload  # noqa: F401  # fixtures
from tests.faults.proxy import serving

MIB = 1 << 20


@pytest.fixture(scope="module")
def expected(local):
    """The first two epochs of the local dataset."""
    return batches(local, epochs=2)


@pytest.fixture
def proxy(s3_server, monkeypatch):  # noqa: F811
    """Between everybody and the S3 server; waiting before another attempt takes no time."""
    monkeypatch.setattr(download, "_FIRST", 0.01)
    with serving(int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1])) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_connections()
        yield proxy
    forget_connections()


@pytest.fixture(scope="module")
def stored(s3_server, local) -> str:  # noqa: F811
    """`local` on the S3 server; read only."""
    storage.remote("s3://").mkdir("stored")
    upload(local.folder, "s3://stored/sets/photos")
    return "s3://stored/sets/photos"


@pytest.fixture
def uri(stored, proxy) -> str:
    """`stored`, seen through the proxy."""
    return stored


@pytest.fixture
def own(bucket, stored, proxy, tmp_path) -> irv2data.Dataset:  # noqa: F811
    """A copy of `stored` that may be changed."""
    storage.remote("s3://").copy(stored, f"{bucket}/photos", recursive=True)
    return irv2data.Dataset(f"{bucket}/photos", cache_dir=tmp_path / "cache")


@pytest.fixture
def remote(uri, tmp_path):
    return irv2data.Dataset(uri, cache_dir=tmp_path / "cache")


def kept(folder):
    """Names and sizes of what lies in a cache, at one moment."""
    with alone(folder / "lock"):
        return {path.name: path.stat().st_size for path in (folder / "shards").iterdir()}


def all_kept(shards):
    return {f"{shard.sha256}.tfrecord": shard.bytes for shard in shards}


def batches(dataset, *, epochs=1, **options):
    given = {"image_size": (24, 24), "batch_size": 10, "fit": "random_resized_crop", **options}
    return list(irv2data.Pipeline(dataset, **given).batches(epochs=epochs).as_numpy_iterator())


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def flip(path, byte):
    """Changes a byte, and the time as little as a disk that fails."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_batches_are_those_of_the_local_dataset_and_each_shard_is_fetched_once(
    remote, local, expected, proxy, tmp_path
):
    shards = remote.split("train").shards
    assert kept(tmp_path / "cache") == {}
    assert remote.fingerprint == local.fingerprint
    assert_same(batches(remote, epochs=2), expected)
    with pytest.raises(AssertionError):
        assert_same(expected[:12], expected[12:])
    assert kept(tmp_path / "cache") == all_kept(shards)
    assert {shard.file: proxy.gets[shard.file] for shard in shards} == {shard.file: 1 for shard in shards}
    again = irv2data.Dataset(remote.cache.uri, cache_dir=tmp_path / "cache")
    assert_same(batches(again), expected[:12])
    assert sum(proxy.gets[shard.file] for shard in shards) == len(shards)


def test_windows_under_a_small_bound(uri, local, proxy, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(plan, "WINDOW", 2)
    monkeypatch.setattr(ahead, "WINDOW", 2)
    for module in (ahead, build):
        monkeypatch.setattr(module, "available_cores", lambda: 2)
    dataset = irv2data.Dataset(uri, cache_dir=tmp_path / "cache", cache_mib=3)
    whole = dataset.split("train").num_bytes
    assert whole > 4 * MIB
    options = {"shuffle": None, "batch_size": 4, "image_size": (24, 24)}
    with caplog.at_level(logging.WARNING, "irv2data"):
        pipeline = irv2data.Pipeline(dataset, **options)
    assert "cache_mib=3" in caplog.text
    assert "the split has 4 MiB, so shards are fetched in every epoch anew" in caplog.text
    most, found = 0, []
    for batch in pipeline.batches(epochs=2).as_numpy_iterator():
        found.append(batch)
        most = max(most, sum(kept(tmp_path / "cache").values()))
    assert_same(found, batches(local, epochs=2, **options, fit=pipeline.config.fit))
    assert 2 * MIB < most <= 3 * MIB
    files = [shard.file for shard in dataset.split("train").shards]
    assert min(proxy.gets[file] for file in files) >= 1
    assert sum(proxy.gets[file] for file in files) > len(files)
    with pytest.raises(UsageError, match=r"cache_mib=3 of s3://.*: shuffle='full' reads \d MiB of shards at once"):
        irv2data.Pipeline(dataset, **{**options, "shuffle": "full"})


def test_the_shards_of_the_next_windows_are_fetched_meanwhile(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "WINDOW", 1)
    pipeline = irv2data.Pipeline(remote, shuffle=None, batch_size=10, image_size=(24, 24))
    reader = ahead.Ahead(pipeline.plan, remote.cache, None)
    numbers = remote.split("train").array("shard")
    reader(0, 2)
    reader._thread.join()
    windows = range(2, 2 + 1 + ahead._AHEAD)
    wanted = sorted({int(numbers[record]) for window in windows for record in range(10 * window, 10 * window + 10)})
    assert kept(tmp_path / "cache") == all_kept(remote.split("train").shards[number] for number in wanted)


def test_kept_images_need_no_shards(remote, local, proxy, tmp_path):
    options = {"cache": "disk", "cache_dir": str(tmp_path / "images"), "drop_remainder": False}
    wanted = batches(remote, **options)
    for path in (tmp_path / "cache" / "shards").iterdir():
        path.unlink()
    proxy.gets.clear()
    assert_same(batches(irv2data.Dataset(remote.cache.uri, cache_dir=tmp_path / "cache"), **options), wanted)
    assert [name for name in proxy.gets if name.endswith(".tfrecord")] == []
    assert kept(tmp_path / "cache") == {}


def test_a_shard_that_was_damaged_between_runs_is_fetched_anew(remote, expected, proxy, tmp_path, caplog):
    shards = remote.split("train").shards
    remote.cache.fetch(shards)
    flip(remote.cache.path(shards[3]), shards[3].bytes // 2)
    remote.cache.path(shards[4]).write_bytes(b"")
    again = irv2data.Dataset(remote.cache.uri, cache_dir=tmp_path / "cache")
    assert_same(batches(again), expected[:12])
    assert [proxy.gets[shard.file] for shard in shards] == [1, 1, 1, 2, 2, *[1] * (len(shards) - 5)]
    assert f"{shards[3].sha256}.tfrecord was damaged on this disk; it is fetched anew" in caplog.text


def test_a_shard_that_is_damaged_or_removed_during_a_run_is_fetched_anew(remote, expected, proxy):
    shards = remote.split("train").shards
    pipeline = irv2data.Pipeline(remote, image_size=(24, 24), batch_size=10, fit="random_resized_crop")
    remote.cache.fetch(shards)
    flip(remote.cache.path(shards[3]), shards[3].bytes // 2)
    remote.cache.path(shards[5]).unlink()
    # Nothing is asked of the cache that would notice: the graph finds out.
    pipeline.dataset.cache._checked[shards[5].sha256] = (0, 0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead.Ahead, "__call__", lambda *_: None)
        found = list(pipeline.batches(epochs=2).as_numpy_iterator())
    assert_same(found, expected)
    assert pipeline.bad_records == ()
    assert (proxy.gets[shards[3].file], proxy.gets[shards[5].file]) == (2, 2)


def test_a_dataset_that_is_replaced_between_two_openings(serial, own, photos, tmp_path, monkeypatch):
    first, second = own.split("train").shards[:2]
    own.cache.fetch([first])
    convert(photos, tmp_path / "new", ConvertConfig(splits="folders", shard_mib=0.3, quality=60, max_short_side=60))
    new = irv2data.Dataset(tmp_path / "new")
    storage.remove(own.cache.uri)
    upload(new.folder, own.cache.uri)
    again = irv2data.Dataset(own.cache.uri, cache_dir=tmp_path / "cache")
    assert again.fingerprint == new.fingerprint != own.fingerprint
    assert again.folder != own.folder
    again.cache.fetch(again.split("train").shards)
    assert kept(tmp_path / "cache") == all_kept([first, *new.split("train").shards])
    own.cache.fetch([first])  # the old one, as far as it is there
    assert new.split("train").shards[1].bytes < second.bytes
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    with pytest.raises(DatasetError, match=r"\d+ came\); look at .*, or open the dataset again if it was replaced"):
        own.cache.fetch([second])


def test_a_plain_web_server_that_knows_no_ranges(local, expected, tmp_path, monkeypatch):
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.requestline)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(local.folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(download, "BLOCK", 50_000)
    try:
        dataset = irv2data.Dataset(f"http://127.0.0.1:{server.server_port}/photos/", cache_dir=tmp_path)
        assert_same(batches(dataset), expected[:12])
    finally:
        server.shutdown()
        server.server_close()
    files = [shard.file for shard in dataset.split("train").shards]
    assert sorted(line for line in asked if ".tfrecord" in line) == [f"GET /photos/{file} HTTP/1.1" for file in files]


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("s3://bucket/sets/flowers/", "s3/bucket/sets/flowers"),
        ("https://user:secret@host:81/a b/../x?key=1", "https/host%3A81/a%20b/%2E%2E/x/key%3D1"),
    ],
)
def test_the_folder_of_a_view_is_named_as_the_dataset_is(tmp_path, uri, folder):
    cache = ShardCache(folder=tmp_path, uri=uri.rstrip("/"))
    views = [view_folder(cache, manifest).relative_to(tmp_path / "datasets") for manifest in (b"one", b"two")]
    assert [str(view).rpartition("@")[0] for view in views] == [folder, folder]
    assert views[0] != views[1]


def test_commands_take_a_uri(uri, local, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IRV2DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IRV2DATA_CACHE_MIB", "100")
    reports = []
    for dataset in (uri, local.folder):
        assert main.run(main.parse(["irv2data", "info", str(dataset), "--json"])) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report.pop("dataset") for report in reports] == [uri.rstrip("/"), str(local.folder.absolute())]
    assert reports[0] == reports[1]
    view = irv2data.Dataset(uri).folder
    assert view.parts[-2:-1] == ("sets",)
    assert view.name.startswith("photos@")
    assert main.run(main.parse(["irv2data", "verify", uri])) == 1
    assert f"{uri}: is remote; copy it to this machine to look for damage" in capsys.readouterr().err
    record = irv2data.Dataset(uri).split("train").read(7)
    assert record == local.split("train").read(7)
    # The view is a dataset like any other, once its shards are there.
    irv2data.Dataset(uri).cache.fetch([shard for split in local.splits.values() for shard in split.shards])
    assert verify(str(view), deep=False) == []
    assert irv2data.Dataset(view).fingerprint == local.fingerprint
