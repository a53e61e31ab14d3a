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
from irv2data.pipeline.meter import ABOUT
from irv2data.training.checkpoint import TENSORBOARD

HISTORY = "history.csv"
_IMAGES = 8
_WORDS = ("phase", "image_size")  # columns that are no numbers


class Events:
    """A folder of events for TensorBoard.

    TensorBoard itself need not be installed: TensorFlow's own writer takes the finished events (its `tf.summary.scalar`
    needs the tensorboard package since it no longer comes with TensorFlow).

    Args:
        folder: Where the file of events appears.
    """

    def __init__(self, folder: Path):
        self._writer = tf.summary.create_file_writer(os.fspath(folder))
        self._canvases: set[str] = set()

    def figures(self, figures: Mapping[str, Any], step: int) -> None:
        """Writes what the input cost up to a step, as `Meter.figures` says it, below `pipeline/`."""
        summary = tf.compat.v1.Summary()
        self._canvases |= set(figures["canvases"])  # one that was there before has share 0, not a gap in its curve
        shares = {
            f"canvas_share/{size}": figures["canvases"].get(size, 0) / max(1, figures["steps"])
            for size in sorted(self._canvases)
        }
        for name, value in {**figures, **shares}.items():
            about = ABOUT.get(name.partition("/")[0])
            if about is not None and value is not None:
                added = summary.value.add(tag=f"pipeline/{name}", simple_value=float(value))
                added.metadata.summary_description = about
        self.write(summary, step)

    def write(self, summary: Any, step: int) -> None:
        """Writes a `tf.compat.v1.Summary`."""
        with self._writer.as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)
        self._writer.flush()


class Journal:
    """Writes a run's history into its folder.

    Args:
        folder: The run's.
        tensorboard: Whether to write events for TensorBoard.
    """

    def __init__(self, folder: Path, *, tensorboard: bool):
        self._folder = folder
        self._events = Events(folder / TENSORBOARD) if tensorboard else None

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

    def figures(self, figures: Mapping[str, Any], step: int) -> None:
        """Writes what the input cost up to a step, as `Events.figures`."""
        if self._events is not None:
            self._events.figures(figures, step)

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
        if self._events is not None:
            self._events.write(summary, step)


def line(row: Mapping[str, Any], epochs: int) -> str:
    """An epoch of the history, for people."""
    text = f"epoch {row['epoch'] + 1}/{epochs} ({row['phase']}): loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}"
    if "validation_loss" in row:
        text += f", validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}"
    if row["images_per_second"] is not None:
        text += f", {row['images_per_second']:.1f} images/s, {row['input_wait']:.1%} waiting for input"
    if row.get("made_here"):
        text += f", {row['made_here']:.1%} of the chunks made here, not by workers"
    if row["bad_records"]:
        text += f", {row['bad_records']} damaged records left out"
    return text


def _tag(name: str) -> str:
    """As `validation/loss`, so that TensorBoard shows both in one place."""
    return name.replace("validation_", "validation/") if name.startswith("validation_") else f"train/{name}"
