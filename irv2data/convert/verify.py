"""Is a dataset folder what its manifest says? `verify` answers with every problem it finds, not the first one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, manifest, storage
from irv2data.convert.engines import run_local
from irv2data.convert.folder import SHARD, has_begun
from irv2data.convert.records import check_record, differs, row_of
from irv2data.convert.writer import Marker
from irv2data.errors import DatasetError, RecordError
from irv2data.labels import CLASS, CLASSES
from irv2data.manifest import Contents, Dataset, Split
from irv2data.tfrecord import FRAMING_BYTES, frame, read_frames

_LISTED = 10  # of one kind of problem in one index, before the rest is counted only


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: the file, the record's number within it (None for the whole file), and the reason."""

    file: str
    record: int | None
    reason: str


def verify(
    folder: str,
    *,
    deep: bool = False,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """Compares a dataset folder with its manifest.

    The promise covers manifest, shards and index. `rejects.jsonl`, `duplicates.jsonl` and the descriptions (for TFDS,
    `croissant.json`) are told from no digest: they say what happened, and nothing reads records by them.

    Args:
        folder: The dataset folder.
        deep: Also read every byte: digests (the manifest's own too), framing, each record against the index, each
            image decoded whole, in worker processes. Otherwise sizes, counts and the index's own consistency are
            checked, and no shard is read.
        workers: Worker processes; 0 for the number of usable cores.
        progress: Called as `progress(done, total)` in records.

    Returns:
        The problems, in the order of the files; an empty list means the dataset is sound.

    Raises:
        DatasetError: The folder is no dataset at all (no manifest, or one that cannot be read).
    """
    try:
        dataset = Dataset(folder, check_sizes=False)
    except DatasetError as error:
        if not (Path(folder) / manifest.MANIFEST).exists():
            raise
        return [Problem(file=manifest.MANIFEST, record=None, reason=str(error))]
    problems = []
    if deep and not manifest.is_sealed((dataset.folder / manifest.MANIFEST).read_bytes()):
        reason = "was changed: its own digest differs"
        problems.append(Problem(file=manifest.MANIFEST, record=None, reason=reason))
    problems += [*_missing_or_resized(dataset), *strays(dataset)]
    sound: dict[str, dict[str, np.ndarray] | None] = {}
    for name, split in dataset.splits.items():
        arrays, found = check_index(split, deep=deep)
        problems += found
        sound[name] = None if found else arrays
    if deep:
        problems += _read_shards(dataset, sound, workers, progress)
    return problems


def _missing_or_resized(dataset: Dataset) -> Iterator[Problem]:
    for split in dataset.splits.values():
        for shard, path in zip(split.shards, split.paths, strict=True):
            size = storage.size(path)
            if size is None:
                yield Problem(file=shard.file, record=None, reason="missing")
            elif size != shard.bytes:
                reason = f"has {size} bytes, the manifest says {shard.bytes}"
                yield Problem(file=shard.file, record=None, reason=reason)


def strays(dataset: Dataset) -> Iterator[Problem]:
    """Shards that the manifest does not name; those of an append that is under way are not strays."""
    if has_begun(str(dataset.folder)):
        return
    named = {shard.file for split in dataset.splits.values() for shard in split.shards}
    for path in sorted(dataset.folder.iterdir()):
        if SHARD.fullmatch(path.name) and path.name not in named:
            yield Problem(file=path.name, record=None, reason="a shard that the manifest does not name")


def check_index(split: Split, *, deep: bool) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """The arrays of a split's index that can be read, and what is wrong with them."""
    contents = split.contents
    place = f"{contents.index_folder}/{split.name}"
    if split.index.keys() != split.arrays.keys():
        reason = f"split {split.name!r} lists the index arrays {sorted(split.index)}, not {sorted(split.arrays)}"
        return {}, [Problem(file=manifest.MANIFEST, record=None, reason=reason)]
    arrays, problems = {}, []
    for name, digest in split.index.items():
        file = f"{place}/{name}.npy"
        try:
            arrays[name] = split.array(name)
        except DatasetError as error:
            problems.append(Problem(file=file, record=None, reason=str(error)))
            continue
        path = manifest.array_path(split.folder, split.name, name, contents.index_folder)
        if deep and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(Problem(file=file, record=None, reason="its SHA-256 differs from the manifest's"))
    if arrays.keys() != split.arrays.keys():
        return arrays, problems
    wrong = index.check(arrays, contents.labels, tuple(contents.columns.values()), split.num_records)
    if wrong is not None:
        return arrays, [*problems, Problem(file=place, record=None, reason=wrong)]
    ends = arrays["offset"] + arrays["length"]
    for number, shard in enumerate(split.shards):
        rows = arrays["shard"] == number
        starts = np.concatenate([[0], ends[rows]])[:-1]
        # Others' shards may hold records that are not in the index.
        fits = (
            np.all(arrays["offset"][rows] >= starts)
            if contents.adopted
            else np.array_equal(arrays["offset"][rows], starts)
        )
        last = ends[rows].max(initial=0)
        whole = last <= shard.bytes if contents.adopted else last == shard.bytes
        if rows.sum() != shard.records or not fits or not whole:
            problems.append(Problem(file=shard.file, record=None, reason="the index does not describe this shard"))
    if contents.labels in (CLASS, CLASSES):
        labels = arrays[index.LABEL]
        wrong_rows = np.flatnonzero((labels < 0) | (labels >= len(contents.classes)))
        file = f"{place}/{index.LABEL}.npy"
        problems += [Problem(file=file, record=int(row), reason="no such class") for row in wrong_rows[:_LISTED]]
    return arrays, problems


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One shard to read: where it is, what it should hold, and the index rows of its records (None if unsound)."""

    path: str
    shard: manifest.Shard
    number: int
    contents: Contents
    arrays: dict[str, np.ndarray] | None
    barred: tuple[tuple[int, str], ...] = ()

    def without(self, record: int, code: str, detail: str) -> _Task:
        return replace(self, barred=(*self.barred, (record, detail)))


def _task(split: Split, number: int, arrays: dict[str, np.ndarray] | None) -> _Task:
    rows = None
    if arrays is not None:
        rows = index.take(arrays, np.flatnonzero(arrays["shard"] == number))
    return _Task(
        path=split.paths[number], shard=split.shards[number], number=number, contents=split.contents, arrays=rows
    )


def _read_shards(
    dataset: Dataset,
    sound: dict[str, dict[str, np.ndarray] | None],
    workers: int,
    progress: Callable[[int, int], None],
) -> list[Problem]:
    found: dict[int, list[Problem]] = {}
    total = sum(split.num_records for split in dataset.splits.values())
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    run_local(
        check_shard,
        (
            _task(split, number, sound[name])
            for name, split in dataset.splits.items()
            for number in range(len(split.shards))
            if storage.size(split.paths[number]) is not None  # a missing one was told already
        ),
        workers=workers,
        finished=found.__setitem__,
        progress=count,
        lost=_Task.without,
    )
    return [problem for number in sorted(found) for problem in found[number]]


def check_shard(task: _Task, marker: Marker) -> list[Problem]:
    """Every problem of one shard; runs in a worker."""
    shard = task.shard
    digest = hashlib.sha256()
    problems: list[Problem] = []
    barred = dict(task.barred)
    # By offset: others' shards may hold records that are not in the index.
    rows = None if task.arrays is None else {int(o): row for row, o in enumerate(task.arrays["offset"])}
    read = expected = 0
    try:
        with open(task.path, "rb") as file:
            for record, (offset, payload) in enumerate(read_frames(file, shard.file)):
                digest.update(frame(payload))
                read = record + 1
                row = None if rows is None else rows.get(offset)
                if rows is not None and row is None and task.contents.adopted:
                    continue
                expected += 1
                reason = barred.get(record)
                if reason is None:
                    marker.begin(record)
                    reason = _wrong(task, payload, offset, row)
                    marker.end()
                marker.advance()
                if reason is not None:
                    problems.append(Problem(file=shard.file, record=record, reason=reason))
    except RecordError as error:
        return [*problems, Problem(file=shard.file, record=error.record, reason=error.reason)]
    except OSError as error:
        return [*problems, Problem(file=shard.file, record=None, reason=f"cannot be read ({error.strerror})")]
    if (expected if task.contents.adopted and rows is not None else read) != shard.records:
        reason = f"holds {read} records, the manifest says {shard.records}"
        problems.append(Problem(file=shard.file, record=None, reason=reason))
    elif digest.hexdigest() != shard.sha256:
        problems.append(Problem(file=shard.file, record=None, reason="its SHA-256 differs from the manifest's"))
    return problems


def _wrong(task: _Task, payload: bytes, offset: int, row: int | None) -> str | None:
    try:
        checked = check_record(payload, task.contents)
    except ValueError as error:
        return str(error)
    except MemoryError:
        return "decoding needs more memory than a worker may use"
    if task.arrays is None:
        return None
    if row is None:
        return "the index has no row for it"
    expected: dict[str, Any] = row_of(task.arrays, task.contents, row)
    length = FRAMING_BYTES + len(payload)
    if expected["length"] != length:
        return f"the index says length {expected['length']}, the record {length}"
    return differs(checked, expected)
