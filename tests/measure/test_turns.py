"""Turns by a clock that only work moves on."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from irv2data.machine import available_cores, resident_memory
from irv2data.measure import turns
from irv2data.measure.process import MemoryTrace, core_counts, on_cores
from irv2data.measure.turns import Subject, in_turns, units


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.cpu

    def sleep(self, seconds):
        self.wall += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


def worker(clock, log, name, images, wall, cpu):
    log.append(f"open {name}")
    while True:
        clock.wall += wall
        clock.cpu += cpu
        log.append(name)
        yield images


def test_rates_and_processor_time_of_what_takes_turns(clock):
    log: list[str] = []
    subjects = {
        "slow": Subject(open=lambda: worker(clock, log, "slow", 8, 0.5, 0.25), buffered=2),
        "fast": Subject(open=lambda: worker(clock, log, "fast", 4, 0.125, 0.125)),
    }
    calls = []
    found = in_turns(subjects, rounds=3, seconds=1.0, progress=lambda *done: calls.append(done))
    assert found["slow"].images_per_second.tolist() == [16.0] * 3
    assert found["fast"].images_per_second.tolist() == [32.0] * 3
    assert found["slow"].cpu_seconds.tolist() == [0.25 / 8] * 3
    assert found["fast"].cpu_seconds.tolist() == [0.125 / 4] * 3
    # Each is opened once; a turn skips what may lie finished and one more, then takes what a second has room for.
    turn = ["slow"] * (2 + 1 + 2) + ["fast"] * (1 + 8)
    assert [name for name in log if not name.startswith("open")] == turn * 4
    assert log.count("open slow") == log.count("open fast") == 1
    assert calls == [(number + 1, 8) for number in range(8)]


def test_the_first_round_warms_up_and_is_not_counted(clock):
    def cold_then_warm():
        cold = 3  # units
        while True:
            clock.wall += 1.0 if cold > 0 else 0.25
            cold -= 1
            yield 1

    found = in_turns({"only": Subject(open=cold_then_warm)}, rounds=2, seconds=2.0)
    assert found["only"].images_per_second.tolist() == [4.0, 4.0]


def test_what_is_not_kept_is_opened_each_turn_within_its_context(clock):
    log: list[str] = []

    @contextmanager
    def within():
        log.append("in")
        yield
        log.append("out")

    subject = Subject(open=lambda: worker(clock, log, "unit", 1, 1.0, 0.0), kept=False, within=within)
    in_turns({"only": subject}, rounds=1, seconds=1.0)
    assert log == ["in", "open only".replace("only", "unit"), "unit", "unit", "out"] * 2


def test_units_wait_for_what_takes_the_batch():
    taken = []
    assert list(units(["a", "b"], 7, taken.append)) == [7, 7]
    assert taken == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or available_cores() < 2, reason="one core, or cannot pin")
def test_every_thread_runs_on_the_given_cores_and_is_let_go_again():
    every = os.sched_getaffinity(0)
    over = threading.Event()
    waiting = threading.Thread(target=over.wait)
    waiting.start()
    assert core_counts() == sorted({*(n for n in (1, 2, 4, 8, 16, 32, 64) if n <= len(every)), len(every)})
    try:
        with on_cores(1):
            assert available_cores() == 1
            for thread in os.listdir("/proc/self/task"):
                assert os.sched_getaffinity(int(thread)) == {min(every)}
        assert os.sched_getaffinity(waiting.native_id) == every
        assert os.sched_getaffinity(0) == every
        with (
            pytest.raises(ValueError, match=f"cannot run on {len(every) + 1} of {len(every)} cores"),
            on_cores(len(every) + 1),
        ):
            pass
    finally:
        over.set()
        waiting.join()


@pytest.mark.skipif(resident_memory() is None, reason="the system does not say")
def test_memory_over_time_sees_what_is_taken():
    with MemoryTrace(0.001) as trace:
        while len(trace.samples) < 3:
            pass
        held = np.ones(40 << 20, np.uint8)
        taken = len(trace.samples)
        while len(trace.samples) < taken + 3:
            pass
    times, sizes = zip(*trace.samples, strict=True)
    assert list(times) == sorted(times)
    assert sizes[-1] - sizes[0] > 0.9 * held.nbytes
