"""Where the work of a conversion runs. `local`: processes on this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from irv2data.errors import Irv2dataError
from irv2data.machine import available_cores

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

# Work that one worker may have queued beside what it runs: enough never to starve, little to lose at an interrupt.
_QUEUED_PER_WORKER = 2
_POLL_SECONDS = 0.1

_advanced: Any = None  # in a worker: the counter it shares with the parent


def run_local(
    function: Callable[[_Task, Callable[[], None]], _Result],
    tasks: Sequence[_Task],
    *,
    workers: int,
    finished: Callable[[int, _Result], None],
    progress: Callable[[int], None],
) -> None:
    """Applies a function to every task in worker processes.

    Args:
        function: Called as `function(task, advance)` in a worker; importable, and free of TensorFlow.
        tasks: Its arguments, picklable.
        workers: Number of processes; 0 stands for the number of usable cores.
        finished: Called here with a task's number and result, in order of completion.
        progress: Called here with how often workers called `advance` since the last time.

    Raises:
        Irv2dataError: A worker process died. Whatever `function` raises is raised here; other work is cancelled.
    """
    # Not fork: the parent may hold threads (TensorFlow, a user's job), whose locks a forked child would inherit.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    count = min(workers or available_cores(), max(1, len(tasks)))
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(counter,))
    running: dict[Future[_Result], int] = {}
    waiting = iter(enumerate(tasks))
    seen = 0
    try:
        while True:
            with _interrupts_blocked():
                for number, task in islice(waiting, count * _QUEUED_PER_WORKER - len(running)):
                    running[executor.submit(_call, function, task)] = number
            if not running:
                break
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            advanced = counter.value  # read once: workers go on counting
            progress(advanced - seen)
            seen = advanced
            for future in done:
                finished(running.pop(future), future.result())
        progress(counter.value - seen)
    except BrokenProcessPool as error:
        raise Irv2dataError(
            "a conversion worker died (out of memory?); rerun with --resume and fewer --workers"
        ) from error
    except BaseException:
        _terminate(executor)
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits meanwhile; processes started here never see one.

    It reaches the whole process group, and only the parent decides. Workers inherit the mask, so that none is hit
    while it still starts, with a traceback for a farewell.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _terminate(executor: ProcessPoolExecutor) -> None:
    # A shard in work would otherwise be finished first, which can take minutes after a Ctrl-C.
    for process in list((executor._processes or {}).values()):
        process.terminate()


def _start_worker(counter: Any) -> None:
    global _advanced
    _advanced = counter
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when the parent is gone: after a `kill -9` it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _call(function: Callable[[_Task, Callable[[], None]], _Result], task: _Task) -> _Result:
    return function(task, _advance)


def _advance() -> None:
    with _advanced.get_lock():
        _advanced.value += 1
