"""How near hashes of copies and of different photographs come, and what it takes.

    PYTHONPATH=examples python -m benchmarks.near_duplicates [IMAGES]

Without IMAGES (a folder), of the photographs that scikit-image and scikit-learn ship: whole, and parts of them
(`examples/photographs.py`). Seconds and milliseconds are of processor time, so that a busy machine counts little.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import photographs
from PIL import Image, ImageEnhance

from benchmarks.photos import sources
from irv2data.near_duplicates.hamming import linked_groups
from irv2data.near_duplicates.hashing import perceptual_hash

DISTANCES = (4, 6, 8, 10, 12)
HASHES = 200_000


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _cut(image: Image.Image, share: float, *, corner: bool = False) -> Image.Image:
    """Without a share of width and height: half of it at either side, or all of it at the right and below."""
    x, y = (0, 0) if corner else (round(side * share / 2) for side in image.size)
    width, height = (round(side * (1 - share)) for side in image.size)
    return image.crop((x, y, x + width, y + height))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "saved again, quality 75": lambda image: _jpeg(image, 75),
    "saved again, quality 20": lambda image: _jpeg(image, 20),
    "half as wide": lambda image: _jpeg(_scaled(image, 1 / 2)),
    "a quarter as wide": lambda image: _jpeg(_scaled(image, 1 / 4)),
    "stretched to 224x224": lambda image: _jpeg(image.resize((224, 224))),
    "grey": lambda image: _jpeg(image.convert("L").convert("RGB")),
    "brighter by 30 %": lambda image: _jpeg(ImageEnhance.Brightness(image).enhance(1.3)),
    "cropped by 1 %": lambda image: _jpeg(_cut(image, 0.01)),
    "cropped by 2 %": lambda image: _jpeg(_cut(image, 0.02)),
    "cropped by 4 %": lambda image: _jpeg(_cut(image, 0.04)),
    "cropped by 6 %": lambda image: _jpeg(_cut(image, 0.06)),
    "cropped by 10 %": lambda image: _jpeg(_cut(image, 0.10)),
    "a corner of 95 %": lambda image: _jpeg(_cut(image, 0.05, corner=True)),
    "mirrored": lambda image: _jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def measure(title: str, images: list[tuple[str, Image.Image]]) -> None:
    """Prints how many copies are found at each distance, and how near different photographs come.

    Args:
        title: What the images are.
        images: Name of the photograph that each is (a part of), and its pixels.
    """
    encoded = [_jpeg(image) for _, image in images]
    started = time.process_time()
    hashed = [perceptual_hash(each) for each in encoded]
    cost = (time.process_time() - started) / len(encoded)
    size = sum(map(len, encoded)) / len(encoded)
    sharp = [number for number, (_, flat) in enumerate(hashed) if not flat]
    hashes = np.array([hashed[number][0] for number in sharp], np.uint64)
    print(
        f"{title}: {len(sharp)}, and {len(images) - len(sharp)} flat; {1e3 * cost:.1f} ms each of {size / 1e3:.0f} kB"
    )
    for copy, make in COPIES.items():
        far = np.array([(perceptual_hash(make(images[n][1]))[0] ^ hashed[n][0]).bit_count() for n in sharp])
        shares = "  ".join(f"<= {d}: {np.mean(far <= d):4.0%}" for d in DISTANCES)
        print(f"  {copy:24} median {np.median(far):4.0f}  {shares}")
    some, others = np.triu_indices(len(sharp), 1)
    far = np.array([(int(hashes[a]) ^ int(hashes[b])).bit_count() for a, b in zip(some, others, strict=True)])
    names = [images[number][0] for number in sharp]
    apart = np.array([names[a] != names[b] for a, b in zip(some, others, strict=True)])
    nearest = np.flatnonzero(apart)[np.argsort(far[apart], kind="stable")][:4]
    print(f"  of different photographs: {apart.sum():,} pairs, mean {far[apart].mean():.1f}, nearest")
    print("    " + ", ".join(f"{far[n]} ({names[some[n]]}, {names[others[n]]})" for n in nearest))


def chance(number: int) -> None:
    """Prints what groups of hashes by chance take, and how many of them there are; 32 bits set, as pHash has."""
    bits = np.zeros((number, 64), np.uint8)
    places = np.argsort(np.random.default_rng(0).random((number, 64)), axis=1)[:, :32]
    np.put_along_axis(bits, places, 1, axis=1)
    hashes = np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(-1)
    for distance in DISTANCES:
        started = time.process_time()
        groups = len(np.unique(linked_groups(hashes, distance)))
        seconds = time.process_time() - started
        print(f"  {number:,} hashes by chance, distance {distance}: {seconds:.1f} s, {number - groups} linked")


def main() -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", help="folder of photographs, each of another thing")
    options = parser.parse_args()
    if options.images is not None:
        measure("photographs", [(path.name, _opened(path)) for path in sources(options.images)])
    else:
        paths = sorted({*sources(), *map(photographs.source_path, photographs.all_sources())})
        measure("whole photographs", [(path.name, _opened(path)) for path in paths])
        with tempfile.TemporaryDirectory() as folder:
            photographs.write_folder(Path(folder), images_per_source=24)
            parts = sorted(path for path in Path(folder).rglob("*.*") if path.is_file())
            measure("parts of photographs", [(path.stem.rsplit("-", 1)[0], _opened(path)) for path in parts])
    chance(HASHES)


if __name__ == "__main__":
    main()
