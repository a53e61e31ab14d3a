"""`irv2data evaluate RUN DATASET`: how well a trained network does on a split, record by record, class by class."""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import Any

from irv2data.errors import EXIT_DONE, DatasetError, UsageError
from irv2data.labels import difference
from irv2data.manifest import Dataset
from irv2data.training.finished import FinishedRun

from .common import add_json, print_json, printable, table
from .console import Bars, note
from .quiet import load_tensorflow, reading

EXAMPLES = (
    ("irv2data evaluate run1 flowers", "top-1, top-5 and the classes that are recognised least"),
    ("irv2data evaluate run1 flowers --split=test --output=report", "each class and the confusion matrix, as files"),
    ("irv2data evaluate run1 flowers --json", "everything, for a script"),
)
_SHOWN = 10  # classes in the table on a terminal: those that are recognised least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished `irv2data train`")
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder, with the classes that RUN was trained on")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="over all replicas (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=0, help="as for `train` (default: %(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="for per_class.csv, confusion.csv and confusion.png")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    folder = Path(arguments.run_folder)
    trained = FinishedRun.read(folder)
    dataset = Dataset(arguments.dataset)
    if trained.classes != tuple(dataset.classes):
        what = printable(difference(list(trained.classes), list(dataset.classes)))
        raise UsageError(f"{dataset.folder}: its classes are not those that {folder} was trained on: it {what}")
    load_tensorflow()
    from irv2data.pipeline.build import Pipeline
    from irv2data.training import evaluate, make_strategy

    pipeline = Pipeline(
        dataset,
        split=arguments.split,
        **trained.fitting,
        batch_size=arguments.batch_size,
        shuffle=None,
        drop_remainder=False,
    )
    strategy = make_strategy(arguments.replicas)
    with strategy.scope():
        model = trained.load_model()
    bars = Bars("steps")
    try:
        with reading(arguments.dataset):
            found = evaluate(model, pipeline, strategy, progress=lambda done, total: bars("evaluating", done, total))
    finally:
        bars.close()
    rows = [{"class": name, **row} for name, row in zip(trained.classes, found.by_class(), strict=True)]
    if arguments.output:
        _write(Path(arguments.output), rows, found.confusion, list(trained.classes))
    if arguments.json:
        print_json(
            {**found.figures(), "split": arguments.split, "classes": rows, "confusion": found.confusion.tolist()}
        )
    else:
        print(_text(found.figures(), rows))
    return EXIT_DONE


def _write(folder: Path, rows: list[dict[str, Any]], confusion: Any, classes: list[str]) -> None:
    from irv2data.report.confusion import confusion_picture

    try:
        os.makedirs(folder, exist_ok=True)
        with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with open(folder / "confusion.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [["class", *classes], *([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))]
            )
        confusion_picture(confusion, classes, folder / "confusion.png")
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be written ({error.strerror or error})") from error
    note(f"per_class.csv, confusion.csv, confusion.png: {folder}")


def _text(figures: dict[str, float], rows: list[dict[str, Any]]) -> str:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    least = sorted((row for row in rows if row["records"]), key=lambda row: row["recall"])[:_SHOWN]
    lines = [("least recognised", "records", "recall", "precision")]
    lines += [
        (printable(row["class"]), str(row["records"]), share(row["recall"]), share(row["precision"])) for row in least
    ]
    return (
        f"loss {figures['loss']:.4f}, accuracy {figures['accuracy']:.3f}, top-5 {figures['top5']:.3f}, "
        f"{figures['records']:,} records\n{table(lines, right=frozenset((1, 2, 3)))}"
    )
