"""What figures depend on beside the code: machine, load, versions, command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def circumstances(name: str) -> dict[str, Any]:
    """Goes with the figures of `benchmarks.NAME`."""
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[1], 1),  # of five minutes; well above `cores`, others were computing too
        "python": platform.python_version(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Of installed packages."""
    return {package: version(package) for package in packages}


def tell(figures: Iterable[dict[str, Any]], record: str | None) -> bool:
    """Prints figures as JSON lines as they come, appends them to a file, and says whether all are `met`."""
    met = True
    for each in figures:
        line = json.dumps(each)
        print(line, flush=True)
        met = met and each["met"]
        if record:
            with open(record, "a") as file:
                file.write(line + "\n")
    return met


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
