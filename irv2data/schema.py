"""One record: its keys, `encode` (Python, no TensorFlow) and `parse` (in a TensorFlow graph), an inverse pair.

The keys are those that TensorFlow Model Garden, TFDS and FiftyOne read already. The value is a serialized
`tf.train.Example`. Its message classes are built here from their public definition (tensorflow/core/example,
`example.proto` and `feature.proto`) in a descriptor pool of their own: the same wire format without importing
TensorFlow, and no clash when TensorFlow is imported too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

ENCODED = "image/encoded"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
LABEL = "image/class/label"
TEXT = "image/class/text"
FILENAME = "image/filename"
SHA256 = "image/key/sha256"
KEYS = (ENCODED, FORMAT, HEIGHT, WIDTH, LABEL, TEXT, FILENAME, SHA256)

FORMATS = ("JPEG", "PNG")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image as it is stored.

    Attributes:
        encoded: The compressed image, JPEG or PNG, upright and without metadata.
        format: `JPEG` or `PNG`.
        height: Height in pixels.
        width: Width in pixels.
        label: Class number, an index into the dataset's class list.
        text: Class name.
        filename: The source's path relative to the converted folder, in the file system's own bytes.
        sha256: Hexadecimal SHA-256 of `encoded`.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    label: int
    text: str
    filename: bytes
    sha256: str


def _example_class() -> Any:
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
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("irv2data.wire.Example"))


_Example = _example_class()


def encode(record: Record) -> bytes:
    """A serialized `tf.train.Example`; equal records give equal bytes (map entries in key order)."""
    example = _Example()
    feature = example.features.feature
    feature[ENCODED].bytes_list.value.append(record.encoded)
    feature[FORMAT].bytes_list.value.append(record.format.encode())
    feature[HEIGHT].int64_list.value.append(record.height)
    feature[WIDTH].int64_list.value.append(record.width)
    feature[LABEL].int64_list.value.append(record.label)
    feature[TEXT].bytes_list.value.append(record.text.encode("utf-8", "surrogateescape"))
    feature[FILENAME].bytes_list.value.append(record.filename)
    feature[SHA256].bytes_list.value.append(record.sha256.encode())
    return bytes(example.SerializeToString(deterministic=True))


def decode(serialized: bytes) -> Record:
    """The inverse of `encode`, in Python; for checking and looking, not for training.

    Raises:
        ValueError: The bytes are no `tf.train.Example`, or a key is missing or not single-valued.
    """
    example = _Example()
    try:
        example.ParseFromString(serialized)
    except message.DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    feature = example.features.feature

    def one(key: str, kind: str) -> Any:
        values = list(getattr(feature[key], kind).value) if key in feature else []
        if len(values) != 1:
            raise ValueError(f"key {key!r} has {len(values)} values, not 1")
        return values[0]

    return Record(
        encoded=one(ENCODED, "bytes_list"),
        format=one(FORMAT, "bytes_list").decode(),
        height=one(HEIGHT, "int64_list"),
        width=one(WIDTH, "int64_list"),
        label=one(LABEL, "int64_list"),
        text=one(TEXT, "bytes_list").decode("utf-8", "surrogateescape"),
        filename=one(FILENAME, "bytes_list"),
        sha256=one(SHA256, "bytes_list").decode(),
    )


def parse(serialized: Any, keys: tuple[str, ...] = KEYS) -> dict[str, Any]:
    """Graph-side inverse of `encode`.

    Args:
        serialized: string [], one serialized record.
        keys: Which keys to parse; the training path needs `ENCODED` alone.

    Returns:
        A dict from each key to a scalar tensor: int64 for height, width and label, string for the others.
    """
    import tensorflow as tf

    integers = {HEIGHT, WIDTH, LABEL}
    features = {key: tf.io.FixedLenFeature([], tf.int64 if key in integers else tf.string) for key in keys}
    return dict(tf.io.parse_single_example(serialized, features))
