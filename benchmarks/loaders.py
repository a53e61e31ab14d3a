"""irv2data's pipeline beside other loaders: `python -m benchmarks.loaders [--loaders irv2data,dali,...]`.

All get the same JPEG photographs of many sizes from the page cache, the same cores, and make batches of 64 at 299x299,
cropped and mirrored at random where they can. Two tables: finished crops, resized on the host, like for like; and the
host's part alone, where irv2data leaves the resize to the device, beside the same peers.

In each round every loader runs once, in a process of its own: one kept alive would go on filling its buffers in the
turn of the next. It is timed after its first batches, from batch to batch; start-up is left out. Ratios are taken
round by round. An uncounted first round also samples memory, which slows what it watches. Peers come from
`python -m benchmarks.peers install`; one that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import feeds_other, feeds_tensorflow
from benchmarks.circumstances import circumstances
from benchmarks.conversion import Peak, spread
from benchmarks.feeds import Data, SkipError
from benchmarks.loaders_report import BASES, TITLES, YARDSTICK, draw, text
from benchmarks.peers import python_of
from benchmarks.turns import cpu_seconds, turn

FEEDS = feeds_tensorflow.FEEDS | feeds_other.FEEDS
_WARM_BATCHES, _WARM_SECONDS = 6, 1.5
_START_SECONDS = 240  # the longest that start-up may take; FFCV compiles


def child(name: str, data: str, seconds: str) -> dict[str, Any]:
    """Runs one loader in this process and times it."""
    feed = FEEDS[name]
    batches = feed.batches(Data(**json.loads(data)))
    started = time.perf_counter()
    first = next(batches)
    ready = time.perf_counter() - started
    warm = time.perf_counter() + _WARM_SECONDS
    for number, _ in enumerate(batches, 2):
        if number >= _WARM_BATCHES and time.perf_counter() >= warm:
            break
    images, cpu, began = 0, cpu_seconds(), time.perf_counter()
    wall = 0.0
    while wall < float(seconds):
        images += len(next(batches))
        wall = time.perf_counter() - began
    return {
        "images_per_second": images / wall,
        "cpu_ms_per_image": 1e3 * (cpu_seconds() - cpu) / images,
        "seconds_to_first_batch": ready,
        "batch": [*getattr(first, "shape", ())],
        "dtype": _dtype(first),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in feed.packages}},
    }


def _dtype(batch: Any) -> str:
    dtype = getattr(batch, "dtype", "")
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def run(name: str, data: Data, seconds: float, peak: Peak | None = None) -> dict[str, Any]:
    """One turn of a loader.

    Raises:
        SkipError: It is not installed, cannot run here, or failed; the message says which.
    """
    home = FEEDS[name].home
    python = python_of(home) if home else Path(sys.executable)
    if not python.exists():
        raise SkipError(f"there is no {home}; see python -m benchmarks.peers")
    arguments = (name, json.dumps(asdict(data)), str(seconds))
    return turn("loaders", *arguments, seconds=_START_SECONDS + 10 * seconds, python=python, peak=peak)


def compare(
    names: Iterable[str], data: Data, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All rounds: for each, name to figures; and name to reason of those left out. Prints as it goes."""
    skipped: dict[str, str] = {}
    rounds: list[dict[str, Any]] = []
    order = list(names)
    for number in range(options.rounds + 1):
        measured: dict[str, Any] = {}
        # Each round begins with another one, so that none is always early or always late.
        for name in (*order[number % len(order) :], *order[: number % len(order)]):
            if name in skipped:
                continue
            try:
                if number:
                    measured[name] = run(name, data, options.seconds)
                else:
                    with Peak() as peak:
                        measured[name] = run(name, data, options.seconds, peak)
                    measured[name]["peak_mib"] = peak.largest / (1 << 20)
            except SkipError as error:
                skipped[name] = str(error)
                print(f"{name}: left out: {error}", flush=True)
        rounds.append(measured)
        rates = {name: round(each["images_per_second"], 1) for name, each in measured.items()}
        print(json.dumps({"round": number or "uncounted", **rates}), flush=True)
    return rounds, skipped


def rows(rounds: list[dict[str, Any]], about: dict[str, Any]) -> list[dict[str, Any]]:
    """A record a loader that ran in every round."""
    first, counted = rounds[0], rounds[1:]
    complete = [name for name in first if all(name in each for each in counted)]

    def over(name: str, base: str) -> dict[str, float] | None:
        if base not in complete:
            return None
        return spread((each[name]["images_per_second"] / each[base]["images_per_second"] for each in counted), 3)

    return [
        {
            "benchmark": "loaders",
            "loader": name,
            "title": FEEDS[name].title,
            "rounds": len(counted),
            "images_per_second": spread(each[name]["images_per_second"] for each in counted),
            **{f"over_{base}": over(name, base) for base in (YARDSTICK, *BASES.values())},
            "cpu_ms_per_image": spread((each[name]["cpu_ms_per_image"] for each in counted), 2),
            "peak_mib": round(first[name]["peak_mib"], 1),
            "seconds_to_first_batch": spread((each[name]["seconds_to_first_batch"] for each in counted), 2),
            **{key: first[name][key] for key in ("batch", "dtype", "versions")},
            **about,
        }
        for name in complete
    ]


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        try:
            answer = child(*sys.argv[2:])
        except (SkipError, ImportError, PackageNotFoundError) as error:
            answer = {"skip": f"{error}"}
        print(json.dumps(answer), flush=True)
        os._exit(0)  # no loader's clean-up is part of this
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loaders", default=",".join(FEEDS), help="names, with commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="counted (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn, about (default: %(default)s)")
    parser.add_argument("--files", type=int, default=1568, help="photographs (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="that all of them may use (default: %(default)s)")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    parser.add_argument("--plot", help="PNG to draw the tables into")
    options = parser.parse_args()
    names = list(dict.fromkeys(options.loaders.split(",")))
    if unknown := set(names) - set(FEEDS):
        parser.error(f"no loader {', '.join(sorted(unknown))}; there are {', '.join(FEEDS)}")
    if options.rounds < 1 or options.seconds <= 0 or options.files < 64:
        parser.error("rounds and seconds must be positive, and files 64 or more")
    return report(names, options)


def report(names: list[str], options: argparse.Namespace) -> int:
    from benchmarks.prepared import prepare, write_archives

    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        cores = sorted(os.sched_getaffinity(0))[: options.cores]
        data, about = prepare(Path(place), options.files, options.images, cores=len(cores))
        if "webdataset" in names:
            write_archives(data)
        os.sched_setaffinity(0, cores)  # children inherit it
        rounds, skipped = compare(names, data, options)
    records = rows(rounds, {"seconds": options.seconds, **about, **circumstances("loaders")})
    for record in records:
        print(json.dumps(record))
    for table in TITLES:
        print(text(records, table))
    for name, reason in skipped.items():
        print(f"left out: {FEEDS[name].title}: {reason}")
    if options.record:
        with open(options.record, "a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    if options.plot:
        draw(records, options.plot)
    return 0 if records else 1


if __name__ == "__main__":
    raise SystemExit(main())
