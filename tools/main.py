"""The console command `irv2data`: finds the sub-command, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags, logging
from absl.flags import argparse_flags

from irv2data import __version__
from irv2data.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Irv2dataError

from .common import printable

# Name to one line of help. A command's module is imported only when it runs: `irv2data --help` stays instant.
COMMANDS = {
    "convert": "turn images into a dataset folder of TFRecord shards",
    "index": "adopt TFRecord shards that others wrote, without rewriting them",
    "verify": "check a dataset folder against its manifest, or repair it",
    "info": "say what a dataset folder holds",
    "bench": "measure the images per second the pipeline delivers on this machine",
    "train": "fine-tune Inception-ResNet-v2 on a dataset folder",
    "evaluate": "say how well a trained network does on a split, class by class",
    "study": "say which way of fitting images to the network costs what, on one's own images",
    "doctor": "check that training on several replicas gives what it gives on one",
    "serve": "read and decode for training jobs on other machines: a dispatcher and its workers",
    "predict": "say which classes image files are of, with a trained network",
}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Parser(argparse_flags.ArgumentParser):
    """Reports wrong flags as every other error is reported: with --json as an object, too."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            print(json.dumps(_error(message, "UsageError", EXIT_USAGE)))
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line; the sub-command's module has added its flags and sets `run`."""
    parser = _Parser(
        prog="irv2data", description="Variable-size images into Inception-ResNet-v2, fast.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"irv2data {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in argv[1:] if word in COMMANDS), None)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".", allow_abbrev=False)
        if name == wanted:
            module = importlib.import_module(f"irv2data.tools.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    try:
        return parser.parse_args(argv[1:])
    except flags.Error as error:  # one of absl's own flags, which every command has
        parser.error(str(error))


def run(arguments: argparse.Namespace) -> int:
    """Runs the parsed command and returns its exit code; errors become one line (or one JSON object)."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    # TensorFlow tells how it reduces gradients and warns of several traces, here meant: one for each canvas shape.
    logging.set_verbosity(logging.ERROR)
    try:
        try:
            code = int(arguments.run(arguments))
            sys.stdout.flush()  # the interpreter's own last one would fail in three lines
            return code
        except Irv2dataError as error:
            return _report(arguments, str(error), type(error).__name__, error.exit_code)
        except KeyboardInterrupt:
            return _report(arguments, "interrupted", "InterruptedRunError", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); keep the interpreter from failing at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"irv2data {arguments.command}: output cannot be written ({error.strerror})", file=sys.stderr)
        return EXIT_FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report(arguments: argparse.Namespace, message: str, kind: str, code: int) -> int:
    if getattr(arguments, "json", False):
        print(json.dumps(_error(message, kind, code)))
    print(f"irv2data {arguments.command}: {printable(message)}", file=sys.stderr)
    return code


def _error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, "exit_code": code}}


def main_cli() -> None:
    """Entry point of the console command."""
    app.run(run, flags_parser=parse)


if __name__ == "__main__":
    main_cli()
