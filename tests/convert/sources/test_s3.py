"""A real S3 server on the loopback interface: listing and reading through s3fs."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request

import pytest

from irv2data import storage
from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources import list_sources, read_ahead, read_source
from irv2data.errors import SourceError

pytest.importorskip("moto")
pytest.importorskip("flask")  # of moto[server]
s3fs = pytest.importorskip("s3fs")

JPEG = b"\xff\xd8\xff\xe0"


def forget_connections():
    storage._connect.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def bucket():
    """An S3 server with the bucket `photos`, and the environment that leads to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            for attempt in range(120):
                try:
                    opener.open(endpoint, timeout=5).close()
                    break
                except OSError:
                    if server.poll() is not None or attempt == 119:
                        raise
                    time.sleep(0.25)
            forget_connections()
            fs = s3fs.S3FileSystem()
            fs.mkdir("photos")
            yield fs
        finally:
            server.terminate()
            server.wait(30)
            forget_connections()


def put(fs, files: dict[str, bytes]) -> None:
    fs.pipe({f"photos/{name}": content for name, content in files.items()})


def test_class_folders(bucket):
    # More than one page of 1,000 keys, and keys that URLs have to escape.
    files = {f"many/{'ab'[number % 2]}/{number:04d}.jpg": b"%d" % number for number in range(1100)}
    odd = {f"many/b/{name}.jpg": name.encode() for name in ("é ü", "a+b", "a?b#c", "x%20y", "z'&\"=")}
    put(
        bucket,
        {**files, **odd, "many/": b"", "many/.hidden.jpg": b"", "many/a/list.txt": b"", "manymore/c/1.jpg": JPEG},
    )
    listing = list_sources("s3://photos/many", ConvertConfig())
    assert list(listing.names) == sorted(name.removeprefix("many/").encode() for name in [*files, *odd])
    assert (listing.classes, listing.labels.tolist()) == (("a", "b"), [0] * 550 + [1] * 555)
    assert listing.ignored == {"(hidden)": 1, ".txt": 1}
    read = [name.removeprefix("many/").encode() for name in [*list(files)[:100], *odd]]
    contents = read_ahead(listing.root, ((name, None) for name in read))
    assert list(contents) == [*list(files.values())[:100], *odd.values()]


def test_a_second_listing_sees_new_files(bucket):
    put(bucket, {"new/a/1.jpg": JPEG})
    assert len(list_sources("s3://photos/new", ConvertConfig())) == 1
    put(bucket, {"new/a/2.jpg": JPEG})
    assert len(list_sources("s3://photos/new", ConvertConfig())) == 2


def test_a_table(bucket):
    rows = "".join(f"p/{number}.jpg,{number % 3}\n" for number in range(5000))
    put(bucket, {"tables/t.csv": f"path,label\n{rows}s3://photos/tables/q.jpg,1\n".encode(), "tables/q.jpg": b"q"})
    listing = list_sources("s3://photos/tables/t.csv", ConvertConfig())
    assert (len(listing), listing.classes, listing.names[5000]) == (5001, ("0", "1", "2"), b"q.jpg")
    assert read_source(listing.root, b"q.jpg") == b"q"
    with pytest.raises(RejectError, match="unreadable: No such file"):
        read_source(listing.root, b"p/0.jpg")


def test_archives(bucket):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(50):
            for extension, content in (("jpg", b"%d" % number * 1000), ("cls", b"%d" % (number % 5))):
                info = tarfile.TarInfo(f"{number:03d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    put(bucket, {"tars/train/0.tar": out.getvalue(), "tars/test/0.tar": out.getvalue()})
    listing = list_sources("s3://photos/tars", ConvertConfig())
    assert (listing.splits, listing.classes) == (("test", "train"), ("0", "1", "2", "3", "4"))
    places = listing.places
    items = [
        (name, (places.containers[place], offset, length))
        for name, place, offset, length in zip(
            listing.names, places.container.tolist(), places.offset.tolist(), places.length.tolist(), strict=True
        )
    ]
    assert list(read_ahead(listing.root, items)) == [b"%d" % number * 1000 for number in range(50)] * 2


def test_what_is_not_there_is_one_line(bucket):
    for uri in ("s3://no-such-bucket/x", "s3://photos/nowhere", "s3://no-such-bucket/x.csv"):
        with pytest.raises(SourceError) as caught:
            list_sources(uri, ConvertConfig())
        assert str(caught.value).startswith(f"{uri}: cannot be ")
        assert "\n" not in str(caught.value)


def test_a_spawned_worker_reads_alone(bucket):
    put(bucket, {"worker/a/1.jpg": b"one"})
    code = "from irv2data.convert.sources import read_source; print(read_source('s3://photos/worker', b'a/1.jpg'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "b'one'\n"
