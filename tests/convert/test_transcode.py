"""One JPEG into what is stored: upright, RGB or grey, of the wanted size, decodable by TensorFlow; or its reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from irv2data.convert import ConvertConfig, jpeg, lossless
from irv2data.convert.rejects import REJECT_CODES, RejectError
from irv2data.convert.transcode import DONE, Stored, transcode
from irv2data.manifest import BASELINE, PNG, PROGRESSIVE

SHRINK = ConvertConfig(max_short_side=20)
DATA = Path(__file__).parent / "data"
needs_lossless = pytest.mark.skipif(not lossless.available(), reason="needs the extra lossless")


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


def static(width: int, height: int, spread: float) -> Image.Image:
    """Grey noise; not Pillow's `effect_noise`, which has no seed."""
    levels = np.random.default_rng(0).normal(128, spread, (height, width))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


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
    encoded = "kept" if number == 1 and config is not SHRINK else format.lower()
    also = ("upright",) * (number > 1) + ("shrunk",) * (config is SHRINK)
    assert stored.done == (encoded, *also)
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
    assert (stored.code, stored.done) == (BASELINE, ("jpeg", "cmyk"))
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
    noise = static(64, 64, 80).convert("RGB")
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
    noise = static(80, 60, 40).convert(mode)
    data = saved(noise, format, **options)
    for config in (ConvertConfig(), SHRINK):
        assert rejected(data[: round(len(data) * share)], config)[0] == "truncated"


BAD_HEADER = "the PNG header holds a value that means nothing"


@pytest.mark.parametrize(
    ("data", "code", "detail"),
    [
        (b"", "not_an_image", "empty file"),
        (b"hello, world", "not_an_image", "no image signature"),
        (b"\xff\xd8\xff" + b"x" * 50, "corrupt", "no marker at byte 2"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "truncated", "ends before the image data"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(50), "corrupt", "0x0 is no size of an image"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\1\0\0\0\1\x07" + bytes(50), "corrupt", BAD_HEADER),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIDAT" + bytes(50), "corrupt", "the PNG header cannot be read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "truncated", "the PNG header cannot be read"),
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI" + bytes(50),
            "unsupported",
            "PNG of Apple's own kind (CgBI) is not converted",
        ),
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
        assert " at 0x" not in reject.detail
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
    assert outcomes <= {"stored", "truncated", "corrupt"}  # libjpeg's "unsupported marker" is damage, no variant
    assert len(outcomes) > 1


def test_what_was_done_is_named_from_a_closed_list(picture, saved):
    exif = oriented(6)
    stored = transcode(saved(picture(48, 80).convert("CMYK"), exif=exif), SHRINK)
    assert stored.done == ("jpeg", "upright", "cmyk", "shrunk")
    assert set(stored.done) < set(DONE)
    assert all(line and line == line.strip() for line in DONE.values())


@needs_lossless
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_progressive_becomes_baseline_with_the_same_pixels(picture, saved, mode):
    data = saved(picture(40, 56).convert(mode), progressive=True, icc_profile=srgb(), exif=oriented(1))
    stored = transcode(data, ConvertConfig())
    assert (stored.code, stored.done, stored.height, stored.width) == (BASELINE, ("baseline",), 40, 56)
    assert jpeg.parse(stored.encoded).process == 0
    assert b"ICC_PROFILE" not in stored.encoded
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.encoded)).convert("RGB")), expected)
    decoded(stored)


def test_progressive_stays_without_the_library(picture, saved, monkeypatch):
    monkeypatch.setattr(lossless, "available", lambda: False)
    data = saved(picture(40, 56), progressive=True)
    stored = transcode(data, ConvertConfig())
    assert (stored.encoded, stored.code, stored.done) == (data, PROGRESSIVE, ("kept", "progressive_kept"))
    assert transcode(data, SHRINK).done == ("jpeg", "shrunk")


@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_lossless), False], ids=["library", "none"])
@pytest.mark.parametrize("name", ["arithmetic", "arithmetic_progressive"])
def test_arithmetic_coding_becomes_what_tensorflow_decodes(monkeypatch, name, library):
    if not library:
        monkeypatch.setattr(lossless, "available", lambda: False)
    stored = transcode((DATA / f"{name}.jpg").read_bytes(), ConvertConfig(quality=97))
    assert (stored.code, stored.done) == (BASELINE, ("baseline",) if library else ("jpeg",))
    with Image.open(DATA / "sequential.jpg") as same:  # the same coefficients
        if library:
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.encoded))), np.asarray(same))
        assert_close(decoded(stored), same, most=4)


@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_lossless), False], ids=["library", "none"])
@pytest.mark.parametrize("name", ["arithmetic", "arithmetic_progressive"])
def test_a_cut_arithmetic_image_is_truncated(monkeypatch, name, library):
    if not library:
        monkeypatch.setattr(lossless, "available", lambda: False)
    assert rejected((DATA / f"{name}.jpg").read_bytes()[:-30])[0] == "truncated"


@needs_lossless
def test_damage_in_a_progressive_image_is_found_whoever_reads_it(saved, monkeypatch):
    noise = static(64, 48, 60).convert("RGB")
    data = saved(noise, quality=90, progressive=True)
    outcomes = []
    for position in range(data.index(b"\xff\xda") + 20, len(data) - 2, 97):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        both = []
        for available in (True, False):
            monkeypatch.setattr(lossless, "available", lambda available=available: available)
            try:
                both.append(transcode(bytes(damaged), ConvertConfig()).format)
            except RejectError as error:
                both.append(error.code)
        outcomes.append(tuple(both))
    assert {pair[0] == pair[1] for pair in outcomes} == {True}
    assert ("corrupt", "corrupt") in outcomes


def test_a_transcoding_of_another_size_is_refused(picture, saved, monkeypatch):
    monkeypatch.setattr(lossless, "available", lambda: True)
    monkeypatch.setattr(lossless, "to_baseline", lambda data: saved(picture(41, 56)))
    expected = ("corrupt", "its coding as baseline JPEG differs in size or components")
    assert rejected(saved(picture(40, 56), progressive=True)) == expected


def with_frame(data: bytes, *, marker: int = 0xC0, precision: int = 8, height: bytes = b"") -> bytes:
    """The JPEG with its frame header overwritten."""
    start = data.index(b"\xff\xc0")
    header = bytes([0xFF, marker]) + data[start + 2 : start + 4] + bytes([precision]) + data[start + 5 :]
    return data[:start] + (header[:5] + height + header[7:] if height else header)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"precision": 12, "marker": 0xC1}, "JPEG of 12 bits a sample is not converted"),
        ({"marker": 0xC3}, "lossless JPEG is not converted"),
        ({"marker": 0xF7}, "JPEG-LS is not converted"),
        ({"marker": 0xC5}, "hierarchical or arithmetic-coded lossless JPEG is not converted"),
        ({"marker": 0xCB}, "hierarchical or arithmetic-coded lossless JPEG is not converted"),
        ({"height": b"\0\0"}, "JPEG that states its height after the image is not converted"),
    ],
)
def test_other_kinds_of_jpeg_are_unsupported_by_name(picture, saved, change, detail):
    assert rejected(with_frame(saved(picture(40, 56)), **change)) == ("unsupported", detail)


def test_a_jpeg_of_two_components_is_unsupported(picture, saved):
    data = saved(picture(16, 16))
    start = data.index(b"\xff\xc0")
    two = data[start : start + 2] + b"\x00\x0e" + data[start + 4 : start + 9] + b"\x02" + data[start + 10 : start + 16]
    changed = data[:start] + two + data[start + 19 :]
    assert rejected(changed) == ("unsupported", "JPEG of 2 components is not converted")


def test_a_chroma_sampling_that_turbojpeg_does_not_know_is_unsupported(picture, saved):
    data = saved(picture(48, 48), subsampling=0)
    start = data.index(b"\xff\xc0")
    assert data[start + 11] == 0x11
    data = data[: start + 11] + b"\x31" + data[start + 12 :]
    assert rejected(data) == ("unsupported", "JPEG of an unusual chroma sampling is not converted")


def test_orientation_in_xmp_alone_is_not_heeded(picture, saved):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert transcode(saved(picture(48, 80), xmp=xmp), ConvertConfig()).done == ("kept",)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((100, 200), {"shrink_megapixels": 0.005}, (50, 100)),
        ((100, 200), {"shrink_megapixels": 0.02}, (100, 200)),
        ((100, 200), {"shrink_megapixels": 0.005, "max_short_side": 30}, (30, 60)),
        ((100, 200), {"shrink_megapixels": 0.0005, "max_short_side": 30}, (15, 31)),
        ((90, 90), {"shrink_megapixels": 0.005}, (70, 70)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_shrink_megapixels_is_a_limit_that_holds(picture, saved, size, options, expected, format):
    stored = transcode(saved(picture(*size), format), ConvertConfig(**options))
    assert (stored.height, stored.width) == expected
    assert ("shrunk" in stored.done) == (size != expected)
    decoded(stored)


def test_more_than_tensorflow_decodes_is_too_large_unless_it_is_shrunk(picture, saved):
    """The header alone: 2**29 values and more make tf.io.decode_jpeg and decode_png fail."""
    data = with_frame(saved(picture(16, 16)), height=(20000).to_bytes(2, "big"))
    start = data.index(b"\xff\xc0")
    data = data[: start + 7] + (9000).to_bytes(2, "big") + data[start + 9 :]
    config = ConvertConfig(max_megapixels=1000)
    assert rejected(data, config) == ("too_large", "9000x20000 is more than TensorFlow decodes")
    assert rejected(data, ConvertConfig(max_megapixels=1000, max_short_side=500))[0] in ("truncated", "corrupt")


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_shrinking_does_not_shift_the_image(saved):
    """750 pixels at 7/8 are 656.25: the last column of the decoded 657 is there to a quarter."""
    stripes = np.zeros((500, 750, 3), np.uint8)
    stripes[:, 738:] = 255  # 12 of 750 pixels, which at 0.8 of the size are 9.6 of 600
    stored = transcode(saved(Image.fromarray(stripes), quality=97, subsampling=0), ConvertConfig(max_short_side=400))
    assert (stored.width, stored.height) == (600, 400)
    assert decoded(stored)[100:300, 560:, 0].sum() / 255 / 200 == pytest.approx(9.6, abs=0.3)
