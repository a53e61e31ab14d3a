"""Compressed images of some records, and small pictures of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from irv2data import schema
from irv2data.errors import RecordError, one_line
from irv2data.split import Split
from irv2data.tfrecord import read_frames

_JPEG = b"\xff\xd8\xff"
_FORMATS = ("PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_MOST_PIXELS = 50_000_000  # of what is decoded for a small picture: a bomb shows nothing


def encoded_images(split: Split, rows: np.ndarray) -> Iterator[tuple[int, bytes | RecordError]]:
    """The compressed images of some records, our own or adopted, shard by shard.

    Args:
        split: The split.
        rows: int [K], rows of its index.

    Yields:
        Row, and the image or what is wrong with the record.

    Raises:
        DatasetError: The index is damaged, or a shard is remote and cannot be fetched.
    """
    shards, offsets, lengths = (np.asarray(split.array(name)[rows]) for name in ("shard", "offset", "length"))
    for number in np.unique(shards).tolist():
        shard = split.shards[number]
        if split.fetch is not None:
            split.fetch([shard])
        for place in np.flatnonzero(shards == number).tolist():
            row = int(rows[place])
            try:
                yield row, _encoded(split, shard.file, int(offsets[place]), int(lengths[place]))
            except RecordError as error:
                yield row, RecordError(error.reason, shard=shard.file, record=split.locate(row)[1])
            except (OSError, ValueError) as error:
                yield row, RecordError(one_line(error), shard=shard.file, record=split.locate(row)[1])


def _encoded(split: Split, file: str, offset: int, length: int) -> bytes:
    with open(split.folder / file, "rb") as stream:
        stream.seek(offset)
        framed = stream.read(length)
    _, payload = next(read_frames(io.BytesIO(framed), file), (0, b""))
    found = schema.features(payload).get(split.contents.encoded_key, [])
    if len(found) != 1 or not isinstance(found[0], bytes):
        raise ValueError(f"key {split.contents.encoded_key!r} holds no image")
    return found[0]


def small_picture(image: bytes, side: int) -> Image.Image | None:
    """A compressed image (RGB or grey) of at most `side` pixels either way; None of what cannot be decoded cheaply.

    Of a JPEG that ends too early there is what it has.
    """
    try:
        if image.startswith(_JPEG):
            return _of_jpeg(image, side)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is the smaller bound
            with Image.open(io.BytesIO(image), formats=_FORMATS) as opened:
                return _small(opened, side) if opened.size[0] * opened.size[1] <= _MOST_PIXELS else None
    # Pillow raises nearly every type on malformed input; whoever asks shows the file's name instead.
    except Exception:
        return None


def _of_jpeg(image: bytes, side: int) -> Image.Image | None:
    height, width, *_ = simplejpeg.decode_jpeg_header(image, strict=False)
    if height * width > _MOST_PIXELS:
        return None
    # No smaller than twice the picture, so that it is still resampled well.
    least = {"min_height": min(height, 2 * side), "min_width": min(width, 2 * side)}
    picture = Image.fromarray(simplejpeg.decode_jpeg(image, "RGB", strict=False, **least))
    picture.thumbnail((side, side))
    return picture


def _small(opened: Image.Image, side: int) -> Image.Image:
    picture = opened.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    picture.thumbnail((side, side))
    return picture
