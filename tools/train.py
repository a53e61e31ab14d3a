"""`irv2data train DATASET RUN`: fine-tune Inception-ResNet-v2 on a dataset folder."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from irv2data.errors import EXIT_DONE
from irv2data.manifest import Dataset
from irv2data.pipeline.config import FITS
from irv2data.training.config import BALANCED, PRECISIONS, SCHEDULES, TrainConfig

from .common import (
    add_augment,
    add_json,
    add_place,
    parse_augment,
    parse_numbers,
    parse_size,
    print_json,
)
from .console import Bars, note
from .interrupts import stopping
from .quiet import load_tensorflow, reading

EXAMPLES = (
    ("irv2data train flowers run1 --head_epochs=2 --fine_epochs=3 --unfreeze=12", "the head first, then top blocks"),
    ("irv2data train flowers run1 --resume", "go on with a run that was stopped or killed"),
    ("irv2data train flowers run1 --fit=letterbox --image_size=299x384 --batch_size=64", "whole images, not square"),
    ("irv2data train flowers run1 --augment=rotate=15,mixup=0.2 --label_smoothing=0.1", "with more augmentation"),
    ("irv2data train flowers run1 --cache=auto --precision=bfloat16", "faster where memory and GPUs allow"),
    ("irv2data train flowers run1 --profile_steps=20,30", "record where the time of some steps goes, for TensorBoard"),
)


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
        ("figures_steps", "write what the input costs to TensorBoard every so many steps; 0: once an epoch"),
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
        "--profile_steps", default="", metavar="FIRST,LAST", help="steps of this start that the profiler records"
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
        "profile_steps": parse_numbers("profile_steps", arguments.profile_steps) or None,
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
        with reading(arguments.dataset), stopping(b"stopping after this step; once more to stop at once\n") as stop:
            metrics = train(
                dataset,
                arguments.run_folder,
                config,
                strategy,
                overwrite=arguments.overwrite,
                resume=arguments.resume,
                stop=stop,
                log=note,
                progress=bars,
            )
    finally:
        bars.close()
    if arguments.json:
        print_json(metrics)
    else:
        print(f"model and metrics: {arguments.run_folder}")
    return EXIT_DONE


def left(arguments: argparse.Namespace) -> str:
    """What a run leaves that is interrupted outside of its steps; within them it says so itself."""
    return f"--resume goes on from the last checkpoint in {arguments.run_folder}, or begins where there is none"
