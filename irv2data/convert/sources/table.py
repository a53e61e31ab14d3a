"""Tables that name an image and its label in each row: CSV, TSV, JSON Lines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from irv2data.convert.config import FOLDERS, ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources.columns import UNNAMED, Column, finish_all
from irv2data.convert.sources.labelling import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Labels,
    Splits,
    find_column,
    label_column,
    labels_of,
    listed,
    no_labels,
    splits_of,
)
from irv2data.convert.sources.listing import Listing, Places
from irv2data.convert.sources.naming import Fence, Ignored
from irv2data.convert.sources.rows import Table
from irv2data.convert.sources.store import Progress, Store
from irv2data.errors import SourceError
from irv2data.labels import NONE
from irv2data.packed import Packed

Rejects = dict[int, tuple[str, str]]


def list_table(store: Store, name: bytes, config: ConvertConfig, progress: Progress) -> Listing:
    """Lists the images that a table names, in the order of its rows.

    A row that is none (a wrong number of fields, no JSON object, no path) becomes a source called `TABLE:LINE`, so
    that it is counted, and a reject with code `bad_label`. Empty lines are passed over.

    Args:
        store: The table's folder.
        name: The table.
        config: Names the columns; `image_root` is what paths are relative to, or else the table's folder.
        progress: Called with the number of rows since the last call.

    Raises:
        SourceError: The table cannot be read, or its columns are not what is needed.
    """
    where = os.path.join(store.root, os.fsdecode(name))
    if config.splits == FOLDERS:
        raise SourceError(f"{where}: --splits=folders goes with a folder; a table's splits are --splits=column:NAME")
    table = Table()
    with store.open(name) as file:
        table.read(file, os.fsdecode(name), progress)
    if not len(table):
        raise SourceError(f"{where}: has no rows")
    root = config.image_root or store.root
    path_column = find_path_column(table.columns, config, where, PATH_COLUMNS)
    names, rejects = read_names(table, range(len(table)), path_column, Fence(root, follow_links=config.follow_links))
    labels, used = table_labels(table.columns, config, where)
    used = {path_column, *used}
    return assemble(root, names, table.columns, labels, None, config, where, used=used, rejects=rejects)


def find_path_column(columns: Iterable[str], config: ConvertConfig, where: str, usual: tuple[str, ...]) -> str:
    """The column that names the images.

    Raises:
        SourceError: There is none.
    """
    found = find_column(columns, config.path_column, usual)
    if found is None:
        wanted = config.path_column or f"one of {', '.join(usual)}"
        raise SourceError(
            f"{where}: has no path column {wanted}; its columns (the first line of a CSV) are {listed(columns)}; "
            "--path_column names it"
        )
    return found


def read_names(table: Table, rows: range, path_column: str, fence: Fence) -> tuple[Packed, Rejects]:
    """The names of some rows relative to their root, and which of them are unfit and why."""
    rejects: Rejects = {}
    paths = table.columns[path_column].texts

    def clean(number: int, row: int) -> bytes:
        path = b"" if row in table.broken else paths[row].strip(b"\r\n")
        try:
            if path and (name := fence.name(path)):
                return name
        except RejectError as error:
            rejects[number] = (error.code, error.detail)
            return path
        rejects[number] = ("bad_label", table.broken.get(row, f"{table.where(row)}: no path"))
        return os.fsencode(table.where(row))

    return Packed.of(clean(number, row) for number, row in enumerate(rows)), rejects


def table_labels(columns: Mapping[str, Column], config: ConvertConfig, where: str) -> tuple[Labels, set[str]]:
    """The labels of all rows, and the columns that they took (without being further columns, even if unlabelled)."""
    name = label_column(columns, config, where, usual=LABEL_COLUMNS)
    if not name:
        return no_labels(), set()
    return (no_labels() if config.labels == NONE else labels_of(columns[name], config)), {name}


def assemble(
    root: str,
    names: Packed,
    columns: Mapping[str, Column],
    labels: Labels,
    splits: Splits | None,
    config: ConvertConfig,
    where: str,
    *,
    used: Iterable[str],
    rejects: Rejects,
    places: Places | None = None,
    ignored: Ignored | None = None,
) -> Listing:
    """Puts a listing together.

    Args:
        root: What names are relative to.
        names: N names.
        columns: Columns of N cells.
        labels: N labels.
        splits: N splits; None for those of the column that the configuration names, if it does.
        config: The configuration.
        where: What holds the columns, for messages.
        used: Columns that are not to become further ones.
        rejects: Rows that are unfit for what they are; for a row with several reasons the first counts, before those
            of `labels` and `splits`.
        places: Where the sources lie, if in archives.
        ignored: What was passed over.

    Raises:
        SourceError: A column cannot be used.
    """
    split_column, from_column = splits_of(columns, config, where)
    splits = from_column if splits is None or split_column else splits
    ignored = ignored or Ignored()
    if "" in columns:
        ignored.add(UNNAMED)
    return Listing(
        root=root,
        names=names,
        kind=labels.kind,
        classes=labels.classes,
        labels=labels.labels,
        label_ends=labels.label_ends,
        splits=splits.names,
        split=splits.split,
        columns=finish_all(columns, {*used, split_column}, where),
        places=places,
        rejects=dict(sorted({**splits.rejects, **labels.rejects, **rejects}.items())),
        ignored=ignored.as_dict(),
    )
