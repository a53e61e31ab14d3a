"""Chunks as they travel, pixels without padding, and the batches that a client makes of them. NumPy only.

Between a third and a half of a canvas is padding. Without it there is as much less to copy, several times on either
side, and to send.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PIXELS = ("canvas", "image")  # one of them is in a chunk
SHAPE = "shape"  # height and width of the canvas that packed pixels are of

_ALIGNMENT = 64  # bytes: what TensorFlow takes without a copy

Chunk = dict[str, Any]


def pack(chunk: Chunk) -> Chunk:
    """A chunk with its pixels one image after another, without padding and filler.

    Args:
        chunk: Arrays [N, ..], among them `record`, `size`, and `canvas` or `image` [N, H, W, 3].

    Returns:
        The same with 1-D pixels and `shape` int32 [2].
    """
    name = pixels_of(chunk)
    pixels = chunk[name]
    images = [pixels[row, :height, :width].ravel() for row, height, width in _images(chunk)]
    flat = np.concatenate([np.zeros(0, pixels.dtype), *images])
    return {**chunk, name: flat, SHAPE: np.array(pixels.shape[1:3], np.int32)}


def join(chunks: list[Chunk], most: int) -> Chunk:
    """The rows of some chunks as one batch, without the filler that made chunks equally long.

    Args:
        chunks: Packed, all of one canvas shape; or with pixels of one size, which packing leaves alone. Where batches
            differ in size, and have several chunks, each has `rows`, those of the batch.
        most: Rows of the largest batch.

    Raises:
        ValueError: Pixels are missing.
    """
    rows = int(chunks[0].get("rows", min(most, sum(len(chunk["record"]) for chunk in chunks))))
    name = pixels_of(chunks[0]) if SHAPE in chunks[0] else ""
    batch = {
        key: np.concatenate([chunk[key] for chunk in chunks])[:rows] if len(chunks) > 1 else chunks[0][key][:rows]
        for key in chunks[0]
        if key not in (name, SHAPE, "rows")
    }
    if name:
        canvas, at = zeros((rows, *chunks[0][SHAPE].tolist(), 3), chunks[0][name].dtype), 0
        for chunk in chunks:
            _unpack(chunk, name, canvas[at:])
            at += len(chunk["record"])
        batch[name] = canvas
    return batch


def pixels_of(chunk: Chunk) -> str:
    """The name that a chunk's pixels have."""
    return next(name for name in PIXELS if name in chunk)


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that TensorFlow takes as it is; NumPy's own are aligned to 16 bytes only."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _images(chunk: Chunk) -> list[tuple[int, int, int]]:
    """Row, height and width of each image that is no filler."""
    rows = np.flatnonzero(chunk["record"] >= 0)
    return [(row, *size) for row, size in zip(rows.tolist(), chunk["size"][rows].tolist(), strict=True)]


def _unpack(chunk: Chunk, name: str, into: np.ndarray) -> None:
    pixels = chunk[name]
    start = 0
    for row, height, width in _images(chunk):
        end = start + height * width * 3
        if end > len(pixels):
            break
        into[row, :height, :width] = pixels[start:end].reshape(height, width, 3)
        start = end
    if start != len(pixels):
        raise ValueError(f"a chunk has {len(pixels)} values, its images {start}")
