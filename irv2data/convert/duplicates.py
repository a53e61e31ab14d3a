"""Which sources have the same content, as lines for `duplicates.jsonl`: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


def duplicate_lines(
    first: np.ndarray,
    usable: np.ndarray,
    dropped: np.ndarray,
    *,
    digest: Callable[[int], str],
    path: Callable[[int], str],
    label: Callable[[int], Any],
    earlier: Mapping[str, Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """One line for each content that several sources have.

    Args:
        first: int64 [N], first source with the same content (`layout.first_of_content`).
        usable: bool [N].
        dropped: bool [N], sources that are left out.
        digest: Hexadecimal SHA-256 of a row's content.
        path: Path of a row.
        label: What a row's label says, JSON-able.
        earlier: Lines of earlier conversions into the same dataset, by digest; merged with.

    Yields:
        `sha256`, `files` (paths, in order), `labels` (one for each file), `conflict` (the labels differ) and
        `dropped` (the paths that are left out).
    """
    counts = np.bincount(first[usable], minlength=len(first))
    members = np.flatnonzero(usable & (counts[first] > 1))
    members = members[np.argsort(first[members], kind="stable")]
    remaining = dict(earlier)
    for group in np.split(members, np.flatnonzero(np.diff(first[members])) + 1):
        if not len(group):
            continue
        rows = group.tolist()
        old = remaining.pop(digest(rows[0]), {"files": [], "labels": [], "dropped": []})
        files = [path(row) for row in rows]
        labels = [label(row) for row in rows]
        # A file that an earlier run left out is no record, and may not have been offered again.
        gone = [place for place, name in enumerate(old["files"]) if name not in files]
        files += [old["files"][place] for place in gone]
        labels += [old["labels"][place] for place in gone]
        yield {
            "sha256": digest(rows[0]),
            "files": files,
            "labels": labels,
            "conflict": any(value != labels[0] for value in labels),
            "dropped": [
                *(path(row) for row in rows if dropped[row]),
                *(name for name in old["dropped"] if name not in files[: len(rows)]),
            ],
        }
    yield from (dict(line) for line in remaining.values())
