"""Shards of remote datasets on a local disk: fetched once, whole or not there, checked, and no more than is allowed.

`shards/SHA256.tfrecord` is whole and was checked; datasets that hold the same shard share it. `shards/SHA256.partial`
is being fetched, and has its full size from the start, so that others count it. `locks/XX` is held while a shard whose
digest begins so is fetched or checked, `lock` for moments, by whoever changes leases, or names or removes shards.
`leases/` is explained in `irv2data.remote.lease`.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from irv2data import storage
from irv2data.errors import DatasetError
from irv2data.remote import download
from irv2data.remote.lease import held, lease_of
from irv2data.split import Shard
from irv2data.storage import alone

_LOG = logging.getLogger(__name__)
_Item = TypeVar("_Item")

DOWNLOADS = 4  # at once: enough to fill a line of 10 GBit, few enough that the one that is needed next is not starved
_SHARD = ".tfrecord"
_READ = 1 << 20  # bytes
_WAIT = 0.05  # seconds


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """The shards of one dataset in a cache folder that any number of datasets and processes share.

    What has its final name was whole, checked and durable when it got it. It is hashed once more at its first use in a
    process, and fetched anew if the disk has damaged it; what happens to it after that, the checksum of each record
    shows to TensorFlow.

    Attributes:
        folder: The cache folder.
        uri: The dataset's folder.
        most: Bytes that all shards in the cache may take; None for no bound.
    """

    folder: Path
    uri: str
    most: int | None = None
    # Digest of a shard to what identified its file when this process checked it.
    _checked: dict[str, tuple[int, int, int]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        try:
            for name in ("shards", "locks", "leases"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def path(self, shard: Shard) -> Path:
        """Where a shard lies once it is there."""
        return self.folder / "shards" / f"{shard.sha256}{_SHARD}"

    def hold(self, reader: object, shards: Sequence[Shard], *, again: bool = False) -> None:
        """Has shards in the cache, and keeps them there until the reader holds others or is garbage.

        Args:
            reader: Whatever reads them.
            shards: Those that it reads, in the order that it needs them.
            again: Check them even if that was done before.

        Raises:
            DatasetError: A shard cannot be had, is not what the manifest says, or does not fit into the cache.
        """
        try:
            with alone(self.folder / "lock"):
                lease = lease_of(self.folder / "leases", os.getpid())
                lease.readers[reader] = frozenset(shard.sha256 for shard in shards)
                lease.write()
            for shard in shards:
                if again:
                    self._checked.pop(shard.sha256, None)
                with suppress(FileNotFoundError):
                    path = self.path(shard)  # the time of the last access says what to remove first
                    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except OSError as error:
            raise self._unusable(error) from error
        self.fetch(shards)

    def fetch(self, shards: Iterable[Shard]) -> None:
        """Has shards in the cache, which may be removed at any time; raises as `hold`."""
        try:
            _each(self._fetch, [shard for shard in shards if not self._is_checked(shard)])
        except OSError as error:
            raise self._unusable(error) from error

    def _fetch(self, shard: Shard) -> None:
        with alone(self.folder / "locks" / shard.sha256[:2]):
            if self._is_checked(shard) or self._is_sound(shard):
                return
            partial = self.path(shard).with_suffix(storage.PARTIAL)
            try:
                with open(partial, "w+b", buffering=0) as file:
                    self._make_room(shard, file.fileno())
                    digest = self._download(shard, file.fileno())
                    if digest != shard.sha256:  # bytes that went wrong on their way are right the next time
                        digest = self._download(shard, file.fileno())
                    os.fsync(file.fileno())
                if digest != shard.sha256:
                    raise download.wrong(f"{self.uri}: {shard.file}", digest, shard.sha256)
                with alone(self.folder / "lock"):  # or whoever counts might see neither name
                    os.replace(partial, self.path(shard))
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            storage.sync_folder(str(partial.parent))
            self._checked[shard.sha256] = self._identity(shard)

    def _download(self, shard: Shard, file: int) -> str:
        digest, at = hashlib.sha256(), 0
        for block in download.blocks(storage.join(self.uri, shard.file), shard.bytes):
            digest.update(block)
            view = memoryview(block)
            while view:
                written = os.pwrite(file, view, at)
                view, at = view[written:], at + written
        return digest.hexdigest()

    def _identity(self, shard: Shard) -> tuple[int, int, int]:
        status = os.stat(self.path(shard))
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _is_checked(self, shard: Shard) -> bool:
        """Whether a shard is there as this process knows it."""
        with suppress(FileNotFoundError):
            return self._checked.get(shard.sha256) == self._identity(shard)
        return False

    def _is_sound(self, shard: Shard) -> bool:
        """Whether a shard is there to the byte; removes what is not."""
        try:
            identity = self._identity(shard)
            digest = hashlib.sha256()
            with open(self.path(shard), "rb") as file:
                while block := file.read(_READ):
                    digest.update(block)
        except FileNotFoundError:
            return False
        if digest.hexdigest() == shard.sha256:
            self._checked[shard.sha256] = identity
            return True
        _LOG.warning("%s was damaged on this disk; it is fetched anew", self.path(shard))
        self.path(shard).unlink(missing_ok=True)
        return False

    def _make_room(self, shard: Shard, partial: int) -> None:
        """Takes the room for a shard, after removing what was used longest ago and is not in use."""
        if self.most is None:
            os.ftruncate(partial, shard.bytes)
            return
        collected = False
        while True:
            missing, coming = self._evict(shard, partial, self.most)
            if missing <= 0:
                return
            if coming:  # what others are fetching will be there soon, and may be removed then
                time.sleep(_WAIT)
            elif not collected:
                gc.collect()  # iterators that were given up hold shards until then
                collected = True
            else:
                raise DatasetError(
                    f"{self.uri}: what is being read at once takes {-(-missing >> 20)} MiB more than the "
                    f"{self.most >> 20} MiB that {self.folder} may hold; give cache_mib (IRV2DATA_CACHE_MIB) more"
                )

    def _evict(self, shard: Shard, partial: int, most: int) -> tuple[int, bool]:
        """Makes room for a shard and takes it; bytes that are missing, and whether others are fetching shards."""
        with alone(self.folder / "lock"):
            lease_of(self.folder / "leases", os.getpid()).write()
            used, own, coming = held(self.folder / "leases"), os.fstat(partial).st_ino, False
            files = [file for file in _files(self.folder / "shards") if file[1].st_ino != own]
            missing = sum(status.st_size for _, status in files) + shard.bytes - most
            for path, status in sorted(files, key=lambda file: file[1].st_atime_ns):
                if missing <= 0:
                    break
                if path.suffix == _SHARD and path.stem in used:
                    continue
                if self._removed(path):
                    missing -= status.st_size
                else:
                    coming = coming or status.st_size > 0
            if missing <= 0:
                os.ftruncate(partial, shard.bytes)
            return missing, coming

    def _removed(self, path: Path) -> bool:
        """Removes a file of the cache that no process is fetching; whether it did."""
        if path.suffix == _SHARD:
            path.unlink(missing_ok=True)
            return True
        with alone(self.folder / "locks" / path.name[:2], wait=False) as free:
            if free:  # of a process that was killed
                path.unlink(missing_ok=True)
            return free

    def _unusable(self, error: OSError) -> DatasetError:
        return DatasetError(
            f"{self.folder}: shards cannot be kept there ({error.strerror or error}); give another cache_dir "
            "(IRV2DATA_CACHE)"
        )


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # renamed meanwhile
            found.append((Path(entry.path), entry.stat()))
    return found


def _each(work: Callable[[_Item], None], items: Sequence[_Item]) -> None:
    """Does some work with each item, begun in order, `DOWNLOADS` at once; the first error ends it and is raised."""
    left = iter(items)
    errors: list[BaseException] = []
    turn = threading.Lock()

    def worker() -> None:
        while not errors:
            with turn:
                item = next(left, None)
            if item is None:
                return
            try:
                work(item)
            except BaseException as error:
                errors.append(error)

    # Daemons and no executor: the end of a program does not wait for a download, which is safe to be cut off.
    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(DOWNLOADS, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
