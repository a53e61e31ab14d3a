"""Files of a dataset folder, on this machine or behind a URI (`s3://`, `gs://`, ...: fsspec, imported only then).

A file appears under its name complete or not at all: locally by a temporary name, fsync and rename; remotely because it
is uploaded whole, and object stores publish an object when its upload ends.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from irv2data.errors import UsageError, one_line

PARTIAL = ".partial"


def is_remote(path: str) -> bool:
    """Whether a path is a URI."""
    return "://" in path


@lru_cache(maxsize=16)
def _connect(protocol: str, process: int) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{protocol}:// needs the 'remote' extra, pip install 'irv2data[remote]' ({one_line(error)})"
        ) from error


def user_cache() -> Path:
    """What is made here on first use lies there: `irv2data` in the user's cache folder, by the XDG specification."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "irv2data"


def remote(uri: str) -> Any:
    """The fsspec file system of a URI's protocol; made once a process, for connections do not fork.

    Raises:
        UsageError: fsspec, or what it needs for this protocol, is not installed.
    """
    return _connect(uri.split("://", 1)[0], os.getpid())


def join(folder: str, *names: str) -> str:
    """The path of something in a folder."""
    return "/".join((folder.rstrip("/"), *names)) if is_remote(folder) else os.path.join(folder, *names)


def size(path: str) -> int | None:
    """Size of a file in bytes; None if there is none."""
    try:
        if is_remote(path):
            info = remote(path).info(path)
            return int(info["size"]) if info["type"] == "file" else None
        return os.stat(path).st_size if os.path.isfile(path) else None
    except FileNotFoundError:
        return None


def exists(path: str) -> bool:
    """Whether there is a file or folder of that name."""
    return bool(remote(path).exists(path)) if is_remote(path) else os.path.lexists(path)


def names(folder: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; empty if there is no such folder."""
    try:
        if is_remote(folder):
            # An object store has no folders: what a store calls one may be listed as a member of itself.
            found = {
                entry["name"].rstrip("/").rsplit("/", 1)[-1]
                for entry in remote(folder).ls(folder, detail=True, refresh=True)
            }
            own = folder.rstrip("/").rsplit("/", 1)[-1]
            return sorted(found - {own, ""})
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def make_folder(folder: str) -> None:
    """Makes a folder and its parents; object stores have none to make."""
    if not is_remote(folder):
        os.makedirs(folder, exist_ok=True)


def read_bytes(path: str) -> bytes:
    """A file's content.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read.
    """
    if is_remote(path):
        return bytes(remote(path).cat_file(path))
    with open(path, "rb") as file:
        return file.read()


def read_range(uri: str, start: int, stop: int, *, seconds: float) -> bytes:
    """Bytes [start, stop) of a remote file; fewer where it ends before, all of it from servers that know no ranges.

    Args:
        uri: Where it is.
        start: The first byte.
        stop: Behind the last byte.
        seconds: How long it may take, where the protocol's file system can tell the time.

    Raises:
        Exception: Whatever fsspec and the protocol's library raise.
    """
    system = remote(uri)
    limit = {"timeout": seconds} if system.async_impl else {}
    return bytes(system.cat_file(uri, start=start, end=stop, **limit))


def remove(path: str) -> None:
    """Removes a file or a whole folder, if it is there."""
    if is_remote(path):
        if remote(path).exists(path):
            remote(path).rm(path, recursive=True)
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def sync_folder(folder: str) -> None:
    """Makes durable which names a local folder holds."""
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds a lock that the system takes back when a process ends; whether it was free, if not to `wait` for it."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free


@contextmanager
def atomic_file(path: str) -> Iterator[BinaryIO]:
    """A file that appears under its name complete and durable, or not at all.

    Raises:
        OSError: It cannot be written (full disk, read-only folder, connection lost).
    """
    if is_remote(path):
        # Spooled here first: whatever fails while it is being written has touched nothing there.
        with tempfile.NamedTemporaryFile(prefix="irv2data-") as spool:
            yield spool  # type: ignore[misc]
            spool.flush()
            remote(path).put_file(spool.name, path)
        return
    folder, name = os.path.split(path)
    # Not by the process's number alone, which hosts on one file system may share.
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    sync_folder(folder)  # without it a power cut can undo the rename


def write_bytes(path: str, content: bytes) -> None:
    """Writes a small file as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)
