"""Conversions from and to a real S3 server: the same bytes as on the local disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from irv2data import storage
from irv2data.convert import ConvertConfig, convert
from irv2data.convert.sources import list_sources, read_ahead
from irv2data.errors import InterruptedRunError, Irv2dataError, SourceError

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

SHARDS = ConvertConfig(splits=(("train", 0.6), ("validation", 0.4)), shard_mib=0.003)


def forget_connections() -> None:
    storage._connect.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[None]:
    """An S3 server in a process of its own, which the environment points to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "testing")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            forget_connections()
            yield
    finally:
        forget_connections()
        server.terminate()
        server.wait(30)


@pytest.fixture
def bucket(s3_server) -> str:
    """The URI of a new, empty bucket."""
    name = f"bucket-{uuid.uuid4().hex}"
    storage.remote("s3://").mkdir(name)
    return f"s3://{name}"


def upload(folder: Path, uri: str) -> None:
    system = storage.remote(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(storage.join(uri, path.relative_to(folder).as_posix()), path.read_bytes())


def contents(folder: str | Path) -> dict[str, bytes]:
    """Relative path to content of every file."""
    if isinstance(folder, Path):
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    system = storage.remote(folder)
    system.invalidate_cache()
    base = folder.partition("://")[2]
    return {path[len(base) + 1 :]: system.cat_file(path) for path in system.find(base)}


def test_to_s3_gives_the_same_bytes_in_every_file(serial, tmp_path, small_source, small_dataset, bucket):
    here = convert(small_source, tmp_path / "out", SHARDS)
    there = convert(small_source, f"{bucket}/sets/out", SHARDS)
    assert contents(f"{bucket}/sets/out") == contents(tmp_path / "out") == contents(small_dataset)
    assert there.splits == here.splits
    assert list(contents(bucket)) == [f"sets/out/{name}" for name in sorted(contents(tmp_path / "out"))]


def test_from_s3_with_workers_gives_the_same_bytes_in_every_file(tmp_path, small_source, small_dataset, bucket):
    upload(small_source, f"{bucket}/photos")
    report = convert(f"{bucket}/photos", tmp_path / "out", SHARDS, workers=2)
    assert (report.sources, report.rejected) == (24, 0)
    assert contents(tmp_path / "out") == contents(small_dataset)


def test_from_s3_to_s3(serial, small_source, small_dataset, bucket):
    upload(small_source, f"{bucket}/photos")
    convert(f"{bucket}/photos/", f"{bucket}/out", SHARDS)
    assert contents(f"{bucket}/out") == contents(small_dataset)


def test_resume_on_s3_keeps_the_finished_shards(serial, small_source, small_dataset, bucket, monkeypatch):
    out = f"{bucket}/out"
    shards = [name for name in contents(small_dataset) if name.endswith(".tfrecord")]

    def stop(stage, done, total):
        if stage == "converting" and done >= 12:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="finished shards are kept"):
        convert(small_source, out, SHARDS, progress=stop)
    kept = sorted(name for name in contents(out) if name.endswith(".tfrecord"))
    assert 0 < len(kept) < len(shards)
    assert "dataset.json" not in contents(out)
    with pytest.raises(Irv2dataError) as caught:
        convert(small_source, out, SHARDS)
    assert "resume" in str(caught.value)
    written = []
    real = storage.remote("s3://").put_file
    monkeypatch.setattr(
        storage.remote("s3://"), "put_file", lambda here, path, **kw: written.append(path) or real(here, path, **kw)
    )
    convert(small_source, out, SHARDS, resume=True)
    assert contents(out) == contents(small_dataset)
    assert not [path for path in written for name in kept if path.endswith(name)]


def test_overwrite_on_s3_leaves_nothing_old(serial, tmp_path, small_source, small_dataset, bucket):
    shutil.copytree(small_source / "ant", tmp_path / "less" / "ant")
    convert(tmp_path / "less", f"{bucket}/out", SHARDS)
    convert(small_source, f"{bucket}/out", SHARDS, overwrite=True)
    assert contents(f"{bucket}/out") == contents(small_dataset)


@pytest.mark.parametrize("name", ["table.csv", "photos/a.tar"])
def test_a_missing_file_on_s3_is_one_line(bucket, name):
    with pytest.raises(SourceError) as caught:
        list_sources(f"{bucket}/{name}", ConvertConfig())
    assert str(caught.value).startswith(f"{bucket}/{name}: cannot be read (")
    assert "\n" not in str(caught.value)


def test_a_missing_bucket_is_one_line(serial, s3_server, tmp_path, small_source):
    missing = f"s3://missing-{uuid.uuid4().hex}"
    for source, out in ((f"{missing}/photos", tmp_path / "out"), (small_source, f"{missing}/out")):
        with pytest.raises(Irv2dataError) as caught:
            convert(source, out, SHARDS)
        assert missing in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not os.path.exists(tmp_path / "out" / "dataset.json")


def test_a_table_and_an_archive_on_s3(serial, tmp_path, small_source, bucket, records_of):
    upload(small_source, f"{bucket}/photos")
    storage.write_bytes(f"{bucket}/photos/t.csv", b"path,label\nant/00.jpg,x\nbee/01.jpg,y\nnone.jpg,x\n../s.jpg,x\n")
    report = convert(f"{bucket}/photos/t.csv", tmp_path / "out", ConvertConfig(splits=(("train", 1.0),)))
    assert report.rejects == {"outside": 1, "unreadable": 1}
    records = records_of(tmp_path / "out")["train"]
    assert {record.filename: record.text for record in records} == {b"ant/00.jpg": "x", b"bee/01.jpg": "y"}
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "--format=ustar", "ant", "bee"], cwd=small_source, check=True)
    storage.write_bytes(f"{bucket}/photos/a.tar", (tmp_path / "a.tar").read_bytes())
    listing = list_sources(f"{bucket}/photos/a.tar", ConvertConfig())
    places = listing.places
    items = [
        (name, (places.containers[places.container[row]], int(places.offset[row]), int(places.length[row])))
        for row, name in enumerate(listing.names)
    ]
    for (name, _), content in zip(items, read_ahead(listing.root, items), strict=True):
        assert content == (small_source / os.fsdecode(name).removeprefix("a.tar/")).read_bytes()
    assert len(items) == 16
