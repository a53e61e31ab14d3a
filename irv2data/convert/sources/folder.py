"""Class folders and split folders: what the path of an image says about it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Container, Iterable, Iterator

import numpy as np

from irv2data.convert.config import AUTO, COLUMN, FOLDERS, SPLIT_NAME, ConvertConfig
from irv2data.convert.sources.labelling import CANNOT_NAME_A_SPLIT, Labels, Splits, class_order, no_labels
from irv2data.convert.sources.listing import Listing
from irv2data.convert.sources.naming import are_splits
from irv2data.errors import SourceError
from irv2data.labels import CLASS, NONE
from irv2data.packed import Packed


def has_split_folders(root: str, folders: Iterable[str], config: ConvertConfig) -> bool:
    """Whether a folder's sub-folders are the splits.

    Args:
        root: The folder, for the message.
        folders: Names of its sub-folders.
        config: Says so with `splits`, or leaves it to the names.

    Raises:
        SourceError: They are to be the splits, and one cannot be.
    """
    folders = list(folders)
    if config.splits == AUTO:
        return are_splits(folders)
    if config.splits != FOLDERS:
        return False
    unfit = next((name for name in folders if not SPLIT_NAME.fullmatch(name)), None)
    if unfit is not None:
        raise SourceError(f"{root}: folder {unfit!r} {CANNOT_NAME_A_SPLIT}")
    return True


def by_folders(
    paths: Iterable[bytes], config: ConvertConfig, *, split_folders: bool, unfit: Container[int] = ()
) -> tuple[Packed, Labels, Splits]:
    """Packs paths, and reads class and split off the folders they lie in.

    Args:
        paths: Relative paths; consumed one by one.
        config: Its `label_depth`, and whether it takes labels at all.
        split_folders: The first folder is the split, and those of the class follow.
        unfit: Numbers of the paths that are rejects already, and whose folders mean nothing.

    Returns:
        The paths, their labels (of kind `class`, with no class where there are no class folders) and their splits.
    """
    first = 1 if split_folders else 0
    depth = config.label_depth
    labelled = config.labels != NONE
    labels, split = array("i"), array("i")
    classes: dict[bytes, int] = {}
    splits: dict[bytes, int] = {}
    outside: dict[int, tuple[str, str]] = {}
    above = ("no_label", f"lies in no class folder ({depth} levels of folders make a class)" if depth > 1 else _ABOVE)

    def noted() -> Iterator[bytes]:
        folder, of_split, of_class = None, -1, -1
        for row, path in enumerate(paths):
            head = b"" if row in unfit else path.rpartition(b"/")[0]
            if head != folder:
                folder, of_split, of_class = head, -1, -1
                parts = head.split(b"/") if head else []
                if split_folders and parts and SPLIT_NAME.fullmatch(os.fsdecode(parts[0])):
                    of_split = splits.setdefault(parts[0], len(splits))
                if labelled and len(parts) >= first + depth:
                    of_class = classes.setdefault(b"/".join(parts[first : first + depth]), len(classes))
            if split_folders:
                split.append(of_split)
                if of_split < 0:
                    outside[row] = _NO_SPLIT
            if labelled:
                labels.append(of_class)
                if of_class < 0:
                    unlabelled[row] = above
            yield path

    unlabelled: dict[int, tuple[str, str]] = {}
    names = Packed.of(noted())
    found = no_labels()
    if labelled:
        order, rank = class_order(classes, numeric=False)
        found = Labels(kind=CLASS, classes=order, labels=rank[np.frombuffer(labels, np.int32)], rejects=unlabelled)
    order, rank = class_order(splits, numeric=False)
    where = Splits(names=order, split=rank[np.frombuffer(split, np.int32)], rejects=outside) if first else Splits()
    return names, found, where


_ABOVE = "lies in no class folder"
_NO_SPLIT = ("no_label", "lies in no split folder")


def listing_of_paths(
    root: str, paths: Iterable[bytes], config: ConvertConfig, *, split_folders: bool = False
) -> Listing:
    """The listing of images that are known by their paths alone.

    Args:
        root: What the paths are relative to.
        paths: Paths in the order that the listing is to have; consumed one by one.
        config: `labels` and `label_depth` decide what the folders mean.
        split_folders: The folders directly below the root are splits.

    Raises:
        SourceError: There are no paths, or none lies in a class folder and labels are wanted.
    """
    check_folder_options(root, config)
    names, labels, splits = by_folders(paths, config, split_folders=split_folders)
    levels = (["SPLIT"] if split_folders else []) + ["CLASS"] * (config.label_depth if config.labels != NONE else 0)
    form = os.path.join(root, *levels, "image.jpg")
    if not names:
        raise SourceError(f"{root}: holds no images; expected {form}")
    if labels.kind == CLASS and not labels.classes:
        depth = " with another --label_depth" if config.label_depth > 1 else ""
        raise SourceError(f"{root}: has no class folders; expected {form}{depth}, or --labels=none to go without")
    return Listing(
        root=root,
        names=names,
        kind=labels.kind,
        classes=labels.classes,
        labels=labels.labels,
        splits=splits.names,
        split=splits.split,
        rejects={**labels.rejects, **splits.rejects},
    )


def check_folder_options(root: str, config: ConvertConfig) -> None:
    """Refuses options that mean nothing without a table.

    Raises:
        SourceError: One is given.
    """
    without = f"{root}: a folder without metadata.csv or metadata.jsonl has no"
    if config.labels not in (AUTO, CLASS, NONE):
        raise SourceError(f"{without} labels of kind {config.labels!r}, only one class an image, its folder")
    if isinstance(config.splits, str) and config.splits.startswith(COLUMN):
        raise SourceError(f"{without} columns; --splits={config.splits} goes with a table")
    if config.label_column:
        raise SourceError(f"{without} columns; --label_column={config.label_column} goes with a table")
