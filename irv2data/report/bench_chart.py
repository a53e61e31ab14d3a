"""The picture of a benchmark: what `irv2data bench --plot` draws."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from irv2data.errors import UsageError
from irv2data.report.page import COLOURS, INK, LINE, SOFT, require_report

_SUFFIXES = (".svg", ".png", ".pdf")
_WIDTH, _DPI = 9.0, 150


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises a `UsageError` where no picture can be drawn to a path, before minutes go into measuring."""
    require_report()
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"plot: {path} must end in one of {', '.join(_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"plot: {path.absolute().parent} is no folder")


def draw(report: Mapping[str, Any], path: str | os.PathLike[str], *, other: str = "") -> None:
    """Draws a report of `irv2data.measure.bench.measure`: a panel for each list that it has.

    Args:
        report: The report.
        path: A file that `check_path` accepts.
        other: What the compared pipeline is called.
    """
    from matplotlib.figure import Figure

    panels: list[tuple[float, Callable[[Any], None]]] = [(1.5, lambda axes: _whole(axes, report, other))]
    if "stages" in report:
        stages = report["stages"]
        panels.append((0.6 + 0.32 * len(stages), lambda axes: _stages(axes, stages)))
    if "cores" in report:
        panels.append((2.6, lambda axes: _cores(axes, report["cores"])))
    if report["memory"]:
        panels.append((1.8, lambda axes: _memory(axes, report["memory"])))
    heights = [height + 0.7 for height, _ in panels]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
    config = report["config"]
    size = "x".join(map(str, config["image_size"]))
    figure.suptitle(
        f"{config['fit']} to {size}, batch {config['batch_size']}, {config['cores']} cores, {report['rounds']} rounds",
        color=INK,
        fontsize=11,
    )
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (_, paint) in zip(grid, panels, strict=True):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(LINE)
        axes.tick_params(colors=INK, length=0)
        axes.set_axisbelow(True)
        paint(axes)
    figure.savefig(path, dpi=_DPI, facecolor="white")


def _whole(axes: Any, report: Mapping[str, Any], other: str) -> None:
    rows = [("batches", report["images_per_second"], 0), ("finished images", report["finished_images_per_second"], 0)]
    if compare := report.get("compare"):
        rows += [
            (f"batches, {other}", compare["host"]["other"], 1),
            (f"finished images, {other}", compare["finished"]["other"], 1),
        ]
    _ranges(axes, rows)
    axes.set_title("The whole pipeline", loc="left", fontsize=10, color=INK)


def _stages(axes: Any, stages: Sequence[Mapping[str, Any]]) -> None:
    _ranges(axes, [(f"up to {each['name']}", each["images_per_second"], 0) for each in stages], log=True)
    for row, each in enumerate(stages):
        text = f" {each['share']:.0%} of the time"
        axes.annotate(
            text, (each["images_per_second"]["high"], row), color=SOFT, fontsize=8, va="center", xytext=(4, 0),
            textcoords="offset points", annotation_clip=False,
        )  # fmt: skip
    axes.set_title("What it would deliver if it ended there", loc="left", fontsize=10, color=INK)


def _ranges(axes: Any, rows: Sequence[tuple[str, Mapping[str, float], int]], *, log: bool = False) -> None:
    for row, (_, rate, colour) in enumerate(rows):
        axes.plot([rate["low"], rate["high"]], [row, row], color=COLOURS[colour], alpha=0.4, linewidth=5)
        axes.plot([rate["median"]], [row], "o", color=COLOURS[colour], markersize=7)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if log:  # stages differ by a thousand
        axes.set_xscale("log")
        axes.set_xlim(0.8 * min(rate["low"] for _, rate, _ in rows), 1.25 * max(rate["high"] for _, rate, _ in rows))
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel("images per second", color=SOFT)
    axes.grid(axis="x", color=LINE, linewidth=0.8)


def _cores(axes: Any, cores: Sequence[Mapping[str, Any]]) -> None:
    counts = [each["cores"] for each in cores]
    rates = [each["images_per_second"] for each in cores]
    middle = [rate["median"] for rate in rates]
    axes.plot([0, counts[-1]], [0, middle[0] / counts[0] * counts[-1]], ":", color=SOFT, label="in proportion")
    axes.fill_between(counts, [r["low"] for r in rates], [r["high"] for r in rates], color=COLOURS[0], alpha=0.2)
    axes.plot(counts, middle, "o-", color=COLOURS[0], label="measured")
    axes.set_xticks(counts)
    axes.set_xlim(0, counts[-1] * 1.05)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cores", color=SOFT)
    axes.set_ylabel("images per second", color=SOFT)
    axes.grid(color=LINE, linewidth=0.8)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("By cores", loc="left", fontsize=10, color=INK)


def _memory(axes: Any, memory: Sequence[tuple[float, float]]) -> None:
    axes.plot([second for second, _ in memory], [size for _, size in memory], color=COLOURS[0])
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds", color=SOFT)
    axes.set_ylabel("MiB", color=SOFT)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_title("Memory of the process", loc="left", fontsize=10, color=INK)
