"""Two converters on one output: the second stops at once, the first neither fails nor waits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from faulty import OPTIONS, PATIENCE, command, kill, start, tree, wait_until

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="only Linux tells who holds a lock")


def busy(folder: object) -> str:
    return f"{folder}: another conversion is writing it; wait for it to end, or choose another folder"


def stop_holding(process: subprocess.Popen, folder: Path) -> None:
    """Stops a process, and its workers, as soon as it holds the folder."""
    lock = folder / ".convert" / "lock"

    def held() -> bool:
        # Asked of the system: to try the lock could be what the process itself runs into.
        with suppress(FileNotFoundError):
            inode = lock.stat().st_ino
            return any(
                "FLOCK" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines()
            )
        return False

    wait_until(held, process)
    os.killpg(process.pid, signal.SIGSTOP)
    assert held(), "ended too soon"


def test_a_second_converter(source, sound, tmp_path):
    out = tmp_path / "out"
    first = start("convert", source, out, *OPTIONS, "--json")
    stop_holding(first, out)  # for as long as the others take
    before = tree(out)
    assert "dataset.json" not in before
    for words in ((), ("--overwrite",), ("--resume",), ("--append",), ("--dry_run",)):
        code, printed, errors = command("convert", source, out, *OPTIONS, *words, "--json")
        assert (code, errors) == (1, f"irv2data convert: {busy(out)}\n")
        assert json.loads(printed)["error"]["message"] == busy(out)
    assert tree(out) == before
    os.killpg(first.pid, signal.SIGCONT)
    printed, errors = first.communicate(timeout=PATIENCE)
    assert (first.returncode, errors) == (0, "")
    assert json.loads(printed)["sources"] == 26
    assert tree(out) == tree(sound)


def test_the_lock_of_a_killed_converter_is_free(source, sound, tmp_path):
    out = tmp_path / "out"
    first = start("convert", source, out, *OPTIONS)
    stop_holding(first, out)
    begun = (out / ".convert" / "plan.json").exists()
    kill(first)
    assert (out / ".convert" / "lock").exists()
    # A lock alone is swept away, and the folder is as good as new.
    words = ("--resume",) if begun else ()
    assert command("convert", source, out, *OPTIONS, *words)[::2] == (0, "")
    assert tree(out) == tree(sound)


def test_a_repair_waits_for_no_append_and_no_append_for_a_repair(source, folder, tmp_path):
    broken = next(folder.glob("*.tfrecord"))
    broken.write_bytes(broken.read_bytes()[:-1])
    whole = shutil.copytree(folder, tmp_path / "whole")
    assert command("verify", whole, "--repair", "--workers=1")[0] == 0
    first = start("verify", folder, "--repair", "--workers=1")
    stop_holding(first, folder)
    for words in (("convert", source, folder, *OPTIONS, "--overwrite"), ("verify", folder, "--repair")):
        code, printed, errors = command(*words)
        assert (code, printed, errors) == (1, "", f"irv2data {words[0]}: {busy(folder)}\n")
    os.killpg(first.pid, signal.SIGCONT)
    first.communicate(timeout=PATIENCE)
    assert first.returncode == 0
    assert tree(folder) == tree(whole)
