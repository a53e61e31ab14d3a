"""`irv2data study DATASET OUT`: which way of fitting images to the network costs what, on these images."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from irv2data.errors import EXIT_DONE
from irv2data.manifest import Dataset
from irv2data.study.config import StudyConfig

from .common import add_json, parse_size, print_json
from .console import Bars, note
from .quiet import load_tensorflow, reading

EXAMPLES = (
    ("irv2data study flowers flowers-study", "accuracy, speed and padding of each way of fitting images; a page"),
    ("irv2data study flowers flowers-study --fits=resize,letterbox --repeats=5", "two ways, with more certainty"),
    ("irv2data study flowers flowers-study --max_images=500 --seconds=0", "a first look in little time"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    default = StudyConfig()
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("out", metavar="OUT", help="folder for the page and its figures")
    parser.add_argument("--fits", default=",".join(default.fits), help="ways to compare (default: %(default)s)")
    parser.add_argument("--image_size", default="299", help="input size, 299 or HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument(
        "--weights", default=default.weights, help="imagenet, none (random), or a path (default: %(default)s)"
    )
    for name, text in (
        ("epochs", "in which a head learns"),
        ("views", "random crops of each image"),
        ("repeats", "heads trained for each way"),
        ("batch_size", "images a step"),
        ("max_images", "of each split at most so many, drawn at random"),
        ("seed", "of that draw, of crops and new weights"),
        ("rounds", "of the speed measurement"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=getattr(default, name), help=f"{text} (default: %(default)s)"
        )
    parser.add_argument("--max_pixels", type=int, help="of native: larger images are shrunk to so many")
    parser.add_argument(
        "--learning_rate", type=float, default=default.learning_rate, help="highest (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=default.seconds, help="of a speed round; 0: none (default: %(default)s)"
    )
    parser.add_argument("--split", default=default.split, help="to train on (default: %(default)s)")
    parser.add_argument(
        "--validation_split", default=default.validation_split, help="to measure on (default: %(default)s)"
    )
    parser.add_argument("--replicas", type=int, default=0, help="as for `train` (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the study in OUT")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    parsed: dict[str, Any] = {
        "fits": tuple(part for part in arguments.fits.split(",") if part),
        "image_size": parse_size(arguments.image_size),
    }
    names = (field.name for field in fields(StudyConfig) if field.init and field.name not in parsed)
    config = StudyConfig(**parsed, **{name: getattr(arguments, name) for name in names})
    dataset = Dataset(arguments.dataset)
    load_tensorflow()
    from irv2data.study import study
    from irv2data.training import make_strategy

    bars = Bars("images", heads="ways", speed="rounds")
    try:
        with reading(arguments.dataset):
            report = study(
                dataset,
                arguments.out,
                config,
                make_strategy(arguments.replicas),
                overwrite=arguments.overwrite,
                log=note,
                progress=bars,
            )
    finally:
        bars.close()
    if arguments.json:
        print_json(report)
    else:
        print("\n".join(report["conclusion"]))
        print(f"page and figures: {Path(arguments.out) / 'study.html'}")
    return EXIT_DONE
