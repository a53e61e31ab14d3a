"""Where sources lie, seen the same way whether it is this machine's file system or a remote one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Protocol

from irv2data.convert.sources.walk import Passed, top_folders, walk
from irv2data.errors import SourceError
from irv2data.storage import is_remote

Progress = Callable[[int], None]


class Store(Protocol):
    """One folder and what lies below it."""

    root: str

    def top_folders(self, *, follow_links: bool) -> list[str]:
        """Names of the visible folders directly below, in the order of their bytes."""
        ...

    def images(self, passed: Passed, *, class_depth: int, follow_links: bool, progress: Progress) -> Iterator[bytes]:
        """The images below, as `walk` yields them."""
        ...

    def size(self, name: bytes) -> int:
        """The size of a file in bytes."""
        ...

    def open(self, name: bytes) -> AbstractContextManager[BinaryIO]:
        """A file, open for reading; what goes wrong until it is closed is a `SourceError` that names it."""
        ...


class LocalStore:
    """A folder of this machine's file system."""

    def __init__(self, root: str):
        self.root = root

    def top_folders(self, *, follow_links: bool) -> list[str]:
        """Names of the visible folders directly below, in the order of their bytes."""
        with _named(self.root, "cannot be listed"):
            return top_folders(self.root, follow_links=follow_links)

    def images(self, passed: Passed, *, class_depth: int, follow_links: bool, progress: Progress) -> Iterator[bytes]:
        """The images below, as `walk` yields them."""
        with _named(self.root, "cannot be listed"):
            yield from walk(self.root, passed, class_depth=class_depth, follow_links=follow_links, progress=progress)

    def size(self, name: bytes) -> int:
        """The size of a file in bytes."""
        with _named(self._path(name), "cannot be read"):
            return os.stat(os.path.join(os.fsencode(self.root), name)).st_size

    @contextmanager
    def open(self, name: bytes) -> Iterator[BinaryIO]:
        """A file, open for reading; what goes wrong until it is closed is a `SourceError` that names it."""
        with _named(self._path(name), "cannot be read"), open(os.path.join(os.fsencode(self.root), name), "rb") as file:
            yield file

    def _path(self, name: bytes) -> str:
        return os.path.join(self.root, os.fsdecode(name))


def open_store(root: str) -> Store:
    """The store of a folder or URI.

    Raises:
        SourceError: It is a URI, and a package that reads it is missing.
    """
    if is_remote(root):
        from irv2data.convert.sources.remote import RemoteStore  # fsspec is an optional package, and slow to import

        return RemoteStore(root)
    return LocalStore(root)


@contextmanager
def _named(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else path
        raise SourceError(f"{where.rstrip('/')}: {what} ({error.strerror or error})") from error
