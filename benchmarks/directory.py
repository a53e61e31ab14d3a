"""`irv2data.image_dataset_from_directory` beside Keras' own: `python -m benchmarks.directory [--record FILE]`.

In paired rounds, each in a process of its own on the same photographs, 299x299, batches of 64, shuffled:

- `first_use`: ours with an empty cache folder: the conversion and the first epoch together, from the call on;
- `ours`: with the images converted: the first epoch from the call on, and the epochs after it, iterated anew as Keras'
  `fit` does;
- `repeated`: the same of `repeat()`, whose later epochs start without building an iterator;
- `kept`: the same with `cache="host"`;
- `keras`: `keras.utils.image_dataset_from_directory`.

Photographs lie in the page cache. Prints images/s of first and later epochs as JSON lines; exit status 1 below a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.circumstances import circumstances, tell, versions
from benchmarks.conversion import spread
from benchmarks.feeds import BATCH, SIDE
from benchmarks.turns import turn

LEAST_LATER, LEAST_KEPT = 1.0, 4.0  # of Keras' later epochs
_TURN_SECONDS = 300


def child(name: str, folder: str, cache: str, epochs: str) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    import irv2data

    tf.zeros(1).numpy()  # initialises TensorFlow, which is no part of this
    arguments = {"image_size": (SIDE, SIDE), "batch_size": BATCH, "seed": 0, "verbose": False}
    began = time.perf_counter()
    if name == "keras":
        dataset = keras.utils.image_dataset_from_directory(folder, **arguments)
    else:
        place = {"cache_dir": cache, "cache": "host" if name == "kept" else "none"}
        dataset = irv2data.image_dataset_from_directory(folder, **arguments, **place)
    files, rates = len(dataset.file_paths), []

    def epoch(batches: Iterator[Any], began: float) -> None:
        images = sum(int(next(batches)[0].shape[0]) for _ in range(len(dataset)))
        if images != files:
            raise AssertionError(f"{images} images of {files}")
        rates.append(images / (time.perf_counter() - began))

    endless = iter(dataset.repeat()) if name == "repeated" else None
    for _ in range(int(epochs)):
        epoch(endless or iter(dataset), began)
        began = time.perf_counter()
    return {"first": rates[0], "later": statistics.median(rates[1:]) if rates[1:] else None}


def measure(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures, in paired rounds."""
    rounds = []
    for number in range(options.rounds):
        cache = f"{folder}-cache-{number}"
        each = {}
        # First: what it converts, the others find.
        for name in ("first_use", "ours", "keras", "repeated", "kept"):
            epochs = 1 if name == "first_use" else options.epochs
            each[name] = turn("directory", name, str(folder), cache, str(epochs), seconds=_TURN_SECONDS)
        rounds.append(each)
        print(json.dumps(each), flush=True)

    def over_keras(name: str, part: str) -> list[float]:
        return [each[name][part] / each["keras"][part] for each in rounds]

    wanted = ((over_keras("repeated", "later"), LEAST_LATER), (over_keras("kept", "later"), LEAST_KEPT))
    yield {
        "benchmark": "directory",
        "rounds": len(rounds),
        "epochs": options.epochs,
        "first_use_images_per_second": spread(each["first_use"]["first"] for each in rounds),
        **{
            f"{name}_{part}_images_per_second": spread(each[name][part] for each in rounds)
            for name in ("ours", "repeated", "kept", "keras")
            for part in ("first", "later")
        },
        "first_use_over_keras": spread(over_keras("first_use", "first"), 2),
        "first_over_keras": spread(over_keras("ours", "first"), 2),
        **{f"{name}_later_over_keras": spread(over_keras(name, "later"), 2) for name in ("ours", "repeated", "kept")},
        "wanted": {"repeated_later_over_keras": LEAST_LATER, "kept_later_over_keras": LEAST_KEPT},
        "met": all(statistics.median(found) >= least for found, least in wanted),
    }


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])), flush=True)
        os._exit(0)  # no clean-up of the process is part of this
    from benchmarks.photos import sources, write_photographs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of each process (default: %(default)s)")
    parser.add_argument("--files", type=int, default=4704, help="photographs (default: %(default)s)")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        folder = Path(place) / "photographs"
        size = write_photographs(folder, sources(options.images), files=options.files)
        described = {"files": options.files, "mean_bytes": round(size / options.files)}
        installed = versions("tensorflow", "keras", "numpy")
        figures = (
            {**each, **described, **circumstances("directory"), "versions": installed}
            for each in measure(folder, options)
        )
        return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
