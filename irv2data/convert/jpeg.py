"""JPEG: what the segments of a file say, the same image without its metadata, and decoding that hides no damage.

libjpeg only warns about damaged image data, and Pillow swallows its warnings: a photograph that is grey below a
flipped bit would pass for sound. Here every warning is an error.

Source: ITU-T T.81 (JPEG), annex B; the Adobe APP14 segment as in Adobe's technical note 5116.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
import simplejpeg

_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_JPEG_LS = 0xF7
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
# In entropy-coded data 0xFF is followed by 0, by a restart number, or by a real marker.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
_FRAMES = (frozenset(range(0xC0, 0xD0)) | {_JPEG_LS}) - {0xC4, 0xC8, 0xCC}
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """What the segments before the first scan say.

    Attributes:
        process: The number of the frame marker: 0 baseline, 1 extended, 2 progressive, 9 and above arithmetic-coded
            (10 progressive as well), 55 JPEG-LS.
        precision: Bits a sample.
        height: In pixels; 0 if the file gives it only after the first scan.
        width: In pixels.
        components: 1 grey, 3 colour, 4 CMYK or YCCK.
        plain_rgb: The three components are R, G and B themselves, which few decoders expect.
        exif: Body of the first EXIF segment, from `Exif` on; None without one.
        icc: The colour profile, put together from its segments; None without one, or where a part is missing.
        stripped: The file without comments and without application segments, JFIF's and Adobe's apart; the very
            object that was parsed where there are none.
    """

    process: int
    precision: int
    height: int
    width: int
    components: int
    plain_rgb: bool
    exif: bytes | None
    icc: bytes | None
    stripped: bytes


def parse(data: bytes) -> Jpeg:
    """Reads the segments up to the first scan.

    Raises:
        ValueError: The bytes are no JPEG file, or end before the first scan.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("does not start with a JPEG marker")
    frame: tuple[int, int, int, int, int] | None = None
    kept: list[bytes | memoryview] = [data[:2]]
    rewritten = False
    plain_rgb = False
    exif: bytes | None = None
    profile: dict[int, bytes] = {}
    profile_parts = 0
    position = 2
    while True:
        if data[position : position + 1] != b"\xff":
            raise ValueError(f"no marker at byte {position}")
        while data[position + 1 : position + 2] == b"\xff":  # fill bytes before a marker are allowed
            position += 1
        marker = data[position + 1] if position + 1 < len(data) else _EOI
        if marker in _STANDALONE:
            position += 2
            continue
        if marker < 0xC0:
            raise ValueError(f"no marker at byte {position}")
        if marker in (_SOI, _EOI) or position + 4 > len(data):
            raise ValueError("ends before the image data")
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        body = data[position + 4 : end]
        if end > len(data) or end < position + 4:
            raise ValueError("ends before the image data")
        if marker == _SOS:
            break
        if marker in _FRAMES and len(body) >= 6:
            precision, height, width, components = struct.unpack_from(">BHHB", body)
            frame = (marker - 0xC0, precision, height, width, components)
            plain_rgb = plain_rgb or body[6 : 6 + 3 * components : 3] == b"RGB"
        if marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            # Transform 0 with three components means RGB; the segment must stay, for decoders read it too.
            plain_rgb = body[11] == 0
            kept.append(data[position:end])
        elif marker == _APP0 and body[:4] == b"JFIF" and len(body) >= 14:
            # Rewritten without its thumbnail, which is a picture of the original and may show what was cropped.
            kept.append(b"\xff\xe0\x00\x10" + body[:12] + b"\x00\x00")
            rewritten = rewritten or kept[-1] != data[position:end]
        elif not _is_metadata(marker):
            kept.append(data[position:end])
        elif marker == _APP1 and exif is None and body[:6] == b"Exif\x00\x00":
            exif = body
        elif marker == _APP2 and body[:12] == b"ICC_PROFILE\x00" and len(body) >= 14:
            profile.setdefault(body[12], body[14:])
            profile_parts = body[13]
        position = end
    if frame is None:
        raise ValueError("has no frame header")
    process, precision, height, width, components = frame
    kept += _scans(data, position, end)
    # All parts but those are cut from the file in its order, so that their length tells whether something is missing.
    whole = not rewritten and sum(map(len, kept)) == len(data)
    return Jpeg(
        process=process,
        precision=precision,
        height=height,
        width=width,
        components=components,
        plain_rgb=plain_rgb and components == 3,
        exif=exif,
        icc=_joined(profile, profile_parts),
        stripped=data if whole else b"".join(kept),
    )


def check(data: bytes) -> None:
    """Decodes a JPEG to its last byte, at 1/8 of its size: all of the Huffman decoding, little of the rest.

    Raises:
        ValueError: It is damaged, in whatever way; the message is libjpeg's.
    """
    simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)


def decode(data: bytes, header: Jpeg, least: tuple[int, int] | None = None) -> tuple[np.ndarray, Fraction]:
    """Decodes a JPEG, as small as JPEG scaling by eighths allows.

    Args:
        data: The file.
        header: Its header.
        least: (width, height) that the result must not fall below; None for the full size.

    Returns:
        uint8 [height, width] grey, [height, width, 3] RGB, or [height, width, 4] CMYK with 0 for no ink; and its scale.
        Where the scale does not divide a side, the last row or column covers the image's edge in part only.

    Raises:
        ValueError: As for `check`.
    """
    eighths = 8
    if least is not None:
        shares = (Fraction(8 * want, has) for want, has in zip(least, (header.width, header.height), strict=True))
        eighths = min(8, max(1, ceil(max(shares))))
    pixels: np.ndarray = simplejpeg.decode_jpeg(
        data,
        _COLOURS[header.components],
        min_height=-(-header.height * eighths // 8),
        min_width=-(-header.width * eighths // 8),
        strict=True,
    )
    if header.components == 4:
        # Adobe stores ink inverted, and everyone has followed.
        np.subtract(255, pixels, out=pixels)
    return pixels[..., 0] if header.components == 1 else pixels, Fraction(eighths, 8)


def _joined(profile: dict[int, bytes], parts: int) -> bytes | None:
    complete = parts > 0 and profile.keys() == set(range(1, parts + 1))
    return b"".join(profile[number] for number in sorted(profile)) if complete else None


def _scans(data: bytes, start: int, position: int) -> Iterator[memoryview]:
    """The scans and the tables between them up to the end marker: what follows is what phones and editors append.

    Args:
        data: The file.
        start: Where the first scan's header begins.
        position: Where it ends.
    """
    view = memoryview(data)
    position = _past_escapes(data, position)
    while (found := _MARKER.search(data, position)) is not None:
        position = found.start()
        marker = data[position + 1]
        if marker == _EOI:
            yield view[start : position + 2]
            return
        if position + 4 > len(data):
            break
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]  # a table or the next scan's header
        if end > len(data):
            break
        if _is_metadata(marker):
            yield view[start:position]
            start = end
        position = end
    yield view[start:]


def _past_escapes(data: bytes, position: int) -> int:
    """The first 0xFF from a position on that no 0 follows, or the end: NumPy passes over most of a file fastest."""
    values = np.frombuffer(data, np.uint8)[position:]
    found = (values[:-1] == 0xFF) & (values[1:] != 0)
    at = int(found.argmax()) if len(found) else 0
    return position + at if len(found) and found[at] else len(data)


def _is_metadata(marker: int) -> bool:
    return _APP0 <= marker <= _APP15 or marker == _COM
