"""Progressive and arithmetic-coded JPEG to baseline: the same pixels, and damage never passes."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.metadata
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from irv2data.convert import jpeg, lossless

DATA = Path(__file__).parent / "data"
needs_library = pytest.mark.skipif(not lossless.available(), reason="needs the extra lossless")


@pytest.fixture
def no_library(monkeypatch):
    """Neither the wheel nor the system has a library."""

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    lossless._library.cache_clear()
    yield
    lossless._library.cache_clear()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def static(width: int, height: int, spread: float) -> Image.Image:
    """Grey noise; not Pillow's `effect_noise`, which has no seed."""
    levels = np.random.default_rng(0).normal(128, spread, (height, width))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@needs_library
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"progressive": True, "subsampling": 0}),
        ("RGB", {"progressive": True, "subsampling": 1}),
        ("RGB", {"progressive": True, "restart_marker_blocks": 3}),
        ("L", {"progressive": True}),
        ("CMYK", {"progressive": True}),
    ],
)
def test_pixels_are_equal_and_the_file_is_baseline(picture, saved, mode, options):
    # A size that ends in the middle of a block.
    data = saved(picture(83, 117).convert(mode), quality=88, comment=b"SECRET", **options)
    made = lossless.to_baseline(data)
    before, after = jpeg.parse(data), jpeg.parse(made)
    assert after.process == 0
    assert (after.height, after.width, after.components) == (83, 117, before.components)
    np.testing.assert_array_equal(pixels(made), pixels(data))
    assert b"SECRET" not in made


@needs_library
@pytest.mark.parametrize("name", ["arithmetic", "arithmetic_progressive"])
def test_arithmetic_coding_gives_the_pixels_of_the_same_coefficients(name):
    made = lossless.to_baseline((DATA / f"{name}.jpg").read_bytes())
    assert jpeg.parse(made).process == 0
    np.testing.assert_array_equal(pixels(made), pixels((DATA / "sequential.jpg").read_bytes()))
    assert tf.io.decode_jpeg(made).shape == (40, 56, 3)


@needs_library
def test_huffman_tables_are_optimised(picture, saved):
    data = saved(picture(200, 300), quality=88)
    assert len(lossless.to_baseline(data)) < len(data)
    assert len(lossless.to_baseline(data)) == len(saved(picture(200, 300), quality=88, optimize=True))


@needs_library
@pytest.mark.parametrize("name", ["arithmetic", "arithmetic_progressive", "sequential"])
def test_a_cut_file_raises_what_the_library_says(name):
    with pytest.raises(ValueError, match="Premature end of JPEG file"):
        lossless.to_baseline((DATA / f"{name}.jpg").read_bytes()[:-30])


@needs_library
def test_what_libjpeg_only_warns_of_raises(saved):
    data = bytearray(saved(static(64, 48, 60), quality=90, progressive=True))
    caught = []
    for position in range(data.index(b"\xff\xda") + 20, len(data) - 2, 31):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            pixels(bytes(damaged))  # most pass Pillow without a word
            lossless.to_baseline(bytes(damaged))
        except ValueError as error:
            caught.append(str(error))
        except OSError:
            continue
    assert len([message for message in caught if message.startswith("Corrupt JPEG data")]) > 5


@needs_library
@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0", b"no JPEG at all"])
def test_what_is_no_jpeg_raises(data):
    with pytest.raises(ValueError, match=r"\w"):
        lossless.to_baseline(data)


@needs_library
def test_nothing_is_kept_from_call_to_call(picture, saved):
    """Each call has a handle of its own: an error or a larger image leaves nothing behind for the next one."""
    data = saved(picture(40, 56), progressive=True)
    first = lossless.to_baseline(data)
    for other in (saved(picture(300, 200), progressive=True), data[:200]):
        with contextlib.suppress(ValueError):
            lossless.to_baseline(other)
        assert lossless.to_baseline(data) == first


def test_without_a_library_it_is_not_available(no_library, picture, saved):
    assert not lossless.available()
    with pytest.raises(ValueError, match="no TurboJPEG library; pip install jpegtran-cffi-wheels"):
        lossless.to_baseline(saved(picture(8, 8)))


def test_what_cannot_be_loaded_is_passed_over(no_library, monkeypatch, tmp_path, picture, saved):
    broken = tmp_path / "libturbojpeg-broken.so"
    broken.write_bytes(b"no library")
    other = ctypes.util.find_library("c") or "libc.so.6"  # a library, but without the functions
    monkeypatch.setattr(lossless, "_candidates", lambda: [str(broken), str(tmp_path / "absent.so"), "libc.so.6", other])
    assert not lossless.available()


def test_the_wheel_comes_before_the_systems_library(no_library, monkeypatch):
    class File:
        def __init__(self, name):
            self.name = name

        def locate(self):
            return Path("/site") / self.name

    names = ["_jpegtran.abi3.so", "libjpeg-1.so.62", "libturbojpeg-2.so.0.3.0"]
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [File(name) for name in names])
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.0")
    assert lossless._candidates() == ["/site/libturbojpeg-2.so.0.3.0", "libturbojpeg.so.0"]
