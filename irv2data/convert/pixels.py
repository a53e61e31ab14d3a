"""A decoded image into what is stored: grey or RGB, 8 bits, sRGB, opaque, upright, of the wanted size."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile

from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError

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
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # mode to the name of its colour space in a profile
_SAME_LEVELS = 2  # a profile that changes no colour by more is sRGB under another name
_LARGEST_PROFILE = 4 << 20
_STRIP_PIXELS = 1 << 20


def turn_of(exif: bytes | None) -> Image.Transpose | None:
    """What makes the image upright; None where its EXIF block says that it is, or nothing that has a meaning."""
    if exif is None:
        return None
    try:
        block = Image.Exif()
        block.load(exif)
        return _TURNS.get(int(block.get(_ORIENTATION, 1)))
    except Exception:  # a malformed EXIF block says nothing about the image; viewers show it as it is
        return None


@functools.lru_cache(maxsize=16)
def srgb_transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What converts pixels of `mode` (RGB, L or CMYK) from an ICC profile to sRGB; the result is L for L, else RGB.

    None where there is no profile, where it cannot be used (as in browsers, that is no profile: unreadable, or of
    another colour space than the pixels), and where it changes nothing that could be seen: sRGB, whatever its name.
    """
    if not profile or len(profile) > _LARGEST_PROFILE or mode not in _SPACES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[mode]:
            return None
        # Not "L": littleCMS wants a grey profile for it, and sRGB is none.
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if mode != "CMYK" and _changes_little(transform, mode) else transform
    except Exception:  # littleCMS fails in many ways on profiles that are damaged
        return None


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "L":
        before = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        levels = np.linspace(0, 255, 12).astype(np.uint8)
        before = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))
    after = np.asarray(transform.apply(before)).astype(int)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= _SAME_LEVELS)


def wanted_size(width: int, height: int, config: ConvertConfig) -> tuple[int, int] | None:
    """(width, height) that the options shrink an image to; None where it is within them. Never larger."""
    sizes = []
    short = min(width, height)
    if config.max_short_side and short > config.max_short_side:
        sizes.append([round(side * config.max_short_side / short) for side in (width, height)])
    limit = config.shrink_megapixels * 1e6
    if limit and width * height > limit:
        factor = math.sqrt(limit / (width * height))
        # Rounded down, and a side of one pixel stays: the other one then takes the whole limit.
        sizes.append([min(int(side * factor) or 1, max(1, int(limit))) for side in (width, height)])
    if not sizes:
        return None
    chosen = min(sizes, key=lambda size: size[0] * size[1])
    return max(1, chosen[0]), max(1, chosen[1])


def load(open_image: Callable[[], ImageFile.ImageFile]) -> tuple[Image.Image, bool]:
    """Decodes an image; 16 bits a sample are scaled to 8 by rounding value / 257, where Pillow cuts or clips.

    Args:
        open_image: Gives the opened image, anew at each call.

    Returns:
        The image in one of Pillow's modes of 8 bits a sample, and whether it had more. `info["transparency"]` is gone
        where it named a colour of 16 bits: the image has an alpha channel instead.

    Raises:
        RejectError: Its values have no defined range (floating-point, 32 bits), with code `unsupported`.
        Exception: What Pillow raises on malformed input; nearly every type.
    """
    image = open_image()
    if image.mode in ("F", "I"):
        raise RejectError("unsupported", f"{image.format} of signed, floating-point or 32-bit values is not converted")
    if image.mode.startswith("I;16"):
        image.load()
        return _grey16(image), True
    raw = {part for tile in image.tile for part in _strings(tile.args) if ";16" in part}
    if not raw or image.mode not in ("RGB", "RGBA", "CMYK") or raw & {"BGR;16", "RGBa;16L", "RGBa;16B", "RGBa;16N"}:
        image.load()
        return image, bool(raw - {"BGR;16"})
    key = image.info.pop("transparency", None)
    if raw == {"LA;16B"}:
        # Pillow has no decoder for the low bytes of this one; but its four bytes fit the four channels of RGBA.
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        image.load()
        four = np.asarray(image)
        grey_alpha = [_rounded(four[..., at], four[..., at + 1]) for at in (0, 2)]
        return Image.merge("LA", [Image.fromarray(channel) for channel in grey_alpha]), True
    image.load()
    # Pillow takes the high byte of each value. Told that the bytes are in the other order, it takes the low one.
    low = open_image()
    low.tile = [tile._replace(args=_other_order(tile.args)) for tile in low.tile]
    low.load()
    channels = [
        Image.fromarray(_rounded(np.asarray(high), np.asarray(rest)))
        for high, rest in zip(image.split(), low.split(), strict=True)
    ]
    if isinstance(key, tuple) and image.mode == "RGB":
        clear = np.ones((image.height, image.width), bool)
        for value, high, rest in zip(key, image.split(), low.split(), strict=True):
            clear &= (np.asarray(high) == value >> 8) & (np.asarray(rest) == value & 255)
        return Image.merge("RGBA", [*channels, Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))]), True
    return Image.merge(image.mode, channels), True


def _grey16(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if tags.get(258) == (12,):  # BitsPerSample
        levels = (levels.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    high, low = (levels >> 8).astype(np.uint8), (levels & 255).astype(np.uint8)
    grey = _rounded(high, low)
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white, which Pillow honours for 8 bits only
        np.subtract(255, grey, out=grey)
    key = image.info.get("transparency")
    if key is None:
        return Image.fromarray(grey)
    alpha = np.where(levels == key, 0, 255).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])


def _rounded(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """round((256 * high + low) / 257) for uint8 arrays of one shape, in 8 bits.

    256 h + l = 257 h + (l - h), so that the result is h, or one more or less where l - h exceeds half of 257.
    """
    result = high.copy()
    rows = max(1, _STRIP_PIXELS // max(1, high.shape[1]))
    for start in range(0, len(high), rows):
        part = slice(start, start + rows)
        difference = low[part].astype(np.int16) - high[part]
        result[part] += difference > 128
        result[part] -= difference < -128
    return result


def _strings(args: object) -> Iterable[str]:
    parts = args if isinstance(args, tuple) else (args,)
    return (part for part in parts if isinstance(part, str))


def _other_order(args: tuple[Any, ...] | str | None) -> tuple[Any, ...] | str | None:
    if isinstance(args, tuple):
        return tuple(_other_order(part) if isinstance(part, str) else part for part in args)
    if isinstance(args, str) and args[-4:-1] == ";16":
        little = args[-1] == "L" or (args[-1] == "N" and np.little_endian)
        return args[:-1] + ("B" if little else "L")
    return args


def to_rgb_or_grey(
    image: Image.Image, profile: bytes | None, background: tuple[int, int, int]
) -> tuple[Image.Image, set[str]]:
    """Converts any 8-bit image to RGB or L in sRGB, with alpha composited on `background`.

    Returns:
        The image, and which of `cmyk`, `srgb` and `background` it took.

    Raises:
        RejectError: The mode is none that is converted (Lab, say), with code `unsupported`.
    """
    done: set[str] = set()
    if image.mode == "CMYK":
        done.add("cmyk")
        if (transform := srgb_transform(profile, "CMYK")) is not None:
            return transform.apply(image), done | {"srgb"}
        return image.convert("RGB"), done
    alpha: Image.Image | None = None
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        grey = image.mode in ("LA", "La")
        image = image.convert("RGBa" if image.mode == "RGBa" else "LA" if grey else "RGBA")
        image = image.convert("RGBA") if image.mode == "RGBa" else image
        alpha = image.getchannel("A")
        # Not convert(): from RGBA it keeps the colour of pixels as it is, and so does dropping the channel.
        image = image.getchannel("L") if grey else image.convert("RGB")
        if _lowest(alpha) == 255:
            alpha = None
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "YCbCr"):
        raise RejectError("unsupported", f"an image of colour mode {image.mode} is not converted")
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if (transform := srgb_transform(profile, image.mode)) is not None:
        done.add("srgb")
        converted = transform.apply(image)
        image = converted.convert("L") if image.mode == "L" else converted
    if alpha is not None:
        done.add("background")
        below = Image.new("RGB", image.size, background)
        image = Image.composite(image.convert("RGB"), below, alpha)
    return image, done


def _lowest(channel: Image.Image) -> int:
    extrema = channel.getextrema()
    return int(extrema[0])  # type: ignore[arg-type]  # a pair of numbers, for an image has one band here


def resize(image: Image.Image, size: tuple[int, int], box: tuple[float, float] | None = None) -> Image.Image:
    """The image at another size, antialiased.

    With Lanczos' kernel: cheaper ones save time once, at conversion, and cost what the network sees 1 dB or more for
    ever. By cykooz.resizer, whose integer arithmetic gives the same pixels with every instruction set, and several
    times faster than Pillow, which serves where there is no wheel of it (docs/design-notes.md has the figures).

    Args:
        image: The image, RGB or L.
        size: (width, height) wanted.
        box: (width, height) of what is there of the picture, in pixels of `image`; its edge may run through a pixel.
    """
    edge = box or image.size
    return image if size == edge else _lanczos()(image, size, edge)


@functools.cache
def _lanczos() -> Callable[[Image.Image, tuple[int, int], tuple[float, float]], Image.Image]:
    try:
        import cykooz_resizer as fast  # not at the top: unneeded where nothing is shrunk
    except ImportError:
        return lambda image, size, edge: image.resize(size, Image.Resampling.LANCZOS, (0, 0, *edge), reducing_gap=3.0)
    algorithm = fast.ResizeAlg.convolution(fast.FilterType.lanczos3)
    resizer = fast.Resizer()

    def resized(image: Image.Image, size: tuple[int, int], edge: tuple[float, float]) -> Image.Image:
        result = Image.new(image.mode, size)
        options = fast.ResizeOptions(resize_alg=algorithm, crop_box=fast.CropBox(0, 0, *edge))
        resizer.resize_pil(image, result, options)
        return result

    return resized
