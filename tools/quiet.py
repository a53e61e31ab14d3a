"""TensorFlow as a command needs it: without start-up chatter, and its read errors in one line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from irv2data.errors import DatasetError
from irv2data.storage import is_remote

from .console import is_verbose

_NVIDIA = Path("/dev/nvidiactl")


def load_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices, keeping what its C++ side prints meanwhile.

    TensorFlow 2.21 prints several lines before any log level applies to them. They are shown where they matter: when
    the import fails, or when there is an NVIDIA driver and TensorFlow still finds no GPU. With `--verbose`, and for a
    user who sets TF_CPP_MIN_LOG_LEVEL below 2, everything is shown, as always.
    """
    if is_verbose():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") < "2":
        import tensorflow  # noqa: F401

        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as kept:
        # The file descriptor, not sys.stderr: the lines come from C++.
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        matters = True
        try:
            import tensorflow as tf

            matters = not tf.config.list_physical_devices("GPU") and _NVIDIA.exists()
        except KeyboardInterrupt:
            matters = False
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if matters:
                kept.seek(0)
                os.write(2, kept.read())


@contextmanager
def reading(dataset: str) -> Iterator[None]:
    """Turns what TensorFlow raises at a damaged shard into one line that names the dataset and the remedy.

    Raises:
        DatasetError: A shard is missing, cut off or damaged.
    """
    from irv2data.pipeline.faults import DAMAGE, reason

    try:
        yield
    except DAMAGE as error:
        # Of a remote one, shards are checked when they come, and what cannot be had is named already.
        remedy = "" if is_remote(dataset) else f"; `irv2data verify --deep {dataset}` says which"
        raise DatasetError(f"{dataset}: a record cannot be read ({reason(error)}){remedy}") from error
