"""Flags that say what a pipeline is like, for the commands that measure one."""

from __future__ import annotations

import argparse
from typing import Any

from irv2data.errors import UsageError
from irv2data.pipeline.config import FITS, RESIZE_ON, PipelineConfig

from .common import add_augment, parse_augment, parse_size

_NONE = "none"
# What `--compare` may change: every option of a pipeline that is one word, and how it is read.
_READ: dict[str, Any] = {
    "fit": str,
    "image_size": parse_size,
    "batch_size": int,
    "buckets": int,
    "shuffle": lambda text: None if text == _NONE else text,
    "seed": int,
    "resize_on": str,
    "method": str,
    "antialias": {"true": True, "false": False}.__getitem__,
    "dtype": str,
    "crop_fraction": float,
    "crop_pixels": parse_size,
    "max_pixels": int,
    "max_canvas_pixels": int,
    "cache": str,
    "cache_short_side": int,
    "cache_dir": str,
    "service": str,
}


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    default = PipelineConfig()
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--fit", choices=FITS, default="random_resized_crop", help="default: %(default)s")
    parser.add_argument("--image_size", default="299", help="299 or HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=default.batch_size, help="default: %(default)s")
    parser.add_argument("--buckets", type=int, default=default.buckets, help="canvas shapes (default: %(default)s)")
    parser.add_argument("--shuffle", choices=("full", "blocks", _NONE), default="full", help="default: %(default)s")
    parser.add_argument(
        "--resize_on", choices=RESIZE_ON, default=default.resize_on, help="who resizes (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="default: %(default)s")
    add_augment(parser)


def pipeline_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What they say, as options of `Pipeline`, its split among them."""
    return {
        "split": arguments.split,
        "fit": arguments.fit,
        "image_size": parse_size(arguments.image_size),
        "batch_size": arguments.batch_size,
        "buckets": arguments.buckets,
        "shuffle": None if arguments.shuffle == _NONE else arguments.shuffle,
        "resize_on": arguments.resize_on,
        "seed": arguments.seed,
        "augment": parse_augment(arguments.augment),
    }


def parse_options(name: str, text: str) -> dict[str, Any]:
    """Reads `buckets=4,resize_on=host` as options of `Pipeline`.

    Args:
        name: Of the flag, for messages.
        text: Its value.

    Raises:
        UsageError: The text is not of that form.
    """
    found = {}
    for part in text.split(","):
        option, equals, value = part.partition("=")
        if option not in _READ or not equals:
            raise UsageError(f"{name} is OPTION=VALUE,... of {', '.join(_READ)}; got {part!r}")
        try:
            found[option] = _READ[option](value)
        except (ValueError, KeyError):
            raise UsageError(f"{name}: {option} cannot be {value!r}") from None
    return found
