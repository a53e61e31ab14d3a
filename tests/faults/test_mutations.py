"""Thousands of damaged images: each is stored, and then sound for every decoder, or rejected with a code.

The mutations are planned from a fixed seed, so that a failure names a case that can be made again. Nothing shields
this process: a decoder that takes it down is a finding too.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from PIL import Image, features

from irv2data.convert import ConvertConfig, lossless
from irv2data.convert.rejects import REJECT_CODES, RejectError
from irv2data.convert.transcode import DONE, Stored, transcode

HERE = Path(__file__).parent
JPEG_DATA = HERE.parent / "convert" / "data"
MUTATIONS_EACH = 500
CONFIGS = (
    ConvertConfig(max_megapixels=0.02),
    ConvertConfig(max_megapixels=0.02, max_short_side=9, png="auto", background=(1, 2, 3)),
)
MOST_PIXELS = 20_000
EXTREMES = (b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x80\0", b"\0\x01", b"\x01\0", b"\0\0\0\0", b"\xff\xff\xff\xff")
EXTREMES += (b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0", b"\0\0\0\x01")


def picture(height: int = 24, width: int = 37) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return Image.fromarray((grain + np.stack([4 * y, 3 * x, 2 * (x + y)], -1)).astype(np.uint8))


def file(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png16(colours: int, channels: int) -> bytes:
    values = np.random.default_rng(1).integers(0, 65536, (9, 11, channels))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 11, 9, 16, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def adam7() -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, 8, 0, 0, 0, 1))
    data = zlib.compress(bytes([0, 0, 0, 40, 0, 20, 60, 0, 10, 30, 50, 70]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def sources() -> dict[str, bytes]:
    """A small file of every format and of each of its kinds that takes a way of its own."""
    image = picture()
    clear = image.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    result = {
        "jpeg": file(image, "JPEG", quality=90, exif=exif),
        "jpeg 444": file(image, "JPEG", quality=90, subsampling=0, restart_marker_blocks=2),
        "jpeg grey": file(image.convert("L"), "JPEG", quality=90),
        "jpeg progressive": file(image, "JPEG", quality=90, progressive=True),
        "jpeg cmyk": file(image.convert("CMYK"), "JPEG", quality=90),
        "jpeg arithmetic": (JPEG_DATA / "arithmetic.jpg").read_bytes(),
        "jpeg arithmetic progressive": (JPEG_DATA / "arithmetic_progressive.jpg").read_bytes(),
        "png": file(image, "PNG"),
        "png alpha": file(clear, "PNG", exif=exif),
        "png palette": file(image.quantize(50), "PNG", transparency=3),
        "png 1 bit": file(image.convert("1"), "PNG"),
        "png grey 16": png16(0, 1),
        "png rgb 16": png16(2, 3),
        "png grey alpha 16": png16(4, 2),
        "png interlaced": adam7(),
        "apng": file(image, "PNG", **more),
        "gif": file(image.quantize(50), "GIF"),
        "gif animated": file(image, "GIF", **more),
        "gif clear": file(clear, "GIF"),
        "bmp": file(image, "BMP"),
        "bmp palette": file(image.quantize(50), "BMP"),
        "tiff": file(image, "TIFF", exif=exif),
        "tiff lzw": file(image, "TIFF", compression="tiff_lzw"),
        "tiff deflate": file(image.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
        "tiff packbits": file(image.quantize(50), "TIFF", compression="packbits"),
        "tiff jpeg": file(image, "TIFF", compression="jpeg"),
        "tiff group4": file(image.convert("1"), "TIFF", compression="group4"),
        "tiff 16": file(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 99), "TIFF"),
        "tiff pages": file(image, "TIFF", **more),
        "webp": file(image, "WEBP", exif=exif),
        "webp lossless": file(clear, "WEBP", lossless=True),
        "webp animated": file(image, "WEBP", **more),
    }
    if features.check("avif"):
        result["avif"] = file(image, "AVIF", exif=exif)
        result["avif animated"] = file(clear, "AVIF", save_all=True, append_images=[clear.rotate(180)])
    try:
        import pillow_heif
    except ImportError:
        return result
    heic = pillow_heif.from_pillow(picture(64, 64))
    out = io.BytesIO()
    heic.save(out, exif=exif.tobytes())
    return {**result, "heic": out.getvalue()}


def flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(2, len(data))] ^= 1 << rng.integers(8)


def flip_a_bit_of_the_head(data: bytearray, rng: np.random.Generator) -> None:
    data[rng.integers(4, min(len(data), 200))] ^= 1 << rng.integers(8)


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(4, len(data)) :]


def swap_blocks(data: bytearray, rng: np.random.Generator) -> None:
    size = int(rng.integers(1, max(2, len(data) // 6)))
    first, second = (int(start) for start in rng.integers(4, max(5, len(data) - size), 2))
    one, other = data[first : first + size], data[second : second + size]
    data[first : first + size], data[second : second + size] = other, one


def drop_a_block(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(4, len(data)))
    del data[start : start + int(rng.integers(1, 40))]


def double_a_block(data: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(4, len(data)))
    data[start:start] = data[start : start + int(rng.integers(1, 60))]


def set_a_field_to_an_extreme(data: bytearray, rng: np.random.Generator) -> None:
    """Lengths, counts, sizes and offsets lie at even positions of a file's head more often than not."""
    extreme = EXTREMES[rng.integers(len(EXTREMES))]
    head = min(len(data) - 4, 300 if rng.random() < 0.8 else len(data))
    start = int(rng.integers(4, head))
    data[start : start + len(extreme)] = extreme


def set_a_length_behind_a_name(data: bytearray, rng: np.random.Generator) -> None:
    """Of a PNG chunk, a JPEG segment, a RIFF chunk or a box: beside something that is a name."""
    names = (
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"\xff\xc0",
        b"\xff\xc2",
        b"\xff\xc4",
        b"\xff\xdb",
        b"\xff\xda",
        b"VP8",
    )
    names += (b"VP8L", b"VP8X", b"ANMF", b"ispe", b"iloc", b"meta", b"mdat", b"ipma", b"fcTL", b"\x2c\0", b"\x21\xf9")
    found = [at for name in names if (at := data.find(name)) >= 4]
    if not found:
        return set_a_field_to_an_extreme(data, rng)
    at = found[rng.integers(len(found))] + int(rng.choice([-4, 2, 4, 5, 6, 8, 12]))
    extreme = EXTREMES[rng.integers(len(EXTREMES))]
    data[at : at + len(extreme)] = extreme
    return None


MUTATORS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    flip_bits,
    flip_a_bit_of_the_head,
    cut,
    swap_blocks,
    drop_a_block,
    double_a_block,
    set_a_field_to_an_extreme,
    set_a_length_behind_a_name,
)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right again: without them nearly every mutation ends at the first one."""
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            break
        body = data[position : end - 4]
        parts.append(body + struct.pack(">I", zlib.crc32(body[4:])))
        position = end
    return b"".join(parts) + data[position:]


def mutate_scanlines(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG of which the filters and samples are damaged, and not the compression around them."""
    start = data.index(b"IDAT") - 4
    end = data.rindex(b"IEND") - 4
    packed, position = b"", start
    while data[position + 4 : position + 8] == b"IDAT":
        length = int.from_bytes(data[position : position + 4], "big")
        packed += data[position + 8 : position + 8 + length]
        position += 12 + length
    lines = bytearray(zlib.decompress(packed))
    (flip_bits, cut, double_a_block, drop_a_block)[rng.integers(4)](lines, rng)
    return data[:start] + chunk(b"IDAT", zlib.compress(bytes(lines))) + data[end:]


def mutations() -> Iterator[tuple[str, int, bytes]]:
    """(source, number, file) of each case; a case depends on its own name and number alone."""
    for name, data in sources().items():
        for number in range(MUTATIONS_EACH):
            rng = np.random.default_rng([zlib.crc32(name.encode()), number])
            if "png" in name and number % 4 == 3:
                yield name, number, mutate_scanlines(data, rng)
                continue
            damaged = bytearray(data)
            for _ in range(rng.integers(1, 3)):
                if len(damaged) > 40:
                    MUTATORS[rng.integers(len(MUTATORS))](damaged, rng)
            result = bytes(damaged)
            if "png" in name and number % 4:
                result = with_checksums(result)
            yield name, number, result


def assert_sound(stored: Stored, case: str) -> None:
    """Every decoder that will meet the image decodes it, without a warning, to the recorded size."""
    assert stored.height * stored.width <= MOST_PIXELS, case
    assert set(stored.done) <= set(DONE), case
    assert stored.done[0] in ("kept", "baseline", "jpeg", "png"), case
    try:
        with Image.open(io.BytesIO(stored.encoded), formats=[stored.format]) as image:
            image.load()
            size, mode = image.size, image.mode
        if stored.format == "JPEG":
            simplejpeg.decode_jpeg(stored.encoded, strict=True)
            decoded = tf.io.decode_jpeg(stored.encoded, channels=3)
        else:
            decoded = tf.io.decode_png(stored.encoded, channels=3)
    except Exception as error:
        raise AssertionError(f"{case} was stored ({stored.done}) and is not sound: {error!r}") from error
    assert size == (stored.width, stored.height), case
    assert mode in ("L", "RGB", "P"), case
    assert decoded.shape == (stored.height, stored.width, 3), case


def attempt(data: bytes, config: ConvertConfig, case: str) -> Stored | RejectError:
    try:
        return transcode(data, config)
    except RejectError as error:
        return error
    except Exception as error:
        raise AssertionError(f"{case} raised {error!r}") from error


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_accepted_is_sound_and_the_rest_is_rejected_with_a_code():
    outcomes: dict[str, Counter[str]] = {}
    for name, number, data in mutations():
        case = f"{name}, mutation {number}"
        counts = outcomes.setdefault(name, Counter())
        outcome = attempt(data, CONFIGS[number % len(CONFIGS)], case)
        if isinstance(outcome, Stored):
            assert_sound(outcome, case)
            counts["stored"] += 1
        else:
            assert outcome.code in REJECT_CODES, case
            assert " at 0x" not in outcome.detail, case
            counts[outcome.code] += 1
    assert sum(sum(counts.values()) for counts in outcomes.values()) >= 4000
    # Mutations that are all rejected, or all harmless, would show nothing.
    for name, counts in outcomes.items():
        assert counts["stored"] > 0, name
        assert counts["corrupt"] + counts["truncated"] > 5, name
    assert sum(outcomes.values(), Counter())["too_large"] > 20


def test_the_undamaged_sources_are_all_stored():
    for name, data in sources().items():
        for config in CONFIGS:
            assert_sound(transcode(data, config), name)


def test_progressive_and_arithmetic_sources_take_the_lossless_way_where_there_is_one():
    done = {name: transcode(data, CONFIGS[0]).done[0] for name, data in sources().items() if name.startswith("jpeg ")}
    if lossless.available():
        assert done["jpeg progressive"] == done["jpeg arithmetic"] == done["jpeg arithmetic progressive"] == "baseline"
