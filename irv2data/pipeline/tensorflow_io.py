"""tensorflow-io, the extra `io`: what it reads and decodes that TensorFlow does not. Nothing else imports it.

It works with the one TensorFlow that it was built for. pip installs any other pair without a word, and importing it
then gives warnings, or operations that fail when they are first used. Here that is one error, of whoever needs it.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import sys
import warnings
from typing import Any

import tensorflow as tf

from irv2data.errors import UsageError, one_line

_REMEDY = "pip install 'irv2data[io]' (TensorFlow 2.16, Python 3.10 to 3.12)"


def open_scheme(uri: str) -> None:
    """Has TensorFlow read what lies behind a URI, by tensorflow-io where it does not do so by itself.

    Raises:
        UsageError: tensorflow-io is needed and not installed or cannot be loaded, or does not know the scheme either.
    """
    scheme = uri.partition("://")[0]
    if scheme not in tf.io.gfile.get_registered_schemes():
        missing, said = _imported()
        if scheme not in tf.io.gfile.get_registered_schemes():
            if not missing and not said:
                raise UsageError(f"{uri}: neither TensorFlow nor tensorflow-io reads {scheme}://; leave direct out")
            raise UsageError(f"{uri}: {_unusable(f'reading {scheme}:// directly', missing, said)}, or leave direct out")
    if scheme == "s3":
        _prepare_s3()


def operation(name: str, what: str) -> Any:
    """An operation of tensorflow-io.

    Args:
        name: Its name in Python.
        what: What needs it, for the error.

    Raises:
        UsageError: tensorflow-io is not installed or cannot be loaded.
    """
    missing, said = _imported()
    try:
        from tensorflow_io.python.ops import core_ops

        return getattr(core_ops, name)
    except Exception as error:  # as in `_imported`
        raise UsageError(_unusable(what, missing, said or one_line(error))) from error


@functools.cache
def _imported() -> tuple[bool, str]:
    """Imports tensorflow-io: whether it is not installed, and what it said of itself; nothing if all is well."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import tensorflow_io  # noqa: F401  # its file systems register themselves
    except Exception as error:  # an ImportError, an OSError, a NotImplementedError, ...: whatever does not fit
        return isinstance(error, ModuleNotFoundError) and error.name == "tensorflow_io", one_line(error)
    said = [str(warning.message).rpartition("caused by: ")[2] for warning in caught if "load" in str(warning.message)]
    return False, one_line(ImportError(said[0])) if said else ""


def _unusable(what: str, missing: bool, said: str) -> str:
    if missing:
        return f"{what} needs tensorflow-io, which is not installed: {_REMEDY}"
    return f"{what} needs tensorflow-io, which does not load beside TensorFlow {tf.__version__} ({said}): {_REMEDY}"


@functools.cache
def _prepare_s3() -> None:
    """Before the S3 file system is first used: where it asks, and how the process is to end."""
    # fsspec's S3 is told by these where the server is. Without a scheme, tensorflow-io's would speak TLS to any.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        os.environ.setdefault("S3_ENDPOINT", endpoint)
    atexit.register(_end_before_destructors)


def _end_before_destructors() -> None:
    """Has the process end, with its own status, once Python is done and C's buffers are written.

    The AWS library in tensorflow-io is never shut down. When the destructors of its global objects run, the client for
    EC2's metadata logs its end to the logger, which is gone by then: "pure virtual method called", status 134
    (https://github.com/tensorflow/io/issues/2039; what would shut it down is not exported). And threads may still be
    reading. What C runs at exit it runs in reverse order, so what is added last, as here, is first: a flush, `_exit`.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.on_exit(libc._exit, None)  # is called with the status
        libc["__cxa_atexit"](libc.fflush, None, None)
