"""One converter at a time on one output folder: an advisory lock that the system releases when its process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from irv2data import storage
from irv2data.errors import DatasetError

WORK = ".convert"  # plan and results of finished shards, while a conversion is not committed
LOCK = "lock"


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Holds the output folder. Object stores have no locks: there it is the user who starts one converter only.

    Raises:
        DatasetError: Another converter holds it.
        OSError: The folder cannot be made.
    """
    if storage.is_remote(folder):
        yield
        return
    new = not os.path.isdir(folder)
    work = os.path.join(folder, WORK)
    path = os.path.join(work, LOCK)
    while True:
        os.makedirs(work, exist_ok=True)
        try:
            # A file and not the folder: NFS grants locks to descriptors open for writing only.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # whoever held it removed the work folder in between
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed it in between: then this is a lock on a file that nobody sees.
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    break
        except BlockingIOError:
            os.close(descriptor)
            raise _busy(folder) from None
        os.close(descriptor)
    try:
        yield
    finally:
        _leave(work)
        if new:
            with suppress(OSError):
                os.rmdir(folder)
        os.close(descriptor)


def _leave(work: str) -> None:
    """Removes a work folder that holds nothing but the lock, which the caller has: nothing to resume or to keep."""
    with suppress(OSError):
        if os.listdir(work) == [LOCK]:
            os.unlink(os.path.join(work, LOCK))
            os.rmdir(work)


def require_free(folder: str) -> None:
    """Raises a `DatasetError` if another converter holds the folder, before anything else is said about it.

    What a killed one leaves behind that had not begun to write is removed.
    """
    path = storage.join(folder, WORK, LOCK)
    if storage.is_remote(folder):
        return
    with suppress(OSError):
        os.rmdir(storage.join(folder, WORK))  # if it is empty: killed while it removed the two
    if not os.path.exists(path):
        return
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return  # what is wrong with the folder is said where it is used
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _leave(storage.join(folder, WORK))
    except BlockingIOError:
        raise _busy(folder) from None
    finally:
        os.close(descriptor)


def _busy(folder: str) -> DatasetError:
    return DatasetError(f"{folder}: another conversion is writing it; wait for it to end, or choose another folder")
