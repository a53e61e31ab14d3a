"""The content of a source, wherever it lies."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from irv2data.convert.rejects import RejectError
from irv2data.errors import SourceError, one_line
from irv2data.storage import is_remote

LOOK_AHEAD = 16  # contents held at once; a remote read is mostly waiting, so threads beyond the cores pay
_OPEN_ARCHIVES = 16

Place = tuple[str, int, int]

# Without O_NONBLOCK, opening a named pipe that took an image's name would wait for ever.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_source(listing_root: str, name: bytes, place: Place | None = None) -> bytes:
    """The content of a source.

    Args:
        listing_root: `Listing.root`.
        name: One of `Listing.names`.
        place: Archive relative to the root, offset and length in bytes, of a source that is a part of an archive.

    Raises:
        RejectError: It cannot be read (`unreadable`), or the name does not stay below the root (`outside`).
    """
    path = os.fsencode(place[0]) if place else name
    if path.startswith(b"/") or b"\0" in path or b".." in path.split(b"/"):
        raise RejectError("outside", "the name does not stay below the folder")
    if is_remote(listing_root):
        return _read_remote(listing_root, path, place)
    path = os.path.join(os.fsencode(listing_root), path)
    try:
        return _read_part(path, place[1], place[2]) if place else _read_file(path)
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from error


def read_ahead(root: str, items: Iterable[tuple[bytes, Place | None]]) -> Iterator[bytes | RejectError]:
    """The contents of sources in order, or why one cannot be read.

    Local files are read one by one, when their turn comes; remote ones up to `LOOK_AHEAD` before it.

    Args:
        root: `Listing.root`.
        items: Name and place of each source, as `read_source` takes them.
    """
    if not is_remote(root):
        for name, place in items:
            yield _outcome(root, name, place)
        return
    pool = ThreadPoolExecutor(LOOK_AHEAD, thread_name_prefix="irv2data-read")
    waiting: deque[Future[bytes | RejectError]] = deque()
    try:
        for name, place in items:
            if len(waiting) == LOOK_AHEAD:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_outcome, root, name, place))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(root: str, name: bytes, place: Place | None) -> bytes | RejectError:
    try:
        return read_source(root, name, place)
    except RejectError as error:
        return error
    except MemoryError:
        return RejectError("out_of_memory", "the file is larger than a worker may hold (--worker_mib)")


def _read_file(path: bytes) -> bytes:
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise RejectError("unreadable", "is a pipe or a device, no file")
        # Without a file object, which takes as long as the reading: one byte more than there is shows the end.
        content = os.read(descriptor, status.st_size + 1)
        if len(content) == status.st_size:
            return content
        parts = [content]
        while parts[-1]:  # over 2 GiB, or it grows
            parts.append(os.read(descriptor, 1 << 24))
        return b"".join(parts)
    finally:
        os.close(descriptor)


class _Archives:
    """The archives read last, kept open: opening one for each member costs more than reading it, on a network."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[bytes, int, int], int] = OrderedDict()

    def descriptor(self, path: bytes) -> int:
        status = os.stat(path)
        key = (path, status.st_dev, status.st_ino)  # an archive may be replaced between two conversions
        if key not in self._open:
            if len(self._open) >= _OPEN_ARCHIVES:
                os.close(self._open.popitem(last=False)[1])
            self._open[key] = os.open(path, _FLAGS)
        self._open.move_to_end(key)
        return self._open[key]


_ARCHIVES = _Archives()


def _read_part(path: bytes, offset: int, length: int) -> bytes:
    descriptor = _ARCHIVES.descriptor(path)
    parts = []
    while length > 0:
        part = os.pread(descriptor, length, offset)  # may give less than asked for
        if not part:
            raise RejectError("unreadable", "the archive ends before it")
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _read_remote(root: str, name: bytes, place: Place | None) -> bytes:
    from irv2data.convert.sources.remote import connect, path_below  # fsspec is an optional package

    try:
        fs, base = connect(root)
        if place is None:
            return bytes(fs.cat_file(path_below(base, name)))
        if place[2] == 0:
            return b""
        part = bytes(fs.cat_file(path_below(base, name), start=place[1], end=place[1] + place[2]))
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise RejectError("unreadable", "No such file") from error
    except Exception as error:  # each file system fails with exceptions of its own
        raise RejectError("unreadable", one_line(error)) from error
    if len(part) != place[2]:
        raise RejectError("unreadable", "the archive ends before it")
    return part
