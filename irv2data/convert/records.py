"""One stored record: is it what it says, and what does the index say of it? What `verify` and `--repair` agree on."""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import Any

from irv2data import index, schema
from irv2data.convert import formats, jpeg, pixels, png
from irv2data.convert.foreign import read_foreign
from irv2data.convert.rejects import RejectError
from irv2data.convert.sniff import SIGNATURE_BYTES, sniff
from irv2data.errors import one_line
from irv2data.labels import CLASS, CLASSES, NONE, Label
from irv2data.manifest import Contents

# The box that describes an AV1 image: marker and version, profile and level, flags (AV1-ISOBMFF section 2.3.3).
_AV1_CONFIGURATION = re.compile(rb"av1C\x81.(.)", re.DOTALL)
_HIGH_BIT_DEPTH = 0x40


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the index holds of one record, but for its place.

    Attributes:
        height: In pixels.
        width: In pixels.
        format: A code of `index.FORMAT_NAMES`.
        label: As the dataset's kind of label says.
        filename: Name of its source.
        columns: Values of the further columns, in their order.
        sha256: SHA-256 of the stored image, 32 bytes.
    """

    height: int
    width: int
    format: int
    label: Label
    filename: bytes
    columns: tuple[int | float | bytes, ...]
    sha256: bytes


def check_record(payload: bytes, contents: Contents) -> Checked:
    """Parses one record, decodes its image to the last byte, and compares what it says with what it is.

    Args:
        payload: A serialized `tf.train.Example`.
        contents: What all records of the dataset have in common.

    Raises:
        ValueError: Something is wrong with it; the message is one line.
    """
    record = (
        read_foreign(payload, contents)
        if contents.adopted
        else schema.decode(payload, contents.labels, contents.columns)
    )
    format, code, height, width = check_image(record.encoded, others=contents.adopted)
    sha256 = hashlib.sha256(record.encoded)
    _check_label(record.label, contents)
    if isinstance(record, schema.Record):
        if sha256.hexdigest() != record.sha256:
            raise ValueError(f"{schema.SHA256} is not the digest of the image")
        if format != record.format:
            raise ValueError(f"is {format}, recorded as {record.format}")
        if (height, width) != (record.height, record.width):
            raise ValueError(f"is {width}x{height}, recorded as {record.width}x{record.height}")
        _check_text(record, contents)
    return Checked(
        height=height,
        width=width,
        format=code,
        label=record.label,
        filename=record.filename,
        columns=tuple(record.columns.values()),
        sha256=sha256.digest(),
    )


def check_image(encoded: bytes, *, others: bool = False) -> tuple[str, int, int, int]:
    """Decodes a stored image to its last byte: (format by `sniff`, code of `index.FORMAT_NAMES`, height, width).

    Args:
        encoded: The image.
        others: WebP and AVIF will do, too; conversion stores JPEG and PNG only.

    Raises:
        ValueError: It is damaged, or none that the pipeline decodes as it should look.
    """
    kind = sniff(encoded[:SIGNATURE_BYTES])
    if kind == "JPEG":
        try:
            header = jpeg.parse(encoded)
            unusual = header.process not in (0, 1, 2) or header.precision != 8 or header.components not in (1, 3)
            if not unusual:
                jpeg.check(encoded)
        except ValueError as error:
            raise ValueError(f"the image cannot be decoded ({one_line(error)})") from error
        if unusual:
            raise ValueError("is a JPEG that is arithmetic-coded, CMYK or not of 8 bits")
        code = index.PROGRESSIVE if header.process == 2 else index.BASELINE
        return "JPEG", code, header.height, header.width
    if others and kind in ("WebP", "AVIF"):
        return kind, *_check_other(kind, encoded)
    if kind != "PNG":
        wanted = "none of JPEG, PNG, WebP and AVIF" if others else "neither JPEG nor PNG"
        raise ValueError(f"the image is {kind or 'no image'}, {wanted}")
    try:
        chunks = png.parse(encoded, lambda width, height: None)
        png.check(chunks)
    except (RejectError, zlib.error) as error:
        raise ValueError(f"the image cannot be decoded ({one_line(error)})") from error
    return "PNG", index.PNG, chunks.height, chunks.width


def _check_other(kind: str, encoded: bytes) -> tuple[int, int, int]:
    """Of a WebP or an AVIF: (code of `index.FORMAT_NAMES`, height, width)."""
    if kind == "AVIF" and any(found[1][0] & _HIGH_BIT_DEPTH for found in _AV1_CONFIGURATION.finditer(encoded)):
        raise ValueError("is an AVIF of more than 8 bits, which the pipeline's decoder does not take")
    try:
        source = formats.read_header(kind, encoded, lambda width, height: None)
        image = source.open()
        image.load()
    except Exception as error:  # Pillow raises nearly every type on malformed input
        raise ValueError(f"the image cannot be decoded ({one_line(error)})") from error
    if source.several:
        raise ValueError(f"is an animated {kind}, which the pipeline's decoders do not take")
    alpha = image.mode == "RGBA"
    if kind == "WebP":
        return index.WEBP_ALPHA if alpha else index.WEBP, source.height, source.width
    if alpha and image.getchannel("A").getextrema()[0] != 255:
        raise ValueError("is an AVIF with transparent pixels, which the pipeline's decoder would show")
    return index.AVIF, source.height, source.width


def is_turned(encoded: bytes, code: int) -> bool:
    """Whether a sound image lies down or is mirrored, by its EXIF orientation; `code` as `check_image` gives it."""
    if code == index.PNG:
        return False
    if code < index.PNG:
        return pixels.turn_of(jpeg.parse(encoded).exif) is not None
    kind = "AVIF" if code == index.AVIF else "WebP"
    return pixels.turn_of(formats.read_header(kind, encoded, lambda width, height: None).exif) is not None


def _check_label(label: Label, contents: Contents) -> None:
    if contents.labels in (CLASS, CLASSES):
        for number in label if isinstance(label, tuple) else (label,):
            if not isinstance(number, int) or not 0 <= number < len(contents.classes):
                raise ValueError(f"label {number} is no class number")


def _check_text(record: schema.Record, contents: Contents) -> None:
    if contents.labels in (CLASS, CLASSES):
        labels = record.label if isinstance(record.label, tuple) else (record.label,)
        texts = record.text if isinstance(record.text, tuple) else (record.text,)
        expected = tuple(contents.classes[number] for number in labels)  # type: ignore[index]
        if texts != expected:
            raise ValueError(f"label {record.label} is not class {record.text!r}")


def row_of(arrays: dict[str, Any], contents: Contents, row: int) -> dict[str, Any]:
    """What an index holds of one record, by the names of `Checked` and of the place columns.

    What some of the arrays would tell is left out if they are: a repair may have to do without.
    """

    def ragged(name: str) -> Any:
        ends = arrays[name + index.END]
        return arrays[name][int(ends[row - 1]) if row else 0 : int(ends[row])]

    values: dict[str, Any] = {name: int(arrays[name][row]) for name in index.PLACE_COLUMNS if name in arrays}
    if index.FILENAME in arrays:
        values["filename"] = ragged(index.FILENAME).tobytes()
    if contents.labels == NONE:
        values["label"] = None
    elif index.LABEL in arrays:
        several = contents.labels == CLASSES
        values["label"] = tuple(ragged(index.LABEL).tolist()) if several else arrays[index.LABEL][row].item()
    types = {index.stem(number): type for number, type in enumerate(contents.columns.values())}
    if types.keys() <= arrays.keys():
        values["columns"] = tuple(
            ragged(stem).tobytes() if type == index.STRING else arrays[stem][row].item() for stem, type in types.items()
        )
    return values


def differs(checked: Checked, expected: dict[str, Any]) -> str | None:
    """The first thing in which a record and its row of the index differ, as far as the row tells, or None."""
    for name in ("height", "width", "format", "label", "filename", "columns"):
        if name not in expected:
            continue
        actual = getattr(checked, name)
        if actual != expected[name] and not _both_nan(actual, expected[name]):
            return f"the index says {name} {expected[name]!r}, the record {actual!r}"
    return None


def _both_nan(a: Any, b: Any) -> bool:
    """Equal but for NaN, which an empty field of a column of numbers is stored as."""
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(x == y or _both_nan(x, y) for x, y in zip(a, b, strict=True))
    return isinstance(a, float) and isinstance(b, float) and a != a and b != b
