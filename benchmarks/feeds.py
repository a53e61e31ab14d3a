"""What a loader of `benchmarks.loaders` is. Imports nothing but the standard library: every environment reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from benchmarks.peers import PEERS

BATCH = 64
SIDE = 299
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops, in every loader that has them


class SkipError(Exception):
    """This loader cannot run here; the message says why."""


@dataclass(frozen=True)
class Data:
    """The same photographs, in the form that each loader reads. Paths; `cores` is what a loader may use."""

    folder: str  # class-N/*.jpg
    dataset: str  # irv2data's conversion
    archives: str  # WebDataset's
    beton: str  # FFCV's
    cores: int


@dataclass(frozen=True)
class Feed:
    """A loader.

    Attributes:
        batches: From `Data` to an endless iterator of batches of images.
        title: For tables.
        packages: Whose versions belong to its figures.
        home: Virtual environment below the repository's root; empty for the one that irv2data itself runs in.
    """

    batches: Callable[[Data], Iterator[Any]]
    title: str
    packages: tuple[str, ...]
    home: str = PEERS


def in_order(work: Callable[[Any], Any], items: Iterable[Any], *, threads: int, ahead: int) -> Iterator[Any]:
    """`map` on threads, of which at most `ahead` results wait: `items` may have no end."""
    endless = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Any]] = deque(pool.submit(work, item) for item in islice(endless, ahead))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(endless, 1))
            yield done
