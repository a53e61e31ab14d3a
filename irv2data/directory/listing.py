"""Which files Keras finds in a directory, in which order, with which labels, and which of them a subset has.

Keras' own functions for it are private; what is here is tested beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from irv2data.errors import SourceError, UsageError
from irv2data.storage import is_remote

INFERRED = "inferred"
TRAINING, VALIDATION, BOTH = "training", "validation", "both"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a directory, in Keras' order.

    Attributes:
        directory: The directory, as it was given.
        names: Path of each of the N images relative to it; undecodable bytes as surrogate escapes.
        labels: N labels; None without labels.
        class_names: Names of the classes; None without labels.
    """

    directory: str
    names: tuple[str, ...]
    labels: Sequence[Any] | None
    class_names: list[str] | None

    def paths(self, rows: np.ndarray) -> list[str]:
        """Paths of some images, int [M], as Keras' `file_paths` has them."""
        return [os.path.join(self.directory, self.names[row]) for row in rows.tolist()]


def list_images(
    directory: str | os.PathLike[str],
    labels: str | Sequence[Any] | None,
    class_names: Sequence[str] | None,
    *,
    follow_links: bool,
) -> Listing:
    """Lists a directory as Keras does.

    Args:
        directory: A local directory.
        labels: `inferred` from the sub-directories, None, or one label an image, in the listing's order.
        class_names: With `inferred`: the sub-directories that are classes, in their order; None for all of them.
        follow_links: Go into directories that are symbolic links. (Links to files are images either way.)

    Raises:
        UsageError: The classes or labels do not fit what is there.
        SourceError: There is no such directory, it cannot be listed, or it holds no image.
    """
    root = os.fspath(directory)
    if is_remote(root):
        raise UsageError(f"{root}: directory must be a local one; `irv2data convert` takes URIs")
    inferred = isinstance(labels, str) and labels == INFERRED
    try:
        classes = _classes(root, class_names) if inferred else [""]
        found = [(name, label) for label, folder in enumerate(classes) for name in _images(root, folder, follow_links)]
    except OSError as error:
        raise SourceError(f"{error.filename or root}: cannot be listed ({error.strerror or error})") from error
    names = tuple(name for name, _ in found)
    if not names:
        raise SourceError(f"{root}: holds no images; expected CLASS/IMAGE with {', '.join(SUFFIXES)}")
    if inferred:
        return Listing(directory=root, names=names, labels=[label for _, label in found], class_names=classes)
    if labels is None:
        return Listing(directory=root, names=names, labels=None, class_names=None)
    if len(labels) != len(names):
        raise UsageError(f"labels must be one an image: got {len(labels)} labels, and {root} holds {len(names)} images")
    return Listing(
        directory=root, names=names, labels=labels, class_names=[str(label) for label in sorted(set(labels))]
    )


def _classes(root: str, class_names: Sequence[str] | None) -> list[str]:
    there = [
        name
        for name in sorted(os.listdir(root))
        if not name.startswith(".") and os.path.isdir(os.path.join(root, name))
    ]
    if class_names is None:
        return there
    if unknown := sorted(set(class_names) - set(there)):
        raise UsageError(f"class_names must be sub-directories of {root}; it has no {', '.join(unknown)}")
    return list(class_names)


def _images(root: str, folder: str, follow_links: bool) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    top = os.path.join(root, folder)
    walk = os.walk(top, onerror=refuse, followlinks=follow_links)
    for place, _, files in sorted(walk, key=lambda found: found[0]):
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(folder, os.path.relpath(os.path.join(place, name), top))


def subset_rows(
    count: int, *, shuffle: bool, seed: int, validation_split: float | None, subset: str | None
) -> np.ndarray:
    """The rows of a listing that belong to a subset, in Keras' order.

    Args:
        count: Images in the listing.
        shuffle: Shuffled by the seed, before they are cut in two; otherwise in the listing's order.
        seed: For `numpy.random.RandomState`.
        validation_split: Share of the images, from the end, that is `validation`.
        subset: `training`, `validation`, or None for all.

    Returns:
        int64 [M].

    Raises:
        UsageError: The subset has no image.
    """
    rows = np.arange(count)
    if shuffle:
        np.random.RandomState(seed).shuffle(rows)  # what Keras shuffles with; a generator would give another order
    if validation_split is None:
        return rows
    held_out = int(validation_split * count)
    rows = rows[count - held_out :] if subset == VALIDATION else rows[: count - held_out]
    # Keras takes the last none of a list, which is all of it, and gives the validation images to both.
    if held_out == 0:
        raise UsageError(f"validation_split={validation_split} of {count} images is none; use a larger share")
    return rows
