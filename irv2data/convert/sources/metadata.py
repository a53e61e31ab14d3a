"""Image folders with metadata.csv or metadata.jsonl, as Hugging Face's `imagefolder` has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain

import numpy as np

from irv2data.convert.config import AUTO, ConvertConfig
from irv2data.convert.sources.columns import Column
from irv2data.convert.sources.folder import by_folders
from irv2data.convert.sources.labelling import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Labels,
    find_column,
    label_column,
    labels_of,
    no_labels,
)
from irv2data.convert.sources.listing import Listing
from irv2data.convert.sources.naming import Fence
from irv2data.convert.sources.rows import Table
from irv2data.convert.sources.store import Progress, Store
from irv2data.convert.sources.table import Rejects, assemble, find_path_column, read_names
from irv2data.convert.sources.walk import Passed
from irv2data.errors import SourceError
from irv2data.labels import CLASS, NONE
from irv2data.packed import Packed

_FILE_NAME = ("file_name", *(name for name in PATH_COLUMNS if name != "file_name"))


def list_metadata(
    store: Store,
    images: Packed,
    passed: Passed,
    config: ConvertConfig,
    *,
    split_folders: bool,
    progress: Progress,
) -> Listing:
    """Joins a folder's images with the rows of its metadata tables.

    The images come in the order of their paths, then the rows that name none of them (or one that an earlier row
    names) in the tables' order; reading decides whether these are there.

    Args:
        store: The folder.
        images: Its images, in the order of their paths.
        passed: What the walk over them met: the metadata tables.
        config: The configuration.
        split_folders: The folders directly below the root are splits.
        progress: Called with the number of rows since the last call.

    Raises:
        SourceError: A table cannot be read, or its columns are not what is needed.
    """
    table, wanted, unfit, path_columns = _read(store, passed, config, progress)
    where = store.root
    row_of = match(images, wanted)
    left = np.ones(len(wanted), bool)
    left[row_of[row_of >= 0]] = False
    rows = np.concatenate([row_of, np.flatnonzero(left)])
    columns = {name: column.take(rows) for name, column in table.columns.items() if name not in path_columns}
    rejects: Rejects = {number: unfit[row] for number, row in enumerate(rows.tolist()) if row in unfit}
    names, by_folder, splits = by_folders(
        chain(images, (wanted[row] for row in np.flatnonzero(left).tolist())),
        config,
        split_folders=split_folders,
        unfit=rejects,
    )
    if not names:
        raise SourceError(f"{where}: holds no images, and its metadata names none")
    used = find_column(columns, config.label_column, LABEL_COLUMNS) or ""
    if used and config.labels != NONE:
        labels = labels_of(columns[used], config)
        for number in np.flatnonzero(rows < 0).tolist():
            labels.rejects[number] = ("no_label", "no row of the metadata names it")
    else:
        labels = _folder_labels(by_folder, table.columns, config, where)
    return assemble(
        store.root,
        names,
        columns,
        labels,
        splits,
        config,
        where,
        used={used},
        rejects=rejects,
        ignored=passed.ignored,
    )


def _read(
    store: Store, passed: Passed, config: ConvertConfig, progress: Progress
) -> tuple[Table, Packed, Rejects, set[str]]:
    """All tables' rows, the image that each names relative to the root, unfit rows, and the columns of the paths."""
    table, path_columns = Table(), set()
    unfit: Rejects = {}
    parts: list[Packed] = []
    for metadata in passed.metadata:
        name = os.fsdecode(metadata)
        with store.open(metadata) as file:
            rows = table.read(file, name, progress)
        if not rows:
            continue
        where = os.path.join(store.root, name)
        path_column = find_path_column(table.columns, config, where, _FILE_NAME)
        path_columns.add(path_column)
        folder = metadata[: metadata.rfind(b"/") + 1]
        fence = Fence(store.root, below=folder, follow_links=config.follow_links)
        names, rejects = read_names(table, rows, path_column, fence)
        parts.append(names)
        unfit.update({rows.start + number: reject for number, reject in rejects.items()})
    return table, Packed.of(chain.from_iterable(parts)), unfit, path_columns


def _folder_labels(by_folder: Labels, columns: Mapping[str, Column], config: ConvertConfig, where: str) -> Labels:
    if by_folder.classes and config.labels in (AUTO, CLASS) and not config.label_column:
        return by_folder
    label_column(columns, config, where, usual=LABEL_COLUMNS)  # says so, where labels are wanted
    return no_labels()


def match(names: Packed, wanted: Packed) -> np.ndarray:
    """The first row of `wanted` that equals each of `names`: int64 [len(names)], -1 where none does.

    Compares hashes in arrays: a dict of a million names would take more memory than all columns together.
    """
    hashes = np.fromiter(map(hash, wanted), np.int64, len(wanted))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    starts = np.searchsorted(hashes, np.fromiter(map(hash, names), np.int64, len(names)))
    rows = np.full(len(names), -1, np.int64)
    for number, (name, start) in enumerate(zip(names, starts.tolist(), strict=True)):
        own = hash(name)
        for place in range(start, len(order)):
            if hashes[place] != own:
                break
            if wanted[int(order[place])] == name:
                rows[number] = order[place]
                break
    return rows
