"""`irv2data doctor DATASET`: where a job's time goes on this machine, and what to change.

`--distribution` looks at something else: does training on N replicas give what it gives on one, on this machine?
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from irv2data.errors import EXIT_DONE, EXIT_FAILED, UsageError
from irv2data.manifest import Dataset

from .bench import per_second, stage_table
from .common import add_json, print_json, table
from .console import Bars, paint
from .options import add_pipeline, pipeline_options
from .quiet import load_tensorflow, reading

EXAMPLES = (
    ("irv2data doctor flowers", "each stage and a training step of this machine's devices; the change that helps most"),
    ("irv2data doctor flowers --wanted_rate=2400", "can this host feed devices that take 2,400 images/s?"),
    ("irv2data doctor flowers --unfreeze=0", "when the head alone learns, a step takes less, and waits more"),
    ("irv2data doctor --distribution --replicas=2", "do two replicas of this machine train as one does?"),
)
_SAID = {
    "cache": "keep decoded images",
    "buckets": "other canvas shapes",
    "cores": "more cores",
    "shrink": "smaller images",
    "service": "service workers",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="dataset folder")
    add_pipeline(parser)
    parser.add_argument(
        "--model",
        default="inception_resnet_v2",
        help="what a step trains: inception_resnet_v2, the path of a Keras model, or none (default: %(default)s)",
    )
    parser.add_argument(
        "--unfreeze", type=int, default=44, help="of its 44 blocks, how many learn (default: %(default)s)"
    )
    parser.add_argument("--precision", default="auto", help="float32, bfloat16 or auto (default: %(default)s)")
    parser.add_argument(
        "--wanted_rate", type=float, default=0.0, help="images/s that the devices take, where they are not in here"
    )
    parser.add_argument("--rounds", type=int, default=3, help="after one that is not counted (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, about (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=0, help="how many; 0: all GPUs, or one CPU")
    parser.add_argument(
        "--distribution", action="store_true", help="compare losses, gradients, weights and metrics with one replica's"
    )
    parser.add_argument("--sync_bn", action="store_true", help="with --distribution: batch normalisation that learns")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    if arguments.distribution:
        if arguments.dataset is not None:
            raise UsageError("--distribution needs no DATASET: it compares on images of its own")
        return _distribution(arguments)
    if arguments.dataset is None:
        raise UsageError("give a DATASET to look at its pipeline, or --distribution")
    if arguments.sync_bn:
        raise UsageError("sync_bn goes with --distribution")
    return _pipeline(arguments)


def _pipeline(arguments: argparse.Namespace) -> int:
    options = pipeline_options(arguments)
    dataset = Dataset(arguments.dataset)
    load_tensorflow()
    from irv2data.measure.diagnosis import Question, diagnose
    from irv2data.pipeline.build import Pipeline
    from irv2data.pipeline.config import NATIVE
    from irv2data.pipeline.distribute import are_processors
    from irv2data.training import make_strategy
    from irv2data.training.masked import large_enough

    question = Question(
        model=arguments.model,
        unfreeze=arguments.unfreeze,
        precision=arguments.precision,
        wanted_rate=arguments.wanted_rate,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    strategy = make_strategy(arguments.replicas)
    elsewhere = bool(arguments.wanted_rate) and are_processors(strategy)
    if elsewhere and options["resize_on"] == "auto":
        options["resize_on"] = "device"  # as it will be where the devices are
    pipeline = Pipeline(dataset, **options)
    if options["fit"] == NATIVE:  # as `train` has it
        pipeline = Pipeline(dataset, **{**options, "canvases": large_enough(pipeline.plan.canvases)})
    bars = Bars("turns", changes="changes")
    try:
        with reading(arguments.dataset):
            report = diagnose(pipeline, strategy, question, progress=bars)
    finally:
        bars.close()
    report = {
        "dataset": dataset.location,
        **report,
        "question": asdict(question),
        "config": asdict(pipeline.config),
    }
    if arguments.json:
        print_json(report)
    else:
        print(text(report))
    return EXIT_DONE


def text(report: dict[str, Any]) -> str:
    """The report for people: stages, cores, what a step waits, and what to do."""
    host = [each for each in report["stages"] if each["where"] == "host"]
    devices = [each for each in report["stages"] if each["where"] == "devices"]
    parts = ["On the host", stage_table(host, "ceiling"), "", f"On the devices ({_replicas(report)})"]
    parts += [stage_table(devices, "ceiling", head="by itself, images/s"), ""]
    rows: list[tuple[str, ...]] = [("cores", "images/s of the host")]
    rows += [(str(each["cores"]), per_second(each["images_per_second"])) for each in report["cores"]]
    parts += [table(rows, right=frozenset((0, 1))), "", *_summary(report), ""]
    return "\n".join([*parts, *_advice(report)])


def _replicas(report: dict[str, Any]) -> str:
    count = f"{report['replicas']} replica{'s' * (report['replicas'] > 1)}"
    size = report["step_batch_size"]
    return count + (f"; a step of {size} images" if size else "")


def _summary(report: dict[str, Any]) -> list[str]:
    host, devices, wait = report["host"], report["devices"], report["wait"]
    if devices is None:
        return [f"The host feeds {per_second(host)} images/s. What devices take is not known (--model, --wanted_rate)."]
    lines = [
        f"The host feeds {per_second(host)} images/s, the devices take {per_second(devices)}: the job does "
        f"{per_second(report['fed'])}, and a step {'loses' if report['shared'] else 'waits'} {wait:.0%} of its time"
        f"{' to the host, which needs the same processor' if report['shared'] else ' for images'}."
    ]
    if report["copy"] is not None and report["copy"] < min(host, devices):
        lines.append(f"The copy to the devices is the limit: {per_second(report['copy'])} images/s.")
    if report["shared"]:
        lines.append("Where the devices will be others than this processor, say what they take: --wanted_rate=2400.")
    else:
        needed = report["cores_per_replica"]
        have = report["cores"][-1]["cores"]
        each = "accelerator" if report["replicas"] > 1 else "of the devices"
        lines.append(
            f"To keep {'each ' if report['replicas'] > 1 else 'all '}{each} busy takes {needed:,} cores of this kind; "
            f"there are {have}."
            if needed is not None
            else "No number of cores of this kind would keep the devices busy."
        )
    return lines


def _advice(report: dict[str, Any]) -> list[str]:
    changes = {each["name"]: each for each in report["changes"]}
    chosen = report["recommended"]
    if chosen is None:
        lines = [paint("Nothing that could be changed here would help by 5 % or more.", "green")]
    else:
        best = changes[chosen]
        lines = [
            paint(f"What would help most: {best['what']}.", "yellow"),
            f"  predicted: {per_second(best['fed'])} images/s instead of {per_second(report['fed'])} "
            f"({best['gain']:+.0%}); {best['basis']}",
        ]
    if changes:
        rows: list[tuple[str, ...]] = [("change", "host, images/s", "job, images/s", "gain", "")]
        for name, each in changes.items():
            gain = f"{each['gain']:+.0%}"
            rows.append((_SAID[name], per_second(each["host"]), per_second(each["fed"]), gain, each["what"]))
        lines += ["", table(rows, right=frozenset((1, 2, 3)))]
    lines += [f"not {_SAID[name]}: {reason}" for name, reason in report["reasons"].items()]
    return lines


def _distribution(arguments: argparse.Namespace) -> int:
    load_tensorflow()
    import keras
    import tensorflow as tf

    from irv2data.training import make_strategy
    from irv2data.training.proof import ALLOWED, prove

    replicas = arguments.replicas or len(tf.config.list_physical_devices("GPU")) or 2
    make_strategy(replicas)  # logical CPUs have to be there before TensorFlow is used
    found = prove(replicas, sync_bn=arguments.sync_bn)
    sound = all(finding.same for finding in found)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    if arguments.json:
        print_json(
            {
                "sound": sound,
                "replicas": replicas,
                "sync_bn": arguments.sync_bn,
                "allowed": ALLOWED,
                **versions,
                "findings": [asdict(finding) for finding in found],
            }
        )
    else:
        rows = [("", "", "largest difference", "")]
        for each in found:
            said = paint("same", "green") if each.same else paint("DIFFERS", "red")
            rows.append((each.loop, each.what, f"{each.difference:.1e}", said))
        print(table(rows, right=frozenset((2,))))
        print(
            f"{replicas} replicas {'train as' if sound else 'do NOT train as'} one (TensorFlow "
            f"{versions['tensorflow']}, Keras {versions['keras']}; allowed {ALLOWED:.0e} of the largest value)"
        )
    return EXIT_DONE if sound else EXIT_FAILED
