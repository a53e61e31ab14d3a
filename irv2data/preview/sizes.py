"""How large images are, of which shapes, and what that means for the pipeline's buckets."""

from __future__ import annotations

from typing import Any

import numpy as np

from irv2data.manifest import Dataset, Split
from irv2data.pipeline.config import FITS
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.planned import FILLER
from irv2data.pipeline.summary import describe
from irv2data.preview.config import PreviewConfig

MOST_POINTS = 1000  # of a scatter; of more, densities are shown, so that a page is as small as its charts
_CELLS = 48  # of a density, either way
_WIDEST = 8.0  # aspect at which the last bins of the histogram end; beyond it, images are counted in them
_WINDOWS = 16  # of an epoch that buckets are told by


def size_facts(dataset: Dataset) -> dict[str, Any] | None:
    """The sizes of all images of all splits; None without records.

    Returns:
        `height` and `width` in pixels: `least`, `median`, `most`; `cloud` of them (see `cloud`); `aspects`, width over
        height: `edges` of bins (the first and the last hold what lies beyond, too), `counts`, `tallest`, `widest`,
        and how many images are `landscape`, `portrait` and `square`.
    """
    height, width = (
        np.concatenate([split.array(name) for split in dataset.splits.values()]).astype(np.int64)
        for name in ("height", "width")
    )
    if not len(height):
        return None
    aspect = width / height
    edges = 2.0 ** np.linspace(-np.log2(_WIDEST), np.log2(_WIDEST), 49)
    return {
        "height": _range(height),
        "width": _range(width),
        "cloud": cloud(height, width),
        "aspects": {
            "edges": edges.tolist(),
            "counts": np.histogram(np.clip(aspect, edges[0], edges[-1]), edges)[0].tolist(),
            "tallest": float(aspect.min()),
            "widest": float(aspect.max()),
            "landscape": int((aspect > 1).sum()),
            "portrait": int((aspect < 1).sum()),
            "square": int((aspect == 1).sum()),
        },
    }


def cloud(height: np.ndarray, width: np.ndarray) -> dict[str, Any]:
    """Sizes as a chart can show them.

    Args:
        height: int [N], N >= 1, in pixels.
        width: int [N], in pixels.

    Returns:
        `points`, (height, width) of each, if they are few; else None, and `density`: `height_edges`, `width_edges`
        (equal steps of their logarithms, between whole pixels) and `counts` [heights, widths].
    """
    if len(height) <= MOST_POINTS:
        return {"points": np.stack([height, width], axis=1).tolist(), "density": None}
    height_edges, width_edges = (
        np.unique(np.rint(np.geomspace(side.min(), side.max() + 1, _CELLS + 1))) - 0.5 for side in (height, width)
    )
    counts = np.histogram2d(height, width, (height_edges, width_edges))[0].astype(np.int64)
    return {
        "points": None,
        "density": {
            "height_edges": height_edges.tolist(),
            "width_edges": width_edges.tolist(),
            "counts": counts.tolist(),
        },
    }


def bucket_facts(split: Split, config: PreviewConfig) -> dict[str, Any]:
    """What the pipeline makes of the sizes of a split that has records.

    Returns:
        `split`, `fit`, and `fits`: from each fit to what `irv2data.pipeline.summary.describe` tells of its first epoch;
        `decoded`, the `cloud` of what is put onto canvases for `fit`.
    """
    fits = {}
    decoded: dict[str, Any] = {}
    for fit in FITS:
        plan = Plan(split, config.pipeline(fit, records=split.num_records))
        fits[fit] = describe(plan, windows=_WINDOWS)
        if fit == config.fit:
            decoded = _decoded(plan)
    return {"split": split.name, "fit": config.fit, "fits": fits, "decoded": decoded}


def _decoded(plan: Plan) -> dict[str, Any]:
    sizes = []
    for window in np.unique(np.linspace(0, plan.windows_per_epoch() - 1, _WINDOWS).astype(int)).tolist():
        batches = plan.window(0, window)
        there = (np.arange(batches.record.shape[1]) < batches.rows[:, None]) & (batches.record != FILLER)
        sizes.append(batches.size[there])
    height, width = np.concatenate(sizes).T
    return cloud(height, width)


def _range(values: np.ndarray) -> dict[str, Any]:
    return {"least": int(values.min()), "median": float(np.median(values)), "most": int(values.max())}
