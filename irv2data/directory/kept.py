"""The converted images of a directory: made on first use, in a cache folder, and found there ever after."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from irv2data import manifest
from irv2data.convert import ConvertConfig
from irv2data.convert.config import parse_splits
from irv2data.convert.folder import is_dataset
from irv2data.directory.listing import Listing
from irv2data.errors import DatasetError, UsageError
from irv2data.labels import NONE
from irv2data.manifest import Dataset
from irv2data.storage import alone, user_cache

SPLIT = "images"
# Labels, subsets and sizes are decided later: one conversion serves all of them.
_FLAGS = {"labels": NONE, "splits": f"{SPLIT}=1", "max_bad_fraction": "1"}

Say = Callable[[str], None]


def default_folder() -> Path:
    """Where converted images are kept unless told otherwise: the user's cache folder, by the XDG specification."""
    return user_cache()


def keep(listing: Listing, cache_dir: str | os.PathLike[str] | None, say: Say) -> Dataset:
    """The images of a listing as a dataset with the one split `images`, without labels; converted if they are not yet.

    Processes that start at once wait for the one that converts. What a killed one leaves behind, the next one finishes.

    Args:
        listing: The images.
        cache_dir: Folder that holds converted images, by name of their key; None for `default_folder()`.
        say: Told what takes long, in one line.

    Raises:
        UsageError: The cache folder lies inside the directory.
        DatasetError: The images cannot be converted, or the cache folder not be written.
    """
    place = default_folder() if cache_dir is None else Path(cache_dir)
    root = os.path.realpath(listing.directory)
    if place.resolve().is_relative_to(root):
        raise UsageError(f"{place}: cache_dir lies inside the directory of images {root}; choose a folder outside it")
    name = key(listing)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place / f"{name}.lock", say):
            return _opened(listing, place / name, say)
    except OSError as error:
        raise DatasetError(f"{place}: cannot be used as a cache ({error.strerror or error})") from error


def key(listing: Listing) -> str:
    """Hexadecimal digest of what decides the converted images: where they are, names, sizes, times, and format."""
    digest = hashlib.sha256(f"{_config(listing).digest} {manifest.VERSION}\n".encode())
    for name in listing.names:
        try:
            status = os.stat(os.path.join(listing.directory, name))
            size, time = status.st_size, status.st_mtime_ns
        except OSError:  # conversion says why it cannot be read
            size, time = -1, 0
        digest.update(os.fsencode(name) + f"\0{size} {time}\n".encode())
    return digest.hexdigest()[:32]


def _config(listing: Listing) -> ConvertConfig:
    return ConvertConfig(
        labels=NONE,
        splits=parse_splits(_FLAGS["splits"]),
        image_root=os.path.realpath(listing.directory),
        follow_links=True,
    )


def _opened(listing: Listing, folder: Path, say: Say) -> Dataset:
    try:
        return Dataset(folder)
    except DatasetError:  # not there yet, not finished, or damaged since
        again = "--overwrite" if is_dataset(str(folder)) else "--resume"
    say(f"Converting {len(listing.names)} files, once, to {folder}")
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8", errors="surrogateescape") as table:
        for name in listing.names:
            table.write(json.dumps({"path": name}, ensure_ascii=False) + "\n")
        table.flush()
        flags = {**_FLAGS, "image_root": _config(listing).image_root}
        _convert([table.name, str(folder), "--follow_links", again, *(f"--{name}={flags[name]}" for name in flags)])
    return Dataset(folder)


def _convert(arguments: list[str]) -> None:
    # A process of its own: a conversion spawns workers, which import the main module, and scripts that were written
    # for Keras do not guard theirs. Its progress bars appear on standard error, if that is a terminal.
    command = [sys.executable, "-m", "irv2data.tools.main", "convert", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        try:
            reason = json.loads(done.stdout)["error"]["message"]
        except (ValueError, KeyError):
            reason = f"the conversion ended with status {done.returncode}; what it said stands above"
        raise DatasetError(reason)


@contextmanager
def _alone(path: Path, say: Say) -> Iterator[None]:
    """Holds a lock, after waiting for whoever has it."""
    with alone(path, wait=False) as free:
        if free:
            yield
            return
    say(f"Another process is converting the same files; waiting for it ({path})")
    with alone(path):
        yield
