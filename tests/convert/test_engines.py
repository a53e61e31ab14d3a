"""Worker processes: every task once, every step counted, tasks taken as needed. tests/faults has what goes wrong."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading

import pytest

from irv2data.convert.engines import run_local
from irv2data.convert.workers import Marker
from irv2data.machine import available_cores

# A module of its own, because workers import it: this one would bring pytest and TensorFlow along.
WORK = """
import os, time

def work(task, marker):
    for item in range(1000):
        marker.begin(item)
        marker.end()
        marker.advance()
    return task, os.getpid()

def in_turn(task, marker):
    # Waits for the file that its turn names; makes the one of the next.
    folder, turn, turns = task
    marker.advance()
    while not os.path.exists(f"{folder}/{turn}"):
        time.sleep(0.01)
    time.sleep(0.5)
    open(f"{folder}/{turn + 1}", "w").close()
    return turn
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "work_of_test_engines.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("work_of_test_engines", None)
    return importlib.import_module("work_of_test_engines")


@pytest.fixture
def start(functions):
    """`start(tasks, workers)`: the results by task number, and all that progress was told."""

    def run(tasks, workers):
        results, progress = {}, []
        run_local(functions.work, tasks, workers=workers, finished=results.__setitem__, progress=progress.append)
        return results, progress

    return run


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_task_is_done_once_in_other_processes_and_every_step_is_counted(start, workers):
    results, progress = start([f"task {number}" for number in range(20)], workers)
    assert {number: task for number, (task, _) in results.items()} == {n: f"task {n}" for n in range(20)}
    assert (sum(progress), min(progress) > 0) == (20 * 1000, True)
    pids = {pid for _, pid in results.values()}
    assert os.getpid() not in pids
    assert len(pids) <= workers


def test_results_come_in_order_of_completion(functions, tmp_path):
    (tmp_path / "0").touch()
    seen, steps = [], []
    tasks = [(str(tmp_path), turn, 3) for turn in (2, 0, 1)]
    run_local(
        functions.in_turn,
        tasks,
        workers=3,
        finished=lambda number, turn: seen.append((number, turn)),
        progress=steps.append,
    )
    assert (seen, sum(steps)) == ([(1, 0), (2, 1), (0, 2)], 3)


def test_workers_are_as_many_as_the_cores_if_nobody_says(functions, monkeypatch):
    monkeypatch.setattr("irv2data.convert.engines.available_cores", lambda: 3)
    assert most_workers(functions, range(12), 0) == 3


@pytest.mark.parametrize(("tasks", "workers"), [(2, 7), (1, 2)])
def test_workers_are_no_more_than_tasks(functions, tasks, workers):
    assert most_workers(functions, range(tasks), workers) == tasks


def most_workers(functions, tasks, workers):
    from irv2data.convert import engines

    started = []
    original = engines.Worker

    class Counted(original):
        def __init__(self, *args):
            started.append(self)
            super().__init__(*args)

    engines.Worker = Counted
    try:
        run_local(functions.work, tasks, workers=workers, finished=lambda *result: None, progress=lambda more: None)
    finally:
        engines.Worker = original
    return len(started)


@pytest.mark.parametrize("workers", [1, 3])
def test_tasks_are_taken_as_they_are_needed(start, functions, workers):
    taken, finished, ahead = [], [], []

    def tasks():
        for number in range(40):
            taken.append(number)
            ahead.append(len(taken) - len(finished))
            yield number

    run_local(
        functions.work,
        tasks(),
        workers=workers,
        finished=lambda number, result: finished.append(number),
        progress=lambda more: None,
    )
    assert sorted(finished) == taken == list(range(40))
    # What each worker has, and the one it is given before the result of its last is handed on.
    assert max(ahead) <= workers + 1


def test_no_tasks_are_no_error(start):
    assert start(iter([]), 3) == ({}, [])


def test_large_tasks_and_results_pass(start):
    tasks = [os.urandom(8 << 20) for _ in range(4)]
    results, _ = start(tasks, 2)
    assert [results[number][0] for number in range(4)] == tasks


def test_an_error_in_tasks_or_callbacks_is_raised(functions):
    def tasks():
        yield 1
        raise ValueError("no second")

    with pytest.raises(ValueError, match="no second"):
        run_local(functions.work, tasks(), workers=2, finished=lambda *result: None, progress=lambda more: None)

    def stop(*result):
        raise LookupError("enough")

    for callbacks in ({"finished": stop, "progress": print}, {"finished": print, "progress": stop}):
        with pytest.raises(LookupError, match="enough"):
            run_local(functions.work, [1, 2, 3], workers=2, **callbacks)


def test_it_runs_in_a_thread_too(start):
    results = []
    thread = threading.Thread(target=lambda: results.append(start([1, 2, 3], 2)))
    thread.start()
    thread.join()
    assert sorted(results[0][0]) == [0, 1, 2]


def test_a_marker_needs_no_parent():
    marker = Marker()
    marker.begin(3)
    marker.end()
    marker.advance()


def test_workers_do_not_import_tensorflow():
    code = "import sys, irv2data.convert.workers; print('tensorflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_cores_are_those_this_process_may_use():
    assert available_cores() == len(os.sched_getaffinity(0))
