"""Decoded images kept in a file on local disk: for more of them than memory holds, and for the runs that come after."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.errors import DatasetError, UsageError
from irv2data.pipeline.cache import Cache
from irv2data.pipeline.residence import TILE, Residence
from irv2data.storage import alone

_VERSION = 1
_ALIGNED = 64  # bytes: memory that TensorFlow takes over as it is, without a copy


class DiskCache(Cache):
    """Kept images in `NAME.pixels`, laid out as in memory; `NAME.there`, a byte a record, says which are there.

    NAME is a digest of what decides the pixels, so that runs on the same dataset share the files, one after another or
    at once (two that decode the same image write the same bytes). `NAME.json` says whether all images are there and
    flushed. Until then the files are good as long as the machine runs: what a killed process wrote, the kernel has;
    what a machine had not written to its disk when it lost power, it has not.

    Args:
        residence: Where each image lies.
        folder: Where the files are.
        identity: JSON-able, what decides the pixels.

    Raises:
        UsageError: The folder has too little room.
        DatasetError: The files cannot be made.
    """

    def __init__(self, residence: Residence, folder: str | os.PathLike[str], identity: Mapping[str, Any]):
        identity = {**identity, "version": _VERSION, "tile": TILE}
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self._base = Path(folder) / name
        self.residence = residence
        self._lock = threading.Lock()
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with alone(self._base.with_suffix(".lock")):  # two that make the files would lose images
                self._complete = self._open(identity)
        except OSError as error:
            raise DatasetError(f"{folder}: images cannot be kept there ({error.strerror or error})") from error
        super().__init__(residence, np.asarray(self._marks) != 0)

    @property
    def path(self) -> Path:
        """The file of the pixels."""
        return self._base.with_suffix(".pixels")

    def gather(self, record: tf.Tensor, crop: tf.Tensor, height_and_width: tf.Tensor) -> tf.Tensor:
        """As `Cache.gather`."""
        canvas = tf.numpy_function(self._read, [record, crop, height_and_width], tf.uint8, stateful=False)
        return tf.ensure_shape(canvas, [record.shape[0], None, None, 3])

    def _open(self, identity: Mapping[str, Any]) -> bool:
        """Opens the files, or makes them anew where they are not to be trusted; whether all images are there."""
        state, now = self._state(), _boot()
        complete = state.get("complete") is True
        running = now is not None and state.get("boot") == now
        size = self.residence.num_bytes
        files = {self.path: size, self._base.with_suffix(".there"): len(self.residence.first)}
        whole = all(path.is_file() and path.stat().st_size == length for path, length in files.items())
        if not (whole and (complete or running)):
            free = shutil.disk_usage(self.path.parent).free
            if free < size:
                raise UsageError(
                    f"{self.path.parent}: the decoded images take {size >> 20} MiB, {free >> 20} MiB are free; use "
                    "another cache_dir or a smaller cache_short_side"
                )
            complete = False
            for path, length in files.items():
                with open(path, "wb") as file:
                    file.truncate(length)  # a hole: no image is there, and room is taken as they come in
            self._commit({**identity, "boot": now, "complete": False})
        self._identity = dict(identity)
        self._marks = np.memmap(self._base.with_suffix(".there"), np.uint8, "r+")
        self._file = os.open(self.path, os.O_RDWR)
        weakref.finalize(self, os.close, self._file)
        self._pixels = np.asarray(np.memmap(self.path, np.uint8, "r")).reshape(-1, 3)
        return complete

    def _state(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            state = json.loads(self._base.with_suffix(".json").read_text(encoding="utf-8"))
            return state if isinstance(state, dict) else {}
        return {}

    def _commit(self, state: Mapping[str, Any]) -> None:
        temporary = self._base.with_suffix(f".{os.getpid()}.partial")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._base.with_suffix(".json"))

    def _store(self, image: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self._write, [image, record], tf.int64), [])

    def _write(self, image: np.ndarray, record: np.int64) -> np.int64:
        height, width = image.shape[:2]
        pitch = int(self.residence.pitch[record])
        padded = image
        if width != pitch * TILE:
            padded = np.zeros((height, pitch * TILE, 3), np.uint8)
            padded[:, :width] = image
        data, at = np.ascontiguousarray(padded).reshape(-1).data, int(self.residence.first[record]) * TILE * 3
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written
        return np.int64(1)

    def _filled(self, record: tf.Tensor, updated: tf.Operation) -> tf.Operation:
        with tf.control_dependencies([updated]):
            return tf.numpy_function(self._mark, [record], tf.int64)

    def _mark(self, record: np.ndarray) -> np.int64:
        self._marks[record] = 1
        with self._lock:
            if not self._complete and self._marks.all():
                os.fsync(self._file)
                self._marks.flush()
                self._commit({**self._identity, "boot": _boot(), "complete": True})
                self._complete = True
        return np.int64(len(record))

    def _read(self, record: np.ndarray, crop: np.ndarray, height_and_width: np.ndarray) -> np.ndarray:
        canvas = _zeros((len(record), *height_and_width.tolist(), 3))
        for row, (number, (y, x, height, width)) in enumerate(zip(record.tolist(), crop.tolist(), strict=True)):
            if number >= 0:
                pitch, first = int(self.residence.pitch[number]), int(self.residence.first[number])
                image = self._pixels[first * TILE :][: (y + height) * pitch * TILE].reshape(-1, pitch * TILE, 3)
                canvas[row, :height, :width] = image[y:, x : x + width]
        return canvas


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    room = np.zeros(size + _ALIGNED, np.uint8)
    start = -room.ctypes.data % _ALIGNED
    return room[start : start + size].reshape(shape)


def _boot() -> str | None:
    """What names the time since the machine was started; None where the system has no such name (not Linux)."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None
