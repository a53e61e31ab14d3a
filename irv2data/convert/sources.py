"""Which files a folder offers for conversion, in an order that depends on nothing but their names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from irv2data.convert.sniff import IMAGE_SUFFIXES, SIGNATURE_BYTES, sniff
from irv2data.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The sources of a conversion: one row a file, in the order of the paths' bytes.

    Columnar on purpose: a million files are a list of strings and one array, not a million objects.

    Attributes:
        root: The folder that was listed.
        classes: Class names, in the order of their bytes.
        paths: Path of each source relative to `root`, undecodable bytes as surrogate escapes.
        labels: int32 [len(paths)], an index into `classes`; -1 for a file outside every class folder.
        ignored: File name extension (lower case) to the number of files that are no images and were passed over.
    """

    root: str
    classes: tuple[str, ...]
    paths: list[str]
    labels: np.ndarray
    ignored: dict[str, int]


def list_folder(root: str, progress: Callable[[int], None] = lambda files: None) -> Listing:
    """Lists a folder with one sub-folder a class; images may lie at any depth below their class folder.

    A file is a source when its name ends like an image's or its first bytes are an image's: whatever looks like an
    image is converted or rejected with a reason, never passed over. Names that start with a dot are passed over,
    and symbolic links are not followed.

    Args:
        root: The folder.
        progress: Called with the number of files seen since the last call.

    Raises:
        SourceError: The folder is missing or unreadable, holds no class folders, or one of them holds no image.
    """
    if not os.path.isdir(root):
        raise SourceError(f"{root}: no such folder; SOURCE is a folder with one sub-folder a class")
    ignored: Counter[str] = Counter()
    found: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(root) as entries:
            folders = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
        for directory, subfolders, files in os.walk(root, onerror=_raise):
            ignored["(hidden)"] += sum(name.startswith(".") for name in files)
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
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
    except OSError as error:
        raise SourceError(f"{error.filename}: cannot be listed ({error.strerror})") from error
    if not folders:
        raise SourceError(f"{root}: has no class folders; expected {os.path.join(root, 'CLASS', 'image.jpg')}")
    found.sort(key=os.fsencode)
    classes = tuple(sorted(folders, key=os.fsencode))
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[p.split(os.sep, 1)[0]] if os.sep in p else -1 for p in found], np.int32)
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        names = ", ".join(repr(name) for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise SourceError(f"{root}: class {names} holds no images; put some there or remove the folder")
    return Listing(
        root=root,
        classes=classes,
        paths=found,
        labels=labels,
        ignored={suffix: count for suffix, count in sorted(ignored.items()) if count},
    )


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
