"""PNG in all its kinds: 8-bit opaque files keep their pixels' bytes, the others become 8 bits without alpha."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from irv2data.convert import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.transcode import transcode
from irv2data.manifest import PNG

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, bits: int, kind: int, *rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow does not write."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return SIGNATURE + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def grey16(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def stored_pixels(data: bytes) -> list:
    """What TensorFlow reads from the stored image, as nested lists; checked to be a PNG of the recorded size."""
    stored = transcode(data, ConvertConfig())
    image = tf.io.decode_png(stored.encoded, channels=3).numpy()
    assert (stored.format, stored.code, image.shape) == ("PNG", PNG, (stored.height, stored.width, 3))
    bits, kind = stored.encoded[24:26]
    assert bits == 8
    assert kind in (GREY, RGB, PALETTE)
    assert b"tRNS" not in stored.encoded
    return image.tolist()


def greys(*values: int) -> list:
    return [[[value] * 3 for value in values]]


PALETTE_OF_TWO = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # 8 bits, opaque.
        (png(2, 8, RGB, bytes([1, 2, 3, 4, 5, 6])), [[[1, 2, 3], [4, 5, 6]]]),
        (png(3, 8, GREY, bytes([0, 7, 255])), greys(0, 7, 255)),
        (png(2, 8, PALETTE, b"\0\1", extra=PALETTE_OF_TWO), [[[10, 20, 30], [40, 50, 60]]]),
        # Fewer bits are spread over 0 to 255.
        (png(4, 1, GREY, b"\x50"), greys(0, 255, 0, 255)),
        (png(4, 2, GREY, b"\x1b"), greys(0, 85, 170, 255)),
        (png(4, 4, GREY, b"\x05\xf1"), greys(0, 85, 255, 17)),
        (png(2, 4, PALETTE, b"\1", extra=PALETTE_OF_TWO), [[[10, 20, 30], [40, 50, 60]]]),
        # 16 bits: grey by rounding value / 257, colour by its high byte.
        (png(6, 16, GREY, grey16(0, 128, 129, 257, 40000, 65535)), greys(0, 0, 1, 1, 156, 255)),
        (png(1, 16, RGB, grey16(0x0100, 0x7FFF, 0xFFFF)), [[[1, 127, 255]]]),
        # Alpha is composited on white: 255 + (value - 255) * alpha / 255.
        (
            png(3, 8, RGBA, bytes([9, 9, 9, 0, 10, 20, 30, 255, 0, 100, 255, 51])),
            [[[255] * 3, [10, 20, 30], [204, 224, 255]]],
        ),
        (png(3, 8, GREY_ALPHA, bytes([9, 0, 9, 255, 0, 51])), greys(255, 9, 204)),
        (png(2, 16, GREY_ALPHA, grey16(0x0900, 0, 0x0900, 65535)), greys(255, 9)),
        (png(1, 16, RGBA, grey16(0x0100, 0x0200, 0x0300, 65535)), [[[1, 2, 3]]]),
        # One transparent colour, or an alpha for each entry of the palette.
        (png(2, 8, RGB, bytes([1, 2, 3, 4, 5, 6]), extra=chunk(b"tRNS", grey16(1, 2, 3))), [[[255] * 3, [4, 5, 6]]]),
        (png(2, 8, GREY, bytes([10, 20]), extra=chunk(b"tRNS", grey16(10))), greys(255, 20)),
        (png(4, 4, GREY, b"\x05\xf1", extra=chunk(b"tRNS", grey16(5))), greys(0, 255, 255, 17)),
        (png(4, 1, GREY, b"\x50", extra=chunk(b"tRNS", grey16(0))), greys(255, 255, 255, 255)),
        (png(4, 1, GREY, b"\x50", extra=chunk(b"tRNS", grey16(1))), greys(0, 255, 0, 255)),
        (png(3, 16, GREY, grey16(0, 1000, 65535), extra=chunk(b"tRNS", grey16(1000))), greys(0, 255, 255)),
        (
            png(2, 8, PALETTE, b"\0\1", extra=PALETTE_OF_TWO + chunk(b"tRNS", bytes([0, 255]))),
            [[[255, 255, 255], [40, 50, 60]]],
        ),
        (
            png(2, 8, PALETTE, b"\0\1", extra=PALETTE_OF_TWO + chunk(b"tRNS", bytes([51]))),
            [[[206, 208, 210], [40, 50, 60]]],
        ),
    ],
)
def test_exact_values(data, expected):
    assert stored_pixels(data) == expected


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_opaque_8_bit_keeps_its_compressed_data_and_loses_the_rest(picture, saved, mode):
    plain = saved(picture(30, 50).convert(mode), "PNG")
    text, private = chunk(b"tEXt", b"Comment\0SECRET"), chunk(b"prVt", b"SECRET")
    data = plain[:33] + text + private + plain[33:-12] + text + private + plain[-12:] + b"SECRET"
    assert transcode(data, ConvertConfig()).encoded == plain


def test_several_data_chunks_are_kept():
    rows = [bytes([value] * 3) for value in range(4)]
    data = png(1, 8, RGB, *rows)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    split = data.replace(chunk(b"IDAT", body), chunk(b"IDAT", body[:5]) + chunk(b"IDAT", body[5:]))
    assert split != data
    assert transcode(split, ConvertConfig()).encoded == split
    assert stored_pixels(split) == [[[value] * 3] for value in range(4)]


# An Adam7-interlaced file of 8x1 pixels: passes 1, 2, 4 and 6 hold the columns 0; 4; 2, 6; 1, 3, 5, 7.
ADAM7 = (
    SIGNATURE
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, 8, GREY, 0, 0, 1))
    + chunk(b"IDAT", zlib.compress(bytes([0, 0, 0, 40, 0, 20, 60, 0, 10, 30, 50, 70])))
    + chunk(b"IEND", b"")
)


def test_interlaced_is_kept_and_decodable():
    assert transcode(ADAM7, ConvertConfig()).encoded == ADAM7
    assert stored_pixels(ADAM7) == greys(0, 10, 20, 30, 40, 50, 60, 70)


def test_of_an_animation_the_first_picture_is_stored(picture, saved):
    data = saved(picture(10, 12, 1), "PNG", save_all=True, append_images=[picture(10, 12, 2)])
    assert b"fdAT" in data
    stored = transcode(data, ConvertConfig())
    assert b"fdAT" not in stored.encoded
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored.encoded))), np.asarray(picture(10, 12, 1)))


def test_shrunk_grey_and_transparent_images(picture, saved):
    stored = transcode(saved(picture(60, 90).convert("L"), "PNG"), ConvertConfig(max_short_side=20))
    assert Image.open(io.BytesIO(stored.encoded)).mode == "L"
    assert (stored.height, stored.width, stored.format) == (20, 30, "PNG")
    clear = Image.new("RGBA", (90, 60), (0, 0, 0, 0))
    stored = transcode(saved(clear, "PNG"), ConvertConfig(max_short_side=20))
    assert tf.reduce_min(tf.io.decode_png(stored.encoded)).numpy() == 255


@pytest.mark.parametrize("kind", [RGB, RGBA], ids=["kept", "encoded again"])
@pytest.mark.parametrize("position", [-13, -16, -17], ids=["checksum's last", "checksum's first", "data"])
def test_a_wrong_checksum_is_corrupt(kind, position):
    data = bytearray(png(2, 8, kind, bytes(range(8))[: 2 * (3 if kind == RGB else 4)]))
    data[position] ^= 1
    with pytest.raises(RejectError) as caught:
        transcode(bytes(data), ConvertConfig())
    assert caught.value.code == "corrupt"


@pytest.mark.parametrize("lost", [1, 4, 8, 12])
@pytest.mark.parametrize("kind", [RGB, RGBA])
def test_a_lost_end_chunk_is_truncated(kind, lost):
    data = png(2, 8, kind, bytes(range(8))[: 2 * (3 if kind == RGB else 4)])
    with pytest.raises(RejectError) as caught:
        transcode(data[:-lost], ConvertConfig())
    assert caught.value.code == "truncated"


def test_an_image_that_decodes_but_cannot_be_converted_is_corrupt():
    """More transparency entries than colours: Pillow fails only when it composites."""
    palette = chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", bytes(300))
    data = png(4, 8, 3, bytes([0, 1, 1, 0]), extra=palette)
    with pytest.raises(RejectError) as error:
        transcode(data, ConvertConfig())
    assert error.value.code == "corrupt"


def remade(kind: int, lines: bytes, *, height: int = 2, interlaced: int = 0, tail: bytes = b"", cut: int = 0) -> bytes:
    """An image 4 pixels wide from its lines, filters included, with right checksums whatever is in it."""
    head = struct.pack(">IIBBBBB", 4, height, 8, kind, 0, 0, interlaced)
    packed = zlib.compress(lines)
    packed = packed[: len(packed) - cut] + tail
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


LINE = b"\0" + bytes([10, 20, 30, 40])
SHORT = ("truncated", "the image data of the PNG ends too early")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (remade(GREY, LINE), SHORT),  # for which Pillow gives a black line
        (remade(GREY, LINE + b"\0" + bytes(3)), SHORT),
        (remade(GREY, b"", height=1), SHORT),
        (remade(GREY_ALPHA, b"\0" + bytes(8)), SHORT),
        (remade(GREY, b"\0\1", interlaced=1), SHORT),
        (remade(GREY, LINE * 2, cut=4), SHORT),
        (remade(GREY, LINE + b"\5" + bytes(4)), ("corrupt", "the PNG uses a filter that does not exist")),
        (remade(GREY, LINE + bytes(100_000)), ("corrupt", "the PNG holds far more image data than its size takes")),
    ],
)
@pytest.mark.parametrize("config", [ConvertConfig(), ConvertConfig(png="jpeg"), ConvertConfig(max_short_side=1)])
def test_image_data_that_is_short_or_impossible_is_found(data, expected, config):
    with pytest.raises(RejectError) as caught:
        transcode(data, config)
    assert (caught.value.code, caught.value.detail) == expected


def test_a_wrong_checksum_of_the_unpacked_data_is_corrupt():
    data = remade(GREY, LINE * 2, cut=4, tail=b"\1\2\3\4")
    with pytest.raises(RejectError, match="incorrect data check") as caught:
        transcode(data, ConvertConfig())
    assert caught.value.code == "corrupt"


@pytest.mark.parametrize("data", [remade(GREY, LINE * 3), remade(GREY, LINE * 2, tail=b"more")])
def test_a_little_too_much_image_data_is_read_over(data):
    assert transcode(data, ConvertConfig()).encoded == data
    assert stored_pixels(data) == greys(10, 20, 30, 40) * 2


def test_image_data_is_counted_across_the_steps_in_which_it_is_unpacked(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [bytes(rng.integers(0, 256, 57).tolist()) for _ in range(40)]
    data = png(19, 8, RGB, *rows)
    lines = b"".join(b"\0" + row for row in rows[:-1]) + b"\5" + rows[-1]
    wrong = data[:33] + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    for step in (1, 7, 57, 58, 59, 1000):
        monkeypatch.setattr("irv2data.convert.png._STEP", step)
        assert transcode(data, ConvertConfig()).done == ("kept",)
        with pytest.raises(RejectError, match="filter"):
            transcode(wrong, ConvertConfig())


PIXELS = chunk(b"IDAT", zlib.compress(b"\0\0\0"))


@pytest.mark.parametrize(
    ("kind", "chunks"),
    [
        (PALETTE, PIXELS),  # without a palette
        (PALETTE, PIXELS + PALETTE_OF_TWO),
        (PALETTE, PALETTE_OF_TWO + PALETTE_OF_TWO + PIXELS),
        (PALETTE, PALETTE_OF_TWO),
        (GREY, PIXELS + chunk(b"PLTE", bytes(3)) + PIXELS),
        (GREY, chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, GREY, 0, 0, 0)) + PIXELS),
    ],
)
def test_chunks_in_an_order_that_decoders_differ_on_are_corrupt(kind, chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, kind, 0, 0, 0))
    with pytest.raises(RejectError) as caught:
        transcode(SIGNATURE + head + chunks + chunk(b"IEND", b""), ConvertConfig())
    assert (caught.value.code, caught.value.detail) == ("corrupt", "the chunks of the PNG are not in their order")
