"""PNG: what the chunks of a file say, the same image without its metadata, and whether all of its data is there.

Source: Portable Network Graphics (PNG) Specification, third edition, sections 5, 7 and 11.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from irv2data.convert.rejects import RejectError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PIXELS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))
_LARGEST_METADATA = 4 << 20  # bytes of an unpacked colour profile or EXIF block
_RAW_PROFILE = b"Raw profile type exif\x00"
_STEP = 1 << 18  # bytes unpacked at a time
_MOST_SPARE = 1 << 16  # some encoders write a little more than the image; decoders read over it
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# The first column and row of each of Adam7's passes, and their distances.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True, kw_only=True)
class Png:
    """What the chunks say.

    Attributes:
        width: In pixels.
        height: In pixels.
        bits: A sample, 1 to 16.
        colours: The colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
        interlaced: In Adam7's passes.
        transparent: One colour, or entries of the palette, are transparent.
        several: It is an animation of more than one frame.
        exif: The EXIF block; None without one.
        profile: The ICC profile, unpacked; None without one, or where it is damaged or absurdly large.
        stripped: The file with the chunks that hold pixels alone.
        decodable: As `stripped`, with the transparency.
    """

    width: int
    height: int
    bits: int
    colours: int
    interlaced: bool
    transparent: bool
    several: bool
    exif: bytes | None
    profile: bytes | None
    stripped: bytes
    decodable: bytes


def parse(data: bytes, within: Callable[[int, int], None]) -> Png:
    """Reads all chunks, and unpacks none of the pixels.

    Args:
        data: The file.
        within: Called with width and height before anything but the header is read; raises where they are too large.

    Raises:
        RejectError: The header is not that of a PNG, or a chunk that the pixels depend on is damaged or missing.
    """
    if data[12:16] == b"CgBI":
        raise RejectError("unsupported", "PNG of Apple's own kind (CgBI) is not converted")
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise RejectError("truncated" if len(data) < 33 else "corrupt", "the PNG header cannot be read")
    length, _, width, height, bits, colours, packing, filtering, interlacing = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    within(width, height)
    if (length, packing, filtering) != (13, 0, 0) or interlacing > 1 or bits not in _DEPTHS.get(colours, ()):
        raise RejectError("corrupt", "the PNG header holds a value that means nothing")
    stripped, decodable = [SIGNATURE], [SIGNATURE]
    exif: bytes | None = None
    profile: bytes | None = None
    transparent = several = False
    seen: list[bytes] = []
    for name, start, end in _chunks(data):
        if name in _PIXELS:
            if not (seen and name == seen[-1] == b"IDAT"):
                seen.append(name)
            stripped.append(data[start:end])
        if name in _PIXELS or name == b"tRNS":
            # Nothing else is shown to Pillow: it refuses images for the texts that they carry.
            decodable.append(data[start:end])
            transparent |= name == b"tRNS"
            continue
        body = data[start + 8 : end - 4]
        several |= name == b"acTL" and int.from_bytes(body[:4], "big") > 1
        if name == b"eXIf" and exif is None:
            exif = body
        elif name == b"iCCP" and profile is None:
            profile = _inflated(body[body.find(b"\x00") + 2 :])
        elif name in (b"zTXt", b"tEXt") and body.startswith(_RAW_PROFILE) and exif is None:
            exif = _raw_profile(body[len(_RAW_PROFILE) :], packed=name == b"zTXt")
    # Decoders differ in what they make of chunks that are missing, come twice, or stand in another order.
    if seen not in ([b"IHDR", b"IDAT", b"IEND"], [b"IHDR", b"PLTE", b"IDAT", b"IEND"]) or (
        colours == 3 and b"PLTE" not in seen
    ):
        raise RejectError("corrupt", "the chunks of the PNG are not in their order")
    return Png(
        width=width,
        height=height,
        bits=bits,
        colours=colours,
        interlaced=interlacing == 1,
        transparent=transparent,
        several=several,
        exif=exif,
        profile=profile,
        stripped=b"".join(stripped),
        decodable=b"".join(decodable),
    )


def check(header: Png) -> None:
    """Unpacks the image data to its last byte.

    Pillow leaves rows that are missing black and says nothing; and it does not look at how the data ends, which other
    decoders do. What passes here, every decoder can only turn into the same pixels.

    Raises:
        RejectError: There is too little of it, or too much, or it has a filter that there is not.
        zlib.error: It is damaged.
    """
    unpacker = zlib.decompressobj()
    lines = _Lines(header)
    for name, start, end in _chunks(header.stripped):
        packed = header.stripped[start + 8 : end - 4] if name == b"IDAT" else b""
        while packed and not unpacker.eof:
            lines.take(unpacker.decompress(packed, _STEP))
            packed = unpacker.unconsumed_tail
    if lines.missing or not unpacker.eof:
        raise RejectError("truncated", "the image data of the PNG ends too early")


class _Lines:
    """Counts unpacked bytes against the lines of an image, and looks at the first byte of each: its filter."""

    def __init__(self, header: Png):
        bits = header.bits * _CHANNELS[header.colours]
        sizes = [(columns, rows) for columns, rows in _passes(header) if columns > 0 and rows > 0]
        self._passes = [(1 + (columns * bits + 7) // 8, rows) for columns, rows in sizes]
        self._in_pass = 0
        self._spare = _MOST_SPARE

    @property
    def missing(self) -> bool:
        return bool(self._passes)

    def take(self, data: bytes) -> None:
        position = 0
        while position < len(data) and self._passes:
            line, rows = self._passes[0]
            part = data[position : position + line * rows - self._in_pass]
            filters = part[-self._in_pass % line :: line]
            if filters and max(filters) > 4:
                raise RejectError("corrupt", "the PNG uses a filter that does not exist")
            position += len(part)
            self._in_pass += len(part)
            if self._in_pass == line * rows:
                self._passes.pop(0)
                self._in_pass = 0
        self._spare -= len(data) - position
        if self._spare < 0:
            raise RejectError("corrupt", "the PNG holds far more image data than its size takes")


def _passes(header: Png) -> Iterator[tuple[int, int]]:
    """(columns, rows) of each pass."""
    if not header.interlaced:
        yield header.width, header.height
        return
    for column, row, right, down in _ADAM7:
        yield -(-(header.width - column) // right), -(-(header.height - row) // down)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each chunk up to the last.

    Raises:
        RejectError: A chunk that pixels depend on is cut off or its checksum is wrong; decoders differ in whether
            they notice.
    """
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        name = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            break
        wrong = zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big")
        if wrong and (name in _PIXELS or name == b"tRNS"):
            raise RejectError("corrupt", f"checksum of chunk {name.decode('ascii')} is wrong")
        yield (b"damaged" if wrong else name), position, end
        if name == b"IEND":
            return
        position = end
    raise RejectError("truncated", "the PNG ends without its end chunk")


def _inflated(data: bytes) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        result = unpacker.decompress(data, _LARGEST_METADATA)
    except zlib.error:
        return None
    return result if unpacker.eof else None


def _raw_profile(text: bytes, *, packed: bool) -> bytes | None:
    """EXIF as ImageMagick wrote it before PNG had a chunk for it: lines with its name and length, then hex digits."""
    unpacked = _inflated(text[1:]) if packed else text
    lines = (unpacked or b"").split(b"\n", 3)
    digits = re.sub(rb"\s", b"", lines[-1])
    try:
        return bytes.fromhex(digits.decode("ascii")) if len(lines) == 4 else None
    except ValueError:
        return None
