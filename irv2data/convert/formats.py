"""What the other formats say before any of their pixels is decoded, and how Pillow opens them.

Each format is opened by its own class of Pillow's, never by guessing: no plugin that happens to be registered gets a
say, and neither does the name of the file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from irv2data.convert import pixels, png
from irv2data.convert.rejects import RejectError

# Tags of TIFF 6.0, DNG and TIFF/EP, and of their values those that only cameras write.
_SUBFILE_TYPE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 254, 259, 262, 274
_PLANES, _BITS, _SUB_IFDS, _DNG_VERSION = 284, 258, 330, 50706
_RAW_PHOTOMETRIC = frozenset((32803, 34892))
_RAW_COMPRESSION = frozenset((32767, 32769, 32770, 34713, 65000, 65535))
_LOSSY_TIFF = frozenset(("jpeg", "tiff_jpeg"))
_UNREAD_TIFF = frozenset(("webp", "tiff_thunderscan", "tiff_sgilog", "tiff_sgilog24"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image of which the header was read.

    Attributes:
        open: Opens it in Pillow, anew at each call; no pixel is decoded before `load()`.
        width: In pixels, before it is turned upright (unless the decoder does that itself).
        height: As `width`.
        lossy: Whether its compression is lossy; encoding it again losslessly would keep nothing but its errors.
        several: Whether more frames or pages follow the one that is taken.
        exif: Its EXIF block; None where there is none, and where the decoder turns the image itself.
        turned: The decoder turns it.
        profile: Its ICC profile.
        check: Raises where the data is damaged or missing, and Pillow would not tell.
        kept: A PNG of 8 bits, opaque and sRGB: the file without its metadata, which can be stored as it is.
    """

    open: Callable[[], ImageFile.ImageFile]
    width: int
    height: int
    lossy: bool = False
    several: bool = False
    exif: bytes | None = None
    turned: bool = False
    profile: bytes | None = None
    check: Callable[[], None] = lambda: None
    kept: bytes | None = None


def read_header(kind: str, data: bytes, within: Callable[[int, int], None]) -> Source:
    """Reads the header of a PNG, GIF, WebP, AVIF, TIFF, BMP or HEIC file.

    Args:
        kind: The format, as `sniff` names it.
        data: The file's content.
        within: Called as `within(width, height)` as soon as the size is known, before more of the file is read than
            that takes; raises where it is too large.

    Raises:
        RejectError: The format or variant is not converted.
        Exception: What Pillow raises on malformed input; nearly every type.
    """
    if kind not in _READERS:
        raise RejectError("unsupported", f"{kind} is not converted")
    # The limit is `within`, and explicit; Pillow's own would refuse what the user allowed.
    Image.MAX_IMAGE_PIXELS = None
    return _READERS[kind](data, within)


def _png(data: bytes, within: Callable[[int, int], None]) -> Source:
    header = png.parse(data, within)

    def opened() -> ImageFile.ImageFile:
        image = PngImagePlugin.PngImageFile(io.BytesIO(header.decodable))
        if header.colours == 0 and header.bits < 8 and "transparency" in image.info:
            # Pillow spreads the levels over 0 to 255, and leaves the one that is transparent as it was.
            image.info["transparency"] *= 255 // (2**header.bits - 1)
        return image

    opaque = header.bits == 8 and header.colours in (0, 2, 3) and not header.transparent
    foreign = pixels.srgb_transform(header.profile, "L" if header.colours == 0 else "RGB") is not None
    return Source(
        open=opened,
        check=lambda: png.check(header),
        width=header.width,
        height=header.height,
        several=header.several,
        exif=header.exif,
        profile=header.profile,
        kept=header.stripped if opaque and not foreign else None,
    )


def _webp(data: bytes, within: Callable[[int, int], None]) -> Source:
    width = height = 0
    lossy = several = False
    first: bytes | None = None
    for name, body in _riff_chunks(data[12:]):
        # libwebp allocates the canvas when it is told of it, so that the size must be known before.
        if name == b"VP8X" and len(body) >= 10:
            width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
        several |= name == b"ANMF" and first is not None
        if name == b"ANMF" and first is None:
            name, body = next(((n, b) for n, b in _riff_chunks(body[16:]) if n in (b"VP8 ", b"VP8L")), (b"", b""))
        if name in (b"VP8 ", b"VP8L") and first is None:
            first, lossy = name, name == b"VP8 "
            width, height = max(width, _vp8_side(name, body, 0)), max(height, _vp8_side(name, body, 1))
    within(width, height)
    if 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise RejectError("truncated", "the WebP ends before the length that it states")

    def opened() -> ImageFile.ImageFile:
        return WebPImagePlugin.WebPImageFile(io.BytesIO(data))

    return _from_pillow(opened, within, lossy=lossy, several=several)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        yield data[position : position + 4], data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _vp8_side(name: bytes, body: bytes, axis: int) -> int:
    """Width (axis 0) or height (1) as the bit stream itself states it (RFC 6386 section 9.1, RFC 9649 section 3.4)."""
    if name == b"VP8L":
        return 1 + (int.from_bytes(body[1:5], "little") >> (14 * axis) & 0x3FFF)
    return int.from_bytes(body[6 + 2 * axis : 8 + 2 * axis], "little") & 0x3FFF


def _tiff(data: bytes, within: Callable[[int, int], None]) -> Source:
    tags = _first_tags(data)
    compression = tags.get(_COMPRESSION, 1)
    preview = int(tags.get(_SUBFILE_TYPE, 0)) & 1 and _SUB_IFDS in tags
    raw = tags.get(_PHOTOMETRIC) in _RAW_PHOTOMETRIC or compression in _RAW_COMPRESSION
    if preview or raw or _DNG_VERSION in tags:
        raise RejectError("unsupported", "camera raw (in a TIFF container) is not converted")
    name = TiffImagePlugin.COMPRESSION_INFO.get(compression, f"compression {compression}")
    if compression not in TiffImagePlugin.COMPRESSION_INFO or name in _UNREAD_TIFF:
        # Some builds of libtiff read some of them; a dataset must not depend on the build.
        raise RejectError("unsupported", f"TIFF with {name} is not converted")
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (1,))) > 8:
        # Pillow takes the bytes of such files for samples, and says nothing.
        raise RejectError("unsupported", "TIFF of 16 bits in separate planes is not converted")
    turned = tags.get(_ORIENTATION, 1) in range(2, 9)
    return _from_pillow(
        lambda: TiffImagePlugin.TiffImageFile(io.BytesIO(data)), within, lossy=name in _LOSSY_TIFF, turned=turned
    )


def _first_tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first image, which Pillow's own class gives of images alone that it can decode."""
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])  # 43 is BigTIFF
    file.seek(tags.next)
    tags.load(file)
    return tags


def _heic(data: bytes, within: Callable[[int, int], None]) -> Source:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise RejectError("unsupported", "HEIC needs the extra: pip install 'irv2data[heic]'") from None
    image = HeifImageFile(io.BytesIO(data))
    turned = image.info.get("original_orientation") in range(2, 9)
    return _from_pillow(lambda: HeifImageFile(io.BytesIO(data)), within, lossy=True, turned=turned, image=image)


def _from_pillow(
    opened: Callable[[], ImageFile.ImageFile],
    within: Callable[[int, int], None],
    *,
    lossy: bool = False,
    several: bool = False,
    turned: bool = False,
    image: ImageFile.ImageFile | None = None,
) -> Source:
    image = image or opened()
    within(*image.size)
    # Asked before anything is decoded: a GIF looks for its second frame, and must go back to the first.
    several = several or bool(getattr(image, "is_animated", False))
    return Source(
        open=opened,
        width=image.width,
        height=image.height,
        lossy=lossy,
        several=several,
        # Not getexif(): it takes the orientation from XMP too, which viewers do not.
        exif=None if turned else image.info.get("exif"),
        turned=turned,
        profile=image.info.get("icc_profile"),
    )


def _by(plugin: Callable[[io.BytesIO], ImageFile.ImageFile], *, lossy: bool = False) -> Callable[..., Source]:
    return lambda data, within: _from_pillow(lambda: plugin(io.BytesIO(data)), within, lossy=lossy)


_READERS: dict[str, Callable[[bytes, Callable[[int, int], None]], Source]] = {
    "PNG": _png,
    "GIF": _by(GifImagePlugin.GifImageFile),
    "BMP": _by(BmpImagePlugin.BmpImageFile),
    "WebP": _webp,
    "AVIF": _by(AvifImagePlugin.AvifImageFile, lossy=True),
    "TIFF": _tiff,
    "HEIC": _heic,
}
