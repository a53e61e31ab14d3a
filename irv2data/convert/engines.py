"""Where the work of a conversion runs. `local`: processes on this machine, each replaced when it hangs or dies."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from irv2data.convert.workers import ERROR, EXIT_UNGUARDED, LAST, NO_ITEM, READY, Marker, Worker, WorkerTracebackError
from irv2data.errors import Irv2dataError
from irv2data.machine import available_cores

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_POLL_SECONDS = 0.1
_STOPPED_SECONDS = 1  # this late after a poll, the parent was stopped, and its workers most likely with it
_STARTS = 3  # workers in a row that die before they are ready, until it is no accident

_REMEDY = "rerun with --resume and fewer --workers"


def run_local(
    function: Callable[[_Task, Marker], _Result],
    tasks: Iterable[_Task],
    *,
    workers: int,
    finished: Callable[[int, _Result], None],
    progress: Callable[[int], None],
    lost: Callable[[_Task, int, str, str], _Task] | None = None,
    item_seconds: float = 60,
    worker_mib: int = 2048,
) -> None:
    """Applies a function to every task in worker processes.

    A worker that dies, or takes too long over an item, is replaced and its task done again from the start, once: who
    kills a worker by hand loses nothing. An item that fails the second time is handed to `lost`.

    Args:
        function: Called as `function(task, marker)` in a worker; importable, and free of TensorFlow.
        tasks: Its arguments, picklable; taken one by one as workers need them.
        workers: Number of processes; 0 stands for the number of usable cores.
        finished: Called here with a task's number and result, in order of completion.
        progress: Called here with how many more items have been finished, each counted once.
        lost: Called here as `lost(task, item, code, detail)` for an item that took a worker down twice, with `code`
            `timed_out` or `decoder_crashed`; returns the task to do instead, without that item.
        item_seconds: Longest time between `begin` and `end` of an item.
        worker_mib: Memory (address space) that a worker may take, in MiB beside what it has at its start; more is a
            `MemoryError` there. Linux only.

    Raises:
        Irv2dataError: Workers do not start, or a task failed twice and `lost` could not be asked. Whatever `function`
            raises is raised here (if it can be pickled); other work is cancelled.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(EXIT_UNGUARDED)  # a worker that imports the main module: the parent says what is wrong
    count = workers or available_cores()
    pool = _Pool(function, enumerate(tasks), count, finished, progress, lost, item_seconds, worker_mib)
    try:
        pool.run()
    finally:
        with _interrupts_blocked():
            pool.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits meanwhile; processes started here never see one.

    It reaches the whole process group, and only the parent decides. Workers inherit the mask, so that none is hit
    while it still starts, with a traceback for a farewell.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@dataclass(eq=False, kw_only=True)
class _Job(Generic[_Task]):
    """A task on its way.

    Attributes:
        number: Its position among the tasks.
        task: What to do; `lost` may have changed it.
        reported: Items that progress was told of, in whichever try.
        failures: How often each item took down a worker.
    """

    number: int
    task: _Task
    reported: int = 0
    failures: Counter[int] = field(default_factory=Counter)


@dataclass(eq=False)
class _Pool(Generic[_Task, _Result]):
    function: Callable[[_Task, Marker], _Result]
    tasks: Iterator[tuple[int, _Task]]
    count: int
    finished: Callable[[int, _Result], None]
    progress: Callable[[int], None]
    lost: Callable[[_Task, int, str, str], _Task] | None
    item_seconds: float
    worker_mib: int
    workers: list[Worker] = field(default_factory=list)
    waiting: deque[_Job[_Task]] = field(default_factory=deque)
    failed_starts: int = 0

    def run(self) -> None:
        while self._staff():
            handles = [handle for worker in self.workers for handle in (worker.connection, worker.sentinel)]
            before = time.monotonic()
            announced = set(multiprocessing.connection.wait(handles, timeout=_POLL_SECONDS))
            now = time.monotonic()
            stopped = now - before - _POLL_SECONDS
            for worker in list(self.workers):
                if stopped > _STOPPED_SECONDS:  # a Ctrl-Z, a machine put to sleep: no fault of the image
                    worker.excuse(stopped)
                self._report(worker)
                if not worker.overdue and worker.seconds(now) > self.item_seconds:
                    worker.overdue = True
                    worker.kill()
                if worker.connection in announced or worker.sentinel in announced:
                    self._hear(worker)

    def close(self) -> None:
        for worker in self.workers:
            # After a Ctrl-C too: a shard in work would otherwise be finished first, which can take minutes.
            worker.dismiss()
        for worker in self.workers:
            worker.close()

    def _staff(self) -> bool:
        """Has workers for what is to be done, no more than that; whether there is anything to be done."""
        for worker in self.workers:
            if worker.ready and worker.job is None and self.waiting:
                self._assign(worker)
        starting = sum(not worker.ready for worker in self.workers)
        while len(self.workers) < self.count and self._stock(starting + 1):
            with _interrupts_blocked():
                self.workers.append(Worker(self.worker_mib))
            starting += 1
        return bool(self.waiting) or any(worker.job is not None for worker in self.workers)

    def _stock(self, number: int) -> bool:
        """Whether that many jobs wait, once they have been taken from the tasks."""
        while len(self.waiting) < number:
            following = next(self.tasks, None)
            if following is None:
                return False
            self.waiting.append(_Job(number=following[0], task=following[1]))
        return True

    def _assign(self, worker: Worker) -> None:
        if worker.overdue or not self._stock(1):
            return
        job = self.waiting.popleft()
        if worker.send(pickle.dumps(job.task, pickle.HIGHEST_PROTOCOL)):
            worker.job = job
        else:
            self.waiting.appendleft(job)

    def _report(self, worker: Worker) -> None:
        # A task done again repeats what was reported already.
        if worker.job is not None and worker.advanced() > worker.job.reported:
            more = worker.advanced() - worker.job.reported
            worker.job.reported += more
            self.progress(more)

    def _hear(self, worker: Worker) -> None:
        message = worker.receive()
        if message is None:
            self._replace(worker)
            return
        kind, content = message
        if kind == READY:
            worker.ready = True
            self.failed_starts = 0
            worker.send(pickle.dumps(self.function))
            self._assign(worker)
        elif kind == ERROR:
            error, text = pickle.loads(content)
            raise error from WorkerTracebackError(text)
        else:
            self._report(worker)
            job, worker.job = worker.job, None
            if kind == LAST:
                worker.close()
                self.workers.remove(worker)
            else:
                self._assign(worker)  # before `finished`, which may take its time
            self.finished(job.number, pickle.loads(content))

    def _replace(self, worker: Worker) -> None:
        """Takes leave of a dead worker, and decides what becomes of its job; `_staff` starts another."""
        worker.kill()
        exit_code = worker.close()
        how = _how(exit_code)
        self._report(worker)
        self.workers.remove(worker)
        if not worker.ready:
            self.failed_starts += 1
            if exit_code == EXIT_UNGUARDED:
                raise Irv2dataError(
                    "conversion workers import the script that starts them, and must not start it anew: "
                    'put what it does under `if __name__ == "__main__":`'
                )
            if self.failed_starts == _STARTS:
                raise Irv2dataError(f"conversion workers end {how} while they start; {_REMEDY}")
        if worker.job is None:
            return
        job: _Job[_Task] = worker.job
        item = worker.item()
        self.waiting.appendleft(job)
        if item == NO_ITEM and worker.overdue:
            return  # it was done with the item by the time it was killed
        job.failures[item] += 1
        if job.failures[item] < 2:
            return
        if worker.overdue:
            code, detail = "timed_out", f"decoding took longer than {self.item_seconds:g} s, twice"
        else:
            code, detail = "decoder_crashed", f"the decoder ended its process {how}, twice"
        if item == NO_ITEM:
            raise Irv2dataError(f"a conversion worker ended {how}, twice at the same work (out of memory?); {_REMEDY}")
        if self.lost is None:
            raise Irv2dataError(f"{detail} (out of memory?); {_REMEDY}")
        job.failures.clear()
        job.task = self.lost(job.task, item, code, detail)


def _how(exit_code: int | None) -> str:
    names = {-number: f"by {number.name}" for number in signal.Signals}
    return names.get(exit_code or 0, f"with exit code {exit_code}")
