"""Worker processes: every task once, every step counted, and a failure or a death raised in the parent."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys

import pytest

from irv2data.convert.engines import available_cores, run_local
from irv2data.errors import Irv2dataError, SourceError

# A module of its own, because workers import it: this one would bring pytest and TensorFlow along.
WORK = """
import os, signal
from irv2data.errors import SourceError

def work(task, advance):
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "fail":
        raise SourceError("x.jpg: no good")
    for _ in range(1000):
        advance()
    return task, os.getpid()
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(tasks, workers)`: the results by task number, and all that progress was told."""
    (tmp_path / "work_of_test_engines.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("work_of_test_engines").work

    def run(tasks, workers):
        results, progress = {}, []

        def told(steps):
            progress.append(steps)
            # A progress bar takes its time too, while workers go on counting.
            hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)

        run_local(work, tasks, workers=workers, finished=results.__setitem__, progress=told)
        return results, progress

    return run


def test_every_task_is_done_once_in_other_processes_and_every_step_is_counted(start):
    results, progress = start(list(range(20)), 2)
    assert {number: result for number, (result, _) in results.items()} == {number: number for number in range(20)}
    assert sum(progress) == 20 * 1000
    assert os.getpid() not in {pid for _, pid in results.values()}


def test_no_tasks_are_no_error(start):
    results, progress = start([], 3)
    assert (results, sum(progress)) == ({}, 0)


def test_a_dead_worker_is_one_line(start):
    with pytest.raises(
        Irv2dataError, match=r"^a conversion worker died \(out of memory.*--resume and fewer --workers$"
    ):
        start(["die"], 1)


def test_what_a_worker_raises_is_raised_here(start):
    with pytest.raises(SourceError, match=r"^x\.jpg: no good$"):
        start(["fail"], 1)


def test_cores_are_those_this_process_may_use():
    assert available_cores() == len(os.sched_getaffinity(0))


def test_workers_end_when_the_parent_is_killed(tmp_path):
    """They would otherwise wait for work for ever, holding the pipes of whoever started the conversion."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, time\n"
        "from irv2data.convert.engines import run_local\n"
        "def work(task, advance):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(20)\n"
        "    print('late', flush=True)\n"
        "    os._exit(0)\n"
        "if __name__ == '__main__':\n"
        "    run_local(work, [1, 2], workers=2, finished=print, progress=lambda more: None)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    # The pipe ends when the last process that holds it does; a worker that stayed would write to it first.
    assert len(set(workers)) == 2
    assert parent.stdout.read() == ""
