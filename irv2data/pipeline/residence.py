"""Where decoded images lie when they are kept: arithmetic alone, from the index, before anything is decoded.

An image is kept whole, as rows of tiles, all images one behind the other in one array. A tile is `TILE` neighbouring
pixels of one row, so that any window of any image is a gather of tiles: one operation makes a batch of images of all
sizes, copies no pixel twice, and touches little more than the windows. What it costs is the part of each row's last
tile that is beyond the image: 32 pixels on average.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from irv2data.errors import UsageError
from irv2data.machine import available_memory
from irv2data.manifest import PNG
from irv2data.pipeline.config import AUTO, DEVICE, DISK, HOST, NO_CACHE, PipelineConfig
from irv2data.pipeline.geometry import decode_windows
from irv2data.pipeline.planned import FILLER
from irv2data.split import Split

_LOG = logging.getLogger(__name__)

TILE = 64  # pixels; 192 bytes: twice as many are no faster, and waste more
MOST_TILES = 1 << 30  # 200 GB of pixels: numbers of tiles are int32, and room is left to mark what is none
_LONGEST = 4  # times the short side: what is longer (a panorama) is averaged down along that axis
_PART = 1 << 18  # images whose places are worked out at once


@dataclass(frozen=True, kw_only=True)
class Residence:
    """The kept image of each record.

    Attributes:
        scale: int32 [N], a JPEG is decoded at one over it.
        reduce: int32 [N, 2], whole numbers by which rows and columns are then averaged.
        crop: int32 [N, 2], height and width at that scale, before they are averaged.
        size: int32 [N, 2], height and width that are kept, in pixels.
        pitch: int32 [N], tiles a row.
        first: int64 [N], number of the first tile.
        tiles: How many there are in all; the first of them, number 0, is black and belongs to no image.
    """

    scale: np.ndarray
    reduce: np.ndarray
    crop: np.ndarray
    size: np.ndarray
    pitch: np.ndarray
    first: np.ndarray
    tiles: int

    @property
    def num_bytes(self) -> int:
        """What all of them take."""
        return self.tiles * TILE * 3


def residence_of(height: np.ndarray, width: np.ndarray, scalable: np.ndarray, short_side: int) -> Residence:
    """Where images are kept, each decoded to as few pixels as its decoder allows with no side below `short_side`.

    Args:
        height: int [N], in pixels.
        width: int [N], in pixels.
        scalable: bool [N], whether the decoder can scale (JPEG, by 2, 4 and 8). What cannot be scaled is kept as it is,
            up to the longest side that is kept at all.
        short_side: In pixels. A side of more than 4 times as many is averaged down by a whole number.
    """
    parts = []
    for start in range(0, len(height), _PART):
        part = slice(start, start + _PART)
        size = np.stack([height[part], width[part]], axis=1).astype(np.int64)
        longest = (_LONGEST * short_side, _LONGEST * short_side)
        whole = np.concatenate([np.zeros_like(size), size], axis=1)
        parts.append(decode_windows(whole, size, np.asarray(scalable[part]), (short_side, short_side), longest))
    size = np.concatenate([part.size for part in parts])
    pitch = -(-size[:, 1] // TILE)
    ends = 1 + np.cumsum(size[:, 0].astype(np.int64) * pitch)
    return Residence(
        scale=np.concatenate([part.scale for part in parts]),
        reduce=np.concatenate([part.reduce for part in parts]),
        crop=np.concatenate([part.crop for part in parts])[:, 2:],
        size=size,
        pitch=pitch.astype(np.int32),
        first=np.concatenate([[1], ends[:-1]]),
        tiles=int(ends[-1]),
    )


def residence_for(split: Split, config: PipelineConfig) -> tuple[str, Residence | None]:
    """Where a split's images are kept (`none`, `host`, `device` or `disk`), and where each lies there.

    Logs what `auto` chose, and why.

    Raises:
        UsageError: They are more than can be kept there.
    """
    if config.cache == NO_CACHE:
        return NO_CACHE, None
    columns = [np.asarray(split.array(name)) for name in ("height", "width", "format")]
    residence = residence_of(columns[0], columns[1], columns[2] < PNG, config.kept_side)
    place = _chosen(split, config, residence) if config.cache == AUTO else config.cache
    if place in (HOST, DEVICE) and residence.tiles > MOST_TILES:
        raise UsageError(
            f"cache: the decoded images of split {split.name!r} take {residence.num_bytes >> 30} GiB, more than the "
            f"{MOST_TILES * TILE * 3 >> 30} GiB that can be kept in memory; use a smaller cache_short_side, or 'disk'"
        )
    return place, None if place == NO_CACHE else residence


def _chosen(split: Split, config: PipelineConfig, residence: Residence) -> str:
    """The fastest place that has the room."""
    free = available_memory()
    most = config.cache_mib * (1 << 20) if config.cache_mib is not None else None if free is None else free // 2
    words = (
        "how much memory there is, is not known: give cache_mib" if most is None else f"{most >> 20} MiB may be used",
        f"{config.cache_device_mib} MiB of each device",
        "no cache_dir is given" if config.cache_dir is None else f"cache_dir is {config.cache_dir}",
    )
    size, few = residence.num_bytes, residence.tiles <= MOST_TILES
    place = NO_CACHE
    # The host's memory too: an epoch long, images are there on their way to the device.
    in_host = few and most is not None and size <= most
    if in_host:
        place = DEVICE if size <= config.cache_device_mib * (1 << 20) else HOST
    elif config.cache_dir is not None:
        place = DISK
    _LOG.info(
        "cache: %s; the decoded images of split %r take %d MiB; %s", place, split.name, size >> 20, ", ".join(words)
    )
    return place


def kept_windows(residence: Residence, record: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
    """The windows that hold source boxes, in kept pixels: whole rows, and columns from where a tile begins.

    Args:
        residence: Where the images are.
        record: int64 [M], rows of the index; -1 for filler.
        boxes: int64 [M, 4], y, x, height, width in source pixels.

    Returns:
        crop: int32 [M, 4], y, x, height, width of the window; x is a multiple of `TILE`. Nothing of filler.
        size: int32 [M, 2], its height and width, 1 by 1 for filler.
        box: float32 [M, 4], the box within it.
    """
    real = record != FILLER
    row = np.where(real, record, 0)
    times = residence.scale[row, None] * residence.reduce[row]
    start = boxes[:, :2] // times
    stop = np.minimum(-(-(boxes[:, :2] + boxes[:, 2:]) // times), residence.size[row])
    start[:, 1] -= start[:, 1] % TILE
    size = stop - start
    box = np.concatenate([boxes[:, :2] / times - start, boxes[:, 2:] / times], axis=1)
    crop = np.concatenate([start, size], axis=1)
    crop[~real], size[~real], box[~real] = 0, 1, (0, 0, 1, 1)
    return crop.astype(np.int32), size.astype(np.int32), box.astype(np.float32)
