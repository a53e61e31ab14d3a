"""What was not converted, and why: `rejects.jsonl` by its codes, with pictures where the sources are still there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from PIL import Image

from irv2data import storage
from irv2data.convert.rejects import REJECT_CODES
from irv2data.errors import DatasetError, one_line
from irv2data.manifest import REJECTS, Dataset
from irv2data.preview.reading import small_picture

MOST_OF_A_CODE = 12  # lines shown
MOST_PICTURES = 60
_MOST_BYTES = 32 << 20  # of a file that a picture is made of
# What these were rejected for would happen here again: a crash, no end, no memory; or there is nothing to see.
_NOT_OPENED = ("decoder_crashed", "timed_out", "out_of_memory", "not_an_image", "outside", "unreadable")


def reject_facts(dataset: Dataset) -> dict[str, Any]:
    """The rejects by code, the most frequent first.

    Returns:
        `rejected`, as the manifest counts; `lines`, how many the file has (None if there is none); `codes`: of each
        `code`, `meaning`, `count` and some lines, `shown`: `path` and `detail`, each detail once before
        another one twice.

    Raises:
        DatasetError: The file cannot be read, or a line is none of ours.
    """
    text = _read(dataset)
    counts: dict[str, int] = {}
    # Of each code the first lines, and the first ones that say something new, by their numbers.
    first: dict[str, dict[int, tuple[str, str]]] = {}
    new: dict[str, dict[str, int]] = {}
    for number, line in enumerate(text.splitlines() if text is not None else (), start=1):
        try:
            path, code, detail = _parse(line)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{storage.join(dataset.location, REJECTS)}: line {number} is no reject ({one_line(error)}); "
                "restore the file or convert again"
            ) from error
        counts[code] = counts.get(code, 0) + 1
        lines, details = first.setdefault(code, {}), new.setdefault(code, {})
        if detail not in details and len(details) < MOST_OF_A_CODE:
            details[detail] = number
            lines[number] = path, detail
        elif counts[code] <= MOST_OF_A_CODE:
            lines[number] = path, detail
    return {
        "rejected": dataset.source["rejected"],
        "lines": None if text is None else sum(counts.values()),
        "codes": [
            {
                "code": code,
                "meaning": REJECT_CODES.get(code, ""),
                "count": counts[code],
                "shown": _shown(first[code], set(new[code].values())),
            }
            for code in sorted(counts, key=lambda code: (-counts[code], code))
        ],
    }


def reject_pictures(facts: dict[str, Any], source: str | os.PathLike[str], side: int) -> dict[str, Image.Image]:
    """Small pictures of rejects that are shown, as far as their files still lie in the converted folder.

    Args:
        facts: Of `reject_facts`.
        source: The folder that was converted.
        side: Pixels of a picture's longer side, at most.

    Returns:
        Path as it is in the facts to RGB or grey.
    """
    root = Path(source).resolve()
    found: dict[str, Image.Image] = {}
    for group in facts["codes"]:
        for line in group["shown"] if group["code"] not in _NOT_OPENED else ():
            file = _inside(root, line["path"])
            if file is not None and len(found) < MOST_PICTURES:
                picture = small_picture(file, side)
                if picture is not None:
                    found[line["path"]] = picture
    return found


def _shown(lines: dict[int, tuple[str, str]], new: set[int]) -> list[dict[str, str]]:
    """Some of the lines, in their order; those that say something new come before others."""
    chosen = sorted(lines, key=lambda number: (number not in new, number))[:MOST_OF_A_CODE]
    return [dict(zip(("path", "detail"), lines[number], strict=True)) for number in sorted(chosen)]


def _inside(root: Path, name: str) -> bytes | None:
    """A regular file of moderate size below a folder, wherever its name or a link would lead; else None."""
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not stat.S_ISREG(path.stat().st_mode):
            return None
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError, RuntimeError):  # not there, a NUL in the name, links in a circle
        return None
    return content if len(content) <= _MOST_BYTES else None


def _read(dataset: Dataset) -> str | None:
    path = storage.join(dataset.location, REJECTS)
    try:
        return storage.read_bytes(path).decode("utf-8")
    except FileNotFoundError:
        return None
    except Exception as error:  # of a remote one, each store's library has its own
        raise DatasetError(f"{path}: cannot be read ({one_line(error)}); restore it or convert again") from error


def _parse(line: str) -> tuple[str, str, str]:
    found = json.loads(line)
    path, code, detail = found["path"], found["code"], found["detail"]
    if not all(isinstance(value, str) for value in (path, code, detail)):
        raise ValueError("path, code and detail must be texts")
    return path, code, detail
