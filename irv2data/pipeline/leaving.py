"""Python that graphs call, and the end of the interpreter.

CPython never gives a thread back that asks for it while it ends. A thread of TensorFlow that calls Python then is lost,
and whoever deletes its iterator, as the interpreter does with what is left, waits for it for ever. So calls are refused
from the moment that the interpreter begins to end, and those under way are waited for.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_SECONDS = 30.0  # that a call under way may take to end
_STILL = 0.1  # seconds without a call after which none is coming; one that follows another does so at once


class LeavingError(RuntimeError):
    """The interpreter is ending."""


class Closing(Protocol):
    """What waits in a call, and can be told not to."""

    def close(self) -> None:
        """Ends its waiting, now and later."""


_waiting: weakref.WeakSet[Closing] = weakref.WeakSet()
_changed = threading.Condition()
_under_way = 0
_calls = 0
_leaving = False


@contextmanager
def call() -> Iterator[None]:
    """Around what a graph calls.

    Raises:
        LeavingError: The interpreter is ending.
    """
    global _under_way, _calls
    with _changed:
        _calls += 1
        if _leaving:
            raise LeavingError("the interpreter is ending")
        _under_way += 1
    try:
        yield
    finally:
        with _changed:
            _under_way -= 1
            _changed.notify_all()


def close_at_exit(waiting: Closing) -> None:
    """Has something closed when the interpreter begins to end, if it is still there then."""
    _waiting.add(waiting)


@atexit.register
def _leave() -> None:
    global _leaving
    with _changed:
        _leaving = True
    for waiting in list(_waiting):
        waiting.close()
    with _changed:
        _changed.wait_for(lambda: _under_way == 0, _SECONDS)
    seen = -1
    while seen != _calls:  # TensorFlow's part of a call wants the interpreter, too
        seen = _calls
        time.sleep(_STILL)
