"""`irv2data info DATASET`: what a dataset folder holds."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from irv2data.convert.transcode import DONE
from irv2data.errors import EXIT_DONE
from irv2data.index import CONTENT, LABEL, OTHERS
from irv2data.labels import CLASS, CLASSES, NONE, NUMBER
from irv2data.manifest import FORMAT_NAMES, Dataset, Split

from .common import add_json, mib, print_json, printable, table
from .console import result

EXAMPLES = (
    ("irv2data info flowers", "splits, classes, sizes, formats"),
    ("irv2data info flowers --record=17 --split=validation", "where a record lies and which file it was made of"),
    ("irv2data info flowers --json", "the same for a script"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument(
        "--record", type=int, default=None, metavar="N", help="say where record N lies and which file it was made of"
    )
    parser.add_argument("--split", default="train", help="with --record: the split (default: %(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    dataset = Dataset(arguments.dataset)
    if arguments.record is not None:
        record = describe_record(dataset, arguments.split, arguments.record)
        if arguments.json:
            print_json(record)
        else:
            rows = [(name, value if isinstance(value, str) else str(value)) for name, value in record.items()]
            print(table([(name, printable(value)) for name, value in rows]))
        return EXIT_DONE
    splits = {name: describe(split, len(dataset.classes)) for name, split in dataset.splits.items()}
    if arguments.json:
        content = {
            "dataset": dataset.location,
            "fingerprint": dataset.fingerprint,
            "labels": dataset.contents.labels,
            "classes": list(dataset.classes),
            "columns": dict(dataset.contents.columns),
            "splits": splits,
            "source": dataset.source,
        }
        print_json(content)
    else:
        result(_text(dataset, splits))
    return EXIT_DONE


def describe(split: Split, classes: int) -> dict[str, Any]:
    """Counts of one split: records, shards, bytes, records a class and a format, and the sizes in pixels."""
    formats = np.bincount(split.array("format"), minlength=len(FORMAT_NAMES))
    kind = split.contents.labels
    labels = split.array(LABEL) if kind != NONE else np.zeros(0)
    counts = np.bincount(labels, minlength=classes).tolist() if kind in (CLASS, CLASSES) else []
    return {
        "records": split.num_records,
        "shards": len(split.shards),
        "bytes": split.num_bytes,
        "formats": {
            name: number
            for name, number in zip(FORMAT_NAMES, formats.tolist(), strict=True)
            if number or name not in OTHERS
        },
        "labels": counts,
        "numbers": _range(labels) if kind == NUMBER else None,
        "height": _range(split.array("height")),
        "width": _range(split.array("width")),
    }


def describe_record(dataset: Dataset, split_name: str, row: int) -> dict[str, Any]:
    """Where a record lies, what it holds, and which file it was made of."""
    split = dataset.split(split_name)
    shard, number, offset = split.locate(row)
    columns: dict[str, Any] = {}
    for name in dataset.contents.columns:
        value = split.column(name)[row]
        columns[name] = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value.item()
    label: Any = None
    if dataset.contents.labels == CLASSES:
        label = [dataset.classes[number] for number in np.flatnonzero(split.multi_hot(np.array([row]))[0])]
    elif dataset.contents.labels != NONE:
        label = split.array(LABEL)[row].item()
        label = dataset.classes[label] if dataset.contents.labels == CLASS else label
    return {
        "record": row,
        "split": split_name,
        "source": split.source(row),
        "label": label,
        "height": int(split.array("height")[row]),
        "width": int(split.array("width")[row]),
        "format": FORMAT_NAMES[int(split.array("format")[row])],
        **columns,
        "shard": shard,
        "number_in_shard": number,
        "offset": offset,
        "source_sha256": bytes(split.array(CONTENT)[row]).hex(),
    }


def _range(column: np.ndarray) -> dict[str, float] | None:
    if not len(column):
        return None
    whole = float if column.dtype.kind == "f" else int
    return {"least": whole(column.min()), "median": whole(np.median(column)), "most": whole(column.max())}


def _text(dataset: Dataset, splits: dict[str, dict[str, Any]]) -> str:
    def pixels(size: dict[str, float] | None) -> str:
        return "" if size is None else f"{size['least']}-{size['median']}-{size['most']}"

    formats = [name for name in FORMAT_NAMES if any(name in s["formats"] for s in splits.values())]
    head = ("split", "records", "shards", "size", *formats, "height", "width")
    rows = [
        (
            name,
            f"{s['records']:,}",
            f"{s['shards']:,}",
            mib(s["bytes"]),
            *(f"{s['formats'].get(kind, 0):,}" for kind in formats),
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
        f"{printable(dataset.location)}  ({dataset.fingerprint[:16]})",
        "",
        table([head, *rows], right=frozenset(range(1, len(head)))),
        "height and width: least-median-most, in pixels",
        "",
    ]
    if dataset.classes:
        lines.append(table([("class", *splits), *per_class], right=frozenset(range(1, len(splits) + 1))))
    for name, s in splits.items():
        if s["numbers"]:
            lines.append(f"labels of {name}: {s['numbers']['least']:g} to {s['numbers']['most']:g}")
    if dataset.contents.labels == NONE:
        lines.append("unlabelled")
    if dataset.contents.columns:
        columns = ", ".join(f"{printable(name)} ({type})" for name, type in dataset.contents.columns.items())
        lines.append(f"further columns: {columns}")
    if len(dataset.classes) > len(per_class):
        lines.append(f"... and {len(dataset.classes) - len(per_class):,} more classes (--json lists all)")
    source = dataset.source
    lines += ["", f"{source['sources']:,} sources, {source['rejected']:,} rejected, {source['dropped']:,} dropped"]
    lines += [f"  {count:>9,}  {DONE[name]}" for name, count in source["done"].items()]
    if source["duplicates"]:
        conflicts = f", {source['conflicts']:,} of them with different labels" if source["conflicts"] else ""
        lines.append(f"contents that several files have: {source['duplicates']:,}{conflicts}")
    progressive = sum(s["formats"]["progressive"] for s in splits.values())
    if progressive:
        share = progressive / max(1, sum(s["records"] for s in splits.values()))
        lines.append(
            f"note: {progressive:,} progressive JPEGs ({share:.0%}) decode three to four times slower than baseline; "
            "converting anew with the extra 'lossless' (or libturbojpeg) installed makes them baseline, same pixels"
        )
    return "\n".join(lines)
