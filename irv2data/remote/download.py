"""Bytes from a server that may be slow, busy or gone for a moment: in blocks, each asked for until it is there."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from irv2data import storage
from irv2data.errors import DatasetError, Irv2dataError, one_line

_LOG = logging.getLogger(__name__)
_Got = TypeVar("_Got")

BLOCK = (
    8 << 20
)  # bytes a request: what is lost with a connection, and 64 MiB a second even at an eighth of a second each
SECONDS = 120  # that a block may take, so 70 kB a second at least
ATTEMPTS = 8  # half a minute in all: what it takes to restart a server
_FIRST, _LONGEST = 0.25, 16.0  # seconds to wait before the second attempt, twice as long before each further one
# Processes that failed together are not to come back together. Its own, for seeds of the global one are the user's.
_JITTER = random.Random()
_BUSY = (408, 429)  # client errors of HTTP that pass


def blocks(uri: str, size: int) -> Iterator[bytes]:
    """The content of a file, in order.

    Args:
        uri: Where it is.
        size: Bytes it has, or that are wanted of it.

    Raises:
        DatasetError: It cannot be had.
    """
    start = 0
    while start < size:
        block = persistently(partial(_block, uri, start, size), uri)
        start += len(block)
        yield block


def whole(uri: str, is_right: Callable[[bytes], bool], otherwise: Callable[[bytes], DatasetError]) -> bytes:
    """The content of a small file of unknown size.

    Args:
        uri: Where it is.
        is_right: Whether a content is what it should be.
        otherwise: The error to raise if it is not.

    Raises:
        DatasetError: It cannot be had, or is wrong.
    """
    for _ in range(2):  # bytes that went wrong on their way are right the next time
        content = persistently(partial(storage.read_bytes, uri), uri)
        if is_right(content):
            return content
    raise otherwise(content)


def wrong(what: str, found: str, expected: str) -> DatasetError:
    """The error for a file that has another digest than the manifest says."""
    return DatasetError(
        f"{what}: has the SHA-256 {found}, the manifest says {expected}; if the dataset was replaced, open it again; "
        "if it is damaged, restore the file or convert again"
    )


def persistently(get: Callable[[], _Got], uri: str) -> _Got:
    """What a function gets of a URI, called again, after a while, where it fails for a reason that may pass.

    Raises:
        DatasetError: It fails for another reason, or again and again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return get()
        except Irv2dataError:
            raise
        except Exception as error:  # each store's library has its own
            lasting = isinstance(error, (FileNotFoundError, PermissionError)) or _refused(error)
            if lasting or attempt == ATTEMPTS:
                what = "is not there" if isinstance(error, FileNotFoundError) else "cannot be fetched"
                raise DatasetError(
                    f"{uri}: {what} ({one_line(error)}); look at address, credentials and network, or open the dataset "
                    "again if it was replaced"
                ) from error
            pause = min(_LONGEST, _FIRST * 2 ** (attempt - 1)) * _JITTER.uniform(0.5, 1)
            _LOG.warning("%s: %s; trying again in %.1f s", uri, one_line(error), pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def _block(uri: str, start: int, size: int) -> bytes:
    stop = min(start + BLOCK, size)
    data = storage.read_range(uri, start, stop, seconds=SECONDS)
    if len(data) == size:  # all there was to ask for, or a server that knows no ranges and sends everything
        return data[start:]
    if len(data) != stop - start:
        raise OSError(f"bytes {start} to {stop} were asked for, {len(data)} came")
    return data


def _refused(error: Exception) -> bool:
    """Whether a server said by an HTTP status that asking again is no use."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
