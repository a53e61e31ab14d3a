"""What the commands share: flags, JSON and tables; `console` has what they show beside that."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from irv2data.errors import UsageError
from irv2data.pipeline.augmentation import Augment
from irv2data.pipeline.config import CACHES, NO_CACHE, PLACE_OPTIONS


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`: standard output is then one JSON object, and everything else goes to standard error."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def print_json(content: dict[str, Any]) -> None:
    """Prints one JSON object; bytes of paths that are not UTF-8 appear as escaped surrogates."""
    print(json.dumps(content))


def table(rows: Iterable[tuple[str, ...]], *, right: frozenset[int] = frozenset()) -> str:
    """Aligned columns; those numbered in `right` are aligned to the right."""
    rows = [tuple(str(cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def printable(text: str) -> str:
    """The text for a terminal: control characters and undecodable bytes of file names as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def add_augment(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that says what is changed at random."""
    parser.add_argument(
        "--augment",
        default="",
        metavar="NAME=VALUE,...",
        help=f"random changes, as rotate=15,mixup=0.2; of {', '.join(field.name for field in fields(Augment))}",
    )


def parse_augment(text: str) -> Augment | None:
    """Reads `rotate=15,fill_mode=reflect`; None of nothing.

    Raises:
        UsageError: The text is not of that form, or a value is out of its range.
    """
    if not text:
        return None
    default = Augment()
    kinds: dict[str, type] = {field.name: type(getattr(default, field.name)) for field in fields(default)}
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in kinds:
            raise UsageError(f"augment has no {name!r}; it has {', '.join(kinds)}")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            raise UsageError(f"augment: {name} must be a number, got {value!r}") from None
    return Augment(**given)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where images are decoded and kept."""
    parser.add_argument("--cache", choices=CACHES, default=NO_CACHE, help="keep decoded images (default: %(default)s)")
    parser.add_argument(
        "--cache_short_side", type=int, help="pixels of a kept image's short side (default: the input's longer side)"
    )
    parser.add_argument("--cache_mib", type=int, help="that --cache=auto may use (default: half of the free memory)")
    parser.add_argument(
        "--cache_device_mib", type=int, default=0, help="of each GPU that --cache=auto may use (default: %(default)s)"
    )
    parser.add_argument("--cache_dir", help="folder on a local disk for --cache=disk")
    parser.add_argument(
        "--service", metavar="grpc://HOST:PORT", help="let workers decode, of this dispatcher (`irv2data serve`)"
    )


def place_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What they say, as options of `Pipeline` and `TrainConfig`."""
    return {name: getattr(arguments, name) for name in PLACE_OPTIONS}


def parse_numbers(name: str, text: str) -> tuple[int, ...]:
    """Reads `2,10,44`.

    Raises:
        UsageError: The text is not of that form.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise UsageError(f"{name} must be whole numbers, as 2,10,44, got {text!r}") from None


def parse_size(text: str) -> tuple[int, int]:
    """Reads `299` or `299x320` (height x width, in pixels).

    Raises:
        UsageError: The text is not of that form.
    """
    try:
        height, _, width = text.partition("x")
        size = int(height), int(width or height)
    except ValueError:
        raise UsageError(f"an image size is 299 or HEIGHTxWIDTH, got {text!r}") from None
    if min(size) < 1:
        raise UsageError(f"an image size must be positive, got {text!r}")
    return size


def mib(size: float) -> str:
    """A number of bytes in MiB, for people."""
    return f"{size / (1 << 20):,.1f} MiB"
