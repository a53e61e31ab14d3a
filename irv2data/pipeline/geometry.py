"""How much of an image is decoded, at which scale: from a source box to a window of decoded pixels.

JPEG decodes at 1/1, 1/2, 1/4 or 1/8, and only the rows and columns asked for. The window is the smallest one of whole
pixels that encloses the box at that scale; the box inside it stays fractional, so that scaling never shifts the image.
Whatever is then still larger than the largest canvas is averaged down by a whole number along each axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHIFTS = (1, 2, 3)  # JPEG decodes at one over 2, 4 and 8


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What to decode of N images.

    Attributes:
        scale: int32 [N], 1, 2, 4 or 8: decode at one over it (JPEG).
        crop: int32 [N, 4], y, x, height, width of the window in pixels at that scale.
        reduce: int32 [N, 2], whole numbers by which rows and columns are then averaged; 1 leaves them alone.
        size: int32 [N, 2], height and width of what comes out.
        box: float32 [N, 4], y, x, height, width of the source box in those pixels.
    """

    scale: np.ndarray
    crop: np.ndarray
    reduce: np.ndarray
    size: np.ndarray
    box: np.ndarray


def scale_shift(extent: np.ndarray, output: np.ndarray | tuple[int, int]) -> np.ndarray:
    """The binary logarithm of the scale that a JPEG is decoded at: int64 [N], 0 to 3.

    Args:
        extent: int64 [N, 2], height and width of the source boxes in pixels.
        output: Height and width of the finished images, or int [N, 2] of each: no box is decoded to less.
    """
    height, width = np.moveaxis(np.asarray(output), -1, 0)
    shift = np.zeros(len(extent), np.int64)
    for more in SHIFTS:
        shift += (extent[:, 0] >= height << more) & (extent[:, 1] >= width << more)
    return shift


def decode_windows(
    boxes: np.ndarray,
    image_size: np.ndarray,
    scalable: np.ndarray,
    output: np.ndarray | tuple[int, int],
    largest: tuple[int, int] | None,
) -> Windows:
    """Chooses scale, window and reduction of each image.

    The decoded box is never smaller than the output, unless the source box itself is.

    Args:
        boxes: int64 [N, 4], source boxes in source pixels.
        image_size: int64 [N, 2], heights and widths of the images.
        scalable: bool [N], whether the decoder can scale (JPEG).
        output: Height and width of the finished images, or int [N, 2] of each.
        largest: Height and width of the largest canvas; along each axis at least twice the output and 2, or at least
            every image's side. None where windows are resized before they are put on a canvas: nothing is reduced.
    """
    shift = np.where(scalable, scale_shift(boxes[:, 2:], output), 0)[:, None]
    scaled_size = -(-image_size >> shift)
    start = boxes[:, :2] >> shift
    stop = np.minimum(-(-(boxes[:, :2] + boxes[:, 2:]) >> shift), scaled_size)
    extent = stop - start
    limit = extent if largest is None else np.array(largest)
    # One cell fewer than the limit, because a window that starts inside a cell can touch one more.
    reduce = np.where(extent <= limit, 1, -(-extent // np.maximum(limit - 1, 1)))
    first = start // reduce
    size = -(-stop // reduce) - first
    crop_start = first * reduce
    crop_stop = np.minimum((first + size) * reduce, scaled_size)
    source_pixels = reduce << shift
    box = np.concatenate([boxes[:, :2] / source_pixels - first, boxes[:, 2:] / source_pixels], axis=1)
    return Windows(
        scale=(1 << shift[:, 0]).astype(np.int32),
        crop=np.concatenate([crop_start, crop_stop - crop_start], axis=1).astype(np.int32),
        reduce=reduce.astype(np.int32),
        size=size.astype(np.int32),
        box=box.astype(np.float32),
    )
