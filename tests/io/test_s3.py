"""Shards on a real S3 server, read by TensorFlow itself: the local dataset's batches, and processes that end well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data import storage
from irv2data.pipeline.read import request_bytes
from tests.convert.test_remote import bucket, forget_connections, s3_server, upload  # noqa: F401  # fixtures
from tests.faults import proxy as proxies
from tests.test_remote_dataset import assert_same, batches

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def proxy(s3_server):  # noqa: F811
    """Between everybody and the S3 server, for the whole module: tensorflow-io asks once a process where it is."""
    with (
        proxies.serving(int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1])) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for name in ("S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        forget_connections()
        yield proxy
    forget_connections()


@pytest.fixture(scope="module")
def uri(proxy, local) -> str:
    """`local` on the server; read only."""
    storage.remote("s3://").mkdir("stored")
    upload(local.folder, "s3://stored/sets/photos")
    return "s3://stored/sets/photos"


@pytest.fixture
def direct(uri, tmp_path) -> irv2data.Dataset:
    return irv2data.Dataset(uri, cache_dir=tmp_path / "cache", direct=True)


@pytest.fixture
def requests(monkeypatch) -> list[tuple[str, int]]:
    """The method of each request for a shard, and how many bytes it asks for; 0 for all."""
    asked, real = [], proxies._Handler._asked

    def noted(self):
        if ".tfrecord" in self.path:
            first, last = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", "bytes=1-0")).groups()
            asked.append((self.command, int(last) - int(first) + 1))
        return real(self)

    monkeypatch.setattr(proxies._Handler, "_asked", noted)
    return asked


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": None, "drop_remainder": False, "batch_size": 32, "resize_on": "host", "fit": "letterbox"},
        {"batch_size": 80, "cache": "host", "epochs": 2},
    ],
)
def test_batches_are_those_of_the_local_dataset_and_nothing_is_kept(direct, local, tmp_path, options):
    assert_same(batches(direct, **options), batches(local, **options))
    assert list((tmp_path / "cache" / "shards").iterdir()) == []


def test_requests_are_no_larger_than_a_record_takes(direct, requests):
    split = direct.split("train")
    found = batches(direct, shuffle=None, drop_remainder=False)
    assert sum(len(batch["record"]) for batch in found) == split.num_records
    sizes = [size for method, size in requests if method == "GET"]
    # A byte before the record, which is how TensorFlow goes to a place; then the record, by far most of them at once.
    assert max(sizes) == request_bytes(split)
    assert sizes.count(1) <= split.num_records
    assert split.num_records <= len(sizes) - sizes.count(1) < 1.3 * split.num_records


def test_single_records(direct, local):
    assert direct.split("train").read(7) == local.split("train").read(7)


def test_damage_and_what_is_missing_are_named(bucket, uri, tmp_path):  # noqa: F811
    storage.remote("s3://").copy(uri, f"{bucket}/photos", recursive=True)
    dataset = irv2data.Dataset(f"{bucket}/photos", cache_dir=tmp_path / "cache", direct=True)
    split = dataset.split("train")
    file, number, offset = split.locate(33)
    whole = bytearray(storage.read_bytes(f"{bucket}/photos/{file}"))
    whole[offset + 300] ^= 1
    storage.write_bytes(f"{bucket}/photos/{file}", bytes(whole))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{file}, record {number} \(.*corrupted record"):
        batches(dataset)
    found = np.concatenate([batch["record"] for batch in batches(dataset, max_bad_records=1, drop_remainder=False)])
    assert sorted(found.tolist()) == [-1, *(row for row in range(split.num_records) if row != 33)]
    storage.write_bytes(f"{bucket}/photos/{file}", bytes(whole[:offset]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{file}, record \d+ \(.*the shard ends before it"):
        batches(dataset)
    storage.remove(f"{bucket}/photos/{file}")
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{file}, record \d+ \(.*cannot be read or decoded: "):
        batches(dataset)


BARE = """
import os, sys
os.environ["S3_ENDPOINT"] = os.environ["AWS_ENDPOINT_URL"]
import tensorflow as tf
import tensorflow_io
print(sum(1 for _ in tf.data.TFRecordDataset(sys.argv[1] + "/" + sys.argv[2])), flush=True)
"""

READS = """
import ctypes, sys
import irv2data
uri, cache, how = sys.argv[1:]
pipeline = irv2data.Pipeline(
    irv2data.Dataset(uri, cache_dir=cache, direct=True), batch_size=10, image_size=(24, 24), fit="random_resized_crop"
)
if how == "all":
    print(sum(1 for _ in pipeline.batches()))
else:  # more is being read when the process ends
    batches = iter(pipeline.batches(epochs=50))
    print(sum(1 for _ in zip(range(3), batches)))
ctypes.CDLL(None).printf(b"and from C\\n")
if how == "fails":
    sys.exit(3)
if how == "raises":
    raise ValueError("as any program may")
"""


def run(program, *arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("S3_ENDPOINT", None)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)


def test_without_what_this_package_does_about_it_a_process_aborts_when_it_ends(uri, local):
    shard = local.split("train").shards[0]
    done = run(BARE, uri, shard.file)
    assert done.stdout == f"{shard.records}\n"
    assert "pure virtual method called" in done.stderr
    assert done.returncode == -6


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [("all", 0, "12"), ("part", 0, "3"), ("fails", 3, "3"), ("raises", 1, "3")],
)
def test_a_process_ends_with_its_own_status(uri, tmp_path, how, status, said):
    done = run(READS, uri, tmp_path, how)
    assert done.stdout == f"{said}\nand from C\n"
    assert "pure virtual" not in done.stderr
    assert ("ValueError: as any program may" in done.stderr) == (how == "raises")
    assert done.returncode == status
