"""A whole conversion, top to bottom: list, hash, lay out, write shards, commit."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import manifest
from irv2data.convert import layout
from irv2data.convert.config import ConvertConfig
from irv2data.convert.engines import run_local
from irv2data.convert.folder import WORK, check_output, commit, prepare, remove_partial
from irv2data.convert.sources import Listing, list_folder
from irv2data.convert.transcode import RejectError
from irv2data.convert.writer import ShardResult, Task, load_result, read_source, write_shard
from irv2data.errors import DatasetError, InterruptedRunError, Irv2dataError, SourceError, UsageError

_HASH_CHUNK = 128  # files hashed by one task: large enough to hide its dispatch, small enough to share evenly

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a conversion did; `sources == rejected + dropped + records of all splits`, always.

    Attributes:
        dataset: The dataset folder.
        sources: Files that were to be converted.
        rejected: Of these, how many could not be; `rejects.jsonl` says which and why.
        dropped: Of these, how many were left out as duplicates.
        ignored: Extension to number of files that are no images.
        classes: Number of classes.
        splits: Split name to `records`, `shards` and `bytes`.
        over_budget: More than `max_bad_fraction` of the sources were rejected.
        dry_run: Nothing was written; the counts are what would be tried.
        seconds: Wall time.
    """

    dataset: str
    sources: int
    rejected: int
    dropped: int
    ignored: dict[str, int]
    classes: int
    splits: dict[str, dict[str, int]]
    over_budget: bool
    dry_run: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON-able dict."""
        return asdict(self)


def convert(
    source: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    *,
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Turns a folder with one sub-folder a class into a dataset folder.

    The result depends on the sources and `config` alone: byte-identical for any number of workers. Worker processes
    are spawned, so a script that calls this needs the usual `if __name__ == "__main__":` guard.

    Args:
        source: Folder of images.
        dataset: Folder to make.
        config: What decides the bytes; the defaults of `ConvertConfig` if None.
        workers: Worker processes; 0 for the number of usable cores.
        resume: Keep the finished shards of an interrupted conversion of the same sources and options.
        overwrite: Replace a dataset, or an unfinished one, that is there already.
        dry_run: List, hash and lay out, but write nothing.
        progress: Called as `progress(stage, done, total)`; `total` is None where it is not known yet.

    Raises:
        UsageError: `dataset` exists and neither `resume` nor `overwrite` was given, or workers is negative.
        SourceError: The source folder cannot be used.
        DatasetError: The output cannot be written.
        InterruptedRunError: A signal stopped the run; finished shards are kept for `resume`.
    """
    started = time.monotonic()
    config = config or ConvertConfig()
    folder = Path(dataset)
    if workers < 0:
        raise UsageError(f"workers must be 0 (all cores) or more, got {workers}")
    if resume and overwrite:
        raise UsageError("resume keeps what is there and overwrite removes it; give one of them")
    try:
        check_output(folder, Path(source), resume=resume, overwrite=overwrite)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be used ({error.strerror})") from error
    try:
        by_folder = isinstance(config.splits, str)
        listing = list_folder(os.fspath(source), split_folders=by_folder, progress=_counter(progress, "listing"))
        digests, sizes, rejects = _hash_sources(listing, workers, progress)
        if config.on_error == "fail" and rejects:
            path, code, detail = rejects[0]
            raise SourceError(f"{os.path.join(listing.root, path)}: {code}: {detail}; --on_error=reject goes on")
        keys = layout.content_keys(digests, config.seed)
        split, names, repeated = _assign(listing, digests, keys, [path for path, _, _ in rejects], config)
        plans = layout.plan_shards(keys, sizes, split, names, round(config.shard_mib * layout.MIB))
        if dry_run:
            counted = [(len(plan.sources), int(sizes[plan.sources].sum())) for plan in plans]
        else:
            prepare(folder, _plan_digest(listing, digests, config), resume=resume, overwrite=overwrite)
            results = _write_shards(folder, listing, digests, plans, config, workers, progress)
            rejects = sorted(
                [*rejects, *(reject for result in results for reject in result.rejects)],
                key=lambda reject: os.fsencode(reject[0]),
            )
            counted = [(result.records, result.bytes) for result in results]
            totals = {"sources": len(listing.paths), "rejected": len(rejects), "dropped": repeated}
            commit(folder, listing.classes, plans, results, rejects, {**totals, "options": asdict(config)})
    except KeyboardInterrupt:
        remove_partial(folder)
        kept = (
            "finished shards are kept, go on with --resume" if (folder / WORK).is_dir() else "nothing was written yet"
        )
        raise InterruptedRunError(f"interrupted; {kept}: {folder}") from None
    except Irv2dataError:
        remove_partial(folder)
        raise
    except OSError as error:
        remove_partial(folder)
        raise DatasetError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); --resume goes on"
        ) from error
    splits = {name: {"records": 0, "shards": 0, "bytes": 0} for name in names}
    for plan, (records, size) in zip(plans, counted, strict=True):
        total = splits[plan.split]
        total["records"] += records
        total["shards"] += 1
        total["bytes"] += size
    return Report(
        dataset=str(folder),
        sources=len(listing.paths),
        rejected=len(rejects),
        dropped=repeated,
        ignored=listing.ignored,
        classes=len(listing.classes),
        splits=splits,
        over_budget=len(rejects) > config.max_bad_fraction * len(listing.paths),
        dry_run=dry_run,
        seconds=round(time.monotonic() - started, 3),
    )


def _assign(
    listing: Listing, digests: np.ndarray, keys: np.ndarray, rejected: list[str], config: ConvertConfig
) -> tuple[np.ndarray, tuple[str, ...], int]:
    """The split of each source (int [N], -1 for none), the splits' names, and how many duplicates were dropped."""
    bad = set(rejected)
    usable = np.array([path not in bad for path in listing.paths], bool)
    if isinstance(config.splits, str):
        names, split = listing.splits, listing.split
    else:
        names = tuple(name for name, _ in config.splits)
        fractions = [fraction for _, fraction in config.splits]
        split = layout.split_by_content(keys, fractions)
    repeated = usable & layout.duplicates(digests) if config.duplicates == "drop" else np.zeros_like(usable)
    return np.where(usable & ~repeated, split, -1), names, int(repeated.sum())


def _counter(progress: Progress, stage: str, total: int | None = None) -> Callable[[int], None]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(stage, done, total)

    return count


def _hash_chunk(
    task: tuple[str, list[str], list[int]], advance: Callable[[], None]
) -> tuple[bytes, list[int], list[tuple[str, str, str]]]:
    """Content digests (32 bytes each), sizes and rejects of some sources; runs in a worker."""
    root, paths, labels = task
    digests, sizes, rejects = [], [], []
    for path, label in zip(paths, labels, strict=True):
        digest, size = bytes(32), 0
        try:
            if label < 0:
                raise RejectError("no_class", "lies outside every class folder")
            data = read_source(root, path)
            digest, size = hashlib.sha256(data).digest(), len(data)
        except RejectError as error:
            rejects.append((path, error.code, error.detail))
        digests.append(digest)
        sizes.append(size)
        advance()
    return b"".join(digests), sizes, rejects


def _hash_sources(
    listing: Listing, workers: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str, str]]]:
    """SHA-256 (uint8 [N, 32]) and size (int64 [N]) of every source, and the rejects among them."""
    count = len(listing.paths)
    digests = np.zeros((count, 32), np.uint8)
    sizes = np.zeros(count, np.int64)
    rejects: list[tuple[str, str, str]] = []
    starts = range(0, count, _HASH_CHUNK)
    tasks = [
        (listing.root, listing.paths[s : s + _HASH_CHUNK], listing.labels[s : s + _HASH_CHUNK].tolist()) for s in starts
    ]

    def finished(number: int, result: tuple[bytes, list[int], list[tuple[str, str, str]]]) -> None:
        rows = slice(starts[number], starts[number] + len(result[1]))
        digests[rows] = np.frombuffer(result[0], np.uint8).reshape(-1, 32)
        sizes[rows] = result[1]
        rejects.extend(result[2])

    run_local(_hash_chunk, tasks, workers=workers, finished=finished, progress=_counter(progress, "hashing", count))
    return digests, sizes, rejects


def _plan_digest(listing: Listing, digests: np.ndarray, config: ConvertConfig) -> str:
    digest = hashlib.sha256(config.digest.encode())
    for path, label in zip(listing.paths, listing.labels.tolist(), strict=True):
        digest.update(os.fsencode(path) + b"\0" + str(label).encode() + b"\0")
    digest.update(digests.tobytes())
    return digest.hexdigest()


def _write_shards(
    folder: Path,
    listing: Listing,
    digests: np.ndarray,
    plans: Sequence[layout.ShardPlan],
    config: ConvertConfig,
    workers: int,
    progress: Progress,
) -> list[ShardResult]:
    results: dict[int, ShardResult] = {}
    tasks: dict[int, Task] = {}
    for number, plan in enumerate(plans):
        name = manifest.shard_name(plan.split, plan.number, plan.of)
        task = Task(
            root=listing.root,
            paths=tuple(listing.paths[row] for row in plan.sources),
            labels=listing.labels[plan.sources],
            digests=digests[plan.sources],
            classes=listing.classes,
            shard=folder / name,
            shard_number=plan.number,
            result=folder / WORK / f"{name}.npz",
            config=config,
        )
        done = load_result(task.result)
        if done is not None and task.shard.exists() and task.shard.stat().st_size == done.bytes:
            results[number] = done
        else:
            tasks[number] = task
    numbers = list(tasks)
    count = _counter(progress, "converting", sum(len(plan.sources) for plan in plans))
    count(sum(len(plans[number].sources) for number in results))
    run_local(
        write_shard,
        list(tasks.values()),
        workers=workers,
        finished=lambda number, result: results.__setitem__(numbers[number], result),
        progress=count,
    )
    return [results[number] for number in range(len(plans))]
