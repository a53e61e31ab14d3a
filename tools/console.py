"""What a command shows beside its result, and where: notes, progress bars, log messages, colours.

Everything here goes to standard error, obeys `--quiet` and `--verbose`, and leaves pipes and files plain: bars and
colours are for terminals.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TextIO

from tqdm import tqdm

QUIET, NORMAL, VERBOSE = -1, 0, 1
_LEVELS = {QUIET: logging.ERROR, NORMAL: logging.WARNING, VERBOSE: logging.DEBUG}
_COLOURS = {"red": "31", "green": "32", "yellow": "33"}
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{ends}, {rate_fmt}]"
_SOON = timedelta(minutes=2)  # before that, what remains says it all

_verbosity = NORMAL
_plain = False


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Adds `--quiet` and `--verbose`; without a default, so that they count before and after a sub-command."""
    group = parser.add_argument_group("what is shown").add_mutually_exclusive_group()
    group.add_argument(
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=QUIET,
        default=argparse.SUPPRESS,
        help="results and errors only: no progress, no notes",
    )
    group.add_argument(
        "--verbose",
        dest="verbosity",
        action="store_const",
        const=VERBOSE,
        default=argparse.SUPPRESS,
        help="log messages too, TensorFlow's among them, and tracebacks of unexpected errors",
    )


@contextmanager
def showing(verbosity: int, *, plain: bool = False) -> Iterator[None]:
    """Within, notes, bars, log messages and colours obey.

    Args:
        verbosity: `QUIET`, `NORMAL` or `VERBOSE`.
        plain: Without colours whatever the terminal.
    """
    global _verbosity, _plain
    before = _verbosity, _plain
    _verbosity, _plain = verbosity, plain
    logger, handler = logging.getLogger("irv2data"), _Lines()
    kept = logger.level, logger.propagate
    logger.setLevel(_LEVELS[verbosity])
    logger.addHandler(handler)
    # absl hands everything to a handler of its own, which would tell it a second time.
    logger.propagate = False
    try:
        yield
    finally:
        _verbosity, _plain = before
        logger.removeHandler(handler)
        logger.setLevel(kept[0])
        logger.propagate = kept[1]


def is_quiet() -> bool:
    """Whether results and errors are all that is wanted."""
    return _verbosity == QUIET


def is_verbose() -> bool:
    """Whether everything is wanted that is known."""
    return _verbosity == VERBOSE


def note(text: str) -> None:
    """Tells something beside the result, without getting into the way of a bar."""
    if not is_quiet():
        tqdm.write(text, file=sys.stderr)


def result(text: str) -> None:
    """Prints a result, above the bar where there is one; its lines that begin with `note: ` go with the notes."""
    if is_quiet():
        text = "\n".join(line for line in text.split("\n") if not line.startswith("note: "))
    tqdm.write(text, file=sys.stdout)


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in `red`, `green` or `yellow` where the stream (standard output) shows colours; else as it is."""
    return f"\x1b[1;{_COLOURS[colour]}m{text}\x1b[0m" if shows_colours(stream or sys.stdout) else text


def shows_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that colours are wanted on.

    Never with `--json`, nor where NO_COLOR is set (https://no-color.org), nor on a terminal that calls itself dumb;
    FORCE_COLOR makes a terminal of anything.
    """
    if _plain or os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Bars:
    """One progress bar a stage on standard error, when that is a terminal; silent otherwise.

    Args:
        unit: What is counted.
        **units: The same for stages that count something else.
    """

    def __init__(self, unit: str, **units: str):
        self._unit = unit
        self._units: Mapping[str, str] = units
        self._stage = ""
        self._bar: tqdm[Any] | None = None

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Shows that `done` of `total` units of `stage` are finished; a new stage closes the bar of the last one."""
        if stage != self._stage or self._bar is None:
            self.close()
            self._bar = _Bar(
                desc=stage,
                total=total,
                unit=f" {self._units.get(stage, self._unit)}",
                file=sys.stderr,
                # None: tqdm shows itself on a terminal only.
                disable=True if is_quiet() else None,
                leave=True,
                bar_format=_BAR if total else None,
                # Also where TQDM_COLOUR asks for one.
                **({} if shows_colours(sys.stderr) else {"colour": None}),
            )
            self._stage = stage
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Ends the current bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Bar(tqdm):
    @property
    def format_dict(self) -> dict[str, Any]:
        """With the time of day at which it ends, where that is some way off."""
        found = super().format_dict
        left = (found["total"] or 0) - found["n"]
        rate = found["rate"] or (found["n"] - found["initial"]) / max(found["elapsed"], 1e-9)
        found["ends"] = ends(timedelta(seconds=left / rate), datetime.now()) if rate > 0 and left > 0 else ""
        return found


def ends(left: timedelta, now: datetime) -> str:
    """When that is over: a time of day, with the date if it is another one; nothing if it is soon."""
    if left < _SOON:
        return ""
    try:
        end = now + left
    except OverflowError:  # at a rate that says nothing yet
        return ""
    return f", until {end:%H:%M}" if end.date() == now.date() else f", until {end:%Y-%m-%d %H:%M}"


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            where = f" {record.name}:" if is_verbose() else ""
            tqdm.write(f"{record.levelname.lower()}:{where} {self.format(record)}", file=sys.stderr)
        except Exception:
            self.handleError(record)


def examples(lines: Sequence[tuple[str, str]]) -> str:
    """What a command's help ends with.

    Args:
        lines: Command lines, and what each does. A line that the terminal has no room for goes on after a backslash,
            as a shell takes it.
    """
    width = max(shutil.get_terminal_size().columns - 2, 20)  # as argparse has it
    found = ["", "examples:"]
    for command, text in lines:
        parts = textwrap.wrap(command, width - 4, break_long_words=False, break_on_hyphens=False)
        found.append(" \\\n".join(f"{'  ' if number == 0 else '      '}{part}" for number, part in enumerate(parts)))
        found += textwrap.wrap(text, width - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(found) + "\n"
