"""What a run leaves behind, each file whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from irv2data.errors import DatasetError, UsageError

MODEL = "model.keras"
METRICS = "metrics.json"
CLASSES = "classes.json"


def prepare_run(folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Makes the run's folder.

    Raises:
        UsageError: It holds a finished run and `overwrite` was not given, or it is no folder.
        DatasetError: It cannot be made.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file; RUN is a folder to make")
    if path.is_dir() and any(path.iterdir()) and not (path / METRICS).exists() and not (path / MODEL).exists():
        raise UsageError(f"{path}: is not empty and no run of irv2data; choose another folder")
    if (path / METRICS).exists() and not overwrite:
        raise UsageError(f"{path}: holds a finished run; choose another folder or give --overwrite")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be made ({error.strerror})") from error
    return path


def save_run(folder: Path, model: keras.Model, classes: Sequence[str], metrics: dict[str, Any]) -> None:
    """Writes the model, the class list and, last, the metrics: a run with metrics is a finished one.

    What an earlier run left stays untouched until the new model is complete beside it.

    Raises:
        DatasetError: The folder cannot be written.
    """
    try:
        _save(folder, model, classes, metrics)
    except OSError as error:
        raise DatasetError(f"{folder}: the run cannot be saved ({error.strerror or error})") from error


def _save(folder: Path, model: keras.Model, classes: Sequence[str], metrics: dict[str, Any]) -> None:
    temporary = folder / f"partial-{MODEL}"
    model.save(temporary)
    (folder / METRICS).unlink(missing_ok=True)
    os.replace(temporary, folder / MODEL)
    write_json(folder / CLASSES, list(classes))
    write_json(folder / METRICS, metrics)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file through a temporary name."""
    temporary = path.with_name(f"partial-{path.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
