"""`irv2data info DATASET`: what a dataset folder holds."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from irv2data.errors import EXIT_DONE
from irv2data.manifest import FORMAT_NAMES, Dataset, Split

from .common import add_json, mib, print_json, printable, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    dataset = Dataset(arguments.dataset)
    splits = {name: describe(split, len(dataset.classes)) for name, split in dataset.splits.items()}
    if arguments.json:
        content = {
            "dataset": str(dataset.folder),
            "fingerprint": dataset.fingerprint,
            "classes": list(dataset.classes),
            "splits": splits,
            "source": dataset.source,
        }
        print_json(content)
    else:
        print(_text(dataset, splits))
    return EXIT_DONE


def describe(split: Split, classes: int) -> dict[str, Any]:
    """Counts of one split: records, shards, bytes, records a class and a format, and the sizes in pixels."""
    formats = np.bincount(split.column("format"), minlength=len(FORMAT_NAMES))
    labels = np.bincount(split.column("label"), minlength=classes)
    return {
        "records": split.num_records,
        "shards": len(split.shards),
        "bytes": split.num_bytes,
        "formats": dict(zip(FORMAT_NAMES, formats.tolist(), strict=True)),
        "labels": labels.tolist(),
        "height": _range(split.column("height")),
        "width": _range(split.column("width")),
    }


def _range(column: np.ndarray) -> dict[str, int] | None:
    if not len(column):
        return None
    return {"least": int(column.min()), "median": int(np.median(column)), "most": int(column.max())}


def _text(dataset: Dataset, splits: dict[str, dict[str, Any]]) -> str:
    def pixels(size: dict[str, int] | None) -> str:
        return "" if size is None else f"{size['least']}-{size['median']}-{size['most']}"

    head = ("split", "records", "shards", "size", *FORMAT_NAMES, "height", "width")
    rows = [
        (
            name,
            f"{s['records']:,}",
            f"{s['shards']:,}",
            mib(s["bytes"]),
            *(f"{s['formats'][kind]:,}" for kind in FORMAT_NAMES),
            pixels(s["height"]),
            pixels(s["width"]),
        )
        for name, s in splits.items()
    ]
    per_class = [
        (printable(text), *(f"{s['labels'][label]:,}" for s in splits.values()))
        for label, text in enumerate(dataset.classes[:50])
    ]
    lines = [
        f"{printable(str(dataset.folder))}  ({dataset.fingerprint[:16]})",
        "",
        table([head, *rows], right=frozenset(range(1, len(head)))),
        "height and width: least-median-most, in pixels",
        "",
        table([("class", *splits), *per_class], right=frozenset(range(1, len(splits) + 1))),
    ]
    if len(dataset.classes) > len(per_class):
        lines.append(f"... and {len(dataset.classes) - len(per_class):,} more classes (--json lists all)")
    source = dataset.source
    lines += ["", f"{source['sources']:,} sources, {source['rejected']:,} rejected, {source['dropped']:,} dropped"]
    return "\n".join(lines)
