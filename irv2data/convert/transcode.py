"""One file's bytes into the bytes that are stored: upright, sRGB or grey, 8 bits, no alpha, no metadata, decoded once.

TensorFlow ignores EXIF orientation, drops alpha without compositing, and cuts 16-bit PNG to 8 bits without a
word; all of that is settled here, once. What needs none of it keeps its compressed data, and the rest is stored

- as JPEG, where the source was compressed with loss (JPEG, WebP, AVIF, HEIC, JPEG in TIFF);
- else as `ConvertConfig.png` says: `keep`: as PNG. `jpeg`: as JPEG. `auto`: as JPEG if the image is photographic, which
  here means: more than 256 colours (for grey images 64 levels), and a JPEG of less than half the PNG's bytes;
- as PNG in any case where a side is too long for a JPEG.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from irv2data.convert import formats, jpeg, lossless, pixels
from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sniff import SIGNATURE_BYTES, sniff
from irv2data.manifest import BASELINE, PNG, PROGRESSIVE

DONE = {
    "kept": "compressed image data untouched, metadata removed",
    "baseline": "JPEG coded again as baseline, losslessly",
    "jpeg": "decoded and encoded as JPEG",
    "png": "decoded and encoded as PNG",
    "upright": "turned or mirrored as its EXIF orientation says",
    "background": "transparent pixels laid on the background colour",
    "sixteen_bit": "16 bits a sample scaled to 8",
    "srgb": "colours converted to sRGB from another profile",
    "cmyk": "CMYK or YCCK converted to RGB",
    "first_frame": "the first of several frames or pages",
    "shrunk": "scaled down",
    "progressive_kept": "left progressive, for want of the extra `lossless`",
}

_LONGEST_JPEG_SIDE = 65500
# TensorFlow refuses to decode an image of more values than this.
_MOST_VALUES = 2**29 - 1
_PROCESSES = {3: "lossless JPEG", 55: "JPEG-LS"}
_TRUNCATED = re.compile(r"truncated|end of file|premature end|ends before|not enough|broken png|incomplete", re.I)
_UNSUPPORTED = re.compile(r"unsupported|not supported|unknown pixel mode|unknown data organi|not yet supported", re.I)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An image as it goes into a record.

    Attributes:
        encoded: The file's bytes.
        format: `JPEG` or `PNG`.
        code: The index's format code: `manifest.BASELINE`, `PROGRESSIVE` or `PNG`.
        height: In pixels.
        width: In pixels.
        done: What was done, names out of `DONE`: first `kept`, `baseline`, `jpeg` or `png`, then the others in the
            order of `DONE`.
    """

    encoded: bytes
    format: str
    code: int
    height: int
    width: int
    done: tuple[str, ...]


def transcode(data: bytes, config: ConvertConfig) -> Stored:
    """Checks and, where needed, re-encodes one image.

    Args:
        data: The file's content.
        config: `max_megapixels`, `max_short_side`, `shrink_megapixels`, `quality`, `png` and `background` are used.

    Raises:
        RejectError: The image is not converted, with the reason; the same words in every run.
        MemoryError: There is not enough of it; how much there may be, the caller knows.
    """
    kind = sniff(data[:SIGNATURE_BYTES])
    if kind is None:
        raise RejectError("not_an_image", "empty file" if not data else "no image signature")
    with warnings.catch_warnings():
        # Pillow warns of broken EXIF (then there is no orientation) and of much else that is settled here.
        warnings.simplefilter("ignore")
        try:
            return _from_jpeg(data, config) if kind == "JPEG" else _from_other(kind, data, config)
        except (RejectError, MemoryError):
            raise
        except Exception as error:  # Pillow raises nearly every type on malformed input, so the text decides
            raise _rejected(kind, error) from error


def _rejected(kind: str, error: Exception) -> RejectError:
    text = " ".join(str(error).split()) or type(error).__name__
    # Addresses of objects differ from run to run.
    text = re.sub(r"<[^>]* at 0x[0-9a-fA-F]+>", "the file", text)[:200]
    if _TRUNCATED.search(text):
        return RejectError("truncated", text)
    if kind == "JPEG":  # whose variants are told apart by the header; libjpeg calls damage an unsupported marker
        if "subsampling" in text:
            return RejectError("unsupported", "JPEG of an unusual chroma sampling is not converted")
    elif _UNSUPPORTED.search(text):
        return RejectError("unsupported", f"{kind}: {text}")
    return RejectError("corrupt", text)


def _check_size(width: int, height: int, config: ConvertConfig) -> None:
    """Refuses what is too large from its header alone."""
    if min(width, height) < 1:
        raise RejectError("corrupt", f"{width}x{height} is no size of an image")
    if width * height > config.max_megapixels * 1e6:
        raise RejectError("too_large", f"{width}x{height} is over {config.max_megapixels:g} megapixels")
    stored_width, stored_height = pixels.wanted_size(width, height, config) or (width, height)
    if stored_width * stored_height * 3 > _MOST_VALUES:
        raise RejectError("too_large", f"{width}x{height} is more than TensorFlow decodes")


def _from_jpeg(data: bytes, config: ConvertConfig) -> Stored:
    header = jpeg.parse(data)
    _check_size(header.width, header.height or 1, config)
    _check_variant(header)
    turn = pixels.turn_of(header.exif)
    size = pixels.wanted_size(header.width, header.height, config)
    try:
        return _from_parsed(header, turn, size, config)
    except ValueError as error:
        # libjpeg reads on as if an end marker followed, and may stumble over that in many ways.
        if header.stripped.endswith(b"\xff\xd9"):
            raise
        raise RejectError("truncated", " ".join(str(error).split())) from error


def _from_parsed(
    header: jpeg.Jpeg, turn: Image.Transpose | None, size: tuple[int, int] | None, config: ConvertConfig
) -> Stored:
    foreign = pixels.srgb_transform(header.icc, "L" if header.components == 1 else "RGB") is not None
    if header.components != 4 and not (header.plain_rgb or foreign) and turn is None and size is None:
        stored = _without_decoding(header)
        if stored is not None:
            return stored
    # Not the whole file: what is decoded is what would be stored, and what follows the image is none of it.
    array, scale = jpeg.decode(header.stripped, header, size)
    box = (float(header.width * scale), float(header.height * scale))
    if header.components == 4:
        held = [Image.frombuffer("CMYK", array.shape[1::-1], np.ascontiguousarray(array), "raw", "CMYK", 0, 1)]
    else:
        held = [Image.fromarray(array)]
    del array
    return _finished(held, header.icc, turn, size, config, lossy=True, done=set(), box=box)


def _check_variant(header: jpeg.Jpeg) -> None:
    if header.process in _PROCESSES or header.process not in (0, 1, 2, 9, 10):
        name = _PROCESSES.get(header.process, "hierarchical or arithmetic-coded lossless JPEG")
        raise RejectError("unsupported", f"{name} is not converted")
    if header.precision != 8:
        raise RejectError("unsupported", f"JPEG of {header.precision} bits a sample is not converted")
    if header.components not in (1, 3, 4):
        raise RejectError("unsupported", f"JPEG of {header.components} components is not converted")
    if header.height == 0:
        raise RejectError("unsupported", "JPEG that states its height after the image is not converted")


def _without_decoding(header: jpeg.Jpeg) -> Stored | None:
    """Stores the coefficients as they are; None where that cannot be done (arithmetic coding without the library)."""
    if header.process in (0, 1):
        jpeg.check(header.stripped)
        return _stored_jpeg(header.stripped, header, BASELINE, "kept")
    if lossless.available():
        try:
            encoded = lossless.to_baseline(header.stripped)
            made = jpeg.parse(encoded)
        except ValueError:
            # Damaged, or beyond this build of the library: the strict decoders below tell which.
            made = None
        if made is not None:
            facts = [(each.width, each.height, each.components) for each in (made, header)]
            if made.process not in (0, 1) or facts[0] != facts[1]:
                raise RejectError("corrupt", "its coding as baseline JPEG differs in size or components")
            return _stored_jpeg(encoded, header, BASELINE, "baseline")
    if header.process != 2:
        return None
    jpeg.check(header.stripped)
    return _stored_jpeg(header.stripped, header, PROGRESSIVE, "kept", "progressive_kept")


def _stored_jpeg(encoded: bytes, header: jpeg.Jpeg, code: int, *done: str) -> Stored:
    return Stored(encoded=encoded, format="JPEG", code=code, height=header.height, width=header.width, done=done)


def _from_other(kind: str, data: bytes, config: ConvertConfig) -> Stored:
    source = formats.read_header(kind, data, lambda width, height: _check_size(width, height, config))
    turn = pixels.turn_of(source.exif)
    size = pixels.wanted_size(source.width, source.height, config)
    source.check()
    kept = source.kept if turn is None and size is None and config.png != "jpeg" else None
    if kept is not None and config.png == "keep":
        return Stored(
            encoded=kept,
            format="PNG",
            code=PNG,
            height=source.height,
            width=source.width,
            done=("kept", "first_frame") if source.several else ("kept",),
        )
    image, deep = pixels.load(source.open)
    if image.size != (source.width, source.height):
        raise RejectError("corrupt", f"the {kind} has another size than its header says")
    facts = (("upright", source.turned), ("first_frame", source.several), ("sixteen_bit", deep))
    done = {name for name, so in facts if so}
    held = [image]
    del image
    return _finished(held, source.profile, turn, size, config, lossy=source.lossy, done=done, kept=kept)


def _finished(
    held: list[Image.Image],
    profile: bytes | None,
    turn: Image.Transpose | None,
    size: tuple[int, int] | None,
    config: ConvertConfig,
    *,
    lossy: bool,
    done: set[str],
    box: tuple[float, float] | None = None,
    kept: bytes | None = None,
) -> Stored:
    """Encodes a decoded image, or takes the PNG it was (`kept`) if its pixels are those that are wanted.

    The image is taken out of `held`, so that no caller keeps what a step has been done with: 360 MB at 90 megapixels.
    """
    image = held.pop()
    image, needed = pixels.to_rgb_or_grey(image, profile, config.background)
    done = done | needed
    if size is not None:
        image = pixels.resize(image, size, box)
        done.add("shrunk")
    if turn is not None:
        image = image.transpose(turn)
        done.add("upright")
    # Pillow's encoders write what an image carries along: profiles, comments, a transparent colour.
    image.info = {}
    name, encoded = _encoded(image, config, lossy=lossy, kept=None if needed else kept)
    return Stored(
        encoded=encoded,
        format="JPEG" if name == "jpeg" else "PNG",
        code=BASELINE if name == "jpeg" else PNG,
        height=image.height,
        width=image.width,
        done=(name, *(other for other in DONE if other in done)),
    )


def _encoded(image: Image.Image, config: ConvertConfig, *, lossy: bool, kept: bytes | None) -> tuple[str, bytes]:
    fits = max(image.size) <= _LONGEST_JPEG_SIDE
    if fits and (lossy or config.png == "jpeg"):
        return "jpeg", _as_jpeg(image, config)
    name, encoded = ("kept", kept) if kept is not None else ("png", _saved(image, "PNG"))
    # With as many colours as it asks for or fewer, getcolors() counts them; with more it answers None.
    if fits and config.png == "auto" and image.getcolors(64 if image.mode == "L" else 256) is None:
        smaller = _as_jpeg(image, config)
        if 2 * len(smaller) < len(encoded):
            return "jpeg", smaller
    return name, encoded


def _as_jpeg(image: Image.Image, config: ConvertConfig) -> bytes:
    # Not optimize=True: Huffman tables of its own save an image 2 % of its bytes, and more than double the time.
    return _saved(image, "JPEG", quality=config.quality)


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()
