"""Elements in their order, each exactly once, from a source that promises neither. No I/O, no TensorFlow, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

_Element = TypeVar("_Element")


def in_order(
    receive: Callable[[], tuple[int, _Element] | None],
    total: int,
    make: Callable[[int], _Element],
    *,
    most: int,
    limit: int,
) -> Iterator[_Element]:
    """The elements at positions 0 to `total` - 1.

    One that does not come is made here: as soon as `most` later ones are held back for it, or nothing else comes. So
    nobody has to know whether it was lost or is late. What comes after all is dropped, and from then on twice as many
    are held back: how far elements overtake each other depends on how many make them, and grows with that.

    Args:
        receive: The next position and element, in any order and any number of times; None where nothing has come for a
            while, or will.
        total: How many elements there are.
        make: Makes the element at a position.
        most: Elements held back at first, 1 or more.
        limit: Elements held back at most, `most` or more.
    """
    held: dict[int, _Element] = {}
    made: set[int] = set()
    for position in range(total):
        while position not in held:
            came = receive() if len(held) < most else None
            if came is None:
                held[position] = make(position)
                made.add(position)
            elif came[0] >= position:
                held[came[0]] = came[1]
            elif came[0] in made:
                made.remove(came[0])
                most = min(2 * most, limit)
        yield held.pop(position)
