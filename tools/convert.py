"""`irv2data convert SOURCE DATASET`: images into a dataset folder."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from irv2data.convert import ConvertConfig, Report, convert
from irv2data.convert.config import DUPLICATES, ENGINES, LABELS, LOCAL, ON_ERROR, PNG_RULES, parse_splits
from irv2data.convert.transcode import DONE
from irv2data.errors import EXIT_DONE, EXIT_OVER_BUDGET, UsageError
from irv2data.manifest import DUPLICATES as DUPLICATES_FILE
from irv2data.manifest import REJECTS

from . import lookalikes
from .common import add_json, mib, print_json, printable, table
from .console import Bars, result

EXAMPLES = (
    ("irv2data convert photographs flowers", "a folder with one sub-folder a class; --dry_run first only counts"),
    ("irv2data convert photographs flowers --max_short_side=400", "smaller, and faster to decode"),
    ("irv2data convert photographs --advise", "what shrinking would save and cost, measured on a sample"),
    (
        "irv2data convert labels.csv flowers --label_column=species --image_root=photographs",
        "a table of paths and labels",
    ),
    ("irv2data convert photographs flowers --splits=train=0.8,validation=0.1,test=0.1", "other splits"),
    ("irv2data convert photographs flowers --resume", "finish a conversion that was interrupted"),
    ("irv2data convert photographs flowers --append", "add the images that are new"),
)

# Option, kind of value (a type, the choices, or None for a switch) and help. Defaults are those of `ConvertConfig`.
_OPTIONS: tuple[tuple[str, object, str], ...] = (
    ("labels", LABELS, "what a label is; auto: as the source has it"),
    ("label_depth", int, "levels of folders that make up a class name"),
    ("label_column", str, "column or JSON key of the label, where its name is not a usual one"),
    ("path_column", str, "the same for the image's path"),
    ("label_separator", str, "between the classes of a CSV field, with --labels=classes"),
    ("image_root", str, "folder that paths in a table are relative to; empty: the table's own"),
    ("follow_links", None, "follow symbolic links below SOURCE"),
    ("exact_splits", None, "exact counts in each class; files move when others are added"),
    ("shard_mib", float, "largest shard"),
    ("max_short_side", int, "scale larger images down to this short side in pixels; 0 keeps all"),
    ("shrink_megapixels", float, "scale larger images down to this many megapixels; 0 keeps all"),
    ("quality", int, "of JPEGs encoded again"),
    ("png", PNG_RULES, "lossless images: keep lossless, all to JPEG, or those that are photographic"),
    ("seed", int, "of splits and order"),
    ("duplicates", DUPLICATES, "of equal content"),
    ("on_error", ON_ERROR, "at a bad file"),
    ("max_bad_fraction", float, "more rejects than this share end with exit code 3"),
    ("max_megapixels", float, "reject larger images, from their header"),
    ("decode_seconds", float, "reject an image that takes longer"),
    ("worker_mib", int, "memory that decoding may take in a worker"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    default = ConvertConfig()
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder with one sub-folder a class, table (.csv, .tsv, .jsonl) with paths and labels, WebDataset archive "
        "(.tar) or folder of them; or a URI of one",
    )
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="folder to make, or a URI")
    parser.add_argument(
        "--splits",
        default="auto",
        help="names and fractions; folders: SOURCE/SPLIT/CLASS/...; column:NAME; auto: folders where they are named "
        "like splits, else train=0.9,validation=0.1 (default: %(default)s)",
    )
    for name, kind, text in _OPTIONS:
        value = getattr(default, name)
        if kind is None:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif isinstance(kind, tuple):
            parser.add_argument(f"--{name}", choices=kind, default=value, help=f"{text} (default: %(default)s)")
        else:
            shown = "" if value == "" else " (default: %(default)s)"
            parser.add_argument(f"--{name}", type=kind, default=value, help=text + shown)  # type: ignore[arg-type]
    parser.add_argument(
        "--background", default="255,255,255", help="RED,GREEN,BLUE behind transparent pixels (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for all cores (default: %(default)s)")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=LOCAL,
        help="what writes the shards: processes on this machine, or an Apache Beam pipeline (default: %(default)s)",
    )
    parser.add_argument(
        "--beam_options",
        default="",
        metavar='"--NAME=VALUE ..."',
        help='with --engine=beam: Beam\'s own flags, as in --beam_options="--runner=FlinkRunner --parallelism=8"',
    )
    parser.add_argument("--resume", action="store_true", help="finish an interrupted conversion")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is there")
    parser.add_argument("--append", action="store_true", help="add what is new to a dataset that is there")
    parser.add_argument("--dry_run", action="store_true", help="count and lay out, write nothing")
    parser.add_argument(
        "--near_duplicates",
        choices=(lookalikes.KEEP, lookalikes.REPORT),
        default=lookalikes.KEEP,
        help="images that look alike, resized or saved again: report finds them when the dataset is finished, and "
        "writes near_duplicates.json; all stay in the dataset (default: %(default)s)",
    )
    parser.add_argument(
        "--advise",
        action="store_true",
        help="convert a sample several ways, and print what shrinking costs and gains; DATASET is not needed",
    )
    parser.add_argument(
        "--wanted_rate", type=float, default=0.0, help="with --advise: images/s that the pipeline should reach"
    )
    parser.add_argument(
        "--sample", type=int, default=128, help="with --advise: images to sample (default: %(default)s)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    config = ConvertConfig(
        splits=parse_splits(arguments.splits),
        background=_colour(arguments.background),
        **{name: getattr(arguments, name) for name, _, _ in _OPTIONS},
    )
    looking = arguments.near_duplicates == lookalikes.REPORT
    if looking:
        lookalikes.check(arguments)
    if arguments.advise:
        from .advise import run_advice

        return run_advice(arguments, config)
    if arguments.dataset is None:
        raise UsageError("DATASET is missing: irv2data convert SOURCE DATASET")
    bars = Bars("files")
    try:
        report = convert(
            arguments.source,
            arguments.dataset,
            config,
            workers=arguments.workers,
            engine=arguments.engine,
            beam_options=_words(arguments.beam_options),
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            append=arguments.append,
            dry_run=arguments.dry_run,
            progress=bars,
        )
        found = lookalikes.look(arguments, bars) if looking else None
    finally:
        bars.close()
    if arguments.json:
        print_json(report.as_json() | ({"near_duplicates": found.summary()} if found else {}))
    else:
        result(_text(report))
        if found:
            result(lookalikes.text(arguments.dataset, found))
    return EXIT_OVER_BUDGET if report.over_budget else EXIT_DONE


def left(arguments: argparse.Namespace) -> str:
    """What an interrupted run leaves."""
    if arguments.advise or arguments.dry_run:
        return "nothing was written; run it again"
    return f"nothing was written yet; run it again: {arguments.dataset}"


def _words(text: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"beam_options must be quoted as for a shell, got {text!r} ({error})") from None


def _colour(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(level) for level in text.split(","))
    except ValueError:
        raise UsageError(f"background must look like 255,255,255, got {text!r}") from None
    return red, green, blue


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
    if report.labels not in ("class", "classes"):
        lines[1] = lines[1].replace(f" in {report.classes:,} classes", "", 1)
    if report.present or report.added != sum(split["records"] for split in report.splits.values()):
        lines.append(f"added {report.added:,} records; {report.present:,} sources were there already")
    lines += [f"  {count:>9,}  {DONE[name]}" for name, count in report.done.items()]
    if report.ignored:
        kinds = ", ".join(f"{count:,} {printable(suffix)}" for suffix, count in report.ignored.items())
        lines.append(f"passed over, no images: {kinds}")
    if report.duplicates:
        conflict = f", {report.conflicts:,} of them with different labels" if report.conflicts else ""
        where = "" if report.dry_run else f": {printable(report.dataset)}/{DUPLICATES_FILE}"
        lines.append(f"contents that several files have: {report.duplicates:,}{conflict}{where}")
    if report.rejected:
        codes = ", ".join(f"{count:,} {code}" for code, count in report.rejects.items())
        where = "" if report.dry_run else f"; which and why: {printable(report.dataset)}/{REJECTS}"
        lines.append(f"rejects: {codes}{where}")
    if report.done.get("progressive_kept"):
        lines.append(
            "note: progressive JPEGs decode three times slower; with the extra 'lossless' (or libturbojpeg) installed "
            "they become baseline, pixel for pixel the same"
        )
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
