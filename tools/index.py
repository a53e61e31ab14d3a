"""`irv2data index TFRECORD... DATASET`: makes a dataset of shards that others wrote, without rewriting them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from irv2data.convert import Adoption, adopt
from irv2data.convert.config import LABELS
from irv2data.errors import EXIT_DONE, SourceError, one_line
from irv2data.manifest import REJECTS

from .common import add_json, mib, print_json, printable, table
from .console import Bars, result

EXAMPLES = (
    ("irv2data index train-00000-of-00002 train-00001-of-00002 flowers", "shards whose names say their split"),
    ("irv2data index part1.tfrecord part2.tfrecord flowers --split=train --classes=names.txt", "where names do not"),
    ("irv2data index data.tfrecord flowers --image_key=picture --label_key=species", "keys that are not usual ones"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("shards", metavar="TFRECORD", nargs="+", help="TFRecord files of encoded images, uncompressed")
    parser.add_argument("dataset", metavar="DATASET", help="folder for index and manifest; may be the files' own")
    parser.add_argument("--split", default="", help="the split of all files; empty: told by their names")
    parser.add_argument(
        "--labels", choices=LABELS, default="auto", help="what a label is (default: as the first record has it)"
    )
    parser.add_argument("--image_key", default="", help="key of the compressed image, where it is not found by itself")
    parser.add_argument("--label_key", default="", help="key of the label, where it is not found by itself")
    parser.add_argument("--classes", default="", metavar="FILE", help="class names, one a line, in label order")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for all cores (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an index and manifest that are there")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    classes = None
    if arguments.classes:
        try:
            classes = Path(arguments.classes).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{arguments.classes}: the class names cannot be read ({one_line(error)})") from error
    bars = Bars("records")
    done = 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        bars("reading", done, None)

    try:
        adoption = adopt(
            arguments.shards,
            arguments.dataset,
            split=arguments.split,
            labels=arguments.labels,
            image_key=arguments.image_key,
            label_key=arguments.label_key,
            classes=classes,
            workers=arguments.workers,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    finally:
        bars.close()
    if arguments.json:
        print_json(asdict(adoption))
    else:
        result(_text(adoption))
    return EXIT_DONE


def left(arguments: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    return f"the shards are as they were, and {arguments.dataset} has no new index; run it again"


def _text(adoption: Adoption) -> str:
    rows = [(name, f"{s['records']:,}", f"{s['shards']:,}", mib(s["bytes"])) for name, s in adoption.splits.items()]
    label = f"label {adoption.label_key!r} ({adoption.labels})" if adoption.label_key else "no labels"
    lines = [
        table([("split", "records", "shards", "size"), *rows], right=frozenset((1, 2, 3))),
        f"image key {adoption.image_key!r}, {label}, {adoption.classes:,} classes",
    ]
    if adoption.rejected:
        lines.append(f"left out: {adoption.rejected:,} records; which and why: {printable(adoption.dataset)}/{REJECTS}")
    if adoption.turned:
        lines.append(
            f"note: {adoption.turned:,} images are stored lying down (EXIF orientation) and are used as they are; "
            "`irv2data convert` of their files turns them"
        )
    lines.append(f"dataset: {printable(adoption.dataset)}")
    return "\n".join(lines)
