"""What the tests share: real photographs, the dataset made of them, and logical CPU devices as replicas."""

from __future__ import annotations

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


@pytest.fixture
def cpu_strategy():
    """Makes a strategy of 1 to 3 logical CPU replicas: `cpu_strategy(2)`."""

    def make(replicas: int) -> tf.distribute.Strategy:
        return make_strategy(replicas)

    return make
