"""Canvas shapes: few, static, and chosen so that padding is least; and how records are grouped onto them."""

from __future__ import annotations

import math

import numpy as np

GRID = 16  # canvas heights are multiples of it


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


def group(sizes: np.ndarray, canvases: tuple[tuple[int, int], ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups a window of whole batches by canvas; what a canvas has left over moves to the next larger one.

    Args:
        sizes: int [batches * batch, 2], what each record needs, in the window's order.
        canvases: Shapes from small to large; the largest holds every size.
        batch: Records a batch.

    Returns:
        order: int64 [batches, batch], positions in the window, each exactly once.
        canvas: int64 [batches], which canvas each batch uses.
    """
    fits = np.stack([(sizes[:, 0] <= height) & (sizes[:, 1] <= width) for height, width in canvases], axis=1)
    bucket = fits.argmax(axis=1)
    rows, used = [], []
    left = np.zeros(0, np.int64)
    for number in range(len(canvases)):
        # Sorting keeps the window's order within the canvas, with those moved up in their places.
        waiting = np.sort(np.concatenate([left, np.flatnonzero(bucket == number)]))
        whole = len(waiting) // batch * batch
        # Those left over are of the canvas's own records or smaller ones, spread by the order, so none is starved.
        rows.append(waiting[:whole].reshape(-1, batch))
        used += [number] * (whole // batch)
        left = waiting[whole:]
    return np.concatenate(rows), np.array(used, np.int64)
