"""What the machine offers this process."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores this process may use, which containers and batch systems make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
