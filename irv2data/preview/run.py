"""A whole preview, top to bottom: the facts, the pictures, and the page. Needs TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import storage
from irv2data.errors import DatasetError, RecordError, UsageError
from irv2data.manifest import Dataset, Split
from irv2data.near_duplicates import require_imagehash
from irv2data.preview.classes import label_facts
from irv2data.preview.config import PreviewConfig
from irv2data.preview.duplicates import duplicate_facts
from irv2data.preview.reading import encoded_images, small_picture
from irv2data.preview.rejects import reject_facts, reject_pictures
from irv2data.preview.sheets import sheet_facts
from irv2data.preview.sizes import bucket_facts, size_facts
from irv2data.preview.stored import byte_facts, quality_facts
from irv2data.report.page import require_report
from irv2data.report.pictures import data_uri
from irv2data.report.preview_page import MARK, preview_page

_SIDE = 96  # pixels of a small picture
_HEAD = 4096  # bytes of a page that its mark is looked for in


def preview(
    dataset: Dataset,
    out: str | os.PathLike[str],
    config: PreviewConfig | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    workers: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Writes a page that shows what a dataset holds; complete, or not at all.

    Args:
        dataset: The dataset, local or remote.
        out: File to write; a preview that is there already is replaced.
        config: What is shown; the defaults of `PreviewConfig` if None.
        source: The folder that was converted, for pictures of rejected files.
        overwrite: Replace a file that is no preview, too.
        workers: Processes that look for near duplicates; 0 for the number of usable cores.
        progress: Called as `progress(stage, done, total)`.

    Returns:
        The facts, JSON-able: `dataset`, `fingerprint`, `config`, `counts`, `labels`, `sizes`, `buckets`, `bytes`,
        `quality`, `duplicates`, `rejects`, `sheets`, `page`; of a dataset without records some of them are None.

    Raises:
        UsageError: `out` cannot be replaced, the extra `report` is not installed, or an option does not go with the
            dataset.
        DatasetError: The dataset cannot be read, or the page cannot be written.
    """
    config = config or PreviewConfig()
    require_report()
    if config.near_duplicates:
        require_imagehash()
    if source is not None and not Path(source).is_dir():
        raise UsageError(f"{source}: no such folder; source is the folder that the dataset was converted from")
    _check_out(Path(out), overwrite=overwrite)
    split = _split(dataset, config.split)
    duplicates = duplicate_facts(
        dataset,
        near=config.near_duplicates,
        workers=workers,
        progress=lambda done, total: progress("near duplicates", done, total),
    )
    facts: dict[str, Any] = {
        "dataset": dataset.location,
        "fingerprint": dataset.fingerprint,
        "config": asdict(config),
        "counts": counts(dataset),
        "labels": label_facts(dataset),
        "sizes": size_facts(dataset),
        "buckets": None if split is None else bucket_facts(split, config),
        "bytes": byte_facts(dataset),
        "quality": quality_facts(dataset, config),
        "duplicates": duplicates,
        "rejects": reject_facts(dataset),
        "sheets": None,
        "page": os.fspath(out),
    }
    sheets: list[dict[str, Any]] = []
    if split is not None:
        facts["sheets"], sheets = sheet_facts(
            dataset, split, config, lambda done, total: progress("contact sheets", done, total)
        )
    pictures: dict[str, Any] = {"members": _members(dataset, duplicates), "rejects": {}}
    if source is not None:
        found = reject_pictures(facts["rejects"], source, _SIDE)
        pictures["rejects"] = {path: data_uri(picture) for path, picture in found.items()}
    page = preview_page(facts, sheets=sheets, pictures=pictures, looked=source is not None)
    try:
        storage.write_bytes(os.path.abspath(out), page.encode("utf-8"))
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror or error})") from error
    return facts


def counts(dataset: Dataset) -> dict[str, Any]:
    """`sources`, `rejected`, `dropped`, `records`, `bytes`, `shards`, what was `done`, whether it was `adopted`.

    And of each of `splits`: `records`, `bytes`, `shards`.
    """
    splits = {
        name: {"records": split.num_records, "bytes": split.num_bytes, "shards": len(split.shards)}
        for name, split in dataset.splits.items()
    }
    return {
        **{name: dataset.source[name] for name in ("sources", "rejected", "dropped")},
        **{name: sum(each[name] for each in splits.values()) for name in ("records", "bytes", "shards")},
        "done": dataset.source["done"],
        "adopted": dataset.contents.adopted,
        "splits": splits,
    }


def _split(dataset: Dataset, wanted: str) -> Split | None:
    if wanted:
        split = dataset.split(wanted)
        if not split.num_records:
            raise UsageError(f"{dataset.folder}: split {wanted!r} has no records; use another split")
        return split
    there = {name: split for name, split in dataset.splits.items() if split.num_records}
    return there.get("train", next(iter(there.values()), None))


def _members(dataset: Dataset, duplicates: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """Small pictures of the records that groups show, by split and row."""
    kinds = [duplicates[kind] for kind in ("exact", "near") if duplicates[kind]]
    wanted = [member for kind in kinds for group in kind["shown"] for member in group["members"]]
    found: dict[tuple[str, int], str] = {}
    for name, split in dataset.splits.items():
        rows = np.unique([member["record"] for member in wanted if member["split"] == name]).astype(np.int64)
        for row, image in encoded_images(split, rows):
            picture = None if isinstance(image, RecordError) else small_picture(image, _SIDE)
            if picture is not None:
                found[name, row] = data_uri(picture)
    return found


def _check_out(out: Path, *, overwrite: bool) -> None:
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: {out.absolute().parent} is no folder; make it first")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; OUT.html is the page to write")
    if not overwrite and out.exists():
        with open(out, "rb") as file:
            ours = MARK.encode() in file.read(_HEAD)
        if not ours:
            raise UsageError(f"{out}: is there and no preview of irv2data; choose another name or give --overwrite")
