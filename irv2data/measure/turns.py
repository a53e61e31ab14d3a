"""Several things measured in turn, round after round, so that their ratios hold on a machine whose speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_QUIET, _LOOK, _LOOKS = 0.3, 0.02, 100  # of one core; seconds; times


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        open: Gives an endless iterator, which after each unit of work says how many images that was.
        buffered: Units that may lie finished when a turn begins, which would count as made in no time.
        kept: The iterator lives from round to round; otherwise each turn opens a new one, for what holds much memory.
        within: Each turn happens within this context, as `machine.on_cores`.
    """

    open: Callable[[], Iterator[int]]
    buffered: int = 0
    kept: bool = True
    within: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was measured, a value a round.

    Attributes:
        images_per_second: float64 [rounds].
        cpu_seconds: float64 [rounds], processor time of this process for an image, all of its threads.
    """

    images_per_second: np.ndarray
    cpu_seconds: np.ndarray


def in_turns(
    subjects: Mapping[str, Subject],
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Samples]:
    """Measures all subjects in every round, one after another; a round before, which is not counted, warms up.

    Args:
        subjects: By name.
        rounds: Counted rounds.
        seconds: How long a turn takes, about; one unit of work at least.
        progress: Called with the turns done and their number.
    """
    open_: dict[str, Iterator[int]] = {}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    total = (rounds + 1) * len(subjects)
    for number in range(total):
        name = list(subjects)[number % len(subjects)]
        subject = subjects[name]
        with subject.within():
            units = open_.pop(name, None) or subject.open()
            turn = _turn(units, subject.buffered, seconds)
            if subject.kept:
                open_[name] = units
            del units
        if number >= len(subjects):
            found[name].append(turn)
        progress(number + 1, total)
    return {
        name: Samples(images_per_second=np.array(turns)[:, 0], cpu_seconds=np.array(turns)[:, 1])
        for name, turns in found.items()
    }


def units(batches: Iterable[Any], size: int, consume: Callable[[Any], None] = lambda batch: None) -> Iterator[int]:
    """A unit a batch of `size` images, after `consume` has taken it and waited for what it does."""
    for batch in batches:
        consume(batch)
        yield size


def _turn(units: Iterator[int], buffered: int, seconds: float) -> tuple[float, float]:
    """Images a second, and processor seconds an image."""
    _settle()
    for _ in range(buffered + 1):
        next(units)
    images, cpu, began, elapsed = 0, time.process_time(), time.perf_counter(), 0.0
    while elapsed < seconds:
        images += next(units)
        elapsed = time.perf_counter() - began
    return images / elapsed, (time.process_time() - cpu) / images


def _settle() -> None:
    """Waits until what others have left running (their buffers fill up) is done, or two seconds."""
    for _ in range(_LOOKS):
        before = time.process_time()
        time.sleep(_LOOK)
        if time.process_time() - before < _QUIET * _LOOK:
            return
