"""A converter without worker processes, and a small dataset, for the tests of the converter."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irv2data import Dataset, schema
from irv2data.convert import ConvertConfig, convert
from irv2data.tfrecord import read_frames


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """An RGB image that JPEG keeps well, different at each corner and for each seed."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(seed)
    planes = [
        rng.uniform(0, 90) + rng.uniform(50, 80) * (y / height) + rng.uniform(10, 70) * (x / width) for _ in "RGB"
    ]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """`picture(height, width, seed=0)`: a smooth RGB image."""
    return smooth


@pytest.fixture
def saved() -> Callable[..., bytes]:
    """`saved(image, format, **options)`: the bytes Pillow writes."""

    def save(image: Image.Image, format: str = "JPEG", **options) -> bytes:
        out = io.BytesIO()
        image.save(out, format, **options)
        return out.getvalue()

    return save


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 sound images in the classes ant (JPEG), bee (progressive) and cow (PNG); read only."""
    folder = tmp_path_factory.mktemp("small") / "source"
    for number in range(24):
        name, suffix, options = (
            ("ant", "jpg", {"quality": 95}),
            ("bee", "jpg", {"progressive": True}),
            ("cow", "png", {}),
        )[number % 3]
        (folder / name).mkdir(parents=True, exist_ok=True)
        smooth(20 + number, 40 - number, number).save(folder / name / f"{number:02d}.{suffix}", **options)
    return folder


@pytest.fixture(scope="session")
def small_dataset(small_source: Path, tmp_path_factory: pytest.TempPathFactory, in_this_process) -> Path:
    """`small_source` converted: train and validation, several shards each; read only, copy it to change it."""
    folder = tmp_path_factory.mktemp("small") / "dataset"
    config = ConvertConfig(splits=(("train", 0.6), ("validation", 0.4)), shard_mib=0.003)
    with in_this_process():
        convert(small_source, folder, config)
    return folder


@pytest.fixture
def records_of() -> Callable[[Path], dict[str, list[schema.Record]]]:
    """`records_of(folder)`: split to its decoded records in order."""

    def read(folder: Path) -> dict[str, list[schema.Record]]:
        records: dict[str, list[schema.Record]] = {}
        for name, split in Dataset(folder).splits.items():
            records[name] = []
            for path in split.paths:
                with open(path, "rb") as file:
                    contents = split.contents
                    records[name] += [
                        schema.decode(payload, contents.labels, contents.columns)
                        for _, payload in read_frames(file, path)
                    ]
        return records

    return read
