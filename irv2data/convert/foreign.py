"""Records that others wrote: which of their keys hold the image, its label and its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from irv2data import schema
from irv2data.labels import CLASS, CLASSES, NUMBER, Label
from irv2data.manifest import Contents

# In the order in which they are looked for: TensorFlow Model Garden and TFDS's detection sets, TFDS, common tutorials.
IMAGE_KEYS = (schema.ENCODED, "image", "image_raw", "image/image_raw", "jpg", "png", "encoded", "img")
LABEL_KEYS = (schema.LABEL, "label", "labels", "image/label", "class", "target", schema.TARGET)
NAME_KEYS = (schema.FILENAME, "file_name", "filename", "image/source_id", "image/id", "name", "id", "key")


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What is read of a record that others wrote.

    Attributes:
        encoded: The compressed image.
        label: As the dataset's kind of label says.
        filename: What names it there; empty if nothing does.
        columns: None; others' further keys stay in their records.
    """

    encoded: bytes
    label: Label
    filename: bytes
    columns: Mapping[str, int | float | bytes] = field(default_factory=dict)


def read_foreign(payload: bytes, contents: Contents) -> Foreign:
    """Reads a record by the keys that a dataset's manifest names.

    Raises:
        ValueError: It is no `tf.train.Example`, a key is missing, or its values are of another type.
    """
    return pick(schema.features(payload), contents.labels, contents.encoded_key, contents.label_key)


def pick(found: Mapping[str, list[Any]], kind: str, encoded_key: str, label_key: str) -> Foreign:
    """As `read_foreign`, of a record's keys and values."""
    encoded = found.get(encoded_key, [])
    if len(encoded) != 1 or not isinstance(encoded[0], bytes):
        raise ValueError(f"key {encoded_key!r} holds no image")
    values = found.get(label_key, [])
    label: Label = None
    if kind == CLASSES:
        label = tuple(sorted(set(values)))
    elif kind in (CLASS, NUMBER):
        if len(values) != 1 or isinstance(values[0], bytes):
            raise ValueError(f"key {label_key!r} has {len(values)} values, not one number")
        label = float(values[0]) if kind == NUMBER else int(values[0])
    name = next((found[key] for key in NAME_KEYS if len(found.get(key, [])) == 1), [b""])[0]
    return Foreign(encoded=encoded[0], label=label, filename=name if isinstance(name, bytes) else str(name).encode())
