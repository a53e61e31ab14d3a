"""What a run leaves behind, each file whole or not at all; and the checkpoints that it goes on from."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from irv2data import storage
from irv2data.errors import DatasetError, UsageError

TENSORBOARD = "tensorboard"
MODEL = "model.keras"
METRICS = "metrics.json"
CLASSES = "classes.json"
CHECKPOINTS = "checkpoints"
BEST = "best"
_PARTIAL, _STATE, _VARIABLES = "partial-", "state.json", "variables.npz"


def prepare_run(folder: str | os.PathLike[str], *, overwrite: bool, resume: bool = False) -> Path:
    """Makes the run's folder, or finds the run to go on with.

    Raises:
        UsageError: It holds a finished run and `overwrite` was not given, or one that was stopped and neither was; or
            it is no folder of a run.
        DatasetError: It cannot be made.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file; RUN is a folder to make")
    finished, begun = (path / METRICS).exists(), (path / CHECKPOINTS).is_dir()
    if path.is_dir() and any(path.iterdir()) and not (finished or begun or (path / MODEL).exists()):
        raise UsageError(f"{path}: is not empty and no run of irv2data; choose another folder")
    if finished and not overwrite:
        raise UsageError(f"{path}: holds a finished run; choose another folder or give --overwrite")
    if resume and overwrite:
        raise UsageError("resume and overwrite exclude each other: to go on, or to begin anew")
    if begun and not finished and not (overwrite or resume):
        raise UsageError(f"{path}: holds a run that was stopped; --resume goes on with it, --overwrite begins anew")
    try:
        path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for old in (path / CHECKPOINTS, path / BEST, path / TENSORBOARD):
                if old.is_dir():
                    shutil.rmtree(old)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be made ({error.strerror})") from error
    return path


class Checkpoints:
    """The last checkpoints of a run, each a folder that has its name only when it is whole.

    Args:
        run: The run's folder.
        keep: How many are kept.
        name: Of the folder in the run's.
    """

    def __init__(self, run: Path, keep: int, name: str = CHECKPOINTS):
        self._folder = run / name
        self._keep = keep

    def save(self, name: str, variables: Sequence[Any], state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, then removes the oldest ones beyond `keep`.

        Args:
            name: Names in alphabetical order are in the order of the run.
            variables: Keras variables, in an order that a resumed run has them in too.
            state: JSON-able, whatever else the run goes on from.

        Raises:
            DatasetError: The folder cannot be written.
        """
        path, partial = self._folder / name, self._folder / f"{_PARTIAL}{name}"
        if path.exists():  # stopped again before another step was made
            return
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            # By number: names count the layers that a process has made before.
            arrays = [np.asarray(variable.numpy()) for variable in variables]
            with open(partial / _VARIABLES, "wb") as file:
                np.savez(file, *arrays)
                _flush(file)
            with open(partial / _STATE, "w", encoding="utf-8") as file:
                json.dump(dict(state), file)
                _flush(file)
            os.replace(partial, path)
            for old in self._whole()[: -self._keep]:
                shutil.rmtree(old)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be written ({error.strerror or error})") from error

    def latest(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint; None without any.

        Raises:
            DatasetError: It cannot be read.
        """
        whole = self._whole()
        if not whole:
            return None
        try:
            state = json.loads((whole[-1] / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{whole[-1]}: cannot be read ({error}); remove it to go on from the one before"
            ) from error
        return dict(state)

    def restore(self, variables: Sequence[Any]) -> None:
        """Gives variables the values of the newest checkpoint; of fewer than it holds, those of the first.

        Raises:
            DatasetError: It cannot be read, or is of other variables.
        """
        path = self._whole()[-1]
        try:
            with np.load(path / _VARIABLES) as arrays:
                values = [arrays[f"arr_{number}"] for number in range(len(arrays.files))][: len(variables)]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path}: cannot be read ({error}); remove it to go on from the one before") from error
        if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            raise DatasetError(f"{path}: is of another network or optimizer; give --overwrite to begin anew")
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _whole(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if not path.name.startswith(_PARTIAL))


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


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
    """Writes a JSON file, whole or not at all."""
    storage.write_bytes(os.fspath(path), (json.dumps(content, indent=1) + "\n").encode())
