"""What the fault tests and their drivers share: small sources, the commands as processes, what a folder holds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from irv2data import Dataset
from irv2data.convert import ConvertConfig
from irv2data.convert.workers import Marker
from irv2data.tfrecord import read_frames

HERE = Path(__file__).parent
PATIENCE = 120  # seconds that a test waits for what takes a few on a machine with nothing else to do
MODULES = ("run", "hashing", "verify", "repair", "adopt")
SPLITS = (("train", 0.6), ("validation", 0.4))


def run_serial(function, tasks, *, workers, finished, progress, lost=None, item_seconds=60, worker_mib=2048):
    """`run_local` in this process: workers cost a second, and nothing here takes one down."""

    class Told(Marker):
        def advance(self) -> None:
            progress(1)

    for number, task in enumerate(tasks):
        finished(number, function(task, Told()))


def image(number: int, height: int, width: int) -> Image.Image:
    """Of few colours, so that it stays small, and unlike that of any other number."""
    pixels = np.random.default_rng(number).integers(0, 255, (3, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def make_source(folder: Path, count: int = 24, first: int = 0) -> Path:
    """A folder with the classes ant (JPEG), bee (progressive) and cow (PNG)."""
    for number in range(first, first + count):
        name, suffix, options = (
            ("ant", "jpg", {"quality": 90}),
            ("bee", "jpg", {"progressive": True}),
            ("cow", "png", {}),
        )[number % 3]
        (folder / name).mkdir(parents=True, exist_ok=True)
        image(number, 20 + number % 17, 40 - number % 13).save(folder / name / f"{number:03d}.{suffix}", **options)
    return folder


CONFIG = ConvertConfig(splits=SPLITS, shard_mib=0.003, max_bad_fraction=0.5, duplicates="drop")
OPTIONS = [
    "--splits=train=0.6,validation=0.4", "--shard_mib=0.003", "--max_bad_fraction=0.5", "--duplicates=drop"
]  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    """What `diff -r` compares: every folder, and every file's content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in Path(folder).rglob("*")
    }


def inodes(folder: Path, pattern: str = "*.tfrecord") -> dict[str, tuple[int, int]]:
    """Identity and time of change of the files: equal means untouched."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob(pattern)}


def payloads(folder: Path) -> dict[str, list[bytes]]:
    """Split to its records' bytes, in order, read by the manifest."""
    found: dict[str, list[bytes]] = {}
    for name, split in Dataset(folder).splits.items():
        found[name] = []
        for path in split.paths:
            found[name] += [payload for _, payload in read_frames(io.BytesIO(Path(path).read_bytes()), path)]
    return found


def accounted(folder: Path) -> tuple[int, int, int, int]:
    """(sources, rejected, dropped, records), counted from the files; they must add up, in the manifest too."""
    dataset = Dataset(folder)
    rejected = len((folder / "rejects.jsonl").read_bytes().splitlines())
    lines = map(json.loads, (folder / "duplicates.jsonl").read_bytes().splitlines())
    dropped = sum(len(line["dropped"]) for line in lines)
    records = sum(map(len, payloads(folder).values()))
    counted = tuple(dataset.source[name] for name in ("sources", "rejected", "dropped"))
    assert counted == (rejected + dropped + records, rejected, dropped)
    return (*counted, records)


def flip(path: Path, position: int, mask: int = 1) -> None:
    """Changes one byte in place."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def start(*words: object, **options) -> subprocess.Popen:
    """`irv2data WORDS` in a process group of its own."""
    arguments = [sys.executable, "-m", "irv2data.tools.main", *map(str, words)]
    return spawn(arguments, **options)


def spawn(arguments: list[str], **options) -> subprocess.Popen:
    """A process of this Python in a group of its own, with pipes for what it prints."""
    root = str(HERE.parent.parent)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": root}
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(arguments, env=environment, **{**settings, **options})


def command(*words: object, **options) -> tuple[int, str, str]:
    """`irv2data WORDS` to its end: exit code, standard output, standard error."""
    process = start(*words, **options)
    try:
        printed, errors = process.communicate(timeout=PATIENCE)
    finally:
        kill(process)
    return process.returncode, printed, errors


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the whole group, if anything of it is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Waits for a condition; fails if it does not come, or the process that should bring it about ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.005)


def in_this_process() -> None:
    """Makes conversions, checks and repairs of this process, a driver, serial for good."""
    for module in MODULES:
        sys.modules[f"irv2data.convert.{module}"].run_local = run_serial
