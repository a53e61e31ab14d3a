"""Perceptual hashes of a dataset's images: the records of one shard, in a worker process."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from irv2data import schema
from irv2data.convert.foreign import read_foreign
from irv2data.convert.workers import Marker
from irv2data.errors import RecordError, UsageError, one_line
from irv2data.manifest import Contents, Split
from irv2data.tfrecord import read_frames

_PIXELS = 64  # of the short side at which an image is decoded, where its format knows how
_CONTRAST = 4.0  # standard deviation of grey levels, of 255, below which an image is flat
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")


def require_imagehash() -> Any:
    """The library ImageHash.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import imagehash
    except ImportError as error:
        raise UsageError("near duplicates need the 'report' extra: pip install 'irv2data[report]'") from error
    return imagehash


@dataclass(frozen=True, kw_only=True)
class Task:
    """The records of one shard, by `rows` of the index of the `split` of that number."""

    split: int
    path: str
    shard: int
    contents: Contents
    rows: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    barred: Mapping[int, str]

    def without(self, item: int, code: str, detail: str) -> Task:
        """The task without a record that took its worker down twice."""
        return replace(self, barred={**self.barred, item: detail})


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """Of each record of a task: its hash (uint64 [K]), its digest (uint8 [K, 32]), whether it is flat (bool [K]).

    `damaged` says of the others, by their places, what is wrong with them.
    """

    hashes: np.ndarray
    digests: np.ndarray
    flat: np.ndarray
    damaged: dict[int, str]


def tasks_of(splits: Sequence[Split]) -> Iterator[Task]:
    """One task for each shard that holds records of the splits."""
    for number, split in enumerate(splits):
        shards = np.asarray(split.array("shard"))
        for shard, path in enumerate(split.paths):
            rows = np.flatnonzero(shards == shard)
            if len(rows):
                yield Task(
                    split=number,
                    path=path,
                    shard=shard,
                    contents=split.contents,
                    rows=rows,
                    offsets=np.asarray(split.array("offset")[rows]),
                    lengths=np.asarray(split.array("length")[rows]),
                    barred={},
                )


def brought(splits: Sequence[Split], task: Task) -> Task:
    """The task, once the shard of a remote dataset is on this machine."""
    split = splits[task.split]
    if split.fetch is not None:
        split.fetch([split.shards[task.shard]])
    return task


def hash_shard(task: Task, marker: Marker) -> Hashed:
    """Hashes the records of one shard; runs in a worker."""
    size = len(task.rows)
    found = Hashed(
        hashes=np.zeros(size, np.uint64),
        digests=np.zeros((size, 32), np.uint8),
        flat=np.zeros(size, bool),
        damaged=dict(task.barred),
    )
    try:
        with open(task.path, "rb") as file:
            for place in range(size):
                if place not in found.damaged:
                    marker.begin(place)
                    try:
                        encoded = _encoded(file, task, place)
                        found.hashes[place], found.flat[place] = perceptual_hash(encoded)
                        found.digests[place] = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8)
                    except (RecordError, OSError, ValueError, MemoryError) as error:
                        found.damaged[place] = error.reason if isinstance(error, RecordError) else one_line(error)
                    marker.end()
                marker.advance()
    except OSError as error:  # each record is then as lost as if it were damaged itself
        reason = f"the shard cannot be read ({error.strerror or error})"
        return replace(found, damaged=dict.fromkeys(range(size), reason))
    return found


def _encoded(file: BinaryIO, task: Task, place: int) -> bytes:
    # By offset, not one after another: behind a damaged record there would be none.
    file.seek(int(task.offsets[place]))
    framed = io.BytesIO(file.read(int(task.lengths[place])))
    _, payload = next(read_frames(framed, os.path.basename(task.path)), (0, b""))
    if task.contents.adopted:
        return read_foreign(payload, task.contents).encoded
    return schema.decode(payload, task.contents.labels, task.contents.columns).encoded


def perceptual_hash(encoded: bytes) -> tuple[int, bool]:
    """The 64-bit perceptual hash of a compressed image, and whether the image is flat, so that the hash says nothing.

    Raises:
        ValueError: It cannot be decoded.
    """
    imagehash = require_imagehash()
    Image.MAX_IMAGE_PIXELS = None  # whoever made the dataset set the limit; Pillow's own could only refuse its records
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            image.draft("L", (_PIXELS, _PIXELS))  # a JPEG at 1/2, 1/4 or 1/8, its grey levels alone
            grey = image.convert("L")
    except Exception as error:  # Pillow raises nearly every type on malformed input
        raise ValueError(f"the image cannot be decoded ({one_line(error)})") from error
    bits = imagehash.phash(grey).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), float(np.asarray(grey).std()) < _CONTRAST
