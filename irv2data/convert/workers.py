"""A worker process: what runs in it, and the parent's end of it."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import multiprocessing.connection
import os
import pickle
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager, suppress
from typing import Any

from irv2data.errors import Irv2dataError

# The shared state of a worker: int64s that only the worker writes, without a lock that its death could leave held.
_BEGUN, _ITEM, _ADVANCED = range(3)
NO_ITEM = -1

# What a worker's messages begin with. LAST is a RESULT after which the worker ends.
READY, RESULT, LAST, ERROR = b"+", b"=", b".", b"!"

EXIT_UNGUARDED = 97  # exit code of a worker whose main module starts workers while it is imported
_JOIN_SECONDS = 5  # for a worker to end; beyond, it hangs in the kernel, and nothing can be done about it

# On a machine of many cores, arenas and pools of threads would take most of a worker's memory, to no use.
_LEAN = {
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc would hand the memory of an image back to the system after each one, only to have it cleared and mapped
    # again for the next: a tenth of a conversion's time.
    "MALLOC_MMAP_THRESHOLD_": str(16 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_TOP_PAD_": str(4 << 20),
}


class Marker:
    """Tells the parent what a worker is at, at no more cost than storing a few numbers.

    Args:
        state: Where to store them; left out where no parent watches.
    """

    def __init__(self, state: MutableSequence[int] | None = None):
        self._state = [0, NO_ITEM, 0] if state is None else state
        self._begun = 0
        self._advanced = 0

    def begin(self, item: int) -> None:
        """Starts the clock of an item (0 or more, unique within the task): from here it may crash or hang."""
        self._begun += 1
        self._state[_BEGUN] = self._begun
        self._state[_ITEM] = item

    def end(self) -> None:
        """Stops the clock: the danger is over."""
        self._state[_ITEM] = NO_ITEM

    def advance(self) -> None:
        """Counts one more item as finished."""
        self._advanced += 1
        self._state[_ADVANCED] = self._advanced


class WorkerTracebackError(Exception):
    """The cause of an error that a worker raised: its traceback there, which no pickle carries."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Worker:
    """The parent's end of one worker process, which this starts.

    Attributes:
        connection: Where its messages come, for `multiprocessing.connection.wait`.
        sentinel: The same for its death.
        ready: It has started and waits for work.
        job: What it works on, or None; whoever gives it work sets this.
        overdue: It was killed because an item took too long.
    """

    def __init__(self, worker_mib: int):
        # Not fork: the parent may hold threads (TensorFlow, a user's job), whose locks a forked child would inherit.
        context = multiprocessing.get_context("spawn")
        self.ready = False
        self.job: Any = None
        self.overdue = False
        self._counted = self._clocked = 0
        self._since = 0.0
        self._exit_code: int | None = None
        self._state = context.RawArray("q", [0, NO_ITEM, 0])
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._state, worker_mib), daemon=True)
        try:
            with _lean_environment():
                self._process.start()
        finally:
            theirs.close()
        self.sentinel = self._process.sentinel

    def send(self, data: bytes) -> bool:
        """Whether it took the message; a dead one does not."""
        self._counted = self._state[_ADVANCED]
        try:
            self.connection.send_bytes(data)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[bytes, bytes] | None:
        """The kind and content of the message that was announced; None from a dead worker."""
        try:
            if self.connection.poll():  # what it sent before it died still counts
                message = self.connection.recv_bytes()
                return message[:1], message[1:]
        except (EOFError, OSError):
            pass
        return None

    def advanced(self) -> int:
        """Number of items finished since `send`."""
        return self._state[_ADVANCED] - self._counted

    def item(self) -> int:
        """The item that a dead worker was at, or `NO_ITEM`; of an overdue one, only if it was killed for that."""
        if self.overdue and self._state[_BEGUN] != self._clocked:
            return NO_ITEM
        return self._state[_ITEM]

    def seconds(self, now: float) -> float:
        """How long it has been at its item, as far as calls of this saw; 0 outside of one."""
        begun = self._state[_BEGUN]
        if self._state[_ITEM] == NO_ITEM or begun != self._clocked:
            self._clocked, self._since = begun, now
        return now - self._since

    def excuse(self, seconds: float) -> None:
        """Takes time off the clock of its item, in which it could not run."""
        self._since += seconds

    def kill(self) -> None:
        """Kills it, without waiting for its death."""
        if self._exit_code is None:
            self._process.kill()

    def dismiss(self) -> None:
        """Ends it if it waits for work, and kills it otherwise."""
        self.connection.close()
        if self.job is not None or not self.ready:
            self.kill()

    def close(self) -> int | None:
        """Dismisses it and waits for its end; its exit code, or None if it does not even obey a kill."""
        self.dismiss()
        if self._exit_code is None:
            self._process.join(_JOIN_SECONDS)
            self._process.kill()
            self._process.join(_JOIN_SECONDS)
            self._exit_code = self._process.exitcode
            if self._exit_code is not None:
                self._process.close()
        return self._exit_code


@contextmanager
def _lean_environment() -> Iterator[None]:
    # Set here: in the worker, NumPy is imported before the first line of ours runs.
    added = {name: value for name, value in _LEAN.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _serve(connection: multiprocessing.connection.Connection, state: MutableSequence[int], worker_mib: int) -> None:
    """The life of a worker: takes the function, then tasks, and answers each with its result."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a decoder's crash is expected; gigabytes of core file are not
    faulthandler.disable()
    _end_with_parent()
    marker = Marker(state)
    with suppress(EOFError, OSError):  # the parent is gone, or wants no more
        connection.send_bytes(READY)
        _silence()
        pickled = connection.recv_bytes()
        try:
            function = pickle.loads(pickled)
        except Exception as error:
            connection.send_bytes(ERROR + _pickle_error(error))
            return
        gc.freeze()  # what is imported stays; looking through it again and again for garbage costs 2 % of the time
        before = _address_space()
        if before:  # so that a decoder that eats memory gets a MemoryError before the system kills whom it likes
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            limit = before + (worker_mib << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
        kind = RESULT
        while kind == RESULT:
            pickled = connection.recv_bytes()
            kind, answer = _answer(function, pickled, marker)
            # What leaks over thousands of images would end as MemoryErrors of innocent ones.
            if kind == RESULT and _address_space() - before > worker_mib << 19:
                kind = LAST
            connection.send_bytes(kind + answer)


def _silence() -> None:
    """Sends away what decoders' C libraries print about the files of strangers; errors travel through the pipe."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _answer(function: Callable[[Any, Marker], Any], pickled: bytes, marker: Marker) -> tuple[bytes, bytes]:
    try:
        result = function(pickle.loads(pickled), marker)
        marker.end()
        return RESULT, pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        marker.end()
        return ERROR, _pickle_error(error)


def _pickle_error(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if isinstance(error, Exception):  # a SystemExit would end the parent without a word
        with suppress(Exception):
            pickled = pickle.dumps((error, text))
            pickle.loads(pickled)  # some can be pickled only: those whose constructor takes other arguments
            return pickled
    return pickle.dumps((Irv2dataError(f"a conversion worker failed: {error!r}"), text))


def _end_with_parent() -> None:
    """Ends this process when the parent is gone: after a `kill -9` it would wait for work, or decode, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        # The thread below needs the interpreter's lock, which a decoder that hangs may hold. Linux alone has better.
        libc.prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
        if os.getppid() != parent.pid:
            os._exit(1)

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _address_space() -> int:
    """Bytes of address space that this process uses; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
