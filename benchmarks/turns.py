"""Turns in processes of their own: started, watched, and ended with all their workers. Standard library only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.conversion import Peak, family
from benchmarks.feeds import SkipError
from benchmarks.peers import ROOT


def turn(
    module: str, *arguments: str, seconds: float, python: Path | None = None, peak: Peak | None = None
) -> dict[str, Any]:
    """What `python -m benchmarks.MODULE --child ARGUMENTS` prints last, a JSON object.

    Args:
        module: Module of this package.
        arguments: Its own.
        seconds: The longest that it may take.
        python: Interpreter; the running one if None.
        peak: Watches its memory.

    Raises:
        SkipError: It failed, or said itself that it cannot run here.
    """
    command = [str(python or sys.executable), "-m", f"benchmarks.{module}", "--child", *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed packages are: compiled once
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as complaints:
        # Files, not pipes: worker processes would hold a pipe open for longer than their loader lives.
        process = subprocess.Popen(
            command, stdout=printed, stderr=complaints, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            if peak:
                peak.watch(process.pid)
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise SkipError(f"it did not end within {seconds:.0f} s") from None
        finally:
            # With its workers, which would take time of the next turn.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed.seek(0)
        complaints.seek(0)
        lines = printed.read().splitlines()
        if process.returncode or not lines:
            last = complaints.read().strip().splitlines()[-1:] or ["no message"]
            raise SkipError(f"exit status {process.returncode}: {last[0]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    if "skip" in answer:
        raise SkipError(answer["skip"])
    return answer


def cpu_seconds() -> float:
    """Processor time of this process and its descendants that are still there."""
    ticks = 0
    for pid in family(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
