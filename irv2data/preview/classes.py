"""How labels are spread: records a class and split, how skewed that is, or the distribution of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from irv2data.index import END, LABEL
from irv2data.labels import CLASS, CLASSES, NUMBER
from irv2data.manifest import Dataset, Split

_BINS = 40
_MOST_LABELS = 10  # of a record, told apart


def label_facts(dataset: Dataset) -> dict[str, Any]:
    """What the labels are like.

    Returns:
        `kind`, of `irv2data.labels.KINDS`, and the one of these that belongs to it, the others None: `classes`
        (`class` and `classes`): `names`, `counts` (split to records of each class), `skew` of all splits together;
        `labels_of_a_record` (`classes`): `counts[n]` of the records with n labels, the last one with so many or more;
        `numbers` (`number`): see `number_facts`.
    """
    kind, splits = dataset.contents.labels, dataset.splits
    labelled = kind in (CLASS, CLASSES)
    counts = {name: _counts(split, len(dataset.classes)) for name, split in splits.items()} if labelled else {}
    return {
        "kind": kind,
        "classes": {
            "names": list(dataset.classes),
            "counts": {name: count.tolist() for name, count in counts.items()},
            "skew": skew(np.stack(list(counts.values())).sum(axis=0)),
        }
        if labelled
        else None,
        "labels_of_a_record": {
            "counts": np.sum([_labels_of_a_record(split) for split in splits.values()], axis=0).tolist()
        }
        if kind == CLASSES
        else None,
        "numbers": number_facts({name: np.asarray(split.array(LABEL)) for name, split in splits.items()})
        if kind == NUMBER
        else None,
    }


def skew(counts: np.ndarray) -> dict[str, Any]:
    """How unequal the classes are.

    Args:
        counts: int [C], records of each class; C may be 0.

    Returns:
        `ratio`, records of the largest class over those of the smallest that has any (None without records);
        `effective`, how many classes of equal size would be as hard to guess: 2 to the entropy in bits (0.0 without
        records); `largest` and `smallest`, numbers of these classes; `empty`, how many classes have no record.
    """
    there = np.flatnonzero(counts)
    if not len(there):
        return {"ratio": None, "effective": 0.0, "largest": None, "smallest": None, "empty": len(counts)}
    share = counts[there] / counts.sum()
    largest, smallest = there[counts[there].argmax()], there[counts[there].argmin()]
    return {
        "ratio": float(counts[largest] / counts[smallest]),
        "effective": float(2 ** -(share * np.log2(share)).sum()),
        "largest": int(largest),
        "smallest": int(smallest),
        "empty": len(counts) - len(there),
    }


def number_facts(numbers: dict[str, np.ndarray]) -> dict[str, Any]:
    """Numbers as labels.

    Args:
        numbers: Split to float32 [N].

    Returns:
        Of all that are finite `least`, `median`, `most`, `mean` and `deviation` (None without any); `edges` of bins and
        split to `counts` in them; `not_finite`, how many are infinite or no number.
    """
    finite = {name: values[np.isfinite(values)].astype(np.float64) for name, values in numbers.items()}
    every = np.concatenate([*finite.values(), np.zeros(0)])
    edges = np.histogram_bin_edges(every, bins=_BINS)
    return {
        "least": float(every.min()) if len(every) else None,
        "median": float(np.median(every)) if len(every) else None,
        "most": float(every.max()) if len(every) else None,
        "mean": float(every.mean()) if len(every) else None,
        "deviation": float(every.std()) if len(every) else None,
        "edges": edges.tolist(),
        "counts": {name: np.histogram(values, edges)[0].tolist() for name, values in finite.items()},
        "not_finite": sum(map(len, numbers.values())) - len(every),
    }


def _counts(split: Split, classes: int) -> np.ndarray:
    return np.bincount(split.array(LABEL), minlength=classes)


def _labels_of_a_record(split: Split) -> np.ndarray:
    number = np.diff(split.array(LABEL + END), prepend=0)
    return np.bincount(np.minimum(number, _MOST_LABELS), minlength=_MOST_LABELS + 1)
