"""`irv2data preview DATASET OUT.html`: a page that shows what a dataset holds."""

from __future__ import annotations

import argparse

from irv2data.errors import EXIT_DONE
from irv2data.manifest import Dataset
from irv2data.pipeline.config import FITS
from irv2data.preview.config import PreviewConfig

from .common import add_json, parse_augment, parse_size, print_json, printable
from .console import Bars, result
from .quiet import load_tensorflow, reading

EXAMPLES = (
    ("irv2data preview flowers flowers.html", "counts, classes, sizes, duplicates, and what the network sees; a page"),
    ("irv2data preview flowers flowers.html --source=photographs", "with pictures of what was rejected"),
    ("irv2data preview flowers flowers.html --no_near_duplicates", "in little time: few records are read"),
)

_AUGMENT = "rotate=15,zoom=0.1,brightness=0.2,contrast=0.2,saturation=0.2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    default = PreviewConfig()
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder or URI")
    parser.add_argument("out", metavar="OUT.html", help="page to write; an earlier preview is replaced")
    parser.add_argument("--image_size", default="299", help="input size, 299 or HEIGHTxWIDTH (default: %(default)s)")
    for name, text in (
        ("batch_size", "images a step, for the figures of buckets"),
        ("buckets", "canvas shapes at most"),
        ("samples", "JPEGs that are read to estimate their quality, at most"),
        ("images", "of the contact sheets, at most"),
        ("seed", "of what is drawn at random"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=getattr(default, name), help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--fit", choices=FITS, default=default.fit, help="whose canvases the charts show (default: %(default)s)"
    )
    parser.add_argument("--split", default="", help="of buckets and contact sheets (default: train, if there is one)")
    parser.add_argument(
        "--augment",
        default=_AUGMENT,
        metavar="NAME=VALUE,...",
        help="random changes the contact sheets show, as for `train`; empty for none (default: %(default)s)",
    )
    parser.add_argument("--source", metavar="FOLDER", help="the folder that was converted: shows the rejected images")
    parser.add_argument(
        "--no_near_duplicates", action="store_true", help="do not read every record to find images that look alike"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that look for them; 0 for all cores (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is no preview, too")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    config = PreviewConfig(
        image_size=parse_size(arguments.image_size),
        augment=parse_augment(arguments.augment),
        near_duplicates=not arguments.no_near_duplicates,
        **{name: getattr(arguments, name) for name in ("batch_size", "buckets", "samples", "images", "seed")},
        **{name: getattr(arguments, name) for name in ("fit", "split")},
    )
    dataset = Dataset(arguments.dataset)
    load_tensorflow()
    from irv2data.preview.run import preview
    from irv2data.report.preview_page import findings

    bars = Bars("records", **{"contact sheets": "fits"})
    try:
        with reading(arguments.dataset):
            facts = preview(
                dataset,
                arguments.out,
                config,
                source=arguments.source,
                overwrite=arguments.overwrite,
                workers=arguments.workers,
                progress=bars,
            )
    finally:
        bars.close()
    if arguments.json:
        print_json(facts)
    else:
        result("\n".join([*map(printable, findings(facts)), f"page: {printable(arguments.out)}"]))
    return EXIT_DONE
