"""Kills an operation before each change it makes to the file system, one run for each; prints what came of each.

One process imports everything once and forks for every run, so that hundreds of runs take seconds. A script:

    killed.py convert|overwrite|append|repair FOLDER
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty

from irv2data import Dataset, storage
from irv2data.convert import ConvertConfig, convert, repair, verify
from irv2data.errors import DatasetError, UsageError

# Audit events of whatever changes a folder; `open` counts where it can write.
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}
CONFIG = ConvertConfig(splits=faulty.SPLITS, shard_mib=0.002, max_bad_fraction=0.9, duplicates="drop")


def die_before(number: int, folder: Path) -> None:
    """SIGKILLs this process before its change of that number, from 1, in the folder.

    A change is what gives, takes or replaces a name, and the first write to each file, which is killed half-way.
    """
    seen = 0

    def due() -> bool:
        nonlocal seen
        seen += 1
        return seen == number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and str(arguments[0]).startswith(str(folder)) and due():
            os.kill(os.getpid(), signal.SIGKILL)

    class Killed(io.FileIO):
        begun = False

        def write(self, data: Any) -> int:
            if not self.begun and due():
                super().write(memoryview(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            self.begun = True
            return super().write(data) or 0

    sys.addaudithook(hook)
    vars(storage)["open"] = lambda path, mode: (Killed if "w" in mode else io.FileIO)(path, mode)


def in_a_child(work: Callable[[], object]) -> int:
    """Exit code of a fork that does the work; negative: the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass(kw_only=True)
class Scenario:
    """An operation on `out`, what must be there before it, and what goes on with it after a kill."""

    out: Path
    operate: Callable[[], object]
    again: Callable[[], object]
    before: Path | None = None
    last_resort: Callable[[], object] | None = None
    originals: set[str] = field(default_factory=set)  # digests of shards of which a copy has to be left

    def reset(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, self.out)

    def run(self) -> list[dict[str, Any]]:
        self.reset()
        self.operate()
        expected, after, number, runs = faulty.tree(self.out), state(self.out), 0, []
        self.reset()
        before = state(self.out)
        while True:
            number += 1
            self.reset()

            def work(number: int = number) -> None:
                die_before(number, self.out)
                self.operate()

            code = in_a_child(work)
            if code == 0:
                return runs
            assert code == -signal.SIGKILL, code
            now = state(self.out)
            finished = {path.name.removesuffix(".npz") for path in self.out.glob(".convert/*.npz")}
            shards = {name: where for name, where in faulty.inodes(self.out).items() if name in finished}
            left = set(faulty.tree(self.out).values())
            refused = ""
            try:
                self.again()
            except UsageError as error:
                refused = str(error)
                if self.last_resort is not None:
                    self.last_resort()
            there = faulty.inodes(self.out)
            runs.append(
                {
                    "state": "before" if now == before else "after" if now == after else now,
                    "refused": refused.replace(str(self.out), "OUT"),
                    "equal": faulty.tree(self.out) == expected,
                    "finished": len(shards),
                    "kept": all(there[name] == where for name, where in shards.items()),
                    "originals": self.originals <= left,
                }
            )


def state(folder: Path) -> str:
    """What somebody who opens the folder gets: an error, problems, or the fingerprint of a sound dataset."""
    try:
        dataset = Dataset(folder)
    except DatasetError as error:
        return str(error).replace(str(folder), "OUT")
    problems = verify(str(folder), deep=True)
    return f"unsound: {problems}" if problems else dataset.fingerprint


def damage(folder: Path) -> set[str]:
    """Breaks what a repair mends, and returns the digests of the shards that it must not lose."""
    train, validation = (sorted(folder.glob(f"{split}-*.tfrecord")) for split in ("train", "validation"))
    faulty.flip(train[0], 100)
    train[1].unlink()
    faulty.flip(validation[0], 3)
    shutil.copy(validation[-1], folder / "train-00077-of-00078.tfrecord")
    faulty.flip(folder / "index" / "validation" / "height.npy", -1)
    broken = (train[0], validation[0], folder / "train-00077-of-00078.tfrecord")
    return {faulty.tree(folder)[path.name] for path in broken}


def scenario(name: str, root: Path) -> Scenario:
    source = faulty.make_source(root / "source", 8)
    (source / "ant" / "text.jpg").write_text("no image")
    shutil.copy(source / "ant" / "000.jpg", source / "bee" / "copy.jpg")
    first, out = root / "first", root / "out"
    if name == "convert":
        return Scenario(
            out=out,
            operate=lambda: convert(source, out, CONFIG),
            again=lambda: convert(source, out, CONFIG, resume=True),
            last_resort=lambda: None,
        )
    if name == "repair":
        convert(source, first, CONFIG)
        originals = damage(first)
        return Scenario(
            out=out, operate=lambda: repair(str(out)), again=lambda: repair(str(out)), before=first, originals=originals
        )
    old = faulty.make_source(root / "old", 4)
    convert(old, first, CONFIG)
    if name == "append":

        def append() -> object:
            return convert(source, out, CONFIG, append=True)

        return Scenario(out=out, operate=append, again=append, before=first)
    assert name == "overwrite"
    unharmed = state(first)

    def overwrite() -> object:
        return convert(source, out, CONFIG, overwrite=True)

    return Scenario(
        out=out,
        operate=overwrite,
        again=lambda: convert(source, out, CONFIG, resume=True),
        # Killed before it said what it was about to do, or right at its end.
        last_resort=lambda: overwrite() if state(out) == unharmed else None,
        before=first,
    )


def main(name: str, folder: str) -> None:
    faulty.in_this_process()
    os.fsync = lambda descriptor: None  # a kill loses nothing that was written; a disk would take most of the time
    print(json.dumps(scenario(name, Path(folder)).run()))


if __name__ == "__main__":
    main(*sys.argv[1:])
