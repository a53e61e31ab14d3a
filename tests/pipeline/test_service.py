"""Batches by way of real servers in other processes: those of the pipeline in this process, whatever servers do."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from irv2data import Augment, Dataset, Pipeline
from irv2data.pipeline.service import client, receiver
from tests.pipeline.servers import COMMAND, Servers
from tests.pipeline.test_cache import damage

SMALL = {"fit": "random_resized_crop", "image_size": (64, 64), "batch_size": 12, "seed": 4}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """A dispatcher and one worker, which no test may touch."""
    each = Servers(tmp_path_factory.mktemp("dispatcher"))
    each.start_dispatcher()
    each.start_worker()
    yield each
    each.close()


@pytest.fixture
def own(tmp_path):
    """Servers to start and kill."""
    each = Servers(tmp_path / "dispatcher")
    yield each
    each.close()


@pytest.fixture
def made_here(monkeypatch):
    """Positions of the chunks that the client made itself."""
    positions, real = [], client.Service._made_here

    def counted(service, position):
        positions.append(position)
        return real(service, position)

    monkeypatch.setattr(client.Service, "_made_here", counted)
    return positions


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype, name
        np.testing.assert_array_equal(theirs[name].numpy(), value.numpy(), err_msg=name)


def compare(dataset, address, *, begin=(0, 0), epochs=1, **options):
    """All batches here beside those by way of a service; how many they are."""
    local, remote = Pipeline(dataset, **options), Pipeline(dataset, service=address, **options)
    ours, theirs = (pipeline.batches(*begin, epochs=epochs) for pipeline in (local, remote))
    assert {name: spec.dtype for name, spec in theirs.element_spec.items()} == {
        name: spec.dtype for name, spec in ours.element_spec.items()
    }
    for name, spec in ours.element_spec.items():
        assert theirs.element_spec[name].shape.is_compatible_with(spec.shape), name
    number = 0
    for batch, same in zip(ours, theirs, strict=True):
        assert_equal(batch, same)
        number += 1
    return number


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        {"fit": "resize", "image_size": (64, 64), "batch_size": 32, "drop_remainder": False, "shuffle": None},
        {"fit": "letterbox", "image_size": (64, 96), "batch_size": 20},
        {"fit": "letterbox", "image_size": (64, 96), "batch_size": 20, "resize_on": "host"},
        {"fit": "center_crop", "image_size": (64, 64), "batch_size": 100, "resize_on": "host", "flip": True},
        {"fit": "native", "image_size": (64, 64), "batch_size": 16, "max_pixels": 9000},
        {"fit": "native", "image_size": (64, 64), "batch_size": 16, "resize_on": "host"},
        {"fit": "native", "image_size": (64, 64), "max_pixels_per_batch": 200_000, "batch_multiple": 2},
        {**SMALL, "augment": Augment(rotate=10, mixup=0.4), "shuffle": "blocks"},
        {"fit": "random_resized_crop", "image_size": (48, 48), "batch_size": 100},  # two chunks, the second one shorter
    ],
    ids=lambda options: f"{options['fit']}-{options.get('resize_on', 'device')}-{len(options)}",
)
def test_every_batch_is_the_same(servers, dataset, options, made_here):
    number = compare(dataset, servers.address, epochs=2, **options)
    assert number == sum(Pipeline(dataset, **options).steps_per_epoch(epoch) for epoch in range(2))
    assert made_here == []  # all came from the worker


def test_it_goes_on_at_any_step(servers, dataset, made_here):
    assert compare(dataset, servers.address, begin=(1, 7), epochs=2, **SMALL) == 3 + 10
    assert made_here == []


def test_replicas_have_the_same_shares(servers, dataset, cpu_strategy, made_here):
    strategy = cpu_strategy(3)
    local, remote = Pipeline(dataset, **SMALL), Pipeline(dataset, service=servers.address, **SMALL)
    shapes = set()
    for batch, same in zip(local.distribute(strategy), remote.distribute(strategy, counted=True), strict=False):
        for name, value in batch.items():
            ours, theirs = strategy.experimental_local_results(value), strategy.experimental_local_results(same[name])
            for part, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(part.numpy(), other.numpy(), err_msg=name)
        shapes.add(tuple(part.shape for part in strategy.experimental_local_results(same["canvas"])))
    assert shapes
    assert all(len(set(each)) == 1 for each in shapes)
    assert made_here == []


def test_keras_is_fed_the_same(servers, dataset, cpu_strategy):
    options = {**SMALL, "augment": Augment(cutmix=0.5)}
    local, remote = Pipeline(dataset, **options), Pipeline(dataset, service=servers.address, **options)
    ours, theirs = (iter(pipeline.for_fit(cpu_strategy(1), epochs=2, start=(0, 4))) for pipeline in (local, remote))
    for _ in range(2 * local.steps_per_epoch() - 4):
        expected, found = next(ours), next(theirs)
        for value, same in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
            np.testing.assert_array_equal(value.numpy(), same.numpy())


def test_a_damaged_record_is_named(servers, dataset, tmp_path):
    copy = Path(shutil.copytree(dataset.folder, tmp_path / "copy"))
    record = 17
    damage(Dataset(copy), record)
    local, remote = (Pipeline(copy, service=service, **SMALL) for service in (None, servers.address))
    with pytest.raises(tf.errors.InvalidArgumentError) as ours:
        list(local.batches())
    with pytest.raises(tf.errors.InvalidArgumentError) as theirs:
        list(remote.batches())
    named = re.search(r"train-\S+, record \d+[^:]*: cannot be read or decoded", str(ours.value)).group()
    assert named in str(theirs.value)
    assert f"{servers.address}: worker on " in str(theirs.value)

    tolerant = {**SMALL, "max_bad_records": 1, "drop_remainder": False}
    remote = Pipeline(copy, service=servers.address, **tolerant)
    records = Counter(record for batch in remote.batches() for record in batch["record"].numpy().tolist())
    assert [place.record for place in remote.bad_records] == [place.record for place in _bad_of(copy, tolerant)]
    assert records.pop(-1) == 1
    assert records == Counter(number for number in range(120) if number != record)
    assert compare(copy, servers.address, epochs=2, **tolerant) == 20


def _bad_of(folder, options):
    local = Pipeline(folder, **options)
    list(local.batches())
    return local.bad_records


def test_a_worker_that_has_another_dataset_says_so(servers, dataset, tmp_path):
    copy = Path(shutil.copytree(dataset.folder, tmp_path / "copy"))
    pipeline = Pipeline(copy, service=servers.address, **SMALL)
    text = (copy / "dataset.json").read_text()
    shutil.rmtree(copy)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"worker on .*{copy}"):
        next(iter(pipeline.batches()))

    other = Path(shutil.copytree(dataset.folder, copy))
    pipeline = Pipeline(other, service=servers.address, **SMALL)
    pipeline.dataset.__dict__["fingerprint"] = "0" * 64
    assert (other / "dataset.json").read_text() == text
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds another dataset here than where the client is"):
        next(iter(pipeline.batches()))


def test_another_version_on_the_worker_is_refused(servers, dataset, monkeypatch):
    monkeypatch.setattr("irv2data.pipeline.service.request.__version__", "0.0.9")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"has irv2data \S+, its client 0.0.9; install the same"):
        next(iter(Pipeline(dataset, service=servers.address, **SMALL).batches()))


# From here on servers come and go. An epoch has 30 steps, of which a worker is never more than some dozens ahead.
MANY, EPOCHS = {**SMALL, "batch_size": 4}, 8


def steps_beside(dataset, address, at, event):
    """Compares all batches; `event` happens when `at` of them have been taken."""
    local, remote = Pipeline(dataset, **MANY), Pipeline(dataset, service=address, **MANY)
    records: Counter[int] = Counter()
    pairs = zip(local.batches(epochs=EPOCHS), remote.batches(epochs=EPOCHS), strict=True)
    for number, (batch, same) in enumerate(pairs):
        if number == at:
            event()
        assert_equal(batch, same)
        records.update(same["record"].numpy().tolist())
    assert number == 30 * EPOCHS - 1
    assert records == Counter(dict.fromkeys(range(120), EPOCHS))  # exactly once an epoch


def test_a_worker_is_killed_in_mid_epoch(own, dataset, made_here):
    own.start_dispatcher()
    own.start_worker()
    own.start_worker()
    steps_beside(dataset, own.address, 15, own.kill_worker)
    # What it had taken was made here, and little else: the other one went on.
    assert 0 < len(made_here) < 30 * EPOCHS / 2
    assert len(set(made_here)) == len(made_here)


def test_the_dispatcher_is_killed_and_restarted_in_mid_epoch(own, dataset, made_here):
    own.start_dispatcher()
    own.start_worker()

    def event():
        own.kill_dispatcher()
        own.start_dispatcher()

    steps_beside(dataset, own.address, 15, event)
    assert len(made_here) < 30 * EPOCHS / 2


def test_a_dispatcher_that_forgets_ends_the_job(own, dataset):
    own.start_dispatcher(remembers=False)
    own.start_worker()
    batches = iter(Pipeline(dataset, service=own.address, **MANY).batches(epochs=EPOCHS))
    for _ in range(5):
        next(batches)
    own.kill_dispatcher()
    own.start_dispatcher(remembers=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{own.address}: Failed to get (tasks|element)"):
        list(batches)


def test_a_worker_comes_late(own, dataset, made_here, monkeypatch, caplog):
    monkeypatch.setattr(receiver, "PATIENCE", 0.5)
    own.start_dispatcher()
    with caplog.at_level(logging.WARNING, logger="irv2data"):
        steps_beside(dataset, own.address, 15, own.start_worker)
    assert set(range(15)) <= set(made_here)  # nobody else was there
    assert len(made_here) < 30 * EPOCHS
    said = [record.getMessage() for record in caplog.records]
    assert any("no worker gave a batch for 0 s; they are made here" in text for text in said)
    assert any("workers give batches again" in text for text in said)


def test_all_workers_are_gone(own, dataset, made_here, monkeypatch):
    monkeypatch.setattr(receiver, "PATIENCE", 0.5)
    own.start_dispatcher()
    own.start_worker()
    steps_beside(dataset, own.address, 15, own.kill_worker)
    assert len(made_here) > 30 * EPOCHS / 2


TAKE_SOME = """
import sys, irv2data
pipeline = irv2data.Pipeline(sys.argv[1], service=sys.argv[2], image_size=(64, 64), batch_size=8)
batches = iter(pipeline.batches(epochs=50))
next(batches)
print("taken")
"""


def test_a_client_ends_while_batches_are_made(servers, own, dataset):
    own.start_dispatcher()  # without workers: it would wait for ever
    for address in (servers.address, own.address):
        done = subprocess.run(
            [sys.executable, "-c", TAKE_SOME, dataset.folder, address], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout) == (0, "taken\n")


def test_servers_end_when_they_are_told_to(own):
    own.start_dispatcher()
    own.start_worker()
    # The dispatcher first: a worker does not wait for it.
    for process, number in ((own.dispatcher, signal.SIGTERM), (own.workers[0], signal.SIGINT)):
        process.send_signal(number)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["worker", "--dispatcher=127.0.0.1:1"], "service 127.0.0.1:1: nothing answers there (Connection refused)"),
        (["worker", "--dispatcher=nowhere"], "service must be grpc://host:port, got 'nowhere'"),
        (["dispatcher", "--port=99999"], "port must be between 0 and 65535, got 99999"),
        (["dispatcher", "--port={taken}"], "port {taken}: cannot be used"),
    ],
)
def test_what_cannot_be_served_is_said(servers, arguments, told):
    arguments = [argument.format(taken=servers.port) for argument in arguments]
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"irv2data serve: {told.format(taken=servers.port)}")
