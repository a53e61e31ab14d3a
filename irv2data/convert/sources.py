"""Which files a folder offers for conversion, in an order that depends on nothing but their names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from irv2data.convert.config import SPLIT_NAME
from irv2data.convert.sniff import IMAGE_SUFFIXES, SIGNATURE_BYTES, sniff
from irv2data.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The sources of a conversion: one row a file, in the order of the paths' bytes.

    Columnar on purpose: a million files are a list of strings and one array, not a million objects.

    Attributes:
        root: The folder that was listed.
        classes: Class names, in the order of their bytes.
        splits: Split names by folder, in the order of their bytes; empty where splits are fractions.
        paths: Path of each source relative to `root`, undecodable bytes as surrogate escapes.
        labels: int32 [len(paths)], an index into `classes`; -1 for a file outside every class folder.
        ignored: File name extension (lower case) to the number of files that are no images and were passed over.
    """

    root: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    paths: list[str]
    labels: np.ndarray
    split: np.ndarray
    ignored: dict[str, int]


def list_folder(
    root: str, *, split_folders: bool = False, progress: Callable[[int], None] = lambda files: None
) -> Listing:
    """Lists a folder with one sub-folder a class; images may lie at any depth below their class folder.

    A file is a source when its name ends like an image's or its first bytes are an image's: whatever looks like an
    image is converted or rejected with a reason, never passed over. Names that start with a dot are passed over,
    and symbolic links are not followed.

    Args:
        root: The folder.
        split_folders: The folder's sub-folders are splits, and the class folders lie in them. A class is one name,
            whichever splits it occurs in.
        progress: Called with the number of files seen since the last call.

    Raises:
        SourceError: The folder is missing or unreadable, holds no class folders, or one of them holds no image.
    """
    depth = 1 if split_folders else 0
    form = os.path.join(root, *(["SPLIT"] * depth), "CLASS", "image.jpg")
    if not os.path.isdir(root):
        raise SourceError(f"{root}: no such folder; SOURCE is a folder of images laid out as {form}")
    try:
        splits = _folders(root) if split_folders else []
        parents = [os.path.join(root, name) for name in splits] if split_folders else [root]
        folders = [os.path.join(parent, name) for parent in parents for name in _folders(parent)]
        paths, ignored = _walk(root, progress)
    except OSError as error:
        raise SourceError(f"{error.filename}: cannot be listed ({error.strerror})") from error
    unfit = [name for name in splits if not SPLIT_NAME.fullmatch(name)]
    if unfit:
        raise SourceError(
            f"{root}: folder {unfit[0]!r} cannot name a split; use letters, digits and '_', and not 'all'"
        )
    if not folders:
        raise SourceError(f"{root}: has no class folders; expected {form}")
    parts = [path.split(os.sep, depth + 1) for path in paths]
    within = {os.path.join(root, *part[: depth + 1]) for part in parts if len(part) > depth + 1}
    empty = sorted(os.path.relpath(folder, root) for folder in folders if folder not in within)
    if empty:
        names = ", ".join(repr(name) for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise SourceError(f"{root}: class {names} holds no images; put some there or remove the folder")
    classes = tuple(sorted({os.path.basename(folder) for folder in folders}, key=os.fsencode))
    label_of = {name: number for number, name in enumerate(classes)}
    split_of = {name: number for number, name in enumerate(splits)}
    placed = [len(part) > depth + 1 for part in parts]
    labels = [label_of[part[depth]] if inside else -1 for part, inside in zip(parts, placed, strict=True)]
    split = [split_of[part[0]] if inside and depth else -1 for part, inside in zip(parts, placed, strict=True)]
    return Listing(
        root=root,
        classes=classes,
        splits=tuple(splits),
        paths=paths,
        labels=np.array(labels, np.int32),
        split=np.array(split, np.int32),
        ignored=ignored,
    )


def _folders(parent: str) -> list[str]:
    with os.scandir(parent) as entries:
        names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    return sorted(names, key=os.fsencode)


def _walk(root: str, progress: Callable[[int], None]) -> tuple[list[str], dict[str, int]]:
    """The paths of all sources relative to `root`, sorted, and what was passed over, by extension."""
    ignored: Counter[str] = Counter()
    found: list[str] = []
    for directory, subfolders, files in os.walk(root, onerror=_raise):
        ignored["(hidden)"] += sum(name.startswith(".") for name in files)
        ignored["(hidden folder)"] += sum(name.startswith(".") for name in subfolders)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        ignored["(symbolic link)"] += sum(os.path.islink(os.path.join(directory, name)) for name in subfolders)
        visible = [name for name in files if not name.startswith(".")]
        for name in visible:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                ignored["(symbolic link)"] += 1
            elif _looks_like_image(path):
                found.append(os.path.relpath(path, root))
            else:
                ignored[os.path.splitext(name)[1].lower() or "(none)"] += 1
        progress(len(visible))
    found.sort(key=os.fsencode)
    return found, {suffix: count for suffix, count in sorted(ignored.items()) if count}


def _looks_like_image(path: str) -> bool:
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
        return True
    if not os.path.isfile(path):  # a pipe or a device must not be opened: reading one can wait for ever
        return False
    try:
        with open(path, "rb") as file:
            return sniff(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return True  # unreadable is not "no image": let it become a reject with its reason


def _raise(error: OSError) -> None:
    raise error
