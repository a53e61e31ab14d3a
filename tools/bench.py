"""`irv2data bench DATASET`: how many images per second the pipeline delivers on this machine."""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import datetime, timezone
from typing import Any

from irv2data.errors import EXIT_DONE, UsageError
from irv2data.manifest import Dataset

from .common import add_json, add_place, place_options, print_json, table
from .console import Bars, paint
from .options import add_pipeline, parse_options, pipeline_options
from .quiet import load_tensorflow, reading

EXAMPLES = (
    ("irv2data bench flowers", "images/s up to the batch, and with the device stage"),
    ("irv2data bench flowers --stages --cores", "where the time goes, and what each core adds"),
    ("irv2data bench flowers --compare=buckets=12 --rounds=7", "two settings in turn, and whether they differ"),
    ("irv2data bench flowers --stages --record=speed.jsonl --plot=speed.svg", "rows for scripts, and a picture"),
)
_COMPARE_ROUNDS, _ROUNDS = 7, 5  # six rounds are the fewest that can tell two settings apart at 95 %


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    add_pipeline(parser)
    add_place(parser)
    parser.add_argument("--stages", action="store_true", help="each stage on the host, too")
    parser.add_argument("--cores", action="store_true", help="with 1, 2, 4, ... cores, too (Linux)")
    parser.add_argument(
        "--compare", metavar="OPTION=VALUE,...", help="a second pipeline that differs in these options, in turn with it"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"after one that is not counted (default: {_ROUNDS}, to compare {_COMPARE_ROUNDS})"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, about (default: %(default)s)")
    parser.add_argument(
        "--record", metavar="FILE", help="append the figures as JSON lines, one for each thing measured"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw them: .svg, .png or .pdf ('report' extra)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    rounds = arguments.rounds
    if rounds is None:
        rounds = _COMPARE_ROUNDS if arguments.compare else _ROUNDS
    if rounds < 1 or not 0 < arguments.seconds < math.inf:
        raise UsageError(f"rounds and seconds must be positive, got {rounds} and {arguments.seconds}")
    options = {**pipeline_options(arguments), **place_options(arguments)}
    others = parse_options("compare", arguments.compare) if arguments.compare else None
    dataset = Dataset(arguments.dataset)
    load_tensorflow()
    if arguments.plot:
        from irv2data.report.bench_chart import check_path

        check_path(arguments.plot)
    from irv2data.measure.bench import measure
    from irv2data.pipeline.build import Pipeline

    bars = Bars("turns")
    try:
        with reading(arguments.dataset):
            report = measure(
                Pipeline(dataset, **options),
                rounds=rounds,
                seconds=arguments.seconds,
                by_stage=arguments.stages,
                by_core_count=arguments.cores,
                other=None if others is None else Pipeline(dataset, **{**options, **others}),
                progress=bars,
            )
    finally:
        bars.close()
    if arguments.record:
        with open(arguments.record, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows_of(report))
    if arguments.plot:
        from irv2data.report.bench_chart import draw

        draw(report, arguments.plot, other=arguments.compare or "")
    if arguments.json:
        print_json(report)
    else:
        print(_text(report, arguments.compare))
    return EXIT_DONE


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A flat row for each thing that was measured, with all that is needed to measure it again."""
    about = {
        "rounds": report["rounds"],
        "seconds": report["seconds"],
        "config": report["config"],
        "command": " ".join(["irv2data", *sys.argv[1:]]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    pick = ("peak_rss_mib", "memory_growth", "padding_waste")
    rows = [
        {"what": "host", **report["images_per_second"], "cpu_ms": report["cpu_ms"], **{n: report[n] for n in pick}},
        {"what": "finished", **report["finished_images_per_second"]},
    ]
    for each in report.get("stages", ()):
        rows.append(
            {
                "what": "stage",
                "name": each["name"],
                **each["images_per_second"],
                "cpu_ms": each["cpu_ms"],
                "share": each["share"],
            }
        )
    for each in report.get("cores", ()):
        rows.append({"what": "cores", "cores": each["cores"], **each["images_per_second"]})
    if compare := report.get("compare"):
        for what in ("host", "finished"):
            found = compare[what]
            row = {name: found[name] for name in ("ratio", "confidence", "verdict")}
            rows.append({"what": "compare", "name": what, **found["other"], **row, "other": compare["config"]})
    return [{**row, **about} for row in rows]


def _text(report: dict[str, Any], compared: str | None) -> str:
    config = report["config"]
    head = (
        f"{config['fit']} to {config['image_size'][0]}x{config['image_size'][1]}, batch {config['batch_size']}, "
        f"{config['cores']} cores, {report['rounds']} rounds of {report['seconds']:g} seconds"
    )
    rows: list[tuple[str, ...]] = [("images per second", "median", "low", "high")]
    for label, name in (("batches", "images_per_second"), ("finished images", "finished_images_per_second")):
        rows.append((label, *_rates(report[name])))
    parts = [head, table(rows, right=frozenset((1, 2, 3)))]
    if "stages" in report:
        parts += ["", stage_table(report["stages"], "images_per_second")]
    if "cores" in report:
        rows = [("cores", "median", "low", "high")]
        rows += [(str(each["cores"]), *_rates(each["images_per_second"])) for each in report["cores"]]
        parts += ["", table(rows, right=frozenset(range(4)))]
    canvases = ", ".join(f"{height}x{width}" for height, width in config["canvases"])
    growth = report["memory_growth"]
    parts += [
        "",
        f"canvases {canvases}; {report['padding_waste']:.1%} of their pixels is padding",
        f"{report['cpu_ms']:.2f} ms of processor time an image; peak memory {report['peak_rss_mib']:,.0f} MiB"
        + ("" if growth is None else f", {growth:+.1%} from the middle of the time to its end"),
    ]
    if "compare" in report:
        parts += ["", *(_verdict(report, compared or "", what) for what in ("host", "finished"))]
    return "\n".join(parts)


def stage_table(stages: list[dict[str, Any]], rate: str, *, head: str = "up to here, images/s") -> str:
    """Stages with their ceilings, and the share of the time that goes there as a bar.

    Args:
        stages: Rows with `name`, `about`, `cpu_ms`, `share` (None where it has none), and the rate.
        rate: Key of the rate.
        head: What it is.
    """
    rows: list[tuple[str, ...]] = [("stage", head, "range", "CPU ms", "share", "")]
    for each in stages:
        spread = each[rate]
        share = each["share"]
        rows.append(
            (
                each["name"],
                per_second(spread["median"]),
                f"{per_second(spread['low'])}-{per_second(spread['high'])}",
                "" if each["cpu_ms"] is None else f"{each['cpu_ms']:.2f}",
                "" if share is None else f"{share:.0%}",
                "" if share is None else f"{'#' * round(20 * share):20}  {each['about']}",
            )
        )
    return table(rows, right=frozenset((1, 2, 3, 4)))


def per_second(value: float) -> str:
    """Images per second for people: a training step on a processor takes a few seconds an image."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _rates(spread: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{spread[name]:,.1f}" for name in ("median", "low", "high"))


def _verdict(report: dict[str, Any], compared: str, what: str) -> str:
    found = report["compare"][what]
    ratio = found["ratio"]
    colour = {"faster": "green", "slower": "red"}.get(found["verdict"])
    text = f"{compared} is {found['verdict']}" if colour else f"{compared}: no difference can be told"
    return (
        f"{'batches' if what == 'host' else 'finished images'}: {paint(text, colour) if colour else text}: "
        f"{ratio['median']:.2f} times as fast ({ratio['low']:.2f} to {ratio['high']:.2f}, "
        f"{found['confidence']:.0%} sure; {found['other']['median']:,.1f} images/s)"
    )
