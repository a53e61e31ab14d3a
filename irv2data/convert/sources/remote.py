"""Folders behind a URI, through fsspec; nothing else imports it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from irv2data import storage
from irv2data.convert.sources.naming import IMAGE, suffix
from irv2data.convert.sources.store import Progress
from irv2data.convert.sources.walk import Passed
from irv2data.errors import Irv2dataError, SourceError, UsageError, one_line

_PROGRESS_EVERY = 1000


def connect(uri: str) -> tuple[Any, str]:
    """The fsspec file system that a URI lies on, and its path there.

    Raises:
        SourceError: A package is missing, or the file system cannot be opened.
    """
    try:
        fs = storage.remote(uri)
        return fs, fs._strip_protocol(uri).rstrip("/")
    except UsageError as error:
        raise SourceError(f"{uri}: {error}") from error
    except Exception as error:  # each file system fails with exceptions of its own
        raise SourceError(f"{uri}: cannot be opened ({one_line(error)})") from error


def path_below(base: str, name: bytes) -> str:
    """The path of a file below a path."""
    return f"{base}/{name.decode('utf-8', 'surrogateescape')}"


class RemoteStore:
    """A folder behind a URI. It is listed once, whole: an object store knows no folders, only names."""

    def __init__(self, root: str):
        bare = root.rstrip("/")
        self.root = root if bare.endswith(":") else bare
        self._fs, self._base = connect(self.root)
        self._names: list[bytes] | None = None

    def top_folders(self, *, follow_links: bool) -> list[str]:
        """Names of the visible folders directly below, in the order of their bytes."""
        tops = {name.partition(b"/")[0] for name in self._found() if b"/" in name and not name.startswith(b".")}
        return [os.fsdecode(name) for name in sorted(tops)]

    def images(self, passed: Passed, *, class_depth: int, follow_links: bool, progress: Progress) -> Iterator[bytes]:
        """The images below by their names alone, in the order of their bytes; other names are never opened."""
        names = self._found()
        hidden_folder = b""
        for number, name in enumerate(names, 1):
            parts = name.split(b"/")
            hidden = next((depth for depth, part in enumerate(parts) if part.startswith(b".")), None)
            if hidden is not None:
                folder = b"/".join(parts[: hidden + 1])
                if folder == name:
                    passed.ignored.add("(hidden)")
                elif folder != hidden_folder:
                    passed.ignored.add("(hidden folder)")
                    hidden_folder = folder
            elif (ending := suffix(name)) in IMAGE:
                yield name
            else:
                passed.take(name, ending)
            if number % _PROGRESS_EVERY == 0:
                progress(_PROGRESS_EVERY)
        progress(len(names) % _PROGRESS_EVERY)

    def size(self, name: bytes) -> int:
        """The size of a file in bytes."""
        path = path_below(self._base, name)
        with self._named(f"{self.root}/{os.fsdecode(name)}", "cannot be read"):
            return int(self._fs.size(path))

    @contextmanager
    def open(self, name: bytes) -> Iterator[BinaryIO]:
        """A file, open for reading; what goes wrong until it is closed is a `SourceError` that names it."""
        with (
            self._named(f"{self.root}/{os.fsdecode(name)}", "cannot be read"),
            self._fs.open(path_below(self._base, name), "rb") as file,
        ):
            yield file

    def _found(self) -> list[bytes]:
        if self._names is None:
            with self._named(self.root, "cannot be listed"):
                self._fs.invalidate_cache()  # fsspec shares what an earlier listing in this process saw
                paths = self._fs.find(self._base)
                if not paths and not self._fs.exists(self._base):
                    raise FileNotFoundError("no such folder")
                self._fs.invalidate_cache()  # about a kilobyte a file that is not needed again
            prefix = f"{self._base}/"
            found = (path[len(prefix) :] for path in paths if path.startswith(prefix))
            names = (name.encode("utf-8", "surrogateescape") for name in found)
            # An object store may hold a mark `folder/` for a folder, which is no file.
            self._names = sorted(name for name in names if name and not name.endswith(b"/"))
        return self._names

    @contextmanager
    def _named(self, path: str, what: str) -> Iterator[None]:
        try:
            yield
        except Irv2dataError:
            raise
        except Exception as error:  # each file system fails with exceptions of its own
            raise SourceError(f"{path}: {what} ({one_line(error)})") from error
