"""One stored record: is it what it says, and what does the index say of it? What `verify` and `--repair` agree on."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

from irv2data import index, schema
from irv2data.convert import jpeg, png
from irv2data.convert.foreign import read_foreign
from irv2data.convert.rejects import RejectError
from irv2data.convert.sniff import SIGNATURE_BYTES, sniff
from irv2data.errors import one_line
from irv2data.labels import CLASS, CLASSES, NONE, Label
from irv2data.manifest import Contents


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
    format, code, height, width = check_image(record.encoded)
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


def check_image(encoded: bytes) -> tuple[str, int, int, int]:
    """Decodes a stored image to its last byte: (`JPEG` or `PNG`, code of `index.FORMAT_NAMES`, height, width).

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
    if kind != "PNG":
        raise ValueError(f"the image is {kind or 'no image'}, neither JPEG nor PNG")
    try:
        chunks = png.parse(encoded, lambda width, height: None)
        png.check(chunks)
    except (RejectError, zlib.error) as error:
        raise ValueError(f"the image cannot be decoded ({one_line(error)})") from error
    return "PNG", index.PNG, chunks.height, chunks.width


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
