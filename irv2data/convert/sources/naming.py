"""What a name says: whether a file is an image, hidden or a split, and whether it stays inside its folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from irv2data.convert.rejects import RejectError
from irv2data.convert.sniff import IMAGE_SUFFIXES
from irv2data.storage import is_remote

IMAGE = frozenset(os.fsencode(suffix) for suffix in IMAGE_SUFFIXES)
# Never opened to look for an image: what lies beside images by the million, and what only looks like one by chance.
# fmt: off
SIDE_FILES = frozenset((
    b".txt", b".json", b".jsonl", b".ndjson", b".csv", b".tsv", b".xml", b".md", b".rst", b".html", b".htm", b".yaml",
    b".yml", b".toml", b".ini", b".cfg", b".log", b".py", b".ipynb", b".sh", b".pdf", b".cls", b".caption", b".text",
    b".npy", b".npz", b".mat", b".pkl", b".h5", b".parquet", b".arrow", b".tfrecord", b".zip", b".gz", b".tgz",
    b".bz2", b".xz", b".zst", b".7z", b".tar", b".mp4", b".mov", b".avi", b".mkv", b".webm", b".wav", b".mp3",
))
# fmt: on
ARCHIVE = b".tar"
PACKED_ARCHIVES = (b".tar.gz", b".tgz", b".tar.bz2", b".tar.xz", b".tar.zst")
METADATA = (b"metadata.csv", b"metadata.jsonl")
TRAINING = frozenset(("train", "training"))
SPLIT_FOLDERS = TRAINING | frozenset(
    ("val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "holdout")
)

_SUFFIX_BYTES = 16
_SUFFIXES = 1000
_DRIVE = re.compile(rb"[A-Za-z]:[\\/]")


class Ignored:
    """Counts of what is passed over; bounded, however many suffixes a folder holds."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Counts under a description in parentheses."""
        self._counts[what] += count

    def add_file(self, name: bytes) -> None:
        """Counts under the suffix of a file's name."""
        ending = suffix(name)
        key = os.fsdecode(ending) or "(none)"
        if len(ending) > _SUFFIX_BYTES or (key not in self._counts and len(self._counts) >= _SUFFIXES):
            key = "(other)"
        self._counts[key] += 1

    def as_dict(self) -> dict[str, int]:
        """The counts that are not zero, by description in order."""
        return {what: count for what, count in sorted(self._counts.items()) if count}


def suffix(name: bytes) -> bytes:
    """The lower-case extension of a path with its dot, or nothing."""
    base = name[name.rfind(b"/") + 1 :]
    dot = base.rfind(b".")
    return base[dot:].lower() if dot > 0 else b""


def are_splits(folders: Iterable[str]) -> bool:
    """Whether a folder's sub-folders are splits: nothing but names of splits, train and at least one more."""
    names = [folder.lower() for folder in folders]
    return len(names) >= 2 and SPLIT_FOLDERS.issuperset(names) and not TRAINING.isdisjoint(names)


class Fence:
    """Keeps names that a table gives inside the folder they are relative to.

    Args:
        root: The folder or URI.
        below: Folder below the root that the names are relative to; empty or ending in a slash.
        follow_links: Let symbolic links lead out of the folder.
    """

    def __init__(self, root: str, *, below: bytes = b"", follow_links: bool = False):
        self._below = below
        self._prefixes = [os.fsencode(root.rstrip("/")) + b"/"]
        self._links = not is_remote(root) and not follow_links
        self._root = os.fsencode(root)
        if not is_remote(root):
            self._real = os.path.realpath(self._root)
            # A table may be written with either path where the folder is reached through a link.
            self._prefixes = [os.path.join(os.path.abspath(self._root), b""), os.path.join(self._real, b"")]
        self._is_inside = lru_cache(maxsize=65536)(self._resolves_inside)

    def name(self, raw: bytes) -> bytes:
        """The name relative to the root.

        Raises:
            RejectError: It reaches outside, with code `outside`.
        """
        if b"\0" in raw:
            raise RejectError("outside", "the name holds a zero byte")
        if (prefix := next((p for p in self._prefixes if raw.startswith(p)), None)) is not None:
            below, raw = b"", raw[len(prefix) :]
        elif raw.startswith((b"/", b"\\")) or _DRIVE.match(raw) or b"://" in raw:
            raise RejectError("outside", "an absolute path that is not below the folder; --image_root names another")
        else:
            below = self._below
        # On Windows these would be separators; what was written there must not reach outside here or there.
        if b".." in raw.replace(b"\\", b"/").split(b"/"):
            raise RejectError("outside", "'..' in a path; --image_root names the folder that paths are relative to")
        name = below + b"/".join(part for part in raw.split(b"/") if part not in (b"", b"."))
        if self._links:
            self._check_links(name)
        return name

    def _check_links(self, name: bytes) -> None:
        path = os.path.join(self._root, name)
        try:
            inside = self._is_inside(os.path.dirname(path)) and (
                not os.path.islink(path) or self._resolves_inside(path)
            )
        except OSError:  # a loop or a name too long cannot be read either, and gets its reject then
            return
        if not inside:
            raise RejectError("outside", "a symbolic link leads out of the folder; --follow_links allows it")

    def _resolves_inside(self, path: bytes) -> bool:
        return os.path.join(os.path.realpath(path), b"").startswith(os.path.join(self._real, b""))
