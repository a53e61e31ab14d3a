"""This process while it is measured: on fewer cores, and its memory over time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from irv2data.machine import available_cores, resident_memory


def core_counts() -> list[int]:
    """Numbers of cores to measure with: 1, 2, 4 and so on, and all; all alone where a system cannot pin threads."""
    most = available_cores()
    return [*(count for count in (1 << n for n in range(10)) if count < most), most] if _pins() else [most]


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Within, every thread of this process, and any that these start, runs on the first `count` of its cores only.

    Linux only: elsewhere a process cannot choose, and any `count` but all is an error.

    Raises:
        ValueError: There are not so many cores, or the system cannot pin threads.
    """
    if count == available_cores():
        yield
        return
    if not _pins() or not 1 <= count < available_cores():
        raise ValueError(f"cannot run on {count} of {available_cores()} cores")
    every = os.sched_getaffinity(0)
    _pin(set(sorted(every)[:count]))
    try:
        yield
    finally:
        _pin(every)


def _pins() -> bool:
    return sys.platform == "linux"


def _pin(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cores)


class MemoryTrace:
    """Resident memory over time, taken by a thread of its own between entering and leaving.

    Attributes:
        samples: Pairs (seconds since entering, bytes); empty where the system does not say.
    """

    def __init__(self, interval: float = 0.25):
        self.samples: list[tuple[float, int]] = []
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="irv2data-memory", daemon=True)

    def __enter__(self) -> MemoryTrace:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        began = time.perf_counter()
        while True:
            size = resident_memory()
            if size is None:
                return
            self.samples.append((time.perf_counter() - began, size))
            if self._over.wait(self._interval):
                return
