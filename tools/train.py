"""`irv2data train DATASET RUN`: fine-tune Inception-ResNet-v2 on a dataset folder."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from types import FrameType
from typing import Any

from irv2data.errors import EXIT_DONE
from irv2data.manifest import Dataset
from irv2data.pipeline.config import FITS
from irv2data.training.config import BALANCED, PRECISIONS, SCHEDULES, TrainConfig

from .common import (
    Bars,
    add_augment,
    add_json,
    add_place,
    parse_augment,
    parse_numbers,
    parse_size,
    print_json,
)
from .quiet import load_tensorflow, reading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    default = TrainConfig()
    parser.add_argument("dataset", metavar="DATASET", help="dataset folder")
    parser.add_argument("run_folder", metavar="RUN", help="folder for model and metrics")
    parser.add_argument("--fit", choices=FITS, default=default.fit, help="how images are fitted (default: %(default)s)")
    parser.add_argument("--image_size", default="299", help="input size, 299 or HEIGHTxWIDTH (default: %(default)s)")
    for name, text in (
        ("batch_size", "images a step, over all replicas"),
        ("head_epochs", "epochs in which the new head learns alone"),
        ("fine_epochs", "epochs of each fine phase after these, in which top blocks learn too"),
        ("warmup_steps", "steps of each phase in which the learning rate rises"),
        ("patience", "end after so many epochs without a smaller validation loss, keep the best; 0: never"),
        ("accumulate", "parts that a replica works off its share of a batch in, to save memory"),
        ("max_steps", "steps an epoch at most, 0 for all"),
        ("seed", "of order, crops and new weights"),
        ("buckets", "canvas shapes"),
        ("max_bad_records", "damaged records that are left out; with 0 the first is an error"),
        ("checkpoint_steps", "write a checkpoint every so many steps, too; 0: at the end of each epoch"),
        ("keep_checkpoints", "how many are kept"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=getattr(default, name), help=f"{text} (default: %(default)s)"
        )
    for name, text in (
        ("head_learning_rate", "highest of the head phase"),
        ("fine_learning_rate", "highest of the fine phases"),
        ("block_decay", "a block's learning rate over that of the block above it"),
        ("weight_decay", "share of the kernels that a step takes away, times the learning rate"),
        ("label_smoothing", "share of each label that is spread over all classes"),
        ("ema", "momentum of the averages of the weights that are evaluated and saved, as 0.999; 0: none"),
        ("crop_fraction", "of center_crop: share of the largest box of the output's aspect"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=getattr(default, name), help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--unfreeze", default="", help="top blocks of each fine phase, as 4 or 2,10,44; all are 44 (default: none)"
    )
    parser.add_argument("--schedule", choices=SCHEDULES, default=default.schedule, help="(default: %(default)s)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=default.precision, help="of activations (default: %(default)s)"
    )
    parser.add_argument(
        "--class_weights", choices=("none", BALANCED), default="none", help="of the loss (default: %(default)s)"
    )
    parser.add_argument(
        "--sync_bn", action="store_true", help="batch normalisation learns, from the global batch, in blocks that learn"
    )
    parser.add_argument("--progressive", default="", help="sizes of the first epochs, small first, as 128,192")
    parser.add_argument("--crop_pixels", default="", help="of center_crop: a window at native scale, HEIGHTxWIDTH")
    parser.add_argument("--max_pixels", type=int, help="of native: larger images are shrunk to so many")
    parser.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=default.tensorboard,
        help="write events for TensorBoard",
    )
    parser.add_argument(
        "--weights",
        default=default.weights,
        help="imagenet, none (random), or a path, with its digest if you like: PATH#sha256=HEX (default: %(default)s)",
    )
    parser.add_argument("--split", default=default.split, help="to train on (default: %(default)s)")
    parser.add_argument(
        "--validation_split",
        default=default.validation_split,
        help="to evaluate on, '' for none (default: %(default)s)",
    )
    add_augment(parser)
    add_place(parser)
    parser.add_argument(
        "--replicas", type=int, default=0, help="0: all GPUs, else one; more without GPUs: logical CPUs"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in RUN")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    # The flags have the names of the options; these are given in another form.
    parsed: dict[str, Any] = {
        "image_size": parse_size(arguments.image_size),
        "unfreeze": parse_numbers("unfreeze", arguments.unfreeze),
        "progressive": tuple(parse_size(part) for part in arguments.progressive.split(",") if part),
        "crop_pixels": parse_size(arguments.crop_pixels) if arguments.crop_pixels else None,
        "class_weights": None if arguments.class_weights == "none" else arguments.class_weights,
        "validation_split": arguments.validation_split or None,
        "augment": parse_augment(arguments.augment),
    }
    same = {field.name: getattr(arguments, field.name) for field in fields(TrainConfig) if field.name not in parsed}
    config = TrainConfig(**parsed, **same)
    dataset = Dataset(arguments.dataset)
    load_tensorflow()  # after the flags and the dataset were found good
    from irv2data.training import make_strategy, train

    strategy = make_strategy(arguments.replicas)
    bars = Bars("steps")
    try:
        with reading(arguments.dataset), stopping() as stop:
            metrics = train(
                dataset,
                arguments.run_folder,
                config,
                strategy,
                overwrite=arguments.overwrite,
                resume=arguments.resume,
                stop=stop,
                log=lambda line: print(line, file=sys.stderr),
                progress=bars,
            )
    finally:
        bars.close()
    if arguments.json:
        print_json(metrics)
    else:
        print(f"model and metrics: {arguments.run_folder}")
    return EXIT_DONE


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM asks a run to stop after its step; the second one ends it at once."""
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        # Not `print`, whose buffer the signal may have come in the middle of.
        os.write(2, b"stopping after this step; once more to stop at once\n")

    if threading.current_thread() is not threading.main_thread():  # where Python takes no handlers
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
