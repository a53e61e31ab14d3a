"""The search: hashes all records, and groups those whose hashes are near."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from irv2data import index
from irv2data.convert.engines import run_local
from irv2data.errors import UsageError
from irv2data.labels import CLASS, CLASSES, NONE
from irv2data.manifest import Dataset, Split
from irv2data.near_duplicates.found import Damaged, Group, Member, NearDuplicates
from irv2data.near_duplicates.hamming import largest_distance, linked_groups
from irv2data.near_duplicates.hashing import Hashed, Task, brought, hash_shard, require_imagehash, tasks_of

DISTANCE = 8  # bits; measured, see "Near duplicates" in docs/conversion.md
MOST_DISTANCE = 12  # beyond, images that have nothing in common are linked


def near_duplicates(
    dataset: Dataset,
    *,
    distance: int = DISTANCE,
    splits: Sequence[str] | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NearDuplicates:
    """Reads every record once, hashes its image, and finds those that look alike, within and across splits.

    The result depends on the records and `distance` alone. A damaged record is told and left out.
    Worker processes are spawned, so a script that calls this needs the usual `if __name__ == "__main__":` guard.

    Args:
        dataset: The dataset, converted or adopted, local or remote (but not opened with `direct`).
        distance: Bits of 64 in which the hashes of two images may differ, 0 to `MOST_DISTANCE`; 0 for equal hashes.
        splits: Names of the splits to look at; None for all.
        workers: Worker processes; 0 for the number of usable cores.
        progress: Called as `progress(done, total)` in records.

    Raises:
        UsageError: ImageHash is not installed, there is no such split, `distance` is out of range, or the dataset was
            opened with `direct`.
        DatasetError: A shard is remote and cannot be fetched, or the index is damaged.
    """
    require_imagehash()
    if not 0 <= distance <= MOST_DISTANCE:
        raise UsageError(f"distance must be 0 to {MOST_DISTANCE} bits, got {distance}")
    if workers < 0:
        raise UsageError(f"workers must be 0 (all cores) or more, got {workers}")
    if dataset.direct:
        raise UsageError(f"{dataset.location}: near duplicates read every shard; open the dataset without direct")
    chosen = [dataset.split(name) for name in (dataset.splits if splits is None else dict.fromkeys(splits))]
    total = sum(split.num_records for split in chosen)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    tasks = list(tasks_of(chosen))
    results: dict[int, Hashed] = {}
    run_local(
        hash_shard,
        (brought(chosen, task) for task in tasks),
        workers=workers,
        finished=results.__setitem__,
        progress=count,
        lost=Task.without,
    )
    return _Found(chosen, tasks, [results[number] for number in range(len(tasks))]).report(
        dataset.fingerprint, distance
    )


class _Found:
    """What was hashed, joined over all shards: one row a record, in the order of splits and their rows."""

    def __init__(self, splits: Sequence[Split], tasks: Sequence[Task], results: Sequence[Hashed]):
        self.splits = splits
        self.names = [split.packed(index.FILENAME) for split in splits]
        self.labels = [labels_of(split) for split in splits]
        counts = [split.num_records for split in splits]
        self.begins = np.r_[0, np.cumsum(counts, dtype=np.int64)]
        total = int(self.begins[-1])
        self.hashes = np.zeros(total, np.uint64)
        self.digests = np.zeros((total, 32), np.uint8)
        self.flat = np.zeros(total, bool)
        self.damaged: dict[int, str] = {}
        for task, result in zip(tasks, results, strict=True):
            rows = task.rows + self.begins[task.split]
            self.hashes[rows], self.digests[rows], self.flat[rows] = result.hashes, result.digests, result.flat
            self.damaged |= {int(rows[place]): reason for place, reason in result.damaged.items()}

    def report(self, fingerprint: str, distance: int) -> NearDuplicates:
        sound = np.ones(len(self.hashes), bool)
        sound[list(self.damaged)] = False
        sharp = np.flatnonzero(sound & ~self.flat)
        flat = np.flatnonzero(sound & self.flat)
        groups = [
            *_several(sharp, linked_groups(self.hashes[sharp], distance)),
            *_several(flat, np.unique(self.digests[flat].view("S32").reshape(-1), return_inverse=True)[1]),
        ]
        damaged = sorted(self.damaged.items())
        return NearDuplicates(
            fingerprint=fingerprint,
            distance=distance,
            records=len(self.hashes),
            groups=tuple(
                Group(
                    members=tuple(map(self._member, rows.tolist())),
                    largest_distance=largest_distance(self.hashes[rows]),
                )
                for rows in sorted(groups, key=lambda rows: int(rows[0]))
            ),
            flat=tuple(map(self._member, flat.tolist())),
            damaged=tuple(Damaged(**self._place(number), reason=reason) for number, reason in damaged),
        )

    def _place(self, number: int) -> dict[str, Any]:
        which, row = self._where(number)
        return {"split": self.splits[which].name, "row": row, "source": self.names[which].path(row)}

    def _where(self, number: int) -> tuple[int, int]:
        which = int(np.searchsorted(self.begins, number, side="right")) - 1
        return which, number - int(self.begins[which])

    def _member(self, number: int) -> Member:
        which, row = self._where(number)
        sha256 = self.digests[number].tobytes().hex()
        return Member(**self._place(number), label=self.labels[which](row), sha256=sha256)


def _several(rows: np.ndarray, group: np.ndarray) -> list[np.ndarray]:
    """The rows of each group that has several, ascending."""
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    return [rows[part] for part in np.split(order, cuts) if len(part) > 1]


def labels_of(split: Split) -> Callable[[int], str | tuple[str, ...] | float | None]:
    """What the index says of a row's label: class name, tuple of class names, number or None."""
    kind, classes = split.contents.labels, split.contents.classes
    if kind == NONE:
        return lambda row: None
    labels = split.array(index.LABEL)
    if kind == CLASSES:
        ends = split.array(index.LABEL + index.END)
        return lambda row: tuple(classes[n] for n in labels[int(ends[row - 1]) if row else 0 : int(ends[row])].tolist())
    return (lambda row: classes[int(labels[row])]) if kind == CLASS else (lambda row: float(labels[row]))
