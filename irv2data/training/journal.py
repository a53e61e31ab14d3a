"""What a run tells: a line an epoch for people, `history.csv` for scripts, scalars and images for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data import storage
from irv2data.device.stage import to_uint8
from irv2data.errors import DatasetError
from irv2data.training.checkpoint import TENSORBOARD

HISTORY = "history.csv"
_IMAGES = 8
_WORDS = ("phase", "image_size")  # columns that are no numbers


class Journal:
    """Writes a run's history into its folder.

    TensorBoard itself need not be installed: TensorFlow's own writer takes the finished events (its `tf.summary.scalar`
    needs the tensorboard package since it no longer comes with TensorFlow).

    Args:
        folder: The run's.
        tensorboard: Whether to write events for TensorBoard.
    """

    def __init__(self, folder: Path, *, tensorboard: bool):
        self._folder = folder
        self._writer = tf.summary.create_file_writer(os.fspath(folder / TENSORBOARD)) if tensorboard else None

    def epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes the history so far, of which the last row is new.

        Raises:
            DatasetError: The folder cannot be written.
        """
        path = self._folder / HISTORY
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in history for name in row)))
        writer.writeheader()
        writer.writerows(history)
        try:
            storage.write_bytes(os.fspath(path), text.getvalue().encode())
        except OSError as error:
            raise DatasetError(f"{path}: cannot be written ({error.strerror or error})") from error
        row = history[-1]
        scalars = {name: value for name, value in row.items() if name not in _WORDS and value is not None}
        summary = tf.compat.v1.Summary()
        for name, value in scalars.items():
            summary.value.add(tag=_tag(name), simple_value=float(value))
        self._write(summary, sum(each["steps"] for each in history))

    def images(self, name: str, images: np.ndarray, step: int) -> None:
        """Shows some finished images, float [B, h, w, 3] in [-1, 1], as `name`."""
        summary = tf.compat.v1.Summary()
        for number, pixels in enumerate(to_uint8(images[:_IMAGES])):
            height, width, _ = pixels.shape
            value = summary.value.add(tag=f"{name}/{number}")
            value.image.height, value.image.width, value.image.colorspace = height, width, 3
            value.image.encoded_image_string = tf.io.encode_png(pixels).numpy()
        self._write(summary, step)

    def _write(self, summary: Any, step: int) -> None:
        if self._writer is None:
            return
        with self._writer.as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)
        self._writer.flush()


def line(row: Mapping[str, Any], epochs: int) -> str:
    """An epoch of the history, for people."""
    text = f"epoch {row['epoch'] + 1}/{epochs} ({row['phase']}): loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}"
    if "validation_loss" in row:
        text += f", validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}"
    if row["images_per_second"] is not None:
        text += f", {row['images_per_second']:.1f} images/s, {row['input_wait']:.1%} waiting for input"
    if row["bad_records"]:
        text += f", {row['bad_records']} damaged records left out"
    return text


def _tag(name: str) -> str:
    """As `validation/loss`, so that TensorBoard shows both in one place."""
    return name.replace("validation_", "validation/") if name.startswith("validation_") else f"train/{name}"
