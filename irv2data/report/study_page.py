"""The page of a study (`irv2data.study`): its figures as text, tables and charts, in one file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from irv2data.report.page import COLOURS, INK, LINE, MARKS, SOFT, figure, markup, render, svg


def study_page(report: Mapping[str, Any], *, seen: Sequence[Mapping[str, Any]], not_pretrained: str) -> str:
    """HTML of a report.

    Args:
        report: As `irv2data.study.study` returns it.
        seen: Pictures of each fit, of `irv2data.study.examples`.
        not_pretrained: What to say on top where the weights were random.

    Raises:
        UsageError: Jinja2 or matplotlib is not installed.
    """
    return render(
        "study.html.j2",
        report=report,
        size=" x ".join(str(side) for side in report["config"]["image_size"]) + " pixels",
        not_pretrained=not_pretrained,
        seen=seen,
        behind=_behind(report["verdict"]),
        speed=_speed,
        charts=markup(_charts(report)),
    )


def _behind(verdict: Mapping[str, Any]) -> dict[str, str]:
    """The difference of each arm to the best, in points."""
    text = {
        name: f"{100 * each['mean']:.1f} ({100 * each['low']:.1f} to {100 * each['high']:.1f})"
        for name, each in verdict["over"].items()
    }
    return text | {verdict["best"]: "-"}


def _speed(rate: Mapping[str, float] | None) -> str:
    return f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})" if rate else "-"


def _charts(report: Mapping[str, Any]) -> dict[str, str]:
    arms = report["arms"]
    timed = [arm for arm in arms if arm["images_per_second"]]
    return {
        "accuracy": _dots(
            [arm["name"] for arm in arms],
            [100 * np.array(arm["repeats"]) for arm in arms],
            label="accuracy, %",
            chance=100 * report["chance"],
        ),
        "speed": _ranges(timed) if timed else "",
        "by_size": _lines(arms, "by_size"),
        "by_aspect": _lines(arms, "by_aspect"),
        "fits": _cosines(report["movement"]["fits"], "fits"),
        "resizers": _cosines(report["movement"]["resizers"], "resizers"),
    }


def _dots(names: list[str], values: list[np.ndarray], *, label: str, chance: float) -> str:
    drawn, axes = figure(8.6, 0.9 + 0.36 * len(names))
    for row, each in enumerate(values):
        axes.plot(each, np.full(len(each), row), "o", color=COLOURS[0], alpha=0.45, markersize=6, markeredgewidth=0)
        axes.plot([each.mean()], [row], "|", color=INK, markersize=16, markeredgewidth=2)
    axes.axvline(chance, color=SOFT, linestyle=":", linewidth=1.2)
    axes.annotate("most frequent class", (chance, -0.75), color=SOFT, fontsize=8, annotation_clip=False)
    return _finished(drawn, axes, names, label)


def _ranges(arms: list[Mapping[str, Any]]) -> str:
    drawn, axes = figure(8.6, 0.9 + 0.36 * len(arms))
    for row, arm in enumerate(arms):
        rate = arm["images_per_second"]
        axes.plot([rate["low"], rate["high"]], [row, row], color=COLOURS[0], alpha=0.45, linewidth=4)
        axes.plot([rate["median"]], [row], "o", color=COLOURS[0], markersize=7)
    axes.set_xlim(left=0)
    return _finished(drawn, axes, [arm["name"] for arm in arms], "images per second")


def _finished(drawn: Any, axes: Any, names: list[str], label: str) -> str:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.9)
    axes.set_xlabel(label)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    return svg(drawn, label)


def _lines(arms: list[Mapping[str, Any]], by: str) -> str:
    drawn, axes = figure(5.6, 4.2)
    kinds = [f"{each['name']}\n{each['images']:,} images" for each in arms[0][by]]
    places = np.arange(len(kinds))
    # Side by side, so that equal values do not hide each other.
    shifts = np.linspace(-0.18, 0.18, len(arms))
    for number, arm in enumerate(arms):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        values = [100 * each["accuracy"] for each in arm[by]]
        axes.plot(places + shifts[number], values, mark, color=colour, label=arm["name"], markersize=6)
        axes.plot(places + shifts[number], values, color=colour, alpha=0.3, linewidth=1)
    axes.set_xticks(places, kinds, fontsize=8)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    drawn.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return svg(drawn, f"accuracy {by.replace('_', ' ')}")


def _cosines(moved: Mapping[str, Any], name: str) -> str:
    names, mean, low = moved["names"], np.array(moved["mean"]), np.array(moved["low"])
    side = 1.4 + 0.72 * len(names)
    drawn, axes = figure(side + 0.8, side)
    axes.imshow(mean, cmap="Blues_r", vmin=min(0.5, float(mean.min())), vmax=1.0)
    middle = (min(0.5, float(mean.min())) + 1) / 2
    for row in range(len(names)):
        for column in range(len(names)):
            if row == column:
                continue
            colour = "white" if mean[row, column] < middle else INK
            axes.text(column, row - 0.1, f"{mean[row, column]:.3f}", ha="center", va="center", color=colour, fontsize=8)
            axes.text(column, row + 0.22, f"{low[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=6)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(length=0)
    return svg(drawn, f"cosines between {name}")
