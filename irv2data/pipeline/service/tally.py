"""Where a client's chunks came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Chunks:
    """Counts of one pipeline, in this process.

    Attributes:
        total: Chunks that became part of a batch.
        here: Those of them that no worker gave in time.
    """

    total: int = 0
    here: int = 0
