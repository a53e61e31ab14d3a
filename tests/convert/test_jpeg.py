"""The segments of a JPEG: what is kept, what is dropped, and what the header says."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from irv2data.convert import ConvertConfig, jpeg, lossless
from irv2data.convert.transcode import transcode
from irv2data.manifest import BASELINE, PROGRESSIVE


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def scans(data: bytes) -> bytes:
    """From the first scan to the end marker, which no APPn segment precedes here."""
    return data[data.index(b"\xff\xda") : data.index(b"\xff\xd9", data.index(b"\xff\xda")) + 2]


def static(width: int, height: int, spread: float) -> Image.Image:
    """Grey noise; not Pillow's `effect_noise`, which has no seed."""
    levels = np.random.default_rng(0).normal(128, spread, (height, width))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


SECRETS = {
    "EXIF": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0SECRET-GPS"),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0SECRET-XMP"),
    "ICC": segment(0xE2, b"ICC_PROFILE\0\x01\x01SECRET-ICC"),
    "IPTC": segment(0xED, b"Photoshop 3.0\0SECRET-IPTC"),
    "JFXX thumbnail": segment(0xE0, b"JFXX\0\x10SECRET-THUMBNAIL"),
    "last application segment": segment(0xEF, b"SECRET"),
    "Adobe's name with another body": segment(0xEE, b"AdobeSEC"),
    "comment": segment(0xFE, b"SECRET-COMMENT"),
}


@pytest.mark.parametrize("process", [{}, {"progressive": True}])
@pytest.mark.parametrize("name", SECRETS)
def test_metadata_goes_and_compressed_data_stays(picture, saved, monkeypatch, process, name):
    monkeypatch.setattr(lossless, "available", lambda: False)  # which would code the progressive one again
    plain = saved(picture(40, 56), **process)
    stored = transcode(plain[:20] + SECRETS[name] + plain[20:], ConvertConfig())  # behind the JFIF segment
    assert stored.encoded == plain
    assert stored.code == (PROGRESSIVE if process else BASELINE)
    assert stored.done == (("kept", "progressive_kept") if process else ("kept",))
    assert (stored.format, stored.height, stored.width) == ("JPEG", 40, 56)
    np.testing.assert_array_equal(pixels(stored.encoded), pixels(plain))


def test_all_metadata_that_pillow_writes_goes(picture, saved):
    exif = Image.Exif()
    exif[0x010F] = "SECRET-MAKER"
    exif[0x8825] = {1: "N", 2: (47.0, 30.0, 1.0), 29: "SECRET-DATE"}
    data = saved(picture(40, 56), exif=exif, comment=b"SECRET-COMMENT", xmp=b"<x>SECRET-XMP</x>", dpi=(300, 300))
    data += b"SECRET-TRAILER\xff\xd9"
    stored = transcode(data, ConvertConfig())
    assert b"SECRET" in data
    assert b"SECRET" not in stored.encoded
    with Image.open(io.BytesIO(stored.encoded)) as image:
        assert not image.getexif()
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
    assert scans(stored.encoded) == scans(data)
    np.testing.assert_array_equal(pixels(stored.encoded), pixels(data))


def test_a_jfif_thumbnail_goes(picture, saved):
    data = saved(picture(24, 32))
    assert data[2:6] == b"\xff\xe0\x00\x10"
    thumbnail = segment(0xE0, data[6:18] + b"\x02\x01" + b"SECRET")  # 2x1 pixels
    assert jpeg.parse(data[:2] + thumbnail + data[20:]).stripped == data


def test_metadata_between_scans_goes(picture, saved):
    data = saved(picture(40, 56), progressive=True)
    second = data.index(b"\xff\xc4", data.index(b"\xff\xda"))  # a table before the second scan
    with_comment = data[:second] + segment(0xFE, b"SECRET \xff\xd9") + segment(0xE1, b"SECRET") + data[second:]
    assert jpeg.parse(with_comment).stripped == data


@pytest.mark.parametrize("process", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("trailer", [b"SECRET", b"\xff\xd8\xff\xe1SECRET\xff\xd9", b"\0" * 100])
def test_what_follows_the_image_goes(picture, saved, process, trailer):
    data = saved(picture(40, 56), **process)
    assert jpeg.parse(data + trailer).stripped == data


def test_the_second_picture_of_a_phone_goes(picture, saved):
    data = saved(picture(40, 56, 1), "MPO", save_all=True, append_images=[picture(40, 56, 2)])
    stored = transcode(data, ConvertConfig())
    assert stored.encoded.count(b"\xff\xd8\xff") == 1
    np.testing.assert_array_equal(pixels(stored.encoded), pixels(data))


def test_fill_bytes_before_a_marker_are_read_over(picture, saved):
    data = saved(picture(8, 8))
    assert jpeg.parse(data[:20] + b"\xff\xff" + data[20:]).stripped == data


@pytest.mark.parametrize(
    ("mode", "options", "process", "components", "plain_rgb"),
    [
        ("RGB", {}, 0, 3, False),
        ("RGB", {"progressive": True}, 2, 3, False),
        ("L", {}, 0, 1, False),
        ("CMYK", {}, 0, 4, False),
        ("RGB", {"keep_rgb": True}, 0, 3, True),
    ],
)
def test_the_header_says(picture, saved, mode, options, process, components, plain_rgb):
    header = jpeg.parse(saved(picture(30, 50).convert(mode), **options))
    assert (header.process, header.precision, header.height, header.width) == (process, 8, 30, 50)
    assert (header.components, header.plain_rgb) == (components, plain_rgb)


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


@pytest.mark.parametrize(("transform", "plain_rgb"), [(0, True), (1, False)])
def test_adobes_transform_decides_and_its_segment_stays(picture, saved, transform, plain_rgb):
    data = saved(picture(8, 8))
    with_adobe = data[:2] + adobe(transform) + data[20:]  # in the place of JFIF
    header = jpeg.parse(with_adobe)
    assert (header.plain_rgb, header.stripped) == (plain_rgb, with_adobe)


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (lambda data: b"", "does not start with a JPEG marker"),
        (lambda data: data[1:], "does not start with a JPEG marker"),
        (lambda data: data[:2], "no marker at byte 2"),
        (lambda data: data[:3], "ends before the image data"),
        (lambda data: data[:2] + b"\xff\x12\x00\x04" + data[2:], "no marker at byte 2"),
        (lambda data: data[:10], "ends before the image data"),
        (lambda data: data[:20] + data[21:], "no marker at byte 20"),
        (lambda data: data[:2] + b"\xff\xd9", "ends before the image data"),
        (lambda data: data[:20] + b"\xff\xe1\x00\x01" + data[20:], "ends before the image data"),
        (lambda data: data[:2] + data[data.index(b"\xff\xda") :], "has no frame header"),
    ],
)
def test_what_is_no_jpeg_says_why(picture, saved, cut, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        jpeg.parse(cut(saved(picture(8, 8))))


def test_exif_and_profile_are_read_from_their_segments(picture, saved):
    data = saved(picture(8, 8))
    exif = b"Exif\0\0II*\0\x08\0\0\0"
    segments = (
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0XMP")
        + segment(0xE1, exif)
        + segment(0xE1, b"Exif\0\0another")
        # The parts of a profile are numbered, and may stand in any order.
        + segment(0xE2, b"ICC_PROFILE\0\x02\x02WORLD")
        + segment(0xE2, b"ICC_PROFILE\0\x01\x02HELLO ")
    )
    header = jpeg.parse(data[:20] + segments + data[20:])
    assert (header.exif, header.icc, header.stripped) == (exif, b"HELLO WORLD", data)
    assert (jpeg.parse(data).exif, jpeg.parse(data).icc) == (None, None)


def test_a_profile_without_one_of_its_parts_is_none(picture, saved):
    data = saved(picture(8, 8))
    parts = segment(0xE2, b"ICC_PROFILE\0\x01\x03A") + segment(0xE2, b"ICC_PROFILE\0\x03\x03C")
    assert jpeg.parse(data[:20] + parts + data[20:]).icc is None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("process", [{}, {"progressive": True}])
def test_every_flipped_bit_that_libjpeg_notices_is_an_error(saved, mode, process):
    """Pillow decodes most of these without a word; none may pass that a strict full decode refuses."""
    noise = static(64, 48, 60).convert(mode)
    data = saved(noise, quality=90, **process)
    start = data.index(b"\xff\xda") + 20
    refused = passed_by_pillow = 0
    for position in range(start, len(data) - 2, 41):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            jpeg.check(bytes(damaged))
        except ValueError:
            refused += 1
            try:
                pixels(bytes(damaged))
                passed_by_pillow += 1
            except OSError:
                pass
        else:
            jpeg.decode(bytes(damaged), jpeg.parse(data))
    assert refused > 10
    assert passed_by_pillow > 5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoding_gives_the_pixels_that_pillow_gives(picture, saved, mode):
    data = saved(picture(41, 57).convert(mode), quality=95)
    decoded, scale = jpeg.decode(data, jpeg.parse(data))
    assert scale == 1
    np.testing.assert_array_equal(decoded, pixels(data))


@pytest.mark.parametrize(
    ("least", "scale", "shape"),
    [
        (None, Fraction(1), (80, 120)),
        ((120, 80), Fraction(1), (80, 120)),
        ((106, 70), Fraction(1), (80, 120)),
        ((105, 70), Fraction(7, 8), (70, 105)),
        ((60, 40), Fraction(1, 2), (40, 60)),
        ((61, 40), Fraction(5, 8), (50, 75)),
        ((16, 10), Fraction(1, 4), (20, 30)),
        ((15, 10), Fraction(1, 8), (10, 15)),
        ((1, 1), Fraction(1, 8), (10, 15)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoding_scales_as_far_as_it_may(picture, saved, mode, least, scale, shape):
    data = saved(picture(80, 120).convert(mode))
    decoded, actual = jpeg.decode(data, jpeg.parse(data), least)
    assert (actual, decoded.shape[:2]) == (scale, shape)
    assert decoded.shape[2:] == {"RGB": (3,), "L": (), "CMYK": (4,)}[mode]


def test_scales_that_do_not_divide_a_side_cover_the_edge_in_part(picture, saved):
    data = saved(picture(81, 123))
    decoded, scale = jpeg.decode(data, jpeg.parse(data), (62, 41))
    assert (scale, decoded.shape) == (Fraction(5, 8), (51, 77, 3))
