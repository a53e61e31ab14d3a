"""The console command `irv2data`: finds the sub-command, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from absl.flags import argparse_flags

from irv2data import __version__
from irv2data.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Irv2dataError, one_line

from . import console
from .common import printable
from .interrupts import interruptible

# Name to one line of help. A command's module is imported only when it runs: `irv2data --help` stays instant.
COMMANDS = {
    "convert": "turn images into a dataset folder of TFRecord shards",
    "index": "adopt TFRecord shards that others wrote, without rewriting them",
    "verify": "check a dataset folder against its manifest, or repair it",
    "info": "say what a dataset folder holds",
    "preview": "show what a dataset folder holds: one page of figures and images",
    "bench": "measure the images per second the pipeline delivers on this machine",
    "train": "fine-tune Inception-ResNet-v2 on a dataset folder",
    "evaluate": "say how well a trained network does on a split, class by class",
    "study": "say which way of fitting images to the network costs what, on one's own images",
    "doctor": "say where a job's time goes on this machine, or whether several replicas train as one",
    "serve": "read and decode for training jobs on other machines: a dispatcher and its workers",
    "predict": "say which classes image files are of, with a trained network",
}

# As every command's module has them: command lines that work, and what each does. Help ends with them, a test parses
# each, and a sub-command of a command shows its own.
EXAMPLES = (
    ("irv2data convert photographs flowers", "a folder with one sub-folder a class becomes a dataset"),
    ("irv2data info flowers", "splits, classes, sizes, formats"),
    ("irv2data train flowers run1 --head_epochs=2", "fine-tune on it"),
    ("irv2data predict run1 holiday --output=found.csv", "classes of other images"),
    ("irv2data train --help", "all that a command can do, with examples"),
)

INTERRUPTED = "nothing was left behind; run it again"  # where a command's module has no `left`

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Parser(argparse_flags.ArgumentParser):
    """Reports wrong flags as every other error is reported: with --json as an object, too."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)
        console.add_verbosity(self)

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            print(json.dumps(_error(message, "UsageError", EXIT_USAGE)))
        self.print_usage(sys.stderr)
        with console.showing(console.NORMAL, plain="--json" in sys.argv):
            print(f"{console.paint(f'{self.prog}:', 'red', sys.stderr)} {message}", file=sys.stderr)
        sys.exit(EXIT_USAGE)

    def format_help(self) -> str:
        _, *command = self.prog.split()
        found = EXAMPLES if not command else getattr(_module(command[0]), "EXAMPLES", ())
        own = [line for line in found if line[0].startswith(self.prog)]
        return super().format_help() + (console.examples(own) if own else "")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line; the sub-command's module has added its flags and sets `run`."""
    parser = _Parser(prog="irv2data", description="Variable-size images into Inception-ResNet-v2, fast.")
    parser.add_argument("--version", action="version", version=f"irv2data {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in argv[1:] if word in COMMANDS), None)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == wanted:
            module = _module(name)
            module.add_arguments(command)
            command.set_defaults(run=module.run, left=getattr(module, "left", None))
    parser.set_defaults(verbosity=console.NORMAL)
    try:
        return parser.parse_args(argv[1:])
    except flags.Error as error:  # one of absl's own flags, which every command has
        parser.error(str(error))


def _module(name: str) -> Any:
    return importlib.import_module(f"irv2data.tools.{name}")


def run(arguments: argparse.Namespace) -> int:
    """Runs the parsed command and returns its exit code; errors become one line (or one JSON object)."""
    # TensorFlow tells how it reduces gradients and warns of several traces, here meant: one for each canvas shape.
    logging.set_verbosity(logging.INFO if arguments.verbosity == console.VERBOSE else logging.ERROR)
    plain = getattr(arguments, "json", False)
    with console.showing(arguments.verbosity, plain=plain), interruptible() as interrupted:
        try:
            try:
                code = int(arguments.run(arguments))
                sys.stdout.flush()  # the interpreter's own last one would fail in three lines
                return code
            except Irv2dataError as error:
                return _report(arguments, str(error), type(error).__name__, error.exit_code)
            except KeyboardInterrupt:
                return _interrupted(arguments)
        except BrokenPipeError:
            # The reader of our output went away (`| head`); keep the interpreter from failing at its last flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILED
        except OSError as error:
            if error.errno not in _FULL:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            text = f"output cannot be written ({error.strerror})"
            print(f"{_prefix(arguments)} {text}", file=sys.stderr)
            return EXIT_FAILED
        except Exception:
            if not interrupted():
                raise
            # TensorFlow makes another error of a KeyboardInterrupt that comes while it calls Python.
            return _interrupted(arguments)


def guarded(arguments: argparse.Namespace) -> int:
    """As `run`; what is no error that irv2data raises on purpose becomes one line, too."""
    try:
        return run(arguments)
    except Exception as error:
        with console.showing(arguments.verbosity, plain=getattr(arguments, "json", False)):
            return _report(arguments, _unexpected(error, arguments.verbosity), type(error).__name__, EXIT_FAILED)


def _unexpected(error: Exception, verbosity: int) -> str:
    """One line for what nobody expected, with its traceback before it where that is wanted."""
    if verbosity == console.VERBOSE:
        traceback.print_exception(error)
    kind = type(error).__name__
    if kind == "ResourceExhaustedError" or isinstance(error, MemoryError):
        return f"out of memory ({one_line(error)}); a smaller --batch_size, cache or number of workers needs less"
    where = "the traceback is above" if verbosity == console.VERBOSE else "--verbose shows where"
    return f"this is a bug in irv2data, please report it: {kind}: {one_line(error)} ({where})"


def _interrupted(arguments: argparse.Namespace) -> int:
    left = arguments.left(arguments) if getattr(arguments, "left", None) else INTERRUPTED
    return _report(arguments, f"interrupted; {left}", "InterruptedRunError", EXIT_INTERRUPTED)


def _prefix(arguments: argparse.Namespace) -> str:
    return console.paint(f"irv2data {arguments.command}:", "red", sys.stderr)


def _report(arguments: argparse.Namespace, message: str, kind: str, code: int) -> int:
    if getattr(arguments, "json", False):
        print(json.dumps(_error(message, kind, code)))
    print(f"{_prefix(arguments)} {printable(message)}", file=sys.stderr)
    return code


def _error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, "exit_code": code}}


def main_cli() -> None:
    """Entry point of the console command."""
    app.run(guarded, flags_parser=parse)


if __name__ == "__main__":
    main_cli()
