"""The same photographs in every form that loaders read. They lie in the page cache afterwards, just written."""

from __future__ import annotations

import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.feeds import Data
from benchmarks.feeds_other import paths_of


def prepare(place: Path, files: int, images: str | None, *, cores: int) -> tuple[Data, dict[str, Any]]:
    """Writes the photographs and converts them; with what figures should say of them."""
    from benchmarks.photos import sources, write_photographs
    from irv2data import Dataset
    from irv2data.convert import ConvertConfig, convert

    folder, dataset, archives, beton = (
        str(place / name) for name in ("photographs", "dataset", "archives", "photographs.beton")
    )
    data = Data(folder, dataset, archives, beton, cores)
    size = write_photographs(Path(data.folder), sources(images), files=files)
    report = convert(data.folder, data.dataset, ConvertConfig(splits=(("train", 1.0),)))
    if report.rejected:
        raise SystemExit(f"{report.rejected} of the photographs were rejected: {report.rejects}")
    split = Dataset(data.dataset).split("train")
    sides = [side for name in ("height", "width") for side in split.array(name).tolist()]
    return data, {"files": files, "mean_bytes": round(size / files), "sides": [min(sides), max(sides)]}


def write_archives(data: Data, count: int = 8) -> None:
    """WebDataset's tar files, neighbours from different classes."""
    os.makedirs(data.archives)
    paths = paths_of(data.folder)
    for number in range(count):
        with tarfile.open(os.path.join(data.archives, f"{number:02d}.tar"), "w") as archive:
            for row in range(number, len(paths), count):
                label = Path(paths[row]).parent.name.rpartition("-")[2].encode()
                archive.add(paths[row], f"{row:06d}.jpg")
                described = tarfile.TarInfo(f"{row:06d}.cls")
                described.size = len(label)
                archive.addfile(described, BytesIO(label))
