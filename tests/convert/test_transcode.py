"""One JPEG into what is stored: upright, RGB or grey, of the wanted size, decodable by TensorFlow; or its reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from irv2data.convert import ConvertConfig, jpeg
from irv2data.convert.transcode import REJECT_CODES, RejectError, Stored, transcode
from irv2data.manifest import BASELINE, PNG, PROGRESSIVE

SHRINK = ConvertConfig(max_short_side=20)


def decoded(stored: Stored) -> np.ndarray:
    """What TensorFlow makes of it, checked against the size that is recorded."""
    decode = {"JPEG": tf.io.decode_jpeg, "PNG": tf.io.decode_png}[stored.format]
    image = decode(stored.encoded, channels=3).numpy()
    assert image.shape == (stored.height, stored.width, 3)
    return image.astype(int)


def assert_close(actual: np.ndarray, expected: Image.Image, most: float = 2.5) -> None:
    difference = np.abs(actual - np.asarray(expected.convert("RGB")).astype(int))
    assert difference.mean() < most / 2
    assert np.percentile(difference, 99) <= most


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize("config", [ConvertConfig(), SHRINK], ids=["whole", "shrunk"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("number", range(1, 9))
def test_every_orientation_comes_out_upright(picture, saved, config, format, number):
    image = picture(48, 80)
    with Image.open(io.BytesIO(saved(image, "PNG", exif=oriented(number)))) as reference:
        upright = ImageOps.exif_transpose(reference)
    assert upright.size == ((80, 48) if number < 5 else (48, 80))
    options = {"quality": 97} if format == "JPEG" else {}
    stored = transcode(saved(image, format, exif=oriented(number), **options), config)
    if config is SHRINK:
        upright = upright.resize((33, 20) if number < 5 else (20, 33), Image.Resampling.LANCZOS)
    assert (stored.width, stored.height) == upright.size
    assert stored.format == format
    if format == "PNG" and config is not SHRINK:
        np.testing.assert_array_equal(decoded(stored), np.asarray(upright))
    else:
        assert_close(decoded(stored), upright, most=4)
    with Image.open(io.BytesIO(stored.encoded)) as kept:
        assert not kept.getexif()


@pytest.mark.parametrize("number", [0, 1, 9, 12, 65535])
def test_an_orientation_that_means_nothing_changes_nothing(picture, saved, number):
    plain, data = saved(picture(48, 80)), saved(picture(48, 80), exif=oriented(number))
    assert transcode(data, ConvertConfig()).encoded == plain
    shrunk = transcode(data, SHRINK)
    assert (shrunk.height, shrunk.width) == (20, 33)


BROKEN_EXIF = [
    b"Exif\0\0",
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40,
    # Orientation 6, and a resolution that Pillow reads but cannot write again: two bytes of type "rational".
    b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0\0\0\0\0",
]


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("config", [ConvertConfig(), SHRINK])
def test_broken_exif_never_costs_the_image(picture, saved, exif, mode, config):
    stored = transcode(saved(picture(48, 80).convert(mode), exif=exif), config)
    assert sorted((stored.height, stored.width)) == ([20, 33] if config is SHRINK else [48, 80])
    decoded(stored)


def test_a_grey_jpeg_stays_grey(picture, saved):
    data = saved(picture(40, 56).convert("L"))
    stored = transcode(data, ConvertConfig())
    assert (stored.encoded, stored.code) == (data, BASELINE)
    shrunk = transcode(data, SHRINK)
    assert jpeg.parse(shrunk.encoded).components == 1
    assert (shrunk.height, shrunk.width) == (20, 28)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_cmyk_becomes_rgb(picture, saved, options):
    image = picture(40, 56)
    stored = transcode(saved(image.convert("CMYK"), quality=97, **options), ConvertConfig(quality=97))
    assert jpeg.parse(stored.encoded).components == 3
    assert stored.code == BASELINE
    assert_close(decoded(stored), image, most=4)


@pytest.mark.parametrize("adobe", [True, False], ids=["Adobe says RGB", "the component names say RGB"])
def test_rgb_inside_a_jpeg_is_encoded_as_others_expect(picture, saved, adobe):
    image = picture(40, 56)
    data = saved(image, keep_rgb=True, quality=97)
    if not adobe:
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 16 :]
    assert jpeg.parse(data).plain_rgb
    stored = transcode(data, ConvertConfig(quality=97))
    assert not jpeg.parse(stored.encoded).plain_rgb
    assert_close(decoded(stored), image, most=4)


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (100, 200, 50, (50, 100)),
        (200, 100, 50, (100, 50)),
        (101, 333, 50, (50, 165)),
        (60, 61, 59, (59, 60)),
        (400, 10, 3, (120, 3)),
        (50, 80, 50, (50, 80)),
        (49, 80, 50, (49, 80)),
        (20, 20, 0, (20, 20)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_max_short_side_gives_exact_sizes_and_never_enlarges(picture, saved, height, width, side, expected, format):
    data = saved(picture(height, width), format)
    stored = transcode(data, ConvertConfig(max_short_side=side))
    assert (stored.height, stored.width) == expected
    decoded(stored)
    assert (stored.encoded == data) == (expected == (height, width))


def test_shrinking_keeps_the_picture(picture, saved):
    image = picture(160, 240)
    stored = transcode(saved(image, quality=97), ConvertConfig(max_short_side=40, quality=97))
    assert_close(decoded(stored), image.resize((60, 40), Image.Resampling.LANCZOS), most=4)


def test_quality_is_used(picture, saved):
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    sizes = [len(transcode(saved(noise), ConvertConfig(max_short_side=32, quality=q)).encoded) for q in (20, 60, 95)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("megapixels", "code"), [(0.0019, "too_large"), (0.002, None)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_max_megapixels_is_a_limit_on_the_header(picture, saved, megapixels, code, format):
    config = ConvertConfig(max_megapixels=megapixels)
    data = saved(picture(40, 50), format)
    if code is None:
        assert transcode(data, config).height == 40
    else:
        # Cut behind the header, so that decoding would give another code.
        assert rejected(data[:-30], config) == (code, "50x40 is over 0.0019 megapixels")


def rejected(data: bytes, config: ConvertConfig | None = None) -> tuple[str, str]:
    with pytest.raises(RejectError) as caught:
        transcode(data, config or ConvertConfig())
    assert caught.value.code in REJECT_CODES
    return caught.value.code, caught.value.detail


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("PNG", {"optimize": True})]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_cut_image_is_truncated(picture, saved, format, options, mode, share):
    mode = "RGBA" if mode == "CMYK" and format == "PNG" else mode
    noise = Image.effect_noise((80, 60), 40).convert(mode)
    data = saved(noise, format, **options)
    for config in (ConvertConfig(), SHRINK):
        assert rejected(data[: round(len(data) * share)], config)[0] == "truncated"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "BMP"])
def test_other_formats_are_unsupported(picture, saved, format):
    code, detail = rejected(saved(picture(10, 10), format))
    assert (code, detail.lower()) == ("unsupported", f"{format.lower()} is not converted")


@pytest.mark.parametrize(
    ("data", "code", "detail"),
    [
        (b"", "not_an_image", "empty file"),
        (b"hello, world", "not_an_image", "no image signature"),
        (b"\xff\xd8\xff" + b"x" * 50, "corrupt", "the JPEG header cannot be read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(50), "corrupt", "the PNG header cannot be read"),
    ],
)
def test_what_is_no_image_says_so_in_words_that_never_change(data, code, detail):
    assert rejected(data) == (code, detail)


def test_a_lost_end_marker_is_truncated(picture, saved):
    assert rejected(saved(picture(40, 56))[:-2])[0] == "truncated"


def test_an_srgb_profile_goes_and_the_compressed_data_stays(picture, saved):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert transcode(saved(picture(40, 56), icc_profile=profile), ConvertConfig()).encoded == saved(picture(40, 56))


def foreign_profile() -> bytes:
    """A profile unlike sRGB in its name, and in that red and green have changed places."""
    raw = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert all(raw.count(word) == 1 for word in (b"rXYZ", b"gXYZ"))
    assert "sRGB".encode("utf-16-be") in raw
    raw = raw.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    return raw.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_another_profile_is_converted_to_srgb(picture, saved, format):
    image = picture(40, 56, 5)
    red, green, blue = image.split()
    options = {"quality": 97} if format == "JPEG" else {}
    data = saved(image, format, icc_profile=foreign_profile(), **options)
    stored = transcode(data, ConvertConfig(quality=97))
    assert_close(decoded(stored), Image.merge("RGB", (green, red, blue)), most=5)
    with Image.open(io.BytesIO(stored.encoded)) as kept:
        assert "icc_profile" not in kept.info


def test_a_broken_profile_is_no_profile(picture, saved):
    assert transcode(saved(picture(40, 56), icc_profile=b"junk"), ConvertConfig()).encoded == saved(picture(40, 56))


MUTATED = {}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_file_is_stored_or_rejected_with_a_code_and_nothing_else(data):
    if not MUTATED:
        image = Image.radial_gradient("L").resize((40, 30)).convert("RGB")
        for name, mode, format, options in (
            ("jpeg", "RGB", "JPEG", {"exif": oriented(6)}),
            ("progressive", "L", "JPEG", {"progressive": True}),
            ("cmyk", "CMYK", "JPEG", {"exif": oriented(3)}),
            ("png", "RGBA", "PNG", {"exif": oriented(8)}),
            ("palette", "P", "PNG", {"transparency": 3}),
        ):
            out = io.BytesIO()
            image.convert(mode).save(out, format, **options)
            MUTATED[name] = out.getvalue()
    damaged = bytearray(MUTATED[data.draw(st.sampled_from(sorted(MUTATED)))])
    for position in data.draw(st.lists(st.integers(3, min(len(damaged), 700) - 1), min_size=1, max_size=4)):
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        stored = transcode(bytes(damaged), data.draw(st.sampled_from([ConvertConfig(), SHRINK])))
    except RejectError as error:
        reject = error
    else:
        reject = None
    if reject is not None:
        assert reject.code in REJECT_CODES
        assert "0x" not in reject.detail
    else:
        assert stored.code in (BASELINE, PROGRESSIVE, PNG)
        with Image.open(io.BytesIO(stored.encoded)) as kept:
            assert kept.size == (stored.width, stored.height)


def test_what_is_stored_is_what_was_checked(picture, saved):
    """A stray comment marker in damaged scan data must not cut an image short unnoticed."""
    whole = saved(picture(96, 96), "JPEG", quality=95)
    start = whole.index(b"\xff\xda")
    outcomes = set()
    for position in range(start + 40, len(whole) - 40, 7):
        for stray in (b"\xff\xfe\x00\x20", b"\xff\xe1\x02\x00", b"\xff\xe2\xff\xf0"):
            data = whole[:position] + stray + whole[position + len(stray) :]
            try:
                stored = transcode(data, ConvertConfig())
            except RejectError as error:
                outcomes.add(error.code)
                continue
            outcomes.add("stored")
            with Image.open(io.BytesIO(stored.encoded)) as image:
                image.load()  # raises where the end is missing
    assert outcomes <= {"stored", "truncated", "corrupt"}
    assert len(outcomes) > 1
