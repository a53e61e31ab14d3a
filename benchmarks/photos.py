"""Folders of photographs for benchmarks: many sizes, baseline JPEG, made of what pip installs or of one's own.

The photographs that scikit-image and scikit-learn ship are small. A large image is therefore cut from a wall of
mirrored copies rather than scaled up: scaled-up pixels are smooth, take few bits, and decode faster than any
photograph does.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SHORTEST, LONGEST = 180, 3000  # of long sides, in pixels
MEDIAN, _SPREAD = 680, 0.64  # of the log-normal distribution of long sides
_SOURCES = (
    "skimage:astronaut.png",
    "skimage:chelsea.png",
    "skimage:coffee.png",
    "skimage:hubble_deep_field.jpg",
    "skimage:motorcycle_left.png",
    "skimage:retina.jpg",
    "skimage:rocket.jpg",
    "sklearn:china.jpg",
    "sklearn:flower.jpg",
)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def sources(images: str | None = None) -> list[Path]:
    """The photographs to cut from: those below a folder with a short side of 400 px or more, or those that pip has."""
    if images is None:
        import skimage
        import sklearn

        homes = {
            "skimage": Path(skimage.__file__).parent / "data",
            "sklearn": Path(sklearn.__file__).parent / "datasets" / "images",
        }
        return [homes[package] / name for package, name in (source.split(":") for source in _SOURCES)]
    found = []
    for path in sorted(Path(images).rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            with Image.open(path) as image:
                if min(image.size) >= 400:
                    found.append(path)
    if not found:
        raise SystemExit(f"{images}: holds no image of 400 px or more")
    return found


def write_photographs(
    folder: Path, paths: Sequence[Path], *, files: int, copies: int = 1, seed: int = 0, median: int = MEDIAN
) -> int:
    """Writes `folder/class-N/*.jpg`, baseline, and returns their bytes in all.

    Args:
        folder: Folder to make.
        paths: Photographs to cut from.
        files: How many to encode.
        copies: How often to write each, told apart by a comment: no two files are equal, and all but the first copy
            have metadata to remove, as nearly every photograph has.
        seed: Of sizes and places.
        median: Of long sides, in pixels.
    """
    shares = [
        (folder, path, range(number, files, len(paths)), copies, seed, median) for number, path in enumerate(paths)
    ]
    with ProcessPoolExecutor() as pool:
        return sum(pool.map(_write, *zip(*shares, strict=True)))


def _write(folder: Path, path: Path, numbers: range, copies: int, seed: int, median: int) -> int:
    written = 0
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    for number in numbers:
        rng = np.random.default_rng((seed, number))
        encoded = _encode(_cut(pixels, rng, median), quality=int(rng.integers(56, 84)))
        for copy in range(copies):
            target = folder / f"class-{number % 10}" / f"{number:06d}-{copy}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            content = encoded[:2] + comment(f"copy {copy}") * (copy > 0) + encoded[2:]
            target.write_bytes(content)
            written += len(content)
    return written


def _cut(pixels: np.ndarray, rng: np.random.Generator, median: int) -> Image.Image:
    long = float(np.clip(np.exp(rng.normal(np.log(median), _SPREAD)), SHORTEST, max(LONGEST, 2 * median)))
    aspect = np.exp(rng.uniform(-np.log(1.8), np.log(1.8)))
    width, height = round(long * min(1, aspect)), round(long * min(1, 1 / aspect))
    # About as sharp as photographs on the web, at 0.13 bytes a pixel and a fifth more.
    scale = rng.uniform(0.8, 1.6)
    return wall(pixels, round(width * scale), round(height * scale), rng).resize(
        (width, height), Image.Resampling.LANCZOS
    )


def wall(pixels: np.ndarray, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A random part of a photograph that goes on in mirrored copies of itself."""
    indices = []
    for side, wanted in zip(pixels.shape[:2], (height, width), strict=True):
        at = (int(rng.integers(2 * side)) + np.arange(wanted)) % (2 * side)
        indices.append(np.where(at < side, at, 2 * side - 1 - at))
    return Image.fromarray(pixels[indices[0]][:, indices[1]])


def comment(text: str) -> bytes:
    """A JPEG's comment segment."""
    return b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text.encode()


def _encode(image: Image.Image, *, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def write_large(folder: Path, paths: Sequence[Path], *, seed: int = 0) -> dict[str, int]:
    """Writes images of 24 and 90 megapixels: baseline, progressive and turned JPEG, and PNG; kind to its number."""
    folder.mkdir(parents=True, exist_ok=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: dict[str, dict[str, object]] = {
        "baseline.jpg": {"quality": 85},
        "progressive.jpg": {"quality": 85, "progressive": True},
        "turned.jpg": {"quality": 85, "exif": turned},
        "deflated.png": {"compress_level": 1},
    }
    written: dict[str, int] = {}
    for number, (width, height) in enumerate(((6000, 4000),) * 3 + ((11610, 7740),) * 2):
        rng = np.random.default_rng((seed, number))
        with Image.open(paths[number % len(paths)]) as opened:
            image = wall(np.asarray(opened.convert("RGB")), width, height, rng)
        for kind, options in kinds.items():
            image.save(folder / f"large-{number}-{kind}", **options)
            name = f"{width * height / 1e6:.0f} megapixels {kind}"
            written[name] = written.get(name, 0) + 1
    return written
