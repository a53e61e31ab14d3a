"""Decoded images into 8-bit sRGB: sizes, turns, colour profiles and 16 bits, against known answers."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn
from PIL import Image, ImageCms

from irv2data.convert import ConvertConfig, pixels
from irv2data.convert.rejects import RejectError
from irv2data.convert.transcode import transcode

WHITE = (255, 255, 255)


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC profile (ICC.1:2010, section 7) of version 2."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"prtr", space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


# Grey that is linear in light: half the light is level 188 in sRGB.
LINEAR_GREY = profile(b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})


def any_ink_is_half_grey() -> bytes:
    """CMYK through a table (lut8Type) in which no ink at all is white, all of them are black (which
    littleCMS maps to black), and anything else is L* = 128 * 100 / 255."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    table = bytes([255, 128, 128]) + bytes([128, 128, 128]) * 14 + bytes([0, 128, 128])
    return profile(
        b"CMYK", b"Lab ", {b"A2B0": b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table + ramp * 3}
    )


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((640, 480), {}, None),
        ((640, 480), {"max_short_side": 480}, None),
        ((640, 480), {"max_short_side": 240}, (320, 240)),
        ((480, 640), {"max_short_side": 240}, (240, 320)),
        ((10000, 3), {"max_short_side": 1}, (3333, 1)),
        ((1000, 1000), {"shrink_megapixels": 1}, None),
        ((1001, 1000), {"shrink_megapixels": 1}, (1000, 999)),
        ((2000, 1000), {"shrink_megapixels": 0.5}, (1000, 500)),
        ((1, 5000), {"shrink_megapixels": 0.001}, (1, 1000)),
        # The stronger of the two.
        ((2000, 1000), {"shrink_megapixels": 0.5, "max_short_side": 100}, (200, 100)),
        ((2000, 1000), {"shrink_megapixels": 0.005, "max_short_side": 900}, (100, 50)),
    ],
)
def test_wanted_size(size, options, expected):
    assert pixels.wanted_size(*size, ConvertConfig(**options)) == expected


def test_wanted_size_never_grows_and_keeps_within_its_limits():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        width, height = (int(side) for side in np.exp(rng.uniform(0, 10, 2)))
        limit = float(np.exp(rng.uniform(-12, 3)))
        wanted = pixels.wanted_size(width, height, ConvertConfig(shrink_megapixels=limit)) or (width, height)
        assert 1 <= wanted[0] <= width
        assert 1 <= wanted[1] <= height
        assert wanted[0] * wanted[1] <= max(1, limit * 1e6)


def test_sixteen_bits_are_rounded_exactly():
    values = np.arange(65536).reshape(64, 1024)
    high, low = (values >> 8).astype(np.uint8), (values & 255).astype(np.uint8)
    expected = np.floor(values / 257 + 0.5)
    np.testing.assert_array_equal(pixels._rounded(high, low), expected)
    np.testing.assert_array_equal(high, values >> 8)  # left as they were


def test_strips_of_a_wide_image_are_all_rounded(monkeypatch):
    monkeypatch.setattr(pixels, "_STRIP_PIXELS", 10)
    values = np.random.default_rng(0).integers(0, 65536, (7, 4))
    rounded = pixels._rounded((values >> 8).astype(np.uint8), (values & 255).astype(np.uint8))
    np.testing.assert_array_equal(rounded, np.floor(values / 257 + 0.5))


@pytest.mark.parametrize("number", range(10))
def test_turns(number):
    exif = Image.Exif()
    exif[0x0112] = number
    turn = pixels.turn_of(exif.tobytes())
    assert turn == pixels._TURNS.get(number)
    assert pixels.turn_of(exif.tobytes()[6:]) == turn  # PNG and WebP leave out the first six bytes
    assert (turn is None) == (number in (0, 1, 9))


def test_a_profile_that_changes_nothing_is_none():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = srgb.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    assert renamed != srgb
    assert pixels.srgb_transform(srgb, "RGB") is None
    assert pixels.srgb_transform(renamed, "RGB") is None


def test_a_profile_that_only_calls_itself_srgb_is_converted():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")
    transform = pixels.srgb_transform(swapped, "RGB")
    assert transform.apply(Image.new("RGB", (1, 1), (200, 10, 30))).getpixel((0, 0)) == pytest.approx(
        (10, 200, 30), abs=2
    )


@pytest.mark.parametrize("bad", [None, b"", b"junk", LINEAR_GREY[:150], bytes(5 << 20)], ids=range(5))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_is_no_profile_is_none(bad, mode):
    assert pixels.srgb_transform(bad, mode) is None


@pytest.mark.parametrize(
    ("given", "mode"), [(LINEAR_GREY, "RGB"), (LINEAR_GREY, "CMYK"), (any_ink_is_half_grey(), "RGB")]
)
def test_a_profile_of_another_colour_space_is_none(given, mode):
    assert pixels.srgb_transform(given, mode) is None


def test_a_grey_profile_gives_grey():
    image, done = pixels.to_rgb_or_grey(Image.new("L", (2, 2), 128), LINEAR_GREY, WHITE)
    assert (image.mode, done) == ("L", {"srgb"})
    assert image.getpixel((0, 0)) == pytest.approx(188, abs=1)


def test_a_cmyk_profile_decides_what_ink_looks_like():
    inks = Image.frombytes("CMYK", (3, 1), bytes([0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 255]))
    image, done = pixels.to_rgb_or_grey(inks, any_ink_is_half_grey(), WHITE)
    assert (image.mode, done) == ("RGB", {"cmyk", "srgb"})
    assert image.getpixel((0, 0)) == pytest.approx((255, 255, 255), abs=1)
    # L* 50.2 is 18.6 % of the light, which is level 120.
    assert image.getpixel((1, 0)) == pytest.approx((120, 120, 120), abs=2)
    assert image.getpixel((2, 0)) == pytest.approx((120, 120, 120), abs=2)
    image, done = pixels.to_rgb_or_grey(inks, None, WHITE)
    assert (image.getpixel((1, 0)), done) == ((0, 255, 255), {"cmyk"})


@pytest.mark.parametrize("process", [{}, {"progressive": True}])
def test_a_cmyk_jpeg_goes_through_its_profile(saved, process):
    # Adobe's way: the ink is stored inverted, which Pillow's encoder does by itself.
    data = saved(
        Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=100, icc_profile=any_ink_is_half_grey(), **process
    )
    stored = transcode(data, ConvertConfig(quality=100))
    assert stored.done == ("jpeg", "srgb", "cmyk")
    with Image.open(io.BytesIO(stored.encoded)) as image:
        assert image.getpixel((8, 8)) == pytest.approx((120, 120, 120), abs=3)


def test_a_grey_jpeg_goes_through_its_profile_and_stays_grey(saved):
    stored = transcode(saved(Image.new("L", (16, 16), 128), icc_profile=LINEAR_GREY), ConvertConfig())
    assert stored.done == ("jpeg", "srgb")
    with Image.open(io.BytesIO(stored.encoded)) as image:
        assert (image.mode, "icc_profile" in image.info) == ("L", False)
        assert image.getpixel((8, 8)) == pytest.approx(188, abs=2)


def foreign() -> bytes:
    """sRGB with red and green in each other's place."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_converted_before_they_meet_the_background(saved, mode):
    image = Image.new("RGBA", (4, 4), (200, 10, 30, 102 if mode == "RGBA" else 255)).convert(mode)
    stored = transcode(saved(image, "PNG", icc_profile=foreign()), ConvertConfig(background=(0, 0, 100)))
    expected = (10, 200, 30) if mode != "RGBA" else (4, 80, 72)  # 40 % of it, on the background as given
    assert stored.done == (("png", "background", "srgb") if mode == "RGBA" else ("png", "srgb"))
    with Image.open(io.BytesIO(stored.encoded)) as result:
        assert result.convert("RGB").getpixel((1, 1)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("mode", ["LAB", "HSV", "I", "F"])
def test_other_modes_are_unsupported(mode):
    with pytest.raises(RejectError) as caught:
        pixels.to_rgb_or_grey(Image.new(mode, (2, 2)), None, WHITE)
    assert (caught.value.code, caught.value.detail) == (
        "unsupported",
        f"an image of colour mode {mode} is not converted",
    )


@pytest.mark.parametrize(
    ("mode", "colour", "expected", "alpha"),
    [
        ("L", 7, 7, False),
        ("1", 255, 255, False),
        ("YCbCr", (100, 128, 128), (100, 100, 100), False),
        ("LA", (9, 255), 9, False),
        ("LA", (100, 51), (20, 100, 180), True),
        ("La", (20, 51), (20, 100, 180), True),
        ("RGBA", (100, 100, 100, 51), (20, 100, 180), True),
        ("RGBa", (20, 20, 20, 51), (20, 100, 180), True),
        ("RGBA", (1, 2, 3, 255), (1, 2, 3), False),
    ],
)
def test_modes(mode, colour, expected, alpha):
    """51 is a fifth: 100 / 5 + background * 4 / 5."""
    image, done = pixels.to_rgb_or_grey(Image.new(mode, (1, 1), colour), None, (0, 100, 200))
    assert image.mode == ("L" if isinstance(expected, int) else "RGB")
    assert image.getpixel((0, 0)) == pytest.approx(expected, abs=1)
    assert done == ({"background"} if alpha else set())


def lanczos(levels: np.ndarray, size: int, extent: float) -> np.ndarray:
    """float64: one axis (the first) resampled from [0, extent) to `size`, antialiased, weights that sum to 1."""
    scale = extent / size
    radius = 3 * max(scale, 1)
    centers = (np.arange(size) + 0.5) * scale
    distance = (np.arange(len(levels)) + 0.5 - centers[:, None]) / max(scale, 1)
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    weights[np.abs(distance) * max(scale, 1) > radius] = 0
    return np.tensordot(weights / weights.sum(1, keepdims=True), levels, 1)


def photograph(mode: str) -> Image.Image:
    return Image.open(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("size", "box"), [((200, 133), None), ((500, 400), (639.4, 426.7)), ((64, 42), (640, 426.5))])
@pytest.mark.parametrize("fallback", [False, True])
def test_resize_is_lanczos(mode, size, box, fallback, monkeypatch):
    image = photograph(mode)
    if fallback:
        monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    pixels._lanczos.cache_clear()
    try:
        resized = np.asarray(pixels.resize(image, size, box)).astype(float)
    finally:
        pixels._lanczos.cache_clear()
    levels = np.asarray(image).astype(float)
    edge = box or image.size
    exact = lanczos(np.swapaxes(lanczos(levels, size[1], edge[1]), 0, 1), size[0], edge[0]).swapaxes(0, 1)
    off = np.abs(resized - exact.clip(0, 255))
    # Each rounds between the passes, to values that cannot leave 0 to 255. Pillow shrinks by 3 and more in two steps.
    assert off.mean() < (2 if fallback and size == (64, 42) else 0.5)
    wrong = np.abs(resized - np.roll(exact, 1, 0).clip(0, 255))
    assert wrong.mean() > 3


def test_resize_reads_every_row_of_an_image_in_several_blocks_of_memory():
    # Pillow's memory is read in place, and comes in blocks of 16 MiB.
    rows = (np.arange(6000) % 251).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(rows[:, None, None], (6000, 2000, 3))))
    resized = np.asarray(pixels.resize(image, (2, 6000)))
    np.testing.assert_array_equal(resized, np.broadcast_to(rows[:, None, None], (6000, 2, 3)))
