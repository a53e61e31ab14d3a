"""What the tests share: real photographs, the dataset made of them, and logical CPU devices as replicas."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import photographs
import pytest
import tensorflow as tf

import irv2data
from irv2data.convert import ConvertConfig, convert
from irv2data.training import make_strategy

# Before anything initialises TensorFlow: their number cannot be changed afterwards.
CPUS = 3
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * CPUS
)


class SerialMarker:
    """What a worker's marker is, in this process."""

    def __init__(self, progress):
        self._progress = progress

    def begin(self, item):
        pass

    def end(self):
        pass

    def advance(self):
        self._progress(1)


def run_serial(function, tasks, *, finished, progress, **limits):
    """`run_local` without processes, which cost a second."""
    for number, task in enumerate(tasks):
        finished(number, function(task, SerialMarker(progress)))


@pytest.fixture(scope="session")
def in_this_process() -> Callable[[], AbstractContextManager[None]]:
    """`with in_this_process():` conversions, checks, repairs and adoptions run without worker processes."""

    @contextmanager
    def patched() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            rooms = [f"convert.{module}" for module in ("run", "hashing", "verify", "repair", "adopt")]
            for module in (*rooms, "near_duplicates.search"):
                # By import: as attributes of the package, some of these names are the functions.
                patch.setattr(importlib.import_module(f"irv2data.{module}"), "run_local", run_serial)
            yield

    return patched


@pytest.fixture
def serial(in_this_process) -> Iterator[None]:
    """Conversions in this process."""
    with in_this_process():
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder SPLIT/CLASS/*.jpg|png of 180 real photographs, 48 to about 1000 pixels; read only."""
    folder = tmp_path_factory.mktemp("photos")
    photographs.write_folder(folder, images_per_source=12)
    return folder


@pytest.fixture(scope="session")
def dataset(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> irv2data.Dataset:
    """`photos` converted, with its splits train (120 records) and validation (60); read only."""
    folder = tmp_path_factory.mktemp("datasets") / "photos"
    convert(photos, folder, ConvertConfig(splits="folders"), workers=2)
    return irv2data.Dataset(folder)


@pytest.fixture(scope="session")
def local(photos, in_this_process, tmp_path_factory: pytest.TempPathFactory) -> irv2data.Dataset:
    """`photos` in a score of shards, for what is compared with the same dataset elsewhere; read only."""
    folder = tmp_path_factory.mktemp("sharded") / "photos"
    with in_this_process():
        convert(photos, folder, ConvertConfig(splits="folders", shard_mib=0.3))
    dataset = irv2data.Dataset(folder)
    assert len(dataset.split("train").shards) > 12
    return dataset


@pytest.fixture
def cpu_strategy():
    """Makes a strategy of 1 to 3 logical CPU replicas: `cpu_strategy(2)`."""

    def make(replicas: int) -> tf.distribute.Strategy:
        return make_strategy(replicas)

    return make
