"""`irv2data predict RUN FILES`: which classes a trained network takes image files for."""

from __future__ import annotations

import argparse
import codecs
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, BinaryIO

from irv2data.errors import EXIT_DONE, EXIT_OVER_BUDGET, DatasetError, SourceError, UsageError
from irv2data.storage import atomic_file
from irv2data.training.files import Prediction, find_files, predict_files
from irv2data.training.finished import FinishedRun

from .common import add_json, print_json, printable
from .console import Bars, result
from .quiet import load_tensorflow

EXAMPLES = (
    ("irv2data predict run1 holiday", "the classes of all images below a folder"),
    ("irv2data predict run1 one.jpg two.png --top_k=1", "of some files, the likeliest class alone"),
    ("irv2data predict run1 holiday --output=found.csv", "as a table"),
    ("irv2data predict run1 - --output=found.jsonl", "of the files that standard input names"),
)
_FORMATS = (".csv", ".jsonl")

Write = Callable[[dict[str, Any]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished `irv2data train`")
    parser.add_argument("files", metavar="FILES", nargs="+", help="images, folders of them, or - for paths on stdin")
    parser.add_argument("--output", metavar="FILE", help=f"for the predictions, {' or '.join(_FORMATS)} by its name")
    parser.add_argument("--top_k", type=int, default=5, help="classes named for a file (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="images predicted at once (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read and check files; 0 for all cores")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code: 3 if some files are no images."""
    for name in ("top_k", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"{name} must be 1 or more, got {getattr(arguments, name)}")
    if arguments.workers < 0:
        raise UsageError(f"workers must be 0 (all cores) or more, got {arguments.workers}")
    trained = FinishedRun.read(arguments.run_folder)
    paths = [path for argument in arguments.files for given in _given(argument) for path in find_files(given)]
    if not paths:
        raise UsageError("no files: standard input names none")
    shown: list[dict[str, Any]] = []
    failures: list[Prediction] = []
    bars = Bars("images")
    with ExitStack() as stack:
        write: Write = shown.append if arguments.json else _print
        if arguments.output:
            # Opened first: that it cannot be written should not be known after hours.
            write = stack.enter_context(_output(arguments.output, min(arguments.top_k, len(trained.classes))))
        load_tensorflow()
        from irv2data.training.prediction import Predictor

        predictor = Predictor(trained, top_k=arguments.top_k)
        stack.callback(bars.close)
        done = 0

        def found(prediction: Prediction) -> None:
            nonlocal done
            done += 1
            bars("predicting", done, len(paths))
            if prediction.error is not None:
                failures.append(prediction)
            write(_row(prediction, trained.classes))

        predict_files(paths, predictor, batch_size=arguments.batch_size, workers=arguments.workers, found=found)
        if len(failures) == len(paths):
            raise SourceError(_none(failures))
    summary = {"run": str(trained.folder), "files": len(paths), "failed": len(failures)}
    if arguments.json:
        print_json({**summary, **({"output": arguments.output} if arguments.output else {"predictions": shown})})
    else:
        print("".join(f"{printable(_why(failure))}\n" for failure in failures), end="", file=sys.stderr)
    if arguments.output and not arguments.json:
        print(f"{len(paths):,} files, {len(failures):,} that are no images: {printable(arguments.output)}")
    return EXIT_OVER_BUDGET if failures else EXIT_DONE


def left(arguments: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    return f"{arguments.output or 'nothing'} was {'not ' * bool(arguments.output)}written; run it again"


def _given(argument: str) -> Iterator[str]:
    """The paths that an argument stands for; those on standard input are separated by line ends or zero bytes."""
    if argument != "-":
        yield argument
        return
    content = sys.stdin.buffer.read()
    for path in content.split(b"\0" if b"\0" in content else b"\n"):
        if path:
            yield os.fsdecode(path)


def _row(prediction: Prediction, classes: tuple[str, ...]) -> dict[str, Any]:
    if prediction.error is not None:
        code, detail = prediction.error
        return {"path": prediction.path, "error": {"code": code, "detail": detail}}
    # Six digits: more is noise of the order in which a device adds.
    top = [{"class": classes[number], "probability": float(f"{share:.6g}")} for number, share in prediction.top]
    return {"path": prediction.path, **top[0], "top": top}


def _print(row: dict[str, Any]) -> None:
    if "error" not in row:  # those are told at the end
        top = (f"{printable(each['class'])} {each['probability']:.3f}" for each in row["top"])
        result(f"{printable(row['path'])}: {', '.join(top)}")


@contextmanager
def _output(path: str, top_k: int) -> Iterator[Write]:
    """Writes rows to a file that appears when all are there.

    Raises:
        UsageError: Its name ends neither in .csv nor in .jsonl.
        DatasetError: It cannot be written.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in _FORMATS:
        raise UsageError(f"output: {path} must end in {' or '.join(_FORMATS)}")
    try:
        with atomic_file(path) as file:
            yield _csv(file, top_k) if ending == ".csv" else partial(_json_line, file)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written ({error.strerror or error})") from error


def _json_line(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row).encode() + b"\n")


def _csv(file: BinaryIO, top_k: int) -> Write:
    more = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("class", "probability")]
    # Paths in the file system's own bytes, whatever they are.
    writer = csv.writer(codecs.getwriter("utf-8")(file, "surrogateescape"))
    writer.writerow(["path", "class", "probability", *more, "error"])

    def write(row: dict[str, Any]) -> None:
        if "error" in row:
            writer.writerow([row["path"], *[""] * 2 * top_k, f"{row['error']['code']}: {row['error']['detail']}"])
        else:
            writer.writerow([row["path"], *(value for each in row["top"] for value in each.values()), ""])

    return write


def _none(failures: list[Prediction]) -> str:
    """Why nothing could be predicted."""
    line = _why(failures[0])
    return line if len(failures) == 1 else f"none of {len(failures):,} files is an image that can be read; {line}"


def _why(failure: Prediction) -> str:
    assert failure.error is not None
    code, detail = failure.error
    return f"{failure.path}: {detail} ({code})"
