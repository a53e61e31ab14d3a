"""A folder of real photographs of many sizes, cut from those that scikit-image and scikit-learn ship.

Every source photograph goes to one split only, so that nothing of a validation image was ever seen in training. The
photographs are free (public domain, CC0, CC BY or BSD; see `skimage/data/README.txt` and
`sklearn/datasets/images/README.txt` in the installed packages).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

# Class -> split -> source photographs. One source a class is held out.
SOURCES = {
    "medicine": {"train": ("skimage:ihc.png", "skimage:cell.png"), "validation": ("skimage:retina.jpg",)},
    "outdoors": {"train": ("sklearn:china.jpg", "skimage:rocket.jpg"), "validation": ("sklearn:flower.jpg",)},
    "portrait": {"train": ("skimage:astronaut.png", "skimage:camera.png"), "validation": ("skimage:chelsea.png",)},
    "table": {"train": ("skimage:coffee.png", "skimage:motorcycle_left.png"), "validation": ("skimage:coins.png",)},
    "texture": {"train": ("skimage:brick.png", "skimage:gravel.png"), "validation": ("skimage:grass.png",)},
}
SMALLEST = 48


def all_sources() -> list[str]:
    """Every source photograph, as `package:file`."""
    return [name for splits in SOURCES.values() for names in splits.values() for name in names]


def source_path(name: str) -> Path:
    """Where an installed package keeps a photograph, given as `package:file`."""
    package, file = name.split(":")
    if package == "skimage":
        import skimage

        return Path(skimage.__file__).parent / "data" / file
    import sklearn

    return Path(sklearn.__file__).parent / "datasets" / "images" / file


def write_folder(folder: Path, *, images_per_source: int = 24, seed: int = 0) -> int:
    """Writes `folder/SPLIT/CLASS/NAME-NNN.jpg` (every eighth a PNG, every sixth a progressive JPEG).

    Args:
        folder: Folder to make.
        images_per_source: Crops a photograph; their short sides are uniform between 48 pixels and all there is,
            their aspects log-uniform between 1:2 and 2:1.
        seed: Of the crops.

    Returns:
        Number of images written.
    """
    rng = np.random.default_rng(seed)
    written = 0
    for label, splits in SOURCES.items():
        for split, names in splits.items():
            target = folder / split / label
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                with Image.open(source_path(name)) as photograph:
                    image = photograph.convert("RGB")
                for number in range(images_per_source):
                    stem = f"{Path(name.split(':')[1]).stem}-{number:03d}"
                    crop = image.crop(_random_box(image.size, rng))
                    if number % 8 == 7:
                        crop.save(target / f"{stem}.png")
                    else:
                        crop.save(target / f"{stem}.jpg", quality=90, progressive=number % 6 == 5)
                    written += 1
    return written


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    short = rng.uniform(SMALLEST, min(size))
    aspect = np.exp(rng.uniform(np.log(1 / 2), np.log(2)))
    width = round(min(short * max(aspect, 1), size[0]))
    height = round(min(short * max(1 / aspect, 1), size[1]))
    x, y = (int(rng.integers(whole - part + 1)) for whole, part in zip(size, (width, height), strict=True))
    return x, y, x + width, y + height


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images_per_source", type=int, default=24)
    options = parser.parse_args()
    print(write_folder(options.folder, images_per_source=options.images_per_source), "images")
