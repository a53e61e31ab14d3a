"""What a study leaves behind: the page, tables, and all figures."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import storage
from irv2data.errors import DatasetError, UsageError
from irv2data.report.study_page import study_page
from irv2data.study.conclusion import NOT_PRETRAINED
from irv2data.study.config import StudyConfig
from irv2data.study.examples import examples
from irv2data.study.images import Images

PAGE, TABLE, OF_IMAGES, FIGURES = "study.html", "study.csv", "images.csv", "study.json"


def prepare(out: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Makes the study's folder.

    Raises:
        UsageError: It holds a study and `overwrite` was not given; or it is a file, or holds something else.
        DatasetError: It cannot be made.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; OUT is a folder to make")
    if (folder / FIGURES).exists():
        if not overwrite:
            raise UsageError(f"{folder}: holds a study; choose another folder or give --overwrite")
    elif folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty and no study of irv2data; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be made ({error.strerror})") from error
    return folder


def write(
    folder: Path, report: Mapping[str, Any], correct: Mapping[str, np.ndarray], images: Images, config: StudyConfig
) -> None:
    """Writes everything; the figures last, which make it a finished study.

    Args:
        folder: Of `prepare`.
        report: JSON-able figures.
        correct: From an arm's name to bool [R, N].
        images: The images.
        config: The options.

    Raises:
        DatasetError: The folder cannot be written.
    """
    try:
        _table(folder / TABLE, _rows(report))
        _table(folder / OF_IMAGES, _image_rows(correct, images, config.validation_split))
        _replace(folder / PAGE, study_page(report, seen=examples(images, config), not_pretrained=NOT_PRETRAINED))
        _replace(folder / FIGURES, json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise DatasetError(f"{folder}: the study cannot be written ({error.strerror or error})") from error


def _rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for arm in report["arms"]:
        speed = arm["images_per_second"] or {"median": None, "low": None, "high": None}
        rows.append(
            {
                "fit": arm["name"],
                **{f"accuracy_{name}": value for name, value in arm["accuracy"].items()},
                **{f"images_per_second_{name}": value for name, value in speed.items()},
                **{
                    name: arm[name]
                    for name in ("network_images_per_second", "padding_waste", "bytes_per_image", "class_entropy")
                },
                **{f"accuracy of {each['name']}": each["accuracy"] for each in (*arm["by_size"], *arm["by_aspect"])},
            }
        )
    return rows


def _image_rows(correct: Mapping[str, np.ndarray], images: Images, split: str) -> list[dict[str, Any]]:
    part, rows = images.part(split), images.rows(split)
    return [
        {
            "record": int(rows[number]),
            "source": part.source(number),
            "class": images.dataset.classes[int(part.array("label")[number])],
            "height": int(part.array("height")[number]),
            "width": int(part.array("width")[number]),
            **{name: int(right[:, number].sum()) for name, right in correct.items()},
        }
        for number in range(len(rows))
    ]


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    _replace(path, text.getvalue())


def _replace(path: Path, text: str) -> None:
    storage.write_bytes(os.fspath(path), text.encode("utf-8", "surrogateescape"))
