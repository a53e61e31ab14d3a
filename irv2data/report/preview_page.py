"""The page of a preview (`irv2data.preview`): its facts as text, tables, charts and pictures, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from irv2data.convert.transcode import DONE
from irv2data.report import preview_charts as charts
from irv2data.report.page import markup, render

MARK = "irv2data preview"  # what a page of ours says in its head
_ENDS = 10  # classes of a long list that are told from either end
_SKEWED = 10  # times the smallest class, from which the largest is worth a word
_FORMATS = {
    "baseline": "baseline JPEG",
    "progressive": "progressive JPEG",
    "png": "PNG",
    "webp": "WebP",
    "webp_alpha": "WebP with transparency",
    "avif": "AVIF",
}


def preview_page(
    facts: Mapping[str, Any],
    *,
    sheets: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Mapping[Any, str]],
    looked: bool,
) -> str:
    """HTML of the facts.

    Args:
        facts: As `irv2data.preview.run.preview` returns them.
        sheets: Of `irv2data.preview.sheets.sheet_facts`.
        pictures: Data URIs: `members` by split and record, `rejects` by path.
        looked: Whether pictures of rejects were looked for.

    Raises:
        UsageError: Jinja2 or matplotlib is not installed.
    """
    return render(
        "preview.html.j2",
        mark=MARK,
        facts=facts,
        sheets=sheets,
        pictures=pictures,
        looked=looked,
        findings=findings(facts),
        done=DONE,
        formats=_FORMATS,
        classes=_class_rows(facts["labels"]["classes"]),
        label_text=label_text,
        label_name={"class": "class", "classes": "classes", "number": "number", "none": "label"}[
            facts["labels"]["kind"]
        ],
        size_text=size_text,
        number=_number,
        charts=markup(_charts(facts)),
    )


def findings(facts: Mapping[str, Any]) -> list[str]:
    """What deserves a look, in plain words; one sentence each."""
    found = []
    counts, duplicates = facts["counts"], facts["duplicates"]
    empty = [name for name, split in counts["splits"].items() if not split["records"]]
    if empty:
        found.append(f"No records: {', '.join(empty)}.")
    if counts["rejected"]:
        share = counts["rejected"] / counts["sources"]
        found.append(f"{_number(counts['rejected'], 'source')} rejected, {share:.2%} of all.")
    skew = facts["labels"]["classes"] and facts["labels"]["classes"]["skew"]
    if skew and skew["empty"] and counts["records"]:
        found.append(f"{_number(skew['empty'], 'class', 'classes')} without a record.")
    if skew and skew["ratio"] and skew["ratio"] >= _SKEWED:
        found.append(f"The largest class has {skew['ratio']:,.0f} times the records of the smallest.")
    for kind, word in (("exact", "the same content"), ("near", "images that look alike")):
        told = duplicates[kind]
        if told and told["leaks"]:
            found.append(f"{_number(told['leaks'], 'group')} of {word} in several splits.")
        if told and told["conflicts"]:
            found.append(f"{_number(told['conflicts'], 'group')} of {word} with different labels.")
    damaged = max(facts["quality"]["damaged"], (duplicates["near"] or {"damaged": 0})["damaged"])
    if damaged:
        found.append(f"{_number(damaged, 'record')} damaged; `irv2data verify --deep` says which.")
    progressive = facts["bytes"]["formats"].get("progressive", 0) if facts["bytes"] else 0
    if progressive:
        found.append(f"{_number(progressive, 'progressive JPEG')}, which decode several times slower than baseline.")
    return found


def label_text(label: Any) -> str:
    """A label as text; of no classes, and without a label, nothing."""
    if isinstance(label, list):
        return ", ".join(label)
    return "" if label is None else f"{label:g}" if isinstance(label, float) else str(label)


def size_text(size: float) -> str:
    """A number of bytes, for people."""
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size:,.0f} bytes"


def _number(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _class_rows(classes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The table of classes: `rows` (name, records of each split, of all), the largest first; how many are `left`."""
    if classes is None:
        return None
    counts = [np.asarray(each) for each in classes["counts"].values()]
    every = np.stack(counts).sum(axis=0)
    order = np.argsort(-every, kind="stable").tolist() if len(classes["names"]) else []
    left = max(0, len(order) - 2 * _ENDS) if len(order) > charts.MOST_BARS else 0
    told = order[:_ENDS] + order[_ENDS + left :]
    rows = [
        {"name": classes["names"][row], "counts": [int(each[row]) for each in counts], "all": int(every[row])}
        for row in told
    ]
    return {"rows": rows, "left": left, "before": _ENDS}


def _charts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Every chart by name; empty where there is nothing to draw."""
    made = dict.fromkeys(("classes", "labels_of_a_record", "numbers", "sizes", "aspects", "decoded"), "")
    made |= dict.fromkeys(("bytes", "quality"), "")
    labels = facts["labels"]
    if labels["classes"] and labels["classes"]["names"]:
        made["classes"] = charts.class_bars(labels["classes"]["names"], labels["classes"]["counts"])
    if labels["labels_of_a_record"]:
        counts = labels["labels_of_a_record"]["counts"]
        names = [*map(str, range(len(counts) - 1)), f"{len(counts) - 1}+"]
        made["labels_of_a_record"] = charts.bars_of(counts, names, label="classes of a record", unit="classes")
    if labels["numbers"] and labels["numbers"]["least"] is not None:
        numbers = labels["numbers"]
        made["numbers"] = charts.histogram(
            numbers["edges"], numbers["counts"], label="numbers that are labels", unit="label"
        )
    buckets = facts["buckets"]
    canvases = buckets["fits"][buckets["fit"]]["canvases"] if buckets else []
    if facts["sizes"]:
        made["sizes"] = charts.sizes(facts["sizes"]["cloud"], canvases, "heights over widths of the stored images")
        made["aspects"] = charts.aspects(facts["sizes"]["aspects"], canvases)
    if buckets:
        made["decoded"] = charts.sizes(buckets["decoded"], canvases, "heights over widths of what is decoded")
    if facts["bytes"]:
        kib = np.array(facts["bytes"]["edges"]) / 1024
        made["bytes"] = charts.histogram(
            kib.tolist(), {"": facts["bytes"]["counts"]}, label="KiB of a record", unit="KiB of a record", log=True
        )
    quality = facts["quality"]
    if sum(quality["counts"]):
        lowest = int(np.flatnonzero(quality["counts"])[0])
        edges = (np.arange(lowest, len(quality["counts"]) + 1) - 0.5).tolist()
        made["quality"] = charts.histogram(
            edges, {"": quality["counts"][lowest:]}, label="estimated JPEG quality", unit="estimated quality of a JPEG"
        )
    return made
