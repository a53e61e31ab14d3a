"""`irv2data verify DATASET`: is the folder what its manifest says?"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from irv2data.convert import verify
from irv2data.errors import EXIT_DONE, EXIT_FAILED

from .common import Bars, add_json, print_json, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("--deep", action="store_true", help="read every byte and decode every image")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code: 0 if the dataset is sound, else 1."""
    bars = Bars("records")
    try:
        problems = verify(
            arguments.dataset, deep=arguments.deep, progress=lambda done, total: bars("verifying", done, total)
        )
    finally:
        bars.close()
    if arguments.json:
        print_json({"sound": not problems, "problems": [asdict(problem) for problem in problems]})
    else:
        for problem in problems:
            where = problem.file if problem.record is None else f"{problem.file}, record {problem.record}"
            print(f"{printable(where)}: {printable(problem.reason)}")
        if problems:
            print(f"problems: {len(problems)}")
        else:
            print("sound" if arguments.deep else "sound by sizes, counts and index; --deep reads every record")
    return EXIT_FAILED if problems else EXIT_DONE
