"""The marker segments of a JPEG file: what the frame header says, and the same image without its metadata.

Source: ITU-T T.81 (JPEG), annex B; the Adobe APP14 segment as in Adobe's technical note 5116.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SOI, _EOI, _SOS, _APP0, _APP14, _APP15, _COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xEF, 0xFE
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
# In entropy-coded data 0xFF is followed by 0, by a restart number, or by a real marker.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """What the segments before the first scan say.

    Attributes:
        process: The number of the frame marker: 0 baseline, 1 extended, 2 progressive, 9 and above arithmetic-coded.
        precision: Bits a sample.
        height: In pixels; 0 if the file gives it only after the first scan.
        width: In pixels.
        components: 1 grey, 3 colour, 4 CMYK or YCCK.
        plain_rgb: The three components are R, G and B themselves, which few decoders expect.
        stripped: The file without comments and without application segments, JFIF's and Adobe's apart.
    """

    process: int
    precision: int
    height: int
    width: int
    components: int
    plain_rgb: bool
    stripped: bytes


def parse(data: bytes) -> Jpeg:
    """Reads the segments up to the first scan.

    Raises:
        ValueError: The bytes are no JPEG file, or end before the first scan.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("does not start with a JPEG marker")
    frame: tuple[int, int, int, int, int] | None = None
    kept = [data[:2]]
    plain_rgb = False
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
        elif not _is_metadata(marker):
            kept.append(data[position:end])
        position = end
    if frame is None:
        raise ValueError("has no frame header")
    process, precision, height, width, components = frame
    return Jpeg(
        process=process,
        precision=precision,
        height=height,
        width=width,
        components=components,
        plain_rgb=plain_rgb and components == 3,
        stripped=b"".join((*kept, *_scans(data, position))),
    )


def _scans(data: bytes, start: int) -> Iterator[bytes]:
    """The scans and the tables between them up to the end marker: what follows is what phones and editors append."""
    position = start
    while (found := _MARKER.search(data, position)) is not None:
        position = found.start()
        marker = data[position + 1]
        if marker == _EOI:
            yield data[start : position + 2]
            return
        if position + 4 > len(data):
            break
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]  # a table or the next scan's header
        if end > len(data):
            break
        if _is_metadata(marker):
            yield data[start:position]
            start = end
        position = end
    yield data[start:]


def _is_metadata(marker: int) -> bool:
    return _APP0 <= marker <= _APP15 or marker == _COM
