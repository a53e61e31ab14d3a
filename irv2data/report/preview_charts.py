"""The charts of a preview: SVG of the facts of `irv2data.preview`, each of bounded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from irv2data.report.page import COLOURS, INK, LINE, SOFT, figure, shown, svg

MOST_BARS = 40  # classes that have a bar each; of more, their counts by rank
_MOST_RANKS = 500  # points of that line
_LONGEST = 28  # characters of a class name beside its bar
_SIZE = (5.0, 3.8)  # inches


def class_bars(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> str:
    """Records of each class, the largest first, stacked by split; by rank where there are many classes."""
    order = np.argsort(-np.sum([np.asarray(each) for each in counts.values()], axis=0), kind="stable")
    if len(names) > MOST_BARS:
        return _ranks(counts)
    drawn, axes = figure(_SIZE[0], 1.2 + 0.24 * len(names))
    before = np.zeros(len(names))
    for number, (split, each) in enumerate(counts.items()):
        axes.barh(range(len(names)), np.array(each)[order], left=before, color=_colour(number), label=shown(split))
        before = before + np.array(each)[order]
    axes.set_yticks(range(len(names)), [_short(names[row]) for row in order])
    axes.set_ylim(len(names) - 0.4, -0.6)
    return _counted(drawn, axes, "records", "records of each class", len(counts), across=True)


def _ranks(counts: Mapping[str, Sequence[int]]) -> str:
    drawn, axes = figure(*_SIZE)
    for number, (split, each) in enumerate(counts.items()):
        falling = np.sort(each)[::-1]
        some = np.unique(np.linspace(0, len(falling) - 1, _MOST_RANKS).astype(int))
        axes.plot(some + 1, falling[some], color=_colour(number), label=shown(split))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_plain_numbers())
    axes.set_xlabel("classes, the largest of each split first")
    return _counted(drawn, axes, "records", "records of each class by its rank", len(counts))


def bars_of(counts: Sequence[int], names: Sequence[str], *, label: str, unit: str) -> str:
    """A bar for each of a few counts."""
    drawn, axes = figure(_SIZE[0], 2.8)
    axes.bar(range(len(counts)), counts, color=COLOURS[0])
    axes.set_xticks(range(len(names)), list(names))
    axes.set_xlabel(unit)
    return _counted(drawn, axes, "records", label, 1)


def histogram(
    edges: Sequence[float], counts: Mapping[str, Sequence[int]], *, label: str, unit: str, log: bool = False
) -> str:
    """A histogram, stacked where several splits are counted apart."""
    drawn, axes = figure(_SIZE[0], 3.1)
    before = np.zeros(len(edges) - 1)
    for number, (split, each) in enumerate(counts.items()):
        axes.bar(edges[:-1], each, np.diff(edges), before, align="edge", color=_colour(number), label=shown(split))
        before = before + np.array(each)
    if log:
        _log_axis(axes, "x", edges[0], edges[-1])
    axes.set_xlabel(unit)
    return _counted(drawn, axes, "records", label, len(counts))


def sizes(cloud: Mapping[str, Any], canvases: Sequence[Mapping[str, Any]], label: str) -> str:
    """Heights over widths, and the canvases as dashed corners; a point an image, or densities of many."""
    drawn, axes = figure(*_SIZE)
    ladder = [(canvas["height"], canvas["width"]) for canvas in canvases]
    if cloud["points"] is not None:
        points = np.array(cloud["points"])
        axes.plot(points[:, 1], points[:, 0], "o", color=COLOURS[0], alpha=0.4, markersize=4, markeredgewidth=0)
        least, most = points.min(axis=0), points.max(axis=0)
    else:
        from matplotlib.colors import LogNorm

        density = cloud["density"]
        edges = [np.array(density[name]) for name in ("height_edges", "width_edges")]
        counts = np.ma.masked_equal(density["counts"], 0)
        # As pixels: a path for each cell would be a hundred times the bytes.
        mesh = axes.pcolormesh(
            edges[1], edges[0], counts, norm=LogNorm(1, max(2, counts.max())), cmap="YlGnBu", rasterized=True
        )
        bar = drawn.colorbar(mesh, ax=axes, label="images", pad=0.01)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(_plain_numbers())
        bar.ax.minorticks_off()
        least, most = (np.array([edge[place] for edge in edges]) for place in (0, -1))
    most = np.max([most, *ladder], axis=0)
    least = np.min([least, *ladder], axis=0)
    for axis, low, high in (("x", least[1], most[1]), ("y", least[0], most[0])):
        _log_axis(axes, axis, 0.85 * low, 1.3 * high)
    for height, width in ladder:
        axes.plot([0.01, width, width], [height, height, 0.01], "--", color=COLOURS[1], linewidth=1.2)
        axes.annotate(
            f"{height} x {width}",
            (width, height),
            xytext=(2, 2),
            textcoords="offset points",
            color=INK,
            fontsize=7,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
        )
    axes.set_xlabel("width, pixels")
    axes.set_ylabel("height, pixels")
    return svg(drawn, label)


def aspects(facts: Mapping[str, Any], canvases: Sequence[Mapping[str, Any]]) -> str:
    """The histogram of width over height, and the canvases' own as dashed lines."""
    drawn, axes = figure(*_SIZE)
    edges = np.array(facts["edges"])
    axes.bar(edges[:-1], facts["counts"], np.diff(edges), align="edge", color=COLOURS[0])
    for ratio in sorted({canvas["width"] / canvas["height"] for canvas in canvases}):
        axes.axvline(ratio, color=COLOURS[1], linestyle="--", linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1:8", "1:4", "1:2", "1:1", "2:1", "4:1", "8:1"])
    axes.minorticks_off()
    axes.set_xlabel("width : height")
    return _counted(drawn, axes, "images", "aspect ratios", 1)


def _counted(drawn: Any, axes: Any, unit: str, label: str, splits: int, *, across: bool = False) -> str:
    """Ends a chart of counts: whole numbers, a grid, and a legend where there are several splits."""
    (axes.set_xlabel if across else axes.set_ylabel)(unit)
    axes.grid(axis="x" if across else "y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    if splits > 1:
        drawn.legend(loc="outside lower center", ncols=min(splits, 4), frameon=False, fontsize=9, labelcolor=SOFT)
    axis = axes.xaxis if across else axes.yaxis
    axis.get_major_locator().set_params(**({} if axis.get_scale() == "symlog" else {"integer": True}))
    return svg(drawn, label)


def _log_axis(axes: Any, axis: str, low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}lim")(low, high)
    ticks = axes.xaxis if axis == "x" else axes.yaxis
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(_plain_numbers())


def _plain_numbers() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:,.10g}")


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _short(name: str) -> str:
    text = shown(name)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
