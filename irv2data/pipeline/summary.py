"""What an epoch will be like, from the index alone: steps, canvases, padding, bytes, and the skew of its batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from irv2data.index import FLOAT, INT
from irv2data.labels import CLASS, CLASSES, NUMBER
from irv2data.pipeline.config import LETTERBOX, NATIVE
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.planned import FILLER

_BOX = 16  # bytes


def describe(plan: Plan, epoch: int = 0, windows: int = 64) -> dict[str, Any]:
    """An epoch before it is read.

    Args:
        plan: The plan.
        epoch: Which epoch.
        windows: Of at most so many windows, spread over the epoch, all but `steps` are counted.

    Returns:
        JSON-able: `steps`, exact; `records` of the split; `sampled_steps`, of which the rest is told; `canvases`, for
        each of the ladder `height`, `width`, `batch_size`, `steps`, `images` and its own `padding_waste`;
        `distinct_shapes` that a step meets; `padding_waste`, the share of canvas pixels that is padding (0 of a canvas
        without a step); `filler`, rows that stand for no image;
        `bytes_per_step` and `bytes_per_image` that go to the devices where they resize, `host_bytes_per_image` where
        the host does; `class_entropy` in bits within a batch, its mean: `bucketed`, and `unbucketed` for the same
        records in their order without regard to size (None where a label is not one class); `cache_bytes` that kept
        images take, 0 without a cache.
    """
    every = np.unique(np.linspace(0, plan.windows_per_epoch() - 1, windows).astype(int))
    number = {shape: row for row, shape in enumerate(plan.shapes)}
    sizes = plan.batch_sizes if plan.shapes == plan.canvases else (plan.config.batch_size,) * len(number)
    steps, images = np.zeros(len(number), int), np.zeros(len(number), int)
    valid, total = np.zeros(len(number), np.int64), np.zeros(len(number), np.int64)  # pixels of each canvas
    filler = 0
    shapes: set[tuple[int, ...]] = set()
    bucketed: list[float] = []
    unbucketed: list[float] = []
    for window in every.tolist():
        batches = plan.window(epoch, window)
        there = (np.arange(batches.record.shape[1]) < batches.rows[:, None]) & (batches.record != FILLER)
        canvas = np.array([number[height, width] for height, width in batches.canvas.tolist()], int)
        np.add.at(steps, canvas, 1)
        np.add.at(images, canvas, there.sum(axis=1))
        np.add.at(valid, canvas, (np.prod(batches.size, axis=-1, dtype=np.int64) * there).sum(axis=1))
        np.add.at(total, canvas, np.prod(batches.canvas, axis=-1, dtype=np.int64) * batches.rows)
        filler += int(batches.rows.sum() - there.sum())
        shapes |= {(int(rows), *shape) for rows, shape in zip(batches.rows, batches.canvas.tolist(), strict=True)}
        if plan.split.contents.labels == CLASS:
            bucketed += [_entropy(label[here]) for label, here in zip(batches.label, there, strict=True)]
            unbucketed += _without_buckets(plan, epoch, window, batches.rows)
    sampled, beside = int(steps.sum()), _bytes_beside(plan)
    pixels = int(total.sum())
    height, width = plan.config.image_size
    finished = (pixels / max(1, images.sum() + filler)) if plan.config.fit == NATIVE else height * width
    rows = images.sum() + filler
    return {
        "steps": plan.steps_per_epoch(epoch),
        "records": plan.split.num_records,
        "sampled_steps": sampled,
        "canvases": [
            {
                "height": height,
                "width": width,
                "batch_size": size,
                "steps": int(steps[row]),
                "images": int(images[row]),
                "padding_waste": 1 - int(valid[row]) / int(total[row]) if total[row] else 0.0,
            }
            for row, ((height, width), size) in enumerate(zip(plan.shapes, sizes, strict=True))
        ],
        "distinct_shapes": len(shapes),
        "padding_waste": 1 - int(valid.sum()) / pixels if pixels else 0.0,
        "filler": filler,
        "bytes_per_step": (3 * pixels + (beside + _BOX) * int(rows)) / sampled if sampled else 0.0,
        "bytes_per_image": (3 * pixels + (beside + _BOX) * int(rows)) / int(rows) if rows else 0.0,
        "host_bytes_per_image": 12 * finished + beside,
        "class_entropy": {"bucketed": float(np.mean(bucketed)), "unbucketed": float(np.mean(unbucketed))}
        if bucketed
        else None,
        "cache_bytes": 0 if plan.residence is None else plan.residence.num_bytes,
    }


def _bytes_beside(plan: Plan) -> int:
    """Bytes a row of everything but pixels and box; columns of strings stay on the host."""
    contents = plan.split.contents
    label = {CLASSES: 4 * len(contents.classes), NUMBER: 4}.get(contents.labels, 8)
    columns = sum({INT: 8, FLOAT: 4}.get(contents.columns[name], 0) for name in plan.config.columns)
    fitted = 16 if plan.config.fit == LETTERBOX else 0
    return (
        2 * 4 + 1 + 4 * plan.config.output.num_draws + 8 + 4 + label + columns + fitted
    )  # size, flip, draws, record, weight


def _without_buckets(plan: Plan, epoch: int, window: int, rows: np.ndarray) -> list[float]:
    record = plan.records(epoch, window)
    label = np.asarray(plan.split.array("label")[np.maximum(record, 0)])
    ends = np.cumsum(rows)
    return [
        _entropy(part[real])
        for part, real in zip(np.split(label, ends[:-1]), np.split(record != FILLER, ends[:-1]), strict=True)
    ]


def _entropy(label: np.ndarray) -> float:
    """Of the classes among some labels, in bits."""
    share = np.unique(label, return_counts=True)[1] / max(1, len(label))
    return float(-(share * np.log2(share)).sum())
