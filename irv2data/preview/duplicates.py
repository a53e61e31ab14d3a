"""Records of the same content, and those that look alike: where they lie, and whether their labels agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from irv2data.index import CONTENT, FILENAME
from irv2data.manifest import Dataset
from irv2data.near_duplicates import labels_of, near_duplicates

MOST_GROUPS = 10  # shown of each kind
MOST_MEMBERS = 6  # shown of a group

# Split and row of the records of a group.
Places = tuple[tuple[str, int], ...]


def duplicate_facts(
    dataset: Dataset, *, near: bool, workers: int = 0, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Which records are the same or look alike.

    Args:
        dataset: The dataset.
        near: Read every record once and look for those that look alike, too.
        workers: Processes that do so; 0 for the number of usable cores.
        progress: Called as `progress(done, total)` in records meanwhile.

    Returns:
        `exact`: of records of one source content, see `_told`; `near`: of those that look alike, groups of `exact` left
        out, and with `distance` in bits, `damaged`, how many records could not be looked at, and `damage`, what is
        wrong with the first of them; None if not asked for. `converted`: what the conversion counted: `duplicates`,
        `conflicts` and `dropped`.
    """
    exact = exact_groups(dataset)
    facts: dict[str, Any] = {
        "exact": _told(dataset, exact),
        "near": None,
        "converted": {name: dataset.source[name] for name in ("duplicates", "conflicts", "dropped")},
    }
    if near:
        found = near_duplicates(dataset, workers=workers, progress=progress)
        groups = [tuple((member.split, member.row) for member in group.members) for group in found.groups]
        known = set(exact)
        facts["near"] = {
            **_told(dataset, [group for group in groups if group not in known]),
            "distance": found.distance,
            "damaged": len(found.damaged),
            "damage": f"{found.damaged[0].source}: {found.damaged[0].reason}" if found.damaged else None,
        }
    return facts


def exact_groups(dataset: Dataset) -> list[Places]:
    """The records of each content that several have, by the SHA-256 of their sources, in the order of the first."""
    splits = list(dataset.splits.values())
    begins = np.cumsum([0, *(split.num_records for split in splits)])
    # Eight bytes say which could be the same; few are left to be compared by all 32.
    heads = np.concatenate([_head(split.array(CONTENT)) for split in splits])
    _, where, counts = np.unique(heads, return_inverse=True, return_counts=True)
    groups: dict[bytes, list[tuple[str, int]]] = {}
    for number in np.flatnonzero(counts[where] > 1).tolist():
        which = int(np.searchsorted(begins, number, side="right")) - 1
        split, row = splits[which], number - int(begins[which])
        groups.setdefault(bytes(split.array(CONTENT)[row]), []).append((split.name, row))
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _head(content: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(content[:, :8]).view(np.uint64).reshape(-1)


def _told(dataset: Dataset, groups: Sequence[Places]) -> dict[str, Any]:
    """`groups`, `records` in them, how many are in several splits (`leaks`) or have several labels (`conflicts`).

    And `shown`, some of them, these first, then large ones: `records` of the group, `leak`, `conflict`, and of some
    `members` `split`, `record`, `source`, `label`.
    """
    labels = {name: labels_of(split) for name, split in dataset.splits.items()}
    leaks = [len({split for split, _ in group}) > 1 for group in groups]
    conflicts = [len({labels[split](row) for split, row in group}) > 1 for group in groups]
    order = sorted(
        range(len(groups)), key=lambda number: (-(leaks[number] + conflicts[number]), -len(groups[number]), number)
    )

    def member(split: str, row: int) -> dict[str, Any]:
        source = dataset.splits[split].packed(FILENAME).path(row)
        return {"split": split, "record": row, "source": source, "label": _plain(labels[split](row))}

    return {
        "groups": len(groups),
        "records": sum(map(len, groups)),
        "leaks": sum(leaks),
        "conflicts": sum(conflicts),
        "shown": [
            {
                "records": len(groups[number]),
                "leak": leaks[number],
                "conflict": conflicts[number],
                "members": [member(*place) for place in _some(groups[number], labels)],
            }
            for number in order[:MOST_GROUPS]
        ],
    }


def _some(group: Places, labels: dict[str, Callable[[int], Any]]) -> Iterable[tuple[str, int]]:
    """A few members, first one of each split and label: those that a flag is about."""
    first: dict[Any, tuple[str, int]] = {}
    for split, row in group:
        first.setdefault((split, labels[split](row)), (split, row))
    chosen = [*first.values(), *(place for place in group if place not in set(first.values()))]
    return sorted(chosen[:MOST_MEMBERS], key=group.index)


def _plain(label: Any) -> Any:
    return list(label) if isinstance(label, tuple) else label
