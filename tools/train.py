"""`irv2data train DATASET RUN`: fine-tune Inception-ResNet-v2 on a dataset folder."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from irv2data.errors import EXIT_DONE
from irv2data.manifest import Dataset
from irv2data.pipeline.config import FITS
from irv2data.training.config import TrainConfig

from .common import Bars, add_augment, add_cache, add_json, cache_options, parse_augment, parse_size, print_json
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
        ("fine_epochs", "epochs after these in which the top blocks learn too"),
        ("unfreeze", "number of top blocks for the fine epochs, 44 for all"),
        ("max_steps", "steps an epoch at most, 0 for all"),
        ("seed", "of order, crops and new weights"),
        ("checkpoint_steps", "write a checkpoint every so many steps, too; 0: at the end of each epoch"),
        ("keep_checkpoints", "how many are kept"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=getattr(default, name), help=f"{text} (default: %(default)s)"
        )
    for name in ("head_learning_rate", "fine_learning_rate"):
        parser.add_argument(f"--{name}", type=float, default=getattr(default, name), help="default: %(default)s")
    parser.add_argument(
        "--weights", default=default.weights, help="imagenet, none (random), or a path (default: %(default)s)"
    )
    parser.add_argument("--split", default=default.split, help="to train on (default: %(default)s)")
    parser.add_argument(
        "--validation_split",
        default=default.validation_split,
        help="to evaluate on, '' for none (default: %(default)s)",
    )
    add_augment(parser)
    add_cache(parser)
    parser.add_argument(
        "--replicas", type=int, default=0, help="0: all GPUs, else one; more without GPUs: logical CPUs"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in RUN")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code."""
    config = TrainConfig(
        fit=arguments.fit,
        image_size=parse_size(arguments.image_size),
        batch_size=arguments.batch_size,
        weights=arguments.weights,
        head_epochs=arguments.head_epochs,
        fine_epochs=arguments.fine_epochs,
        unfreeze=arguments.unfreeze,
        head_learning_rate=arguments.head_learning_rate,
        fine_learning_rate=arguments.fine_learning_rate,
        max_steps=arguments.max_steps,
        seed=arguments.seed,
        checkpoint_steps=arguments.checkpoint_steps,
        keep_checkpoints=arguments.keep_checkpoints,
        split=arguments.split,
        validation_split=arguments.validation_split or None,
        augment=parse_augment(arguments.augment),
        **cache_options(arguments),
    )
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
