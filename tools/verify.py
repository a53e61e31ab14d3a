"""`irv2data verify DATASET`: is the folder what its manifest says?"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from irv2data.convert import repair, verify
from irv2data.convert.repair import Repair
from irv2data.convert.verify import Problem
from irv2data.errors import EXIT_DONE, EXIT_FAILED

from .common import add_json, print_json, printable
from .console import Bars, paint, result

EXAMPLES = (
    ("irv2data verify flowers", "sizes, counts and index, in a moment"),
    ("irv2data verify flowers --deep", "every byte and every image"),
    ("irv2data verify flowers --repair", "keep what can be read, name what is lost"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("--deep", action="store_true", help="read every byte and decode every image")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="keep every record that can be read, move damaged shards to quarantine/, and name what is lost",
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for all cores (default: %(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code: 0 if the dataset is sound (or is so now), else 1."""
    bars = Bars("records")
    if arguments.repair:
        try:
            done = repair(
                arguments.dataset,
                workers=arguments.workers,
                progress=lambda done, total: bars("verifying", done, total),
            )
        finally:
            bars.close()
        print_json(asdict(done)) if arguments.json else result(_repaired(done))
        return EXIT_DONE
    try:
        problems = verify(
            arguments.dataset,
            deep=arguments.deep,
            workers=arguments.workers,
            progress=lambda done, total: bars("verifying", done, total),
        )
    finally:
        bars.close()
    if arguments.json:
        print_json({"sound": not problems, "problems": [asdict(problem) for problem in problems]})
    else:
        print("".join(_line(problem) + "\n" for problem in problems), end="")
        if problems:
            print(
                f"{paint('problems:', 'red')} {len(problems)}; --repair keeps what can be read and names what is lost"
            )
        else:
            how = "" if arguments.deep else " by sizes, counts and index; --deep reads every record"
            print(paint("sound", "green") + how)
    return EXIT_FAILED if problems else EXIT_DONE


def left(arguments: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    if arguments.repair:
        return f"`irv2data verify --repair {arguments.dataset}` again finishes what it may have begun"
    return "nothing was changed; run it again"


def _line(problem: Problem) -> str:
    where = problem.file if problem.record is None else f"{problem.file}, record {problem.record}"
    return f"{printable(where)}: {printable(problem.reason)}"


def _repaired(done: Repair) -> str:
    if not done.problems:
        return "sound; nothing to repair"
    lines = [_line(problem) for problem in done.problems]
    lines += [f"kept as it was: {printable(file)}" for file in done.quarantined]
    for lost in done.lost:
        number = "" if lost.record is None else f", record {lost.record}"
        source = f", made of {printable(lost.source)}" if lost.source else ""
        lines.append(f"lost: {printable(lost.shard)}{number}{source}")
    lines.append(f"sound again: {done.recovered:,} records of damaged shards recovered, {len(done.lost):,} lost")
    if done.lost:
        lines.append("`irv2data convert SOURCE DATASET --append` brings back those whose source files are there")
    return "\n".join(lines)
