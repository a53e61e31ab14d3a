"""What a bad image can do to a worker costs that image; what happens to a worker from outside costs nothing."""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from irv2data.convert.engines import run_local
from irv2data.errors import Irv2dataError

HERE = Path(__file__).parent
LINUX = sys.platform == "linux"
on_linux = pytest.mark.skipif(not LINUX, reason="other systems have no means for it")
PATIENCE = 120  # seconds that a test waits for what takes a few on a machine with nothing else to do


@pytest.fixture
def tasks(monkeypatch):
    """The module of task functions."""
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("work_of_test_workers")


@pytest.fixture
def run(tasks):
    """`run(works, ...)`: the results in order, the losses (number of items, item, code, detail), and all progress."""

    def run(works, function=None, *, workers=2, while_running=lambda: None, **options):
        results, losses, progress = {}, [], []

        def lost(task, item, code, detail):
            losses.append((len(task.items), item, code, detail))
            assert len(losses) < 10  # a test that fails must not go on for ever
            return replace(task, skip=task.skip | {item})

        observer = threading.Thread(target=while_running)
        observer.start()
        try:
            run_local(
                function or tasks.work,
                iter(works),
                workers=workers,
                finished=results.__setitem__,
                progress=progress.append,
                **{"lost": lost, "item_seconds": PATIENCE, **options},
            )
        finally:
            observer.join()
        assert min(progress, default=1) > 0
        return [results[number] for number in range(len(works))], losses, sum(progress)

    return run


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No pipe and no process (zombies included) outlives a pool, whatever became of it."""
    if not LINUX:
        yield
        return
    resource_tracker.ensure_running()  # with the first worker otherwise, for the life of this process
    gc.collect()
    before = pipes(), children()
    yield
    gc.collect()
    assert (pipes(), children()) == before


def pipes():
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(target for target in found if target.startswith(("pipe:", "socket:")))


def children():
    states = {int(path.name): state(path.name) for path in Path("/proc").glob("[0-9]*")}
    return {pid for pid, (_, parent) in states.items() if parent == os.getpid()}


def state(pid):
    """Linux: a process's state (one letter) and its parent."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # The name before them, in parentheses, may hold anything.
        letter, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return letter, int(parent)
    return "X", 0


def gone(pid):
    """Whether the process has ended; its death may take a moment, and a zombie is dead."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if LINUX and state(pid)[0] in "ZX":
            return True
        time.sleep(0.05)
    return False


def plain(tasks, count, items=3):
    return [tasks.Work(("",) * items) for _ in range(count)]


@pytest.mark.parametrize(
    ("bad", "seconds", "code", "detail"),
    [
        ("segfault", PATIENCE, "decoder_crashed", "the decoder ended its process by SIGSEGV, twice"),
        ("leave", PATIENCE, "decoder_crashed", "the decoder ended its process with exit code 3, twice"),
        ("sleep", 1.5, "timed_out", "decoding took longer than 1.5 s, twice"),
        ("hang_in_c", 1.5, "timed_out", "decoding took longer than 1.5 s, twice"),
    ],
)
def test_an_item_that_takes_workers_down_is_lost_and_no_other(run, tasks, bad, seconds, code, detail, tmp_path):
    works = [*plain(tasks, 3), tasks.Work(("", "", bad, "", "")), *plain(tasks, 3)]
    results, losses, progress = run(works, item_seconds=seconds)
    assert losses == [(5, 2, code, detail)]
    fates = [("done",) * 3] * 7
    fates[3] = ("done", "done", "skipped", "done", "done")
    assert [result.fates for result in results] == fates
    assert progress == 6 * 3 + 5


def test_two_bad_items_of_a_task_are_lost_one_by_one(run, tasks):
    results, losses, progress = run([tasks.Work(("leave", "", "segfault"))])
    assert [(item, code) for _, item, code, _ in losses] == [(0, "decoder_crashed"), (2, "decoder_crashed")]
    assert (results[0].fates, progress) == (("skipped", "done", "skipped"), 3)


def test_no_item_is_on_the_clock_before_it_began_or_after_it_ended(run, tasks):
    """Seven items take longer than one may."""
    results, losses, _ = run([tasks.Work(("half_a_second",) * 7)], item_seconds=3)
    assert (results[0].fates, losses) == (("done",) * 7, [])


def test_no_clock_runs_after_an_item_ended(run, tasks):
    results, losses, _ = run([tasks.Work(("",))], tasks.dawdle_after_the_item, item_seconds=1)
    assert (results, losses) == ([1], [])


def test_where_a_lost_item_is_taken_out_the_next_one_starts_anew(run, tasks, tmp_path):
    """It has the number of the lost one now, and may be killed from outside as well."""
    losses = []

    def lost(task, item, code, detail):
        losses.append((item, task.items))
        return replace(task, items=task.items[:item] + task.items[item + 1 :])

    results, _, _ = run([tasks.Work(("leave", "leave_once"), folder=str(tmp_path))], lost=lost)
    assert (results[0].fates, losses) == (("done",), [(0, ("leave", "leave_once"))])


def test_a_worker_is_deaf_to_interrupts(run, tasks):
    results, _, _ = run([tasks.Work(("interrupt",))])
    assert results[0].fates == ("done",)


@on_linux
def test_one_that_eats_memory_gets_a_memory_error_and_its_worker_goes_on(run, tasks):
    results, losses, _ = run([tasks.Work(("", "eat", "")), *plain(tasks, 1)], workers=1, worker_mib=600)
    assert [result.fates for result in results] == [("done", "out of memory", "done"), ("done",) * 3]
    assert losses == []
    assert results[0].pid == results[1].pid


@on_linux
def test_a_worker_that_grows_is_replaced_before_innocent_items_run_out_of_memory(run, tasks):
    results, losses, progress = run([tasks.Work(("leak",))] * 6, workers=1, worker_mib=500)
    assert [result.fates for result in results] == [("done",)] * 6
    assert (losses, progress) == ([], 6)
    assert len({result.pid for result in results}) > 1


def test_a_kill_from_outside_costs_nothing(run, tasks, tmp_path):
    mark = tmp_path / "waited-wait_for_a_kill_once-"
    works = [*plain(tasks, 2), tasks.Work(("wait_for_a_kill_once", ""), folder=str(tmp_path)), *plain(tasks, 2)]

    def kill():
        deadline = time.monotonic() + PATIENCE
        while not (mark.exists() and mark.read_text().endswith("\n")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(int(mark.read_text()), signal.SIGKILL)

    results, losses, progress = run(works, while_running=kill)
    assert [result.fates for result in results] == [("done",) * len(work.items) for work in works]
    assert (losses, progress) == ([], sum(len(work.items) for work in works))
    assert len(mark.read_text().splitlines()) == 2


def test_a_death_outside_of_every_item_costs_nothing(run, tasks, tmp_path):
    results, losses, progress = run([tasks.Work(("",), folder=str(tmp_path))], tasks.die_after_the_item)
    assert (len(results), losses, progress) == (1, [], 1)


def test_a_task_that_takes_workers_down_outside_of_every_item_is_an_error(run, tasks):
    with pytest.raises(
        Irv2dataError,
        match=r"^a conversion worker ended by SIGKILL, twice .*\(out of memory\?\); rerun with --resume and fewer",
    ):
        run([tasks.Work(("",))], tasks.die_unmarked)


def test_an_item_that_cannot_be_given_up_is_an_error(run, tasks):
    with pytest.raises(Irv2dataError, match=r"^the decoder ended its process with exit code 3, twice .*--resume"):
        run([tasks.Work(("leave",))], lost=None)


def test_a_worker_killed_while_it_waits_for_work_is_replaced(run, tasks, tmp_path):
    mark = tmp_path / "noted-note-"

    def works():
        yield tasks.Work(("note", ""), folder=str(tmp_path))
        # The only worker waits for this one.
        os.kill(int(mark.read_text()), signal.SIGKILL)
        assert gone(int(mark.read_text()))
        time.sleep(0.5)  # its pipe is closed a moment later
        yield tasks.Work(("",) * 7)

    results, progress = {}, []
    run_local(tasks.work, works(), workers=1, finished=results.__setitem__, progress=progress.append)
    assert {number: result.fates for number, result in results.items()} == {0: ("done",) * 2, 1: ("done",) * 7}
    assert results[0].pid != results[1].pid
    assert sum(progress) == 9


def test_workers_are_lean_leave_no_core_file_and_never_import_tensorflow(run, tasks, monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # 0 on some machines: nothing to see there
    try:
        results, _, _ = run([tasks.Work(("limits",))])
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert results[0].fates == ("core 0, tensorflow False, arenas 1",)
    assert "MALLOC_ARENA_MAX" not in os.environ


def test_what_a_worker_raises_is_raised_here_with_its_traceback(run, tasks):
    with pytest.raises(ValueError, match=r"^no good$") as raised:
        run([tasks.Work(("sleep",)), tasks.Work(("fail",))])
    assert "work_of_test_workers.py" in str(raised.value.__cause__)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("fail_unpicklably", r"^a conversion worker failed: UnpicklableError\('x\.jpg: no good'\)$"),
        ("leave_politely", r"^a conversion worker failed: SystemExit\(0\)$"),
    ],
)
def test_what_cannot_be_raised_here_is_told(run, tasks, bad, message):
    with pytest.raises(Irv2dataError, match=message):
        run([tasks.Work((bad,))])


def test_an_interrupt_ends_workers_at_once(tasks, monkeypatch):
    monkeypatch.setattr("irv2data.convert.workers._JOIN_SECONDS", 2 * PATIENCE)
    started = time.monotonic()

    def finished(number, result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local(
            tasks.work,
            [tasks.Work(("hang_in_c",)), tasks.Work(("",))],
            workers=2,
            finished=finished,
            progress=lambda more: None,
            item_seconds=10 * PATIENCE,
        )
    assert time.monotonic() - started < PATIENCE  # and nothing_is_left


def script(tmp_path, body, guard='if __name__ == "__main__":'):
    path = tmp_path / "script.py"
    path.write_text(
        "import os, signal, sys, threading, time\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "import work_of_test_workers as tasks\n"
        "from irv2data.convert.engines import run_local\n"
        f"{guard}\n" + "".join(f"    {line}\n" for line in body)
    )
    return subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pids_of(folder, name, count):
    """What `count` tasks wrote by `tries`."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = [text for path in folder.glob(f"{name}-*") if (text := path.read_text()).endswith("\n")]
        if len(found) == count:
            return [int(text.split()[0]) for text in found]
        time.sleep(0.05)
    raise AssertionError(f"{count} workers did not start")


@pytest.mark.parametrize("hang", ["sleep", pytest.param("hang_in_c", marks=on_linux)])
def test_no_worker_survives_a_killed_parent_even_while_it_decodes(tmp_path, hang):
    parent = script(
        tmp_path,
        [
            f"works = [tasks.Work(('note_{hang}',) + ('',) * n, folder={str(tmp_path)!r}) for n in range(2)]",
            "run_local(tasks.work, works, workers=2, finished=print, progress=lambda more: None, item_seconds=999)",
        ],
    )
    pids = pids_of(tmp_path, "noted", 2)
    parent.kill()
    parent.wait()
    assert len(set(pids)) == 2
    assert all(gone(pid) for pid in pids)
    assert parent.communicate() == ("", "")


def test_ctrl_c_reaches_the_parent_alone_and_no_worker_has_a_word(tmp_path):
    parent = script(
        tmp_path,
        [
            f"works = [tasks.Work(('note_sleep',) + ('',) * n, folder={str(tmp_path)!r}) for n in range(2)]",
            "try:",
            "    run_local(tasks.work, works, workers=2, finished=print, progress=lambda more: None, item_seconds=999)",
            "except KeyboardInterrupt:",
            "    print('interrupted')",
        ],
    )
    pids = pids_of(tmp_path, "noted", 2)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=PATIENCE) == ("interrupted\n", "")
    assert all(gone(pid) for pid in pids)


def test_a_crash_leaves_no_trace_on_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    parent = script(
        tmp_path,
        [
            "run_local(tasks.work, [tasks.Work(('segfault',))], workers=1, progress=lambda more: None,",
            "          finished=lambda number, result: print(result.fates),",
            "          lost=lambda task, item, code, detail: tasks.Work(task.items, frozenset({item})))",
        ],
    )
    assert parent.communicate(timeout=PATIENCE) == ("('skipped',)\n", "")


def test_time_spent_stopped_is_not_held_against_an_item(tmp_path):
    """Ctrl-Z, and back to work later."""
    parent = script(
        tmp_path,
        [
            f"works = [tasks.Work(('note_tick',), folder={str(tmp_path)!r})]",
            "run_local(tasks.work, works, workers=1, progress=lambda more: None, item_seconds=8,",
            "          finished=lambda number, result: print(result.fates))",
        ],
    )
    pids_of(tmp_path, "noted", 1)
    time.sleep(0.5)  # until the parent has seen that the item began
    os.killpg(parent.pid, signal.SIGSTOP)
    time.sleep(10)
    os.killpg(parent.pid, signal.SIGCONT)
    assert parent.communicate(timeout=PATIENCE) == ("('done',)\n", "")
    assert len((tmp_path / "noted-note_tick").read_text().splitlines()) == 1


def test_a_script_without_the_guard_is_told_once(tmp_path):
    parent = script(
        tmp_path,
        [
            "print('imported', file=sys.stderr)",
            "run_local(tasks.work, [tasks.Work(('',))] * 5, workers=1, finished=print, progress=print)",
        ],
        guard="if True:",
    )
    output, errors = parent.communicate(timeout=PATIENCE)
    assert (parent.returncode, output) == (1, "")
    assert errors.count("imported") == 2
    assert errors.count("Traceback") == 1
    last = errors.splitlines()[-1]
    assert last.startswith("irv2data.errors.Irv2dataError: conversion workers import the script that starts them")
    assert last.endswith('put what it does under `if __name__ == "__main__":`')


def test_workers_that_cannot_start_are_an_error_and_not_started_for_ever(tmp_path):
    parent = script(
        tmp_path,
        [
            "run_local(tasks.work, [tasks.Work(('',))] * 5, workers=1, finished=print, progress=print)",
        ],
        guard="if __name__ != '__main__':\n    os.kill(os.getpid(), signal.SIGKILL)\nelse:",
    )
    output, errors = parent.communicate(timeout=PATIENCE)
    assert output == ""
    assert "Irv2dataError: conversion workers end by SIGKILL while they start" in errors


def test_a_function_that_workers_cannot_import_is_an_error(tmp_path):
    parent = script(
        tmp_path,
        [
            "def function(task, marker): pass",
            "run_local(function, [1], workers=1, finished=print, progress=print)",
        ],
    )
    output, errors = parent.communicate(timeout=PATIENCE)
    assert output == ""
    assert errors.splitlines()[-1].startswith("AttributeError: Can't get attribute 'function'")


def test_what_decoders_print_is_not_shown(run, tasks, capfd):
    results, losses, _ = run([tasks.Work(items=("print_noise", ""))])
    assert (results[0].fates, losses) == (("done", "done"), [])
    assert capfd.readouterr().err == ""
