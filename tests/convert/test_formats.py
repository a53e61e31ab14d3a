"""Every format that is converted, by content: what becomes of it, and what is refused from its header alone."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin, features

from irv2data.convert import ConvertConfig
from irv2data.convert.rejects import REJECT_CODES, RejectError
from irv2data.convert.sniff import SIGNATURE_BYTES, sniff
from irv2data.convert.transcode import Stored, transcode
from irv2data.manifest import BASELINE, PNG

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
needs_heif = pytest.mark.skipif(pillow_heif is None, reason="needs the extra heic")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
AVIF = pytest.param("AVIF", {"quality": 95}, marks=needs_avif)
HEIC = pytest.param("HEIC", {"quality": 95}, marks=needs_heif)


@pytest.fixture
def written(saved):
    """`written(image, format, **options)`: the bytes of a file, HEIC too."""

    def write(image: Image.Image, format: str, **options) -> bytes:
        if format != "HEIC":
            return saved(image, format, **options)
        out = io.BytesIO()
        frames = options.pop("append_images", [])
        options.pop("save_all", None)
        file = pillow_heif.from_pillow(image)
        for frame in frames:
            file.add_from_pillow(frame)
        file.save(out, **options)
        return out.getvalue()

    return write


def decoded(stored: Stored) -> np.ndarray:
    """What TensorFlow makes of it, checked against the record."""
    image = {"JPEG": tf.io.decode_jpeg, "PNG": tf.io.decode_png}[stored.format](stored.encoded, channels=3).numpy()
    assert image.shape == (stored.height, stored.width, 3)
    assert stored.code == {"JPEG": BASELINE, "PNG": PNG}[stored.format]
    return image.astype(int)


def assert_close(actual: np.ndarray, expected: np.ndarray | Image.Image, most: float = 6) -> None:
    difference = np.abs(actual - np.asarray(expected).astype(int))
    assert difference.mean() < most / 2
    assert np.percentile(difference, 99) <= most


def rejected(data: bytes, config: ConvertConfig | None = None) -> tuple[str, str]:
    with pytest.raises(RejectError) as caught:
        transcode(data, config or ConvertConfig())
    assert caught.value.code in REJECT_CODES
    return caught.value.code, caught.value.detail


def static(width: int, height: int, spread: float) -> Image.Image:
    """Grey noise; not Pillow's `effect_noise`, which has no seed."""
    levels = np.random.default_rng(0).normal(128, spread, (height, width))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def tiff(
    samples: np.ndarray, *, order: str = "<", bits: int = 16, compression: int = 1, **tags: int | list[int]
) -> bytes:
    """A TIFF of one strip (of one strip a plane, for planes=2), written by hand; tags by their number as `t262=1`."""
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    kind = {8: "u1", 16: "u2", 12: "u1"}[bits]
    values = samples.astype(order + kind)
    planes = [values] if tags.get("t284", 1) == 1 else [values[..., at] for at in range(channels)]
    strips = [np.ascontiguousarray(plane).tobytes() for plane in planes]
    if compression == 8:
        strips = [zlib.compress(strip) for strip in strips]
    entries: dict[int, list[int]] = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [compression], 262: [1 if channels == 1 else 2],
        273: [0] * len(strips), 277: [channels], 278: [height], 279: [len(strip) for strip in strips],
    }  # fmt: skip
    for name, value in tags.items():
        entries[int(name[1:])] = value if isinstance(value, list) else [value]
    heap_start = 8 + 2 + 12 * len(entries) + 4
    heap = b""
    offsets = []
    for strip in strips:
        offsets.append(heap_start + len(heap))
        heap += strip + bytes(len(strip) % 2)
    entries[273] = offsets
    body = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(entries))
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, heap = struct.pack(order + "I", heap_start + len(heap)), heap + packed
        body += struct.pack(order + "HHI", tag, 4, len(numbers)) + packed
    return body + bytes(4) + heap


# ---- Which becomes what. ----


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
    ],
)
def test_lossless_formats_keep_every_pixel(picture, written, format, options, mode):
    image = picture(30, 50).convert(mode)
    if format == "GIF" and mode == "RGB":
        image = image.quantize(200).convert("RGB")
    stored = transcode(written(image, format, **options), ConvertConfig())
    np.testing.assert_array_equal(decoded(stored), np.asarray(image.convert("RGB")))
    assert stored.format == "PNG"
    assert stored.done == (("kept",) if format == "PNG" and mode != "1" else ("png",))


@pytest.mark.parametrize(
    ("format", "options"),
    [("WEBP", {"quality": 95}), ("TIFF", {"compression": "jpeg", "quality": 97}), AVIF, HEIC],
)
@pytest.mark.parametrize("png", ["keep", "jpeg", "auto"])
def test_lossy_formats_become_jpeg_whatever_the_rule_for_png(picture, written, format, options, png):
    image = picture(48, 80)
    stored = transcode(written(image, format, **options), ConvertConfig(png=png, quality=97))
    assert_close(decoded(stored), image)
    assert (stored.format, stored.done) == ("JPEG", ("jpeg",))


def noise(mode: str = "RGB", levels: int = 256) -> Image.Image:
    values = np.random.default_rng(0).integers(0, levels, (64, 64, 3)) * (255 // (levels - 1))
    return Image.fromarray(values.astype(np.uint8)).convert(mode)


def photograph(mode: str = "RGB") -> Image.Image:
    """Smooth, with a little noise: what PNG cannot compress and JPEG can."""
    y, x = np.mgrid[0:128, 0:128]
    planes = [90 + 60 * np.sin(x / 19 + shift) + 60 * np.cos(y / 23) for shift in (0, 1, 2)]
    grain = np.random.default_rng(0).normal(0, 2, (128, 128, 3))
    return Image.fromarray(np.clip(np.stack(planes, -1) + grain, 0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("image", "png", "expected"),
    [
        (photograph(), "keep", "kept"),
        (photograph(), "jpeg", "jpeg"),
        (photograph(), "auto", "jpeg"),
        (photograph("L"), "auto", "jpeg"),
        (noise(levels=2), "auto", "kept"),  # 8 colours
        (noise(levels=2), "jpeg", "jpeg"),
        (photograph().quantize(256), "auto", "kept"),  # 256 colours are not more than 256
        (photograph("L").point(lambda level: level // 4 * 4), "auto", "kept"),  # 64 levels
    ],
)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_the_rule_for_lossless_images(written, image, png, expected, format):
    stored = transcode(written(image, format), ConvertConfig(png=png, quality=80))
    name = "png" if expected == "kept" and format == "TIFF" else expected
    assert stored.done == (name,)
    assert stored.format == ("JPEG" if expected == "jpeg" else "PNG")
    decoded(stored)


def test_the_content_decides_and_auto_means_less_than_half(written):
    data = written(noise("L"), "PNG")
    sizes = {q: len(transcode(data, ConvertConfig(png="jpeg", quality=q)).encoded) for q in (10, 90)}
    assert 2 * sizes[10] < len(data) <= 2 * sizes[90]
    done = {q: transcode(data, ConvertConfig(png="auto", quality=q)).done for q in sizes}
    assert done == {10: ("jpeg",), 90: ("kept",)}


def test_a_side_too_long_for_a_jpeg_stays_png(written):
    data = written(Image.new("L", (65501, 1), 7), "PNG")
    stored = transcode(data, ConvertConfig(png="jpeg"))
    assert (stored.format, stored.done) == ("PNG", ("png",))
    assert transcode(written(Image.new("L", (65500, 1), 7), "PNG"), ConvertConfig(png="jpeg")).format == "JPEG"


# ---- Upright, opaque, first, 8 bits. ----


@pytest.mark.parametrize("config", [ConvertConfig(quality=97), ConvertConfig(quality=97, max_short_side=30)])
@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options"),
    [("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), AVIF, HEIC],
)
def test_orientation(picture, written, format, options, number, config):
    image = picture(48, 80)
    exif = Image.Exif()
    exif[0x0112] = number
    stored = transcode(written(image, format, exif=exif.tobytes(), **options), config)
    upright = image.transpose(TURNS[number]) if number > 1 else image
    if config.max_short_side:
        upright = upright.resize((50, 30) if number < 5 else (30, 50), Image.Resampling.LANCZOS)
    assert (stored.width, stored.height) == upright.size
    assert ("upright" in stored.done) == (number > 1)
    assert_close(decoded(stored), upright)


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {"quality": 95}), ("TIFF", {}), ("GIF", {}), AVIF, HEIC],
)
def test_alpha_is_laid_on_the_background(written, format, options):
    image = Image.new("RGBA", (32, 32), (200, 40, 90, 255))
    image.paste((1, 2, 3, 0), (0, 0, 16, 32))
    stored = transcode(written(image, format, **options), ConvertConfig(background=(10, 200, 100), quality=97))
    assert stored.done[1:] == ("background",)
    result = decoded(stored)
    np.testing.assert_allclose(result[:, :12], np.broadcast_to((10, 200, 100), (32, 12, 3)), atol=6)
    np.testing.assert_allclose(result[:, 20:], np.broadcast_to((200, 40, 90), (32, 12, 3)), atol=6)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_that_hides_nothing_is_dropped(picture, written, format):
    image = picture(20, 30)
    opaque = image.copy()
    opaque.putalpha(255)
    stored = transcode(written(opaque, format, lossless=True), ConvertConfig(background=(0, 0, 0)))
    assert stored.done == ("png",)
    np.testing.assert_array_equal(decoded(stored), np.asarray(image))


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), AVIF, HEIC],
)
def test_the_first_of_several_is_taken_and_said(picture, written, format, options):
    first = picture(32, 48, 1).quantize(64).convert("RGB")
    data = written(first, format, save_all=True, append_images=[picture(32, 48, 2), picture(32, 48, 3)], **options)
    stored = transcode(data, ConvertConfig(quality=97))
    assert stored.done[1:] == ("first_frame",)
    assert_close(decoded(stored), first, most=8)


VALUES = np.random.default_rng(7).integers(0, 65536, (9, 14, 4))


def to_8_bits(values: np.ndarray) -> np.ndarray:
    return np.floor(values / 257 + 0.5).astype(int)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8], ids=["raw", "deflate"])
def test_16_bit_tiff_is_scaled_exactly(order, compression):
    options = {"order": order, "compression": compression}
    stored = transcode(tiff(VALUES[..., :3], **options), ConvertConfig())
    assert stored.done == ("png", "sixteen_bit")
    np.testing.assert_array_equal(decoded(stored), to_8_bits(VALUES[..., :3]))
    stored = transcode(tiff(VALUES[..., 0], **options), ConvertConfig())
    assert stored.done == ("png", "sixteen_bit")
    np.testing.assert_array_equal(decoded(stored), to_8_bits(VALUES[..., :1]).repeat(3, -1))


def test_16_bit_tiff_with_alpha():
    values = VALUES.copy()
    values[..., 3] = np.where(values[..., 3] > 32768, 65535, 0)
    stored = transcode(tiff(values, t338=2), ConvertConfig(background=(3, 5, 7)))
    assert stored.done == ("png", "background", "sixteen_bit")
    expected = np.where(values[..., 3:] > 0, to_8_bits(values[..., :3]), np.array([3, 5, 7]))
    np.testing.assert_array_equal(decoded(stored), expected)


def test_16_bit_tiff_in_which_0_is_white():
    stored = transcode(tiff(VALUES[..., 0], t262=0), ConvertConfig())
    np.testing.assert_array_equal(decoded(stored), 255 - to_8_bits(VALUES[..., :1]).repeat(3, -1))


def test_12_bit_tiff_spans_the_whole_range():
    rows = np.array([[0xFF, 0xF0, 0x00], [0x80, 0x08, 0x00]])  # two values of 12 bits each: 4095 0, 2048 2048
    data = tiff(rows, bits=12, t256=2)
    stored = transcode(data, ConvertConfig())
    assert decoded(stored)[..., 0].tolist() == [[255, 0], [128, 128]]


def test_16_bit_png_keeps_its_precision_in_every_kind():
    def png(colours: int, values: np.ndarray, extra: bytes = b"") -> bytes:
        def chunk(name: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colours, 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra
        return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    for colours, channels in ((0, [0]), (2, [0, 1, 2])):
        stored = transcode(png(colours, VALUES[..., channels]), ConvertConfig())
        assert stored.done == ("png", "sixteen_bit")
        expected = to_8_bits(VALUES[..., channels])
        np.testing.assert_array_equal(decoded(stored), np.broadcast_to(expected, (9, 14, 3)))
    for colours, channels in ((4, [0, 3]), (6, [0, 1, 2, 3])):
        values = VALUES[..., channels].copy()
        values[..., -1] = 65535
        stored = transcode(png(colours, values), ConvertConfig())
        np.testing.assert_array_equal(decoded(stored), np.broadcast_to(to_8_bits(values[..., :-1]), (9, 14, 3)))
    # A transparent colour counts by all of its 16 bits.
    values = np.array([[[256, 512, 768], [256, 512, 769]]])
    key = struct.pack(">I", 6) + b"tRNS" + struct.pack(">3H", 256, 512, 768)
    key += struct.pack(">I", zlib.crc32(key[4:]))
    stored = transcode(png(2, values, key), ConvertConfig(background=(9, 9, 9)))
    assert decoded(stored).tolist() == [[[9, 9, 9], [1, 2, 3]]]
    assert stored.done == ("png", "background", "sixteen_bit")


# ---- What is not converted. ----

GREY = np.zeros((4, 6))


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (tiff(GREY, t50706=1), "camera raw (in a TIFF container) is not converted"),
        (tiff(GREY, bits=8, t262=32803), "camera raw (in a TIFF container) is not converted"),
        (tiff(GREY, t254=1, t330=8), "camera raw (in a TIFF container) is not converted"),
        (tiff(VALUES[..., :3], t284=2), "TIFF of 16 bits in separate planes is not converted"),
        (tiff(GREY, bits=8, compression=34713), "camera raw (in a TIFF container) is not converted"),
        (tiff(GREY, compression=34712), "TIFF with compression 34712 is not converted"),
        (tiff(GREY, compression=50001), "TIFF with webp is not converted"),
        (tiff(GREY, t339=2), "TIFF of signed, floating-point or 32-bit values is not converted"),
        (tiff(GREY, bits=8, t258=[7]), "TIFF: unknown pixel mode"),
    ],
)
def test_variants_of_tiff_that_are_unsupported(data, detail):
    assert rejected(data) == ("unsupported", detail)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_tiffs_without_a_defined_range_are_unsupported(written, mode):
    detail = "TIFF of signed, floating-point or 32-bit values is not converted"
    assert rejected(written(Image.new(mode, (4, 4), 1), "TIFF")) == ("unsupported", detail)


def test_lab_is_unsupported(written):
    assert rejected(written(Image.new("LAB", (4, 4)), "TIFF")) == (
        "unsupported",
        "an image of colour mode LAB is not converted",
    )


def box(brand: bytes, *compatible: bytes) -> bytes:
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(content)) + content + struct.pack(">I", 16) + b"metaavifheic"


NAMED = [
    (b"P6\n4 4\n255\n" + bytes(48), "PPM"),
    (b"P5 4 4 255\n" + bytes(48), "PGM"),
    (b"P4\n# comment\n4 4\n" + bytes(48), "PBM"),
    (b"P7\nWIDTH 4\n" + bytes(48), "PAM"),
    (b"Pf\n4 4\n-1\n" + bytes(64), "PFM"),
    (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + bytes(30), "ICO"),
    (b"\0\0\2\0\1\0\x10\x10\0\0\3\0\5\0" + bytes(30), "CUR"),
    (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "JPEG 2000"),
    (b"\xff\x4f\xff\x51" + bytes(20), "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL"),
    (b"\xff\x0a" + bytes(20), "JPEG XL"),
    (b"8BPS\0\1" + bytes(20), "PSD"),
    (b"II*\0\x10\0\0\0CR\2\0" + bytes(20), "Canon camera raw"),
    (box(b"crx ", b"crx ", b"isom"), "Canon camera raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "Canon camera raw"),
    (b"IIRO\x08\0\0\0", "Olympus camera raw"),
    (b"IIU\0\x18\0\0\0", "Panasonic camera raw"),
    (b"FUJIFILMCCD-RAW 0201", "Fujifilm camera raw"),
    (b"FOVb\0\0\2\0", "Sigma camera raw"),
    (b"\0MRM\0\0\0\0", "Minolta camera raw"),
    (b"v/1\x01" + bytes(20), "OpenEXR"),
    (b"#?RADIANCE\n", "Radiance HDR"),
    (b"qoif" + bytes(20), "QOI"),
]


@pytest.mark.parametrize(("data", "name"), NAMED)
def test_images_that_are_not_converted_are_unsupported_by_name(data, name):
    assert rejected(data) == ("unsupported", f"{name} is not converted")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (box(b"avif", b"mif1"), "AVIF"),
        (box(b"avis"), "AVIF"),
        (box(b"mif1", b"miaf", b"avif"), "AVIF"),
        (box(b"mif1", b"heic"), "HEIC"),
        (box(b"heix"), "HEIC"),
        (box(b"msf1", b"hevc"), "HEIC"),
        (box(b"mif1"), "HEIC"),  # the boxes after the first one are no brands
        (box(b"mp42", b"isom", b"avif"), None),  # a film
        (b"II+\0\x08\0\0\0", "TIFF"),
        (b"BM\x9a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "BMP"),
        (b"BM\x9a\0\0\0\1\2\3\4\x36\0\0\0\x28\0\0\0", "BMP"),
        (b"BM is how this text begins, and BMW", None),
        (b"P6 is a name in this text", None),
        (b"\0\0\1\0\0\0", None),
        (b"\0\0\1\xba\x44\0\4\0\4\1", None),  # MPEG
        (b"", None),
    ],
)
def test_sniff(data, name):
    assert sniff(data[:SIGNATURE_BYTES]) == name


def test_heic_without_the_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # makes the import fail
    expected = ("unsupported", "HEIC needs the extra: pip install 'irv2data[heic]'")
    assert rejected(box(b"heic", b"mif1") + bytes(100)) == expected


@needs_heif
def test_opening_heic_registers_nothing_in_pillow(picture, written):
    transcode(written(picture(32, 48), "HEIC"), ConvertConfig())
    assert not {"HEIF", "HEIC"} & set(Image.OPEN)


# ---- Refused from the header. ----


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def bombs(written) -> dict[str, tuple[bytes, str]]:
    """Small files that say they are 20000x9000 (where their format can), and that size in words."""
    small = Image.new("RGB", (8, 8))
    result = {}
    png = written(small, "PNG")
    head = b"IHDR" + struct.pack(">II", 20000, 9000) + png[24:29]
    result["PNG"] = (patched(png, 12, head + struct.pack(">I", zlib.crc32(head))), "20000x9000")
    gif = written(small, "GIF")
    result["GIF, the screen"] = (patched(gif, 6, struct.pack("<HH", 20000, 9000)), "20000x9000")
    frame = gif.index(b"\x2c\0\0\0\0") + 5
    result["GIF, the frame"] = (patched(gif, frame, struct.pack("<HH", 20000, 9000)), "20000x9000")
    result["BMP"] = (patched(written(small, "BMP"), 18, struct.pack("<ii", 20000, -9000)), "20000x9000")
    result["TIFF"] = (tiff(GREY, t256=20000, t257=9000), "20000x9000")
    result["TIFF, strips of one row"] = (tiff(GREY, t256=20000, t257=9000, t278=1), "20000x9000")
    result["TIFF, turned"] = (tiff(GREY, t256=9000, t257=20000, t274=6), "20000x9000")
    lossy = written(small, "WEBP")
    result["WebP, VP8"] = (
        patched(lossy, lossy.index(b"\x9d\x01\x2a") + 3, struct.pack("<HH", 16000, 9000)),
        "16000x9000",
    )
    lossless = written(small, "WEBP", lossless=True)
    packed = struct.pack("<I", 15999 | 8999 << 14)
    result["WebP, VP8L"] = (patched(lossless, lossless.index(b"VP8L") + 9, packed), "16000x9000")
    extended = written(small, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    canvas = struct.pack("<I", 19999)[:3] + struct.pack("<I", 8999)[:3]
    result["WebP, VP8X"] = (patched(extended, extended.index(b"VP8X") + 12, canvas), "20000x9000")
    for name in ("AVIF", "HEIC"):
        if features.check("avif") if name == "AVIF" else pillow_heif is not None:
            data = written(Image.new("RGB", (64, 64)), name)
            while (at := data.find(b"ispe" + bytes(4) + struct.pack(">II", 64, 64))) >= 0:
                data = patched(data, at + 8, struct.pack(">II", 20000, 9000))
            result[name] = (data, "20000x9000")
    return result


BOMBS = ["PNG", "GIF, the screen", "GIF, the frame", "BMP", "TIFF", "TIFF, strips of one row", "TIFF, turned"]
BOMBS += ["WebP, VP8", "WebP, VP8L", "WebP, VP8X", "AVIF", "HEIC"]


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_header(written, monkeypatch, name):
    made = bombs(written)
    if name not in made:
        pytest.skip(f"needs a decoder of {name}")

    def decode(self):
        raise AssertionError("a pixel was decoded")

    for plugin in (ImageFile.ImageFile, TiffImagePlugin.TiffImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(plugin, "load", decode)
    data, size = made[name]
    assert rejected(data) == ("too_large", f"{size} is over 100 megapixels")


def test_texts_and_profiles_that_unpack_to_gigabytes_cost_nothing(picture, saved):
    plain = saved(picture(10, 12), "PNG")
    packed = zlib.compress(bytes(1 << 27))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    extra = chunk(b"zTXt", b"Comment\0\0" + packed) + chunk(b"iCCP", b"name\0\0" + packed)
    extra += chunk(b"zTXt", b"Raw profile type exif\0\0" + packed) + chunk(b"iTXt", b"a\0\1\0\0\0" + packed)
    stored = transcode(plain[:33] + extra + plain[33:], ConvertConfig())
    assert (stored.encoded, stored.done) == (plain, ("kept",))


def test_exif_in_the_old_text_chunk_of_a_png_turns_it(picture, saved):
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    text = b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"
    plain = saved(picture(10, 12), "PNG")

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    for extra in (
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        chunk(b"tEXt", b"Raw profile type exif\0" + text),
        chunk(b"eXIf", block[6:]),
    ):
        stored = transcode(plain[:33] + extra + plain[33:], ConvertConfig())
        assert (stored.width, stored.height, stored.done) == (10, 12, ("png", "upright"))


@pytest.mark.parametrize("name", [b"iCCP", b"eXIf", b"tEXt"])
def test_a_damaged_metadata_chunk_does_not_cost_the_image(picture, saved, name):
    plain = saved(picture(10, 12), "PNG")
    damaged = struct.pack(">I", 8) + name + bytes(8) + b"XXXX"
    assert transcode(plain[:33] + damaged + plain[33:], ConvertConfig()).encoded == plain


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        AVIF,
        HEIC,
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_is_rejected(written, format, options, share):
    data = written(static(80, 60, 60).convert("RGB"), format, **options)
    assert rejected(data[: round(len(data) * share)])[0] in ("truncated", "corrupt")


def test_a_webp_that_ends_before_its_stated_length_is_truncated(picture, written):
    expected = ("truncated", "the WebP ends before the length that it states")
    assert rejected(written(picture(30, 40), "WEBP")[:-1]) == expected


def test_metadata_never_leaves_the_folder(picture, written):
    exif = Image.Exif()
    exif[0x010F] = "SECRET-MAKER"
    options = {"exif": exif.tobytes(), "xmp": b"<x>SECRET</x>"}
    for format, more in (("PNG", {}), ("TIFF", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {})):
        if format == "AVIF" and not features.check("avif"):
            continue
        data = written(picture(16, 24), format, **options, **more)
        assert b"SECRET" in data
        for config in (ConvertConfig(), ConvertConfig(png="jpeg"), ConvertConfig(max_short_side=8)):
            assert b"SECRET" not in transcode(data, config).encoded
    commented = written(picture(16, 24), "GIF", comment=b"SECRET")
    assert b"SECRET" in commented
    for config in (ConvertConfig(), ConvertConfig(png="jpeg")):
        assert b"SECRET" not in transcode(commented, config).encoded
