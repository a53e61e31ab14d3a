"""Canvas shapes: few, static, and chosen so that padding is least; and how records are grouped onto them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

GRID = 16  # canvas heights are multiples of it
_SIDES = 32  # heights, and widths, that `choose_shapes` tries


def canvas_of_level(level: int, output: tuple[int, int]) -> tuple[int, int]:
    """The canvas of a level: `level * GRID` high, of the output's aspect, its width rounded up to the grid."""
    height = level * GRID
    return height, math.ceil(height * output[1] / output[0] / GRID) * GRID


def level_of(size: np.ndarray, output: tuple[int, int]) -> np.ndarray:
    """The smallest level whose canvas holds each size: int64 [N] of int [N, 2]."""
    by_height = -(-size[:, 0] // GRID)
    by_width = np.ceil((-(-size[:, 1] // GRID) - 1) * GRID * output[0] / output[1] / GRID)
    level = np.maximum(by_height, np.maximum(by_width, 1)).astype(np.int64)
    # The width is rounded up to the grid, so the formula above is a lower bound, at most one level short.
    widths = np.ceil(level * GRID * output[1] / output[0] / GRID) * GRID
    return level + (widths < size[:, 1])


def choose_canvases(
    sizes: np.ndarray, output: tuple[int, int], count: int, least_largest: int
) -> tuple[tuple[int, int], ...]:
    """The ladder of at most `count` canvases that pads the given sizes least.

    All canvases share the output's aspect, so they are nested and one number (the level) orders them; which levels to
    take is then the classic one-dimensional partition, solved exactly by dynamic programming.

    Args:
        sizes: int [N, 2], heights and widths to hold, N >= 1.
        output: Height and width of the finished images.
        count: Most canvases to use.
        least_largest: The largest canvas has at least this level.

    Returns:
        Canvas shapes (height, width), from small to large.
    """
    levels = level_of(sizes, output)
    top = max(int(levels.max()), least_largest)
    counts = np.bincount(levels, minlength=top + 1)
    area = [math.prod(canvas_of_level(level, output)) for level in range(top + 1)]
    below = np.concatenate([[0], np.cumsum(counts)])  # below[l]: sizes of a level under l
    # cost[k][l]: least pixels of all sizes up to level l on k canvases, the largest of which is level l.
    cost = [[float(below[level + 1]) * area[level] for level in range(top + 1)]]
    choice: list[list[int]] = []
    for _ in range(1, min(count, top)):
        row, picks = [], []
        for level in range(top + 1):
            options = [(cost[-1][s] + float(below[level + 1] - below[s + 1]) * area[level], s) for s in range(1, level)]
            best, pick = min(options, default=(math.inf, 0))
            row.append(min(best, cost[-1][level]))
            picks.append(pick if best < cost[-1][level] else -1)  # -1: one canvas fewer does as well
        cost.append(row)
        choice.append(picks)
    chosen, level = [top], top
    for picks in reversed(choice):
        if picks[level] > 0:
            level = picks[level]
            chosen.append(level)
    return tuple(canvas_of_level(level, output) for level in reversed(chosen))


def choose_shapes(sizes: np.ndarray, count: int, largest: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The ladder of at most `count` canvases of any aspect that pads the given sizes about least.

    For images that keep their own shapes: portraits and landscapes on square canvases would be a third padding. To
    choose k shapes of many is a facility location problem; they are added one by one, each where it saves most, and
    then exchanged one by one as long as that helps (Teitz and Bart, 1968).

    Args:
        sizes: int [N, 2], heights and widths to hold, N >= 1.
        count: Most canvases to use.
        largest: int [2], what the largest canvas has to hold.

    Returns:
        Canvas shapes (height, width) by rising area; the last one holds every size.
    """
    cells, counts = np.unique(-(-sizes // GRID), axis=0, return_counts=True)
    top = np.maximum(cells.max(axis=0), -(-largest // GRID))
    heights, widths = (_spread(np.unique(cells[:, axis])) for axis in (0, 1))
    shapes = np.array([(height, width) for height in heights for width in widths])
    # cost[n][s]: pixels (in cells) of size n on shape s.
    cost = np.where((cells[:, None] <= shapes).all(axis=2), shapes.prod(axis=1).astype(float), np.inf)
    on_top = np.full(len(cells), float(top.prod()))

    def saved_beside(others: list[int]) -> np.ndarray:
        """Pixels that each shape would save beside these."""
        least = np.minimum(on_top, cost[:, others].min(axis=1, initial=np.inf))
        return np.asarray(counts @ np.maximum(least[:, None] - cost, 0))

    chosen: list[int] = []
    while len(chosen) < count - 1 and (saved := saved_beside(chosen)).max() > 0:
        chosen.append(int(saved.argmax()))
    exchanged = True
    while exchanged:
        exchanged = False
        for place, shape in enumerate(chosen):
            saved = saved_beside(chosen[:place] + chosen[place + 1 :])
            if saved.max() > saved[shape]:
                chosen[place], exchanged = int(saved.argmax()), True
    for shape in list(chosen):  # what others took everything from
        others = [other for other in chosen if other != shape]
        chosen = others if saved_beside(others)[shape] <= 0 else chosen
    found = {tuple((shapes[shape] * GRID).tolist()) for shape in chosen} | {tuple((top * GRID).tolist())}
    # Of equal areas one would do for `group`, but neither need hold what the other does: both stay.
    return tuple(sorted(found, key=lambda shape: (shape[0] * shape[1], shape)))


def _spread(values: np.ndarray) -> np.ndarray:
    """At most `_SIDES` of some sorted values, the first and the last among them."""
    return values[np.unique(np.linspace(0, len(values) - 1, _SIDES).round().astype(int))]


def smallest(sizes: np.ndarray, shapes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """The first of some shapes that holds each size: int64 [N] of int [N, 2]; the last one holds all."""
    heights, widths = np.array(shapes).T
    return np.asarray(((sizes[:, :1] <= heights) & (sizes[:, 1:] <= widths)).argmax(axis=1))


def group(
    sizes: np.ndarray, canvases: tuple[tuple[int, int], ...], batches: Sequence[int]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Groups a window by canvas; each of those that a canvas has left over moves to the next larger that holds it.

    Args:
        sizes: int [M, 2], what each record needs, in the window's order.
        canvases: Shapes by rising area; the last one holds every size.
        batches: For each canvas, how many records a batch has.

    Returns:
        rows: For each batch, its positions in the window, int64 [B].
        canvas: int64 [number of batches], which canvas each batch uses.
        left: int64 [L], the positions in no batch: fewer than a batch of the last canvas.
    """
    heights, widths = np.array(canvases).T
    fits = (sizes[:, :1] <= heights) & (sizes[:, 1:] <= widths)
    waiting = np.zeros(len(sizes), np.int64)  # the canvas each record waits for
    waiting[:] = fits.argmax(axis=1)
    rows: list[np.ndarray] = []
    used: list[int] = []
    left = np.zeros(0, np.int64)
    for number, batch in enumerate(batches):
        # In the window's order, so that those that moved up stand in their places, spread over the batches.
        here = np.flatnonzero(waiting == number)
        whole = len(here) // batch * batch
        rows += list(here[:whole].reshape(-1, batch))
        used += [number] * (whole // batch)
        left = here[whole:]
        if number + 1 < len(canvases):
            waiting[left] = number + 1 + fits[left, number + 1 :].argmax(axis=1)
    return rows, np.array(used, np.int64), left
