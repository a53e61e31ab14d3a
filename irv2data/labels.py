"""What a label can be. The kind belongs to the dataset, not to the record, and is written in its manifest."""

from __future__ import annotations

CLASS = "class"  # one class: int, an index into the dataset's class list
CLASSES = "classes"  # any number of classes, also none: a tuple of such ints, ascending
NUMBER = "number"  # a number to predict: float
NONE = "none"  # unlabelled: None
KINDS = (CLASS, CLASSES, NUMBER, NONE)

Label = int | tuple[int, ...] | float | None


def difference(was: list[str], now: list[str]) -> str:
    """What is different about a class list: `lacks a, b and adds c`; at most three names each."""
    gone, new = sorted(set(was) - set(now)), sorted(set(now) - set(was))
    parts = [f"{word} {', '.join(names[:3])}" for word, names in (("lacks", gone), ("adds", new)) if names]
    return " and ".join(parts) or "has them in another order"
