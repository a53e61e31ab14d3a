"""One record: its keys, `encode` (Python, no TensorFlow) and `parse` (in a TensorFlow graph), an inverse pair.

The keys are those that TensorFlow Model Garden, TFDS and FiftyOne read already. The value is a serialized
`tf.train.Example`. Its message classes are built here from their public definition (tensorflow/core/example,
`example.proto` and `feature.proto`) in a descriptor pool of their own: the same wire format without importing
TensorFlow, and no clash when TensorFlow is imported too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from irv2data.labels import CLASS, CLASSES, NUMBER, Label

ENCODED = "image/encoded"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
LABEL = "image/class/label"
TEXT = "image/class/text"
TARGET = "image/target"
FILENAME = "image/filename"
SHA256 = "image/key/sha256"
KEYS = (ENCODED, FORMAT, HEIGHT, WIDTH, LABEL, TEXT, FILENAME, SHA256)  # of a record with one class

FORMATS = ("JPEG", "PNG")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image as it is stored.

    Attributes:
        encoded: The compressed image, JPEG or PNG, upright and without metadata.
        format: `JPEG` or `PNG`.
        height: Height in pixels.
        width: Width in pixels.
        label: As the dataset's kind of label says: a class number, an index into the dataset's class list; a tuple of
            such; a number; or None.
        text: Class name; a tuple of names where `label` is one; None where `label` is a number or None.
        filename: The source's path relative to the converted folder, in the file system's own bytes.
        sha256: Hexadecimal SHA-256 of `encoded`.
        columns: Further columns by name, stored under the same keys: int64, float32 or UTF-8 bytes.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    label: Label
    text: str | tuple[str, ...] | None
    filename: bytes
    sha256: str
    columns: Mapping[str, int | float | bytes] = field(default_factory=dict)


def _message_classes() -> tuple[Any, Any]:
    """`tf.train.Example` and `tf.train.Features`."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="irv2data/example.proto", package="irv2data.wire", syntax="proto3")
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        values = file.message_type.add(name=name)
        values.field.add(name="value", number=1, label=field.LABEL_REPEATED, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = name.title().replace("_", "")
        feature.field.add(
            name=name,
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=f".irv2data.wire.{type_name}",
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE, type_name=".irv2data.wire.Feature"
    )
    features.field.add(
        name="feature",
        number=1,
        label=field.LABEL_REPEATED,
        type=field.TYPE_MESSAGE,
        type_name=".irv2data.wire.Features.FeatureEntry",
    )
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features",
        number=1,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_MESSAGE,
        type_name=".irv2data.wire.Features",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    example_type, features_type = (
        pool.FindMessageTypeByName(f"irv2data.wire.{name}") for name in ("Example", "Features")
    )
    return message_factory.GetMessageClass(example_type), message_factory.GetMessageClass(features_type)


_Example, _Features = _message_classes()


def encode(record: Record) -> bytes:
    """A serialized `tf.train.Example`; equal records give equal bytes (map entries in key order)."""
    return b"".join(encode_parts(record))


def encode_parts(record: Record) -> tuple[bytes, bytes, bytes]:
    """What `encode` joins: the bytes before the compressed image, the image itself, and those behind it.

    The same bytes as the library's serializer gives, which copies the image three times; here it is not copied.
    """
    image = record.encoded
    # The fields inside each other that hold the image: the list's value, the list, the map entry's value, the entry.
    head = b"\x0a" + _varint(len(image))
    head = b"\x0a" + _varint(len(head) + len(image)) + head
    head = b"\x0a" + _varint(len(ENCODED)) + ENCODED.encode() + b"\x12" + _varint(len(head) + len(image)) + head
    head = b"\x0a" + _varint(len(head) + len(image)) + head
    before, after = _Features(), _Features()
    _fill(before, after, record)
    before_image = before.SerializeToString(deterministic=True) + head
    behind_image = bytes(after.SerializeToString(deterministic=True))
    size = len(before_image) + len(image) + len(behind_image)
    return b"\x0a" + _varint(size) + before_image, image, behind_image


def _fill(before: Any, after: Any, record: Record) -> None:
    """Sets all features but the image: in `before` where their key sorts before the image's, else in `after`."""
    if isinstance(record.label, float):
        after.feature[TARGET].float_list.value.append(record.label)
    elif record.label is not None:
        labels = record.label if isinstance(record.label, tuple) else (record.label,)
        texts = record.text if isinstance(record.text, tuple) else (record.text or "",)
        before.feature[LABEL].int64_list.value.extend(labels)
        before.feature[TEXT].bytes_list.value.extend(text.encode("utf-8", "surrogateescape") for text in texts)
    after.feature[FORMAT].bytes_list.value.append(record.format.encode())
    after.feature[HEIGHT].int64_list.value.append(record.height)
    after.feature[WIDTH].int64_list.value.append(record.width)
    after.feature[FILENAME].bytes_list.value.append(record.filename)
    after.feature[SHA256].bytes_list.value.append(record.sha256.encode())
    for name, value in record.columns.items():
        kind = {int: "int64_list", float: "float_list", bytes: "bytes_list"}[type(value)]
        getattr((before if name < ENCODED else after).feature[name], kind).value.append(value)


def _varint(value: int) -> bytes:
    """Protocol Buffers' number of variable length: seven bits a byte, the lowest first."""
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def features(serialized: bytes) -> dict[str, list[Any]]:
    """Every key of a `tf.train.Example` with its values (ints, floats or bytes), whoever wrote it.

    Raises:
        ValueError: The bytes are no `tf.train.Example`.
    """
    example = _Example()
    try:
        example.ParseFromString(serialized)
    except message.DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    found = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[key] = list(getattr(feature, kind).value) if kind else []
    return found


def decode(serialized: bytes, labels: str = CLASS, columns: Mapping[str, str] | None = None) -> Record:
    """The inverse of `encode`, in Python; for checking and looking, not for training.

    Args:
        serialized: One record.
        labels: The dataset's kind of label.
        columns: Its further columns, name to type.

    Raises:
        ValueError: The bytes are no `tf.train.Example`, or a key is missing, not single-valued or of another type.
    """
    found = features(serialized)

    def one(key: str, kind: type) -> Any:
        values = [value for value in found.get(key, []) if isinstance(value, kind)]
        if len(values) != 1:
            raise ValueError(f"key {key!r} has {len(values)} values, not 1")
        return values[0]

    label: Label = None
    text: str | tuple[str, ...] | None = None
    if labels == CLASS:
        label, text = one(LABEL, int), _text(one(TEXT, bytes))
    elif labels == CLASSES:
        label, text = tuple(found.get(LABEL, [])), tuple(_text(name) for name in found.get(TEXT, []))
    elif labels == NUMBER:
        label = one(TARGET, float)
    types = {"int64": int, "float32": float, "string": bytes}
    return Record(
        encoded=one(ENCODED, bytes),
        format=one(FORMAT, bytes).decode(),
        height=one(HEIGHT, int),
        width=one(WIDTH, int),
        label=label,
        text=text,
        filename=one(FILENAME, bytes),
        sha256=one(SHA256, bytes).decode(),
        columns={name: one(name, types[type]) for name, type in (columns or {}).items()},
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def parse(serialized: Any, keys: tuple[str, ...] = KEYS) -> dict[str, Any]:
    """Graph-side inverse of `encode`.

    Args:
        serialized: string [], one serialized record.
        keys: Which keys to parse; the training path needs the compressed image alone.

    Returns:
        A dict from each key to a scalar tensor: int64 for height, width and label, string for the others.
    """
    import tensorflow as tf

    integers = {HEIGHT, WIDTH, LABEL}
    features = {key: tf.io.FixedLenFeature([], tf.int64 if key in integers else tf.string) for key in keys}
    return dict(tf.io.parse_single_example(serialized, features))
