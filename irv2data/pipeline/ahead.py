"""Remote shards are here before the graph opens them, and those of the next windows are on their way."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from irv2data.errors import Irv2dataError, UsageError
from irv2data.machine import available_cores
from irv2data.pipeline.batch import Maker
from irv2data.pipeline.cache import Cache
from irv2data.pipeline.faults import BadRecords, Recovery
from irv2data.pipeline.plan import PIXEL_WINDOW, WINDOW, Plan
from irv2data.remote.cache import ShardCache

_LOG = logging.getLogger(__name__)

_AHEAD = 4  # windows whose shards are fetched meanwhile
_CHECKED = 64  # windows that a bound is compared with


class Ahead:
    """Has the shards of windows in the cache as they are planned.

    Args:
        plan: The plan.
        shards: Where shards are kept.
        images: Where decoded images are kept, which need no shard any more; None where they are not.
    """

    def __init__(self, plan: Plan, shards: ShardCache, images: Cache | None):
        self._plan, self._cache, self._images = plan, shards, images
        self._read: deque[list[int]] = deque(maxlen=in_flight(plan))
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, epoch: int, window: int) -> None:
        """Returns when the shards of a window are there.

        Raises:
            ValueError: One cannot be had. (TensorFlow makes an InvalidArgumentError of it.)
        """
        read = self._begun(epoch, window)
        try:
            self._cache.hold(self, [self._plan.split.shards[number] for number in _union(reversed(read))])
        except Irv2dataError as error:
            raise ValueError(str(error)) from None
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._fetch_ahead, args=(epoch, window, read), daemon=True)
            self._thread.start()

    def _begun(self, epoch: int, window: int) -> list[list[int]]:
        """The shards of the windows that are being read, this one the last."""
        most, needed = self._cache.most, self._needed(epoch, window)
        with self._turn:  # a dataset may have several iterators
            self._read.append(needed)
            while most is not None and len(self._read) > 1 and _bytes(self._plan, _union(self._read)) > most:
                self._read.popleft()  # larger than any that `check_bound` saw: late chunks are left to `Refetching`
            return list(self._read)

    def _fetch_ahead(self, epoch: int, window: int, taken: list[list[int]]) -> None:
        """Fetches what the windows behind one need, as far as there is room beside what is being read."""
        shards, most = self._plan.split.shards, self._cache.most
        for _ in range(_AHEAD):
            window += 1
            if window == self._plan.windows_per_epoch():
                epoch, window = epoch + 1, 0
            taken.append(self._needed(epoch, window))
            if most is not None and _bytes(self._plan, _union(taken)) > most:
                return
            try:
                self._cache.fetch([shards[number] for number in taken[-1]])
            except Irv2dataError as error:
                _LOG.info("%s; it is tried again when its turn comes", error)
                return

    def _needed(self, epoch: int, window: int) -> list[int]:
        """Numbers of the shards that a window is read from, in its order."""
        record = self._plan.records(epoch, window)
        record = record[record >= 0]
        if self._images is not None:
            record = record[~self._images.there[record]]
        return _shards_of(self._plan, record)


class Refetching(Recovery):
    """A `Recovery` that first has the chunk's shards in the cache, whatever became of them, and checks them anew.

    Args:
        maker: As in `Recovery`.
        bad: As in `Recovery`.
        remedy: As in `Recovery`.
        plan: The plan.
        shards: Where shards are kept.
    """

    def __init__(self, maker: Maker, bad: BadRecords, remedy: str, plan: Plan, shards: ShardCache):
        super().__init__(maker, bad, remedy)
        self._shards, self._cache = plan.split.shards, shards

    def chunk(self, plan: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """As `Recovery.chunk`; a shard that cannot be had is a ValueError, too."""
        numbers = np.unique(plan["shard"].numpy()[plan["record"].numpy() >= 0])
        reader = threading.Event()  # anything that lives as long as this call
        try:
            self._cache.hold(reader, [self._shards[number] for number in numbers.tolist()], again=True)
        except Irv2dataError as error:
            raise ValueError(str(error)) from None
        return super().chunk(plan)


def in_flight(plan: Plan) -> int:
    """How many windows may be read at once.

    One is handed out when the one before it begins to be read, and up to three chunks a core of those before that are
    still waiting or being decoded; the last window of an epoch may be short. (Should a chunk come later still, and find
    its shard gone, `Refetching` gets it.)
    """
    pixels = plan.config.max_pixels_per_batch is not None
    batches = PIXEL_WINDOW // max(plan.batch_sizes) if pixels else WINDOW
    return 3 + -(-3 * available_cores() // batches)


def check_bound(plan: Plan, cache: ShardCache) -> None:
    """Compares what windows that follow one another read at once, and the whole split, with what the cache may hold.

    Raises:
        UsageError: It may hold less than is read at once.
    """
    if cache.most is None:
        return
    split, flight, windows = plan.split, in_flight(plan), plan.windows_per_epoch()
    # The end of an epoch is followed by the beginning of the next.
    numbers = [*range(max(0, windows - flight), windows), *range(min(_CHECKED, windows))]
    needed = [_shards_of(plan, record[record >= 0]) for record in (plan.records(0, number) for number in numbers)]
    once = max(_bytes(plan, _union(needed[first : first + flight])) for first in range(len(needed)))
    name = f"cache_mib={cache.most >> 20} of {cache.uri}"
    if once > cache.most:
        less = "a smaller batch_size" if plan.config.shuffle is None else "shuffle=None"
        raise UsageError(
            f"{name}: shuffle={plan.config.shuffle!r} reads {-(-once >> 20)} MiB of shards at once; give cache_mib "
            f"(IRV2DATA_CACHE_MIB) as much, or use {less}"
        )
    if split.num_bytes > cache.most:
        epoch = windows * _bytes(plan, needed[-1])
        _LOG.warning(
            "%s: the split has %d MiB, so shards are fetched in every epoch anew, up to %d MiB of them",
            name,
            split.num_bytes >> 20,
            max(epoch, split.num_bytes) >> 20,
        )


def _shards_of(plan: Plan, record: np.ndarray) -> list[int]:
    return list(dict.fromkeys(plan.split.array("shard")[record].tolist()))


def _bytes(plan: Plan, numbers: Iterable[int]) -> int:
    return sum(plan.split.shards[number].bytes for number in numbers)


def _union(windows: Iterable[list[int]]) -> list[int]:
    """The numbers of some windows, each once, in the order they first come."""
    return list(dict.fromkeys(number for window in windows for number in window))
