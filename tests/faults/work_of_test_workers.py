"""What the workers of test_workers.py do; a module of its own, free of pytest and TensorFlow, because they import it.

A task is a `Work`; its result tells the process and what became of each item.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Work:
    """`items[i]` names what item i does; items in `skip` are not begun.

    Attributes:
        items: Names of functions below, or "" for nothing.
        skip: Items given up.
        folder: Where the functions leave marks.
    """

    items: tuple[str, ...]
    skip: frozenset[int] = frozenset()
    folder: str = ""


@dataclass(frozen=True)
class Done:
    pid: int
    fates: tuple[str, ...]


class UnpicklableError(Exception):
    def __init__(self, message, *, place):
        super().__init__(f"{place}: {message}")


def work(task, marker):
    fates = []
    for item, name in enumerate(task.items):
        if item in task.skip:
            fates.append("skipped")
        else:
            marker.begin(item)
            try:
                fates.append((globals()[name](task) if name else None) or "done")
            except MemoryError:
                fates.append("out of memory")
            marker.end()
        marker.advance()
    return Done(os.getpid(), tuple(fates))


def tries(task, name):
    """How often this was called for the task, this time included; survives the process."""
    path = Path(task.folder, f"{name}-{'-'.join(task.items)}")
    path.open("a").write(f"{os.getpid()}\n")
    return len(path.read_text().splitlines())


def segfault(task):
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(100)


def leave(task):
    os._exit(3)


def leave_once(task):
    if tries(task, "left") == 1:
        os._exit(3)


def interrupt(task):
    os.kill(os.getpid(), signal.SIGINT)


def sleep(task):
    time.sleep(1000)


def hang_in_c(task):
    ctypes.PyDLL(None).pause()  # a PyDLL keeps the interpreter's lock


def eat(task):
    eaten = [bytes(64 * MIB) for _ in range(1000)]
    return f"ate {len(eaten)}"


def leak(task):
    leaked.append(bytes(200 * MIB))


leaked: list[bytes] = []


def wait_for_a_kill_once(task):
    if tries(task, "waited") == 1:
        time.sleep(1000)


def half_a_second(task):
    time.sleep(0.5)


def limits(task):
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    return f"core {core}, tensorflow {'tensorflow' in sys.modules}, arenas {os.environ['MALLOC_ARENA_MAX']}"


def fail(task):
    raise ValueError("no good")


def fail_unpicklably(task):
    raise UnpicklableError("no good", place="x.jpg")


def leave_politely(task):
    sys.exit(0)


def die_unmarked(task, marker):
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_the_item(task, marker):
    """Dies outside of every mark in the first try."""
    marker.begin(0)
    marker.end()
    marker.advance()
    if tries(task, "unmarked") == 1:
        os._exit(1)
    return os.getpid()


def dawdle_after_the_item(task, marker):
    marker.begin(0)
    marker.end()
    marker.advance()
    time.sleep(4)
    return 1


def note(task):
    tries(task, "noted")


def note_sleep(task):
    note(task)
    sleep(task)


def note_hang_in_c(task):
    note(task)
    hang_in_c(task)


def note_tick(task):
    note(task)
    for _ in range(20):
        time.sleep(0.1)


def print_noise(task):
    os.write(2, b"noise of a decoder")
