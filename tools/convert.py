"""`irv2data convert SOURCE DATASET`: a folder of images into a dataset folder."""

from __future__ import annotations

import argparse

from irv2data.convert import ConvertConfig, Report, convert
from irv2data.convert.config import DUPLICATES, FOLDERS, ON_ERROR, parse_splits
from irv2data.errors import EXIT_DONE, EXIT_OVER_BUDGET
from irv2data.manifest import REJECTS

from .common import Bars, add_json, mib, print_json, printable, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    default = ConvertConfig()
    parser.add_argument("source", metavar="SOURCE", help="folder with one sub-folder a class")
    parser.add_argument("dataset", metavar="DATASET", help="folder to make")
    parser.add_argument(
        "--splits",
        default="train=0.9,validation=0.1",
        help=f"names and fractions, or '{FOLDERS}': SOURCE/SPLIT/CLASS/... (default: %(default)s)",
    )
    parser.add_argument(
        "--shard_mib", type=float, default=default.shard_mib, help="largest shard (default: %(default)s)"
    )
    parser.add_argument(
        "--max_short_side",
        type=int,
        default=default.max_short_side,
        help="scale larger images down to this short side in pixels; 0 keeps all (default: %(default)s)",
    )
    parser.add_argument(
        "--quality", type=int, default=default.quality, help="of JPEGs encoded again (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for all cores (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of splits and order (default: %(default)s)")
    parser.add_argument(
        "--duplicates", choices=DUPLICATES, default=default.duplicates, help="of equal content (default: %(default)s)"
    )
    parser.add_argument(
        "--on_error", choices=ON_ERROR, default=default.on_error, help="at a bad file (default: %(default)s)"
    )
    parser.add_argument(
        "--max_bad_fraction",
        type=float,
        default=default.max_bad_fraction,
        help="more rejects than this share end with exit code 3 (default: %(default)s)",
    )
    parser.add_argument(
        "--max_megapixels",
        type=float,
        default=default.max_megapixels,
        help="reject larger images (default: %(default)s)",
    )
    parser.add_argument(
        "--engine", choices=("local",), default="local", help="where the work runs (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="finish an interrupted conversion")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")
    parser.add_argument("--dry_run", action="store_true", help="count and lay out, write nothing")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    config = ConvertConfig(
        splits=parse_splits(arguments.splits),
        shard_mib=arguments.shard_mib,
        max_short_side=arguments.max_short_side,
        quality=arguments.quality,
        seed=arguments.seed,
        duplicates=arguments.duplicates,
        on_error=arguments.on_error,
        max_bad_fraction=arguments.max_bad_fraction,
        max_megapixels=arguments.max_megapixels,
    )
    bars = Bars("files")
    try:
        report = convert(
            arguments.source,
            arguments.dataset,
            config,
            workers=arguments.workers,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            dry_run=arguments.dry_run,
            progress=bars,
        )
    finally:
        bars.close()
    if arguments.json:
        print_json(report.as_json())
    else:
        print(_text(report))
    return EXIT_OVER_BUDGET if report.over_budget else EXIT_DONE


def _text(report: Report) -> str:
    lines = [
        table(
            [
                ("split", "records", "shards", "size"),
                *(
                    (name, f"{s['records']:,}", f"{s['shards']:,}", mib(s["bytes"]))
                    for name, s in report.splits.items()
                ),
            ],
            right=frozenset((1, 2, 3)),
        ),
        f"{report.sources:,} sources in {report.classes:,} classes: {report.rejected:,} rejected, "
        f"{report.dropped:,} dropped as duplicates; {report.seconds:.1f} s",
    ]
    if report.ignored:
        kinds = ", ".join(f"{count:,} {printable(suffix)}" for suffix, count in report.ignored.items())
        lines.append(f"passed over, no images: {kinds}")
    if report.rejected and not report.dry_run:
        lines.append(f"rejects and their reasons: {printable(report.dataset)}/{REJECTS}")
    empty = [name for name, split in report.splits.items() if not split["records"]]
    if empty:
        lines.append(f"note: no records in {', '.join(empty)}")
    if report.dry_run:
        lines.append("note: no image was decoded, so a conversion may reject more")
    if report.over_budget:
        share = report.rejected / report.sources
        lines.append(
            f"rejects: {share:.1%} of the sources, more than --max_bad_fraction; exit code 3, the rest is usable"
        )
    verb = "would be written" if report.dry_run else "written"
    lines.append(f"dataset {verb}: {printable(report.dataset)}")
    return "\n".join(lines)
