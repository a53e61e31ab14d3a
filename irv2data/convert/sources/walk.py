"""A folder's images in the byte order of their paths, with nothing kept in memory but one folder's names a level."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from irv2data.convert.sniff import SIGNATURE_BYTES, sniff
from irv2data.convert.sources.naming import ARCHIVE, IMAGE, METADATA, PACKED_ARCHIVES, SIDE_FILES, Ignored, suffix

_PROGRESS_EVERY = 1000


@dataclass(kw_only=True)
class Passed:
    """What a walk meets besides images.

    Attributes:
        ignored: Counts of what is passed over for good.
        archives: Paths of tar archives, compressed ones included.
        metadata: Paths of metadata tables.
        metadata_depth: How many levels below the root metadata tables are looked for.
        empty_class_folders: How many folders hold no image, of those that would name a class.
    """

    ignored: Ignored = field(default_factory=Ignored)
    archives: list[bytes] = field(default_factory=list)
    metadata: list[bytes] = field(default_factory=list)
    metadata_depth: int = 0
    empty_class_folders: int = 0

    def take(self, path: bytes, ending: bytes) -> None:
        """Notes a file that is no image."""
        if ending == ARCHIVE or path.lower().endswith(PACKED_ARCHIVES):
            self.archives.append(path)
        elif path.count(b"/") <= self.metadata_depth and path[path.rfind(b"/") + 1 :] in METADATA:
            self.metadata.append(path)
        else:
            self.ignored.add_file(path)


@dataclass(kw_only=True)
class _Level:
    prefix: bytes
    entries: Iterator[bytes]
    before: int
    identity: tuple[int, int] | None


def walk(
    root: str,
    passed: Passed,
    *,
    class_depth: int = 0,
    follow_links: bool = False,
    progress: Callable[[int], None] = lambda files: None,
) -> Iterator[bytes]:
    """Yields the images below a folder, as paths relative to it, in the order of their bytes.

    A file is an image when its name ends like one, or its first bytes are one's and its name says nothing else.
    Names that start with a dot are passed over.

    Args:
        root: The folder.
        passed: Receives what is no image; complete when the walk has ended.
        class_depth: Level at which folders without images are counted as empty class folders; 0 for none.
        follow_links: Follow symbolic links, except into a folder that the walk is in already.
        progress: Called with the number of files seen since the last call.

    Raises:
        OSError: A folder cannot be listed; `filename` names it.
    """
    scan = _Scanner(os.fsencode(root), passed, follow_links, progress)
    found = 0
    stack = [_Level(prefix=b"", entries=iter(scan(b"")), before=0, identity=scan.identity(b""))]
    while stack:
        level = stack[-1]
        for name in level.entries:
            path = level.prefix + name
            if not name.endswith(b"/"):
                found += 1
                yield path
                continue
            identity = scan.identity(path)
            if identity is not None and any(identity == above.identity for above in stack):
                passed.ignored.add("(link loop)")
                continue
            stack.append(_Level(prefix=path, entries=iter(scan(path)), before=found, identity=identity))
            break
        else:
            stack.pop()
            if stack and len(stack) == class_depth and level.before == found:
                passed.empty_class_folders += 1


class _Scanner:
    def __init__(self, root: bytes, passed: Passed, follow_links: bool, progress: Callable[[int], None]):
        self._root = root
        self._passed = passed
        self._follow = follow_links
        self._progress = progress

    def identity(self, folder: bytes) -> tuple[int, int] | None:
        """What a folder is, whatever its path; None where no loop is possible."""
        if not self._follow:
            return None
        status = os.stat(os.path.join(self._root, folder))
        return status.st_dev, status.st_ino

    def __call__(self, prefix: bytes) -> list[bytes]:
        """The images and folders (with a slash at their end) of one folder, sorted as their paths are."""
        ignored = self._passed.ignored
        kept, files = [], 0
        with os.scandir(os.path.join(self._root, prefix)) as entries:
            for entry in entries:
                name = entry.name
                is_link = entry.is_symlink()
                is_folder = _is_folder(entry, self._follow)
                if name.startswith(b"."):
                    ignored.add("(hidden folder)" if is_folder else "(hidden)")
                elif is_link and not self._follow:
                    ignored.add("(symbolic link)")
                elif is_folder:
                    kept.append(name + b"/")
                elif (ending := suffix(name)) in IMAGE or self._holds_image(entry, ending):
                    kept.append(name)
                else:
                    self._passed.take(prefix + name, ending)
                files += not is_folder
                if files >= _PROGRESS_EVERY:
                    self._progress(files)
                    files = 0
        self._progress(files)
        kept.sort()
        return kept

    def _holds_image(self, entry: os.DirEntry[bytes], ending: bytes) -> bool:
        if ending in SIDE_FILES:
            return False
        try:
            if not entry.is_file(follow_symlinks=self._follow):  # opening a pipe or a device can wait for ever
                return False
            with open(entry.path, "rb", buffering=0) as file:
                return sniff(file.read(SIGNATURE_BYTES)) is not None
        except OSError:
            return True  # unreadable is not "no image": let it become a reject with its reason


def top_folders(root: str, *, follow_links: bool = False) -> list[str]:
    """The names of the visible folders directly in a folder, in the order of their bytes.

    Raises:
        OSError: The folder cannot be listed.
    """
    with os.scandir(os.fsencode(root)) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(b".") and _is_folder(entry, follow_links)]
    return [os.fsdecode(name) for name in sorted(names)]


def _is_folder(entry: os.DirEntry[bytes], follow_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:  # a link to itself
        return False
