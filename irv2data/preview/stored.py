"""How images are stored: bytes, formats, and the quality that JPEGs were saved with."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from irv2data.errors import RecordError, one_line
from irv2data.manifest import FORMAT_NAMES, PNG, Dataset, Split
from irv2data.preview.config import PreviewConfig
from irv2data.preview.reading import encoded_images

_BINS = 40
_REMOTE_SHARDS = 4  # of a remote split that are fetched for a sample


def byte_facts(dataset: Dataset) -> dict[str, Any] | None:
    """Bytes of a record, with its few other fields and 16 bytes of framing; None without records.

    Returns:
        `least`, `median`, `mean`, `most`; `edges` of bins (equal steps of the logarithm) and `counts`;
        `per_pixel`, the median of bytes over pixels; `formats`, name to number of records.
    """

    def column(name: str) -> np.ndarray:
        return np.concatenate([split.array(name) for split in dataset.splits.values()]).astype(np.int64)

    length = column("length")
    if not len(length):
        return None
    edges = np.geomspace(0.98 * length.min(), 1.02 * length.max(), _BINS + 1)
    formats = np.bincount(column("format"), minlength=len(FORMAT_NAMES))
    return {
        "least": int(length.min()),
        "median": float(np.median(length)),
        "mean": float(length.mean()),
        "most": int(length.max()),
        "edges": edges.tolist(),
        "counts": np.histogram(length, edges)[0].tolist(),
        "per_pixel": float(np.median(length / (column("height") * column("width")))),
        "formats": {name: int(n) for name, n in zip(FORMAT_NAMES, formats, strict=True) if n},
    }


def quality_facts(dataset: Dataset, config: PreviewConfig) -> dict[str, Any]:
    """The estimated quality of the JPEGs, or of some drawn at random; their headers alone are looked at.

    Returns:
        `jpegs`, how many there are; `sampled`, how many were read; `counts[q]` of those of quality q, 0 to 100;
        `exact`, how many have the very tables that libjpeg writes at a quality; `damaged`, how many could not be read,
        and `damage`, what is wrong with the first of them (else None).
    """
    rng = np.random.default_rng(config.seed)
    jpegs = {name: np.flatnonzero(np.asarray(split.array("format")) < PNG) for name, split in dataset.splits.items()}
    near = {name: _at_hand(dataset.splits[name], rows) for name, rows in jpegs.items()}
    which = np.repeat(np.arange(len(near)), [len(rows) for rows in near.values()])
    drawn = np.sort(rng.permutation(len(which))[: config.samples])
    rows = np.concatenate([*near.values(), np.zeros(0, np.int64)])[drawn]
    counts, exact, damage = np.zeros(101, int), 0, []
    for number, name in enumerate(near):
        for row, image in encoded_images(dataset.splits[name], rows[which[drawn] == number]):
            if isinstance(image, RecordError):
                damage.append(str(image))
                continue
            try:
                with JpegImageFile(
                    io.BytesIO(image)
                ) as opened:  # `Image.open` has a limit of pixels, which are not read
                    quality, same = jpeg_quality(opened.quantization)
            except (OSError, SyntaxError, ValueError) as error:  # the second is Pillow's for files of another format
                damage.append(f"record {row} of {name}: {one_line(error)}")
                continue
            counts[quality] += 1
            exact += same
    return {
        "jpegs": sum(map(len, jpegs.values())),
        "sampled": len(drawn),
        "counts": counts.tolist(),
        "exact": exact,
        "damaged": len(damage),
        "damage": damage[0] if damage else None,
    }


def jpeg_quality(tables: dict[int, list[int]]) -> tuple[int, bool]:
    """The quality, 1 to 100, at which libjpeg's quantization tables are nearest to these; and whether they are these.

    The least sum of squares over the tables of luminance and chrominance, of J. van der Knijff, "JPEG quality
    estimation using simple least squares matching of quantization tables"
    (https://www.bitsgalore.org/2024/10/30/jpeg-quality-estimation-using-simple-least-squares-matching-of-quantization-tables,
    2024). Other encoders have other tables: of these, the quality is the libjpeg setting that quantizes most alike.

    Args:
        tables: As Pillow's `image.quantization`: number to 64 values; the first is luminance.
    """
    given = np.array([tables[number] for number in sorted(tables)[:2]], np.int64)
    distance = ((_libjpeg_tables()[:, : len(given)] - given) ** 2).sum(axis=(1, 2))
    # At the lowest qualities tables are equal, for values end at 255: the best of these.
    quality = 100 - int(distance[::-1].argmin())
    return quality, bool(distance[quality - 1] == 0)


@lru_cache(maxsize=1)
def _libjpeg_tables() -> np.ndarray:
    """Luminance and chrominance of the qualities 1 to 100, by libjpeg itself: int64 [100, 2, 64].

    They are those of Annex K of ITU-T T.81, scaled as `jpeg_quality_scaling` in libjpeg's `jcparam.c` does.
    """
    tables = []
    for quality in range(1, 101):
        data = io.BytesIO()
        Image.new("RGB", (8, 8)).save(data, "JPEG", quality=quality)
        with JpegImageFile(io.BytesIO(data.getvalue())) as image:
            tables.append([image.quantization[number] for number in (0, 1)])
    return np.array(tables, np.int64)


def _at_hand(split: Split, rows: np.ndarray) -> np.ndarray:
    """Of a remote split, the rows in a few of its shards: a sample must not fetch all of them."""
    if split.fetch is None or len(split.shards) <= _REMOTE_SHARDS:
        return rows
    some = np.linspace(0, len(split.shards) - 1, _REMOTE_SHARDS).astype(int)
    return rows[np.isin(split.array("shard")[rows], some)]
