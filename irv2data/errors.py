"""Every error irv2data raises on purpose: one line that names the thing and the remedy, and an exit code.

The commands print `str(error)` and exit with `error.exit_code`; a job that imports irv2data catches
`Irv2dataError`. Anything else that escapes is a defect: the commands say so in one line, and `--verbose` shows its
traceback.
"""

from __future__ import annotations

import textwrap

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_OVER_BUDGET = 3
EXIT_INTERRUPTED = 75


class Irv2dataError(Exception):
    """Base of all errors irv2data raises on purpose."""

    exit_code = EXIT_FAILED


class UsageError(Irv2dataError, ValueError):
    """An option or argument that is wrong by itself: unknown, out of range, or at odds with another one."""

    exit_code = EXIT_USAGE


class SourceError(Irv2dataError):
    """The folder to convert is missing, unreadable or not laid out as expected."""


class DatasetError(Irv2dataError):
    """A dataset folder is missing, incomplete, damaged or of another version."""


class RecordError(DatasetError):
    """One record of a dataset cannot be read; carries where it lies.

    Args:
        message: What is wrong, in one line; kept as `reason`, without the place.
        shard: File name of the shard.
        record: Number of the record within the shard, or None where only the shard is known.
    """

    def __init__(self, message: str, *, shard: str, record: int | None = None):
        where = shard if record is None else f"{shard}, record {record}"
        super().__init__(f"{where}: {message}")
        self.reason = message
        self.shard = shard
        self.record = record


class WeightsError(Irv2dataError):
    """Pretrained weights are missing, unreadable or do not fit the model."""


class InterruptedRunError(Irv2dataError):
    """A run was stopped by a signal and can be resumed."""

    exit_code = EXIT_INTERRUPTED


def one_line(error: BaseException) -> str:
    """What another library's error says, in one line of at most 250 characters; its type where it says nothing."""
    return textwrap.shorten(str(error), 250, placeholder=" ...") or type(error).__name__
