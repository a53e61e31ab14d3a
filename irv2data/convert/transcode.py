"""One file's bytes into the bytes that are stored: upright, RGB or grey, 8 bits, no alpha, no metadata, decoded once.

TensorFlow ignores EXIF orientation, drops alpha without compositing, and cuts 16-bit PNG to 8 bits without a
word; all of that is settled here, once. What needs none of it keeps its compressed data.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from irv2data.convert import jpeg
from irv2data.convert.config import ConvertConfig
from irv2data.convert.sniff import SIGNATURE_BYTES, sniff
from irv2data.manifest import BASELINE, PNG, PROGRESSIVE

REJECT_CODES = {
    "unreadable": "the file could not be opened or read",
    "changed_while_reading": "the file's content changed during the conversion",
    "no_class": "the file lies outside every class folder",
    "not_an_image": "the content is no image, whatever the name says",
    "unsupported": "an image, but of a format or variant that is not converted",
    "too_large": "more pixels than --max_megapixels",
    "truncated": "the image data ends too early",
    "corrupt": "the image data cannot be decoded",
}

_BACKGROUND = (255, 255, 255)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.createProfile("sRGB")
_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))


class RejectError(Exception):
    """This file is not converted; `code` is one of `REJECT_CODES`."""

    def __init__(self, code: str, detail: str):
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An image as it goes into a record: bytes, `JPEG` or `PNG`, index format code, and size in pixels."""

    encoded: bytes
    format: str
    code: int
    height: int
    width: int


def transcode(data: bytes, config: ConvertConfig) -> Stored:
    """Checks and, where needed, re-encodes one image.

    Args:
        data: The file's content.
        config: `max_short_side`, `quality` and `max_megapixels` are used.

    Raises:
        RejectError: The image is not converted, with the reason.
    """
    kind = sniff(data[:SIGNATURE_BYTES])
    if kind is None:
        raise RejectError("not_an_image", "empty file" if not data else "no image signature")
    if kind not in ("JPEG", "PNG"):
        raise RejectError("unsupported", f"{kind} is not converted")
    with warnings.catch_warnings():
        # Pillow warns of bombs (our own limit is explicit) and of broken EXIF (then there is no orientation).
        warnings.simplefilter("ignore")
        image = _open(data, kind)
        if image.width * image.height > config.max_megapixels * 1e6:
            raise RejectError("too_large", f"{image.width}x{image.height} is over {config.max_megapixels:g} megapixels")
        try:
            return _transcode_jpeg(data, image, config) if kind == "JPEG" else _transcode_png(data, image, config)
        except RejectError:
            raise
        except Exception as error:  # from converting and storing as well: a palette index out of range, say
            raise _rejected(error) from error


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    # Pillow's own bomb check raises from open(); ours comes right after, from the same header.
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(io.BytesIO(data), formats=(kind,))
    except UnidentifiedImageError as error:
        # Pillow's own text holds a memory address, and rejects.jsonl must not differ from run to run.
        raise RejectError("corrupt", f"the {kind} header cannot be read") from error
    except Exception as error:
        raise _rejected(error) from error


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:
        raise _rejected(error) from error


def _rejected(error: Exception) -> RejectError:
    """Pillow raises nearly every exception type on malformed input, so the text decides what it was."""
    text = " ".join(str(error).split()) or type(error).__name__
    short = any(word in text.lower() for word in ("truncated", "end of file", "not enough", "broken png"))
    return RejectError("truncated" if short else "corrupt", text[:200])


def _transcode_jpeg(data: bytes, image: ImageFile.ImageFile, config: ConvertConfig) -> Stored:
    try:
        header = jpeg.parse(data)
    except ValueError as error:
        raise RejectError("corrupt", str(error)) from error
    if header.precision != 8:
        raise RejectError("unsupported", f"JPEG of {header.precision} bits a sample is not converted")
    turn = _turn(image)
    profile = _foreign_profile(image)
    shrink = _shrunk_size(image.size, config)
    plain = header.process in (0, 1, 2) and header.components in (1, 3) and not header.plain_rgb
    if plain and turn is None and profile is None and shrink is None:
        # What is checked is what is stored: in damaged data, stray markers can look like metadata to be cut out.
        # Decoding at 1/8 reads every entropy-coded byte and skips most of the inverse DCT.
        stored = _open(header.stripped, "JPEG")
        width, height = stored.size
        stored.draft(stored.mode, (max(1, width // 8), max(1, height // 8)))
        _load(stored)
        code = PROGRESSIVE if header.process == 2 else BASELINE
        return Stored(encoded=header.stripped, format="JPEG", code=code, height=height, width=width)
    if shrink is not None:
        image.draft(image.mode, shrink)
    _load(image)
    return _store(_to_upright_srgb(image, turn, profile), _turned(shrink, turn), "JPEG", config)


def _transcode_png(data: bytes, image: ImageFile.ImageFile, config: ConvertConfig) -> Stored:
    bit_depth, colour_type = data[24], data[25]
    turn = _turn(image)
    profile = _foreign_profile(image)
    shrink = _shrunk_size(image.size, config)
    _load(image)
    stripped = _strip_png(data)  # also where it is not stored, for Pillow passes over checksums of pixel data
    if colour_type == 0 and bit_depth < 8 and "transparency" in image.info:
        # Pillow spreads the levels over 0 to 255, and leaves the one that is transparent as it was.
        image.info["transparency"] *= 255 // (2**bit_depth - 1)
    opaque = "transparency" not in image.info and colour_type in (0, 2, 3)
    if opaque and turn is None and profile is None and shrink is None and bit_depth == 8:
        return Stored(encoded=stripped, format="PNG", code=PNG, height=image.height, width=image.width)
    return _store(_to_upright_srgb(image, turn, profile), _turned(shrink, turn), "PNG", config)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright; None where EXIF says that it is, or nothing that has a meaning."""
    try:
        return _TURNS.get(int(image.getexif().get(_ORIENTATION, 1)))
    except Exception:  # a malformed EXIF block says nothing about the image; viewers show it as it is
        return None


def _turned(size: tuple[int, int] | None, turn: Image.Transpose | None) -> tuple[int, int] | None:
    """The wanted size after turning: EXIF orientations 5 to 8 swap width and height."""
    return size[::-1] if size is not None and turn in [_TURNS[number] for number in (5, 6, 7, 8)] else size


def _foreign_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded RGB colour profile, unless there is none or it is sRGB."""
    raw = image.info.get("icc_profile")
    if not raw or image.mode not in ("RGB", "RGBA"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(raw))
        name = ImageCms.getProfileDescription(profile)
    except (ImageCms.PyCMSError, OSError):
        return None  # as browsers do: an unreadable profile is no profile
    return None if "srgb" in name.lower() else profile


def _to_upright_srgb(
    image: Image.Image, turn: Image.Transpose | None, profile: ImageCms.ImageCmsProfile | None
) -> Image.Image:
    """RGB or L, 8 bits, alpha composited on white, EXIF orientation applied."""
    # Not ImageOps.exif_transpose: it writes the EXIF block anew, and fails on blocks it could read.
    if turn is not None:
        image = image.transpose(turn)
    if profile is not None:
        try:
            image = ImageCms.profileToProfile(image, profile, _SRGB) or image
        except ImageCms.PyCMSError as error:
            raise RejectError("corrupt", f"colour profile: {error}") from error
    if image.mode.startswith("I"):  # 16-bit grey: scaled to 8 bits by rounding, where Pillow's convert would clip
        levels = np.asarray(image).astype(np.float64)
        levels[levels == image.info.get("transparency")] = 65535
        return Image.fromarray(np.rint(np.clip(levels, 0, 65535) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", foreground.size, (*_BACKGROUND, 255)), foreground)
    return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode == "1" else "RGB")


def _shrunk_size(size: tuple[int, int], config: ConvertConfig) -> tuple[int, int] | None:
    short = min(size)
    if not config.max_short_side or short <= config.max_short_side:
        return None
    width, height = (max(1, round(side * config.max_short_side / short)) for side in size)
    return width, height


def _store(image: Image.Image, size: tuple[int, int] | None, format: str, config: ConvertConfig) -> Stored:
    if size is not None:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    # A clean image object carries no metadata along: neither EXIF nor profile nor text.
    clean = Image.frombytes(image.mode, image.size, image.tobytes())
    if format == "JPEG":
        clean.save(out, "JPEG", quality=config.quality, optimize=True)
    else:
        clean.save(out, "PNG")
    return Stored(
        encoded=out.getvalue(),
        format=format,
        code=BASELINE if format == "JPEG" else PNG,
        height=image.height,
        width=image.width,
    )


def _strip_png(data: bytes) -> bytes:
    """The same PNG with the chunks that hold pixels alone (PNG specification, section 5).

    Raises:
        RejectError: A chunk is cut off or its checksum is wrong; decoders differ in whether they notice.
    """
    kept = [data[:8]]
    position = 8
    while position + 12 <= len(data):
        length = struct.unpack_from(">I", data, position)[0]
        name = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            break
        if name in _PNG_CHUNKS:
            if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise RejectError("corrupt", f"checksum of chunk {name.decode('ascii')} is wrong")
            kept.append(data[position:end])
        if name == b"IEND":
            return b"".join(kept)
        position = end
    raise RejectError("truncated", "the PNG ends without its end chunk")
