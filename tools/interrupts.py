"""Ctrl-C and SIGTERM: the first ends a command in order, the second at once, wherever the process is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from irv2data.errors import EXIT_INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AT_ONCE = b"stopped at once\n"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first of these signals raises KeyboardInterrupt in the main thread, and the second ends the process.

    A handler of Python's runs only once the main thread is back from whatever it waits for within TensorFlow, so the
    second signal is looked for by a thread. It exits with code 75, and leaves what a kill would leave.

    A signal that the caller has this process ignore (as `nohup` and a shell's background jobs do) stays ignored.

    Yields:
        Whether a signal came.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python takes no handlers
        yield lambda: False
        return
    came: list[int] = []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def watch(pipe: int) -> None:
        while numbers := os.read(pipe, 16):
            came.extend(number for number in numbers if number in _SIGNALS)
            if len(came) > 1:
                os.write(2, _AT_ONCE)
                os._exit(EXIT_INTERRUPTED)
        os.close(pipe)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = _heeded()
    # The bytes come from the handler in C, at once, whatever the main thread does.
    others = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=watch, args=(reading,), daemon=True).start()
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(others)
        os.close(writing)


@contextmanager
def stopping(told: bytes) -> Iterator[Callable[[], bool]]:
    """Within `interruptible`: the first signal raises nothing; what is yielded says that it came, for a loop to ask.

    Args:
        told: What standard error says at that moment.
    """
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        if not asked.is_set():
            asked.set()
            # Not `print`, whose buffer the signal may have come in the middle of.
            os.write(2, told)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = _heeded()
    try:
        for number in before:
            signal.signal(number, ask)
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> dict[int, Any]:
    """Signal to handler, of those that are not ignored (or taken by something that is not Python)."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
