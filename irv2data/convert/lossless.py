"""Progressive and arithmetic-coded JPEG to baseline JPEG, with the same coefficients: no pixel changes.

A progressive JPEG decodes three times slower than the baseline file of the same image, in every epoch; and neither
Pillow nor TensorFlow decodes arithmetic coding at all. The work is done by the TurboJPEG library through the C
interface that its versions 1.4 to 3.x share. (PyTurboJPEG 2.6.1 would not do: its `optimize()` leaves a progressive
file progressive, because it has read the header with the handle that transforms. The wheel `turbojpeg` 0.0.2 carries
the library without a licence.)
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.metadata

# A wheel that has the library in it (MIT): the extra `lossless`.
_DISTRIBUTION = "jpegtran-cffi-wheels"
_COPY_NONE, _OPTIMIZE = 64, 256  # TJXOPT_* of turbojpeg.h


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


class _Transform(ctypes.Structure):
    _fields_ = [
        ("r", _Region),
        ("op", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
    ]


def available() -> bool:
    """Whether a TurboJPEG library can be loaded: from the extra `lossless`, else the system's own."""
    return _library() is not None


def to_baseline(data: bytes) -> bytes:
    """Writes the same coefficients as a baseline JPEG with optimised Huffman tables and without metadata.

    Args:
        data: A JPEG file of 8 bits a sample, of any coding.

    Raises:
        ValueError: No library can be loaded, or it found the file damaged (what it only warns of included); the
            message is the library's own.
    """
    library = _library()
    if library is None:
        raise ValueError(f"no TurboJPEG library; pip install {_DISTRIBUTION}")
    handle = library.tjInitTransform()
    if not handle:
        raise ValueError("TurboJPEG could not be started")
    buffer, size = ctypes.c_void_p(), ctypes.c_ulong(0)
    transform = _Transform(options=_OPTIMIZE | _COPY_NONE)
    try:
        failed = library.tjTransform(
            handle, data, len(data), 1, ctypes.byref(buffer), ctypes.byref(size), ctypes.byref(transform), 0
        )
        if failed or not buffer.value:
            raise ValueError(library.tjGetErrorStr2(handle).decode("ascii", "replace"))
        return ctypes.string_at(buffer, size.value)
    finally:
        if buffer.value:
            library.tjFree(buffer)
        library.tjDestroy(handle)


@functools.cache
def _library() -> ctypes.CDLL | None:
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            library.tjInitTransform.restype = ctypes.c_void_p
            library.tjInitTransform.argtypes = []
            library.tjGetErrorStr2.restype = ctypes.c_char_p
            library.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
            library.tjTransform.argtypes = [
                ctypes.c_void_p,
                ctypes.c_char_p,
                ctypes.c_ulong,
                ctypes.c_int,
                ctypes.POINTER(ctypes.c_void_p),
                ctypes.POINTER(ctypes.c_ulong),
                ctypes.POINTER(_Transform),
                ctypes.c_int,
            ]
            library.tjDestroy.argtypes = [ctypes.c_void_p]
            library.tjFree.argtypes = [ctypes.c_void_p]
            library.tjFree.restype = None
        except (OSError, AttributeError):  # not loadable here, or older than the interface
            continue
        return library
    return None


def _candidates() -> list[str]:
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [str(file.locate()) for file in files if file.name.startswith(("libturbojpeg", "turbojpeg"))]
    system = ctypes.util.find_library("turbojpeg")
    return [*sorted(paths), system] if system else sorted(paths)
