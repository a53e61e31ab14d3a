"""The description files with which `tfds.builder_from_directory` reads a dataset folder.

Their form is TFDS's own (tensorflow_datasets `core/dataset_info.py` and `core/features/`, version 4.9), written
here as JSON so that a conversion needs neither TFDS nor TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from irv2data import schema
from irv2data.index import FLOAT, INT
from irv2data.labels import CLASS, CLASSES, NUMBER
from irv2data.manifest import Contents, Shard

_LABELS = "image-class-label.labels.txt"
TFDS_FILES = ("dataset_info.json", "features.json", _LABELS)
_NAME = "irv2data"  # not the folder's: its bytes must not depend on where it lies
_FEATURES = "tensorflow_datasets.core.features"
_APPENDED = "_append"


def appended_split(split: str, number: int) -> str:
    """Name that an appended part of a split has in its shards' file names, and as a split for TFDS."""
    return f"{split}{_APPENDED}{number}"


def tfds_files(contents: Contents, splits: Mapping[str, Sequence[Shard]]) -> dict[str, str]:
    """File name to content of the description files.

    A split that grew is several to TFDS, which wants the number of all shards in each one's name: `train`,
    `train_append1`, ...; read them as `split="train+train_append1"`.

    Args:
        contents: What all records have in common.
        splits: Split name to its shards.
    """
    parts: dict[str, list[Shard]] = {}
    for split, shards in splits.items():
        for shard in shards:
            # All parts that a split's shards name, and the split itself where it has none.
            part = shard.file.rsplit("-", 3)[0]
            parts.setdefault(part if part.startswith(split) else split, []).append(shard)
    info = {
        "name": _NAME,
        "version": "1.0.0",
        "description": "Variable-size images converted by irv2data.",
        "fileFormat": "tfrecord",
        "moduleName": "",
        "splits": [
            {
                "name": part,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "shardLengths": [str(shard.records) for shard in shards],
                "numBytes": str(sum(shard.bytes for shard in shards)),
            }
            for part, shards in parts.items()
        ],
    }
    files = {
        "dataset_info.json": json.dumps(info, indent=1) + "\n",
        "features.json": json.dumps(_features(contents), indent=1) + "\n",
    }
    if contents.labels in (CLASS, CLASSES):
        # One name a line, by TFDS's rule; a line break inside a class name is written as an escape.
        files[_LABELS] = "".join(name.replace("\n", "\\n") + "\n" for name in contents.classes)
    return files


def _features(contents: Contents) -> dict[str, Any]:
    text = {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}

    def scalar(dtype: str) -> dict[str, Any]:
        return {
            "pythonClassName": f"{_FEATURES}.scalar.Scalar",
            "tensor": {"shape": {}, "dtype": dtype, "encoding": "none"},
        }

    def several(feature: dict[str, Any]) -> dict[str, Any]:
        return {
            "pythonClassName": f"{_FEATURES}.sequence_feature.Sequence",
            "sequence": {"feature": feature, "length": "-1"},
        }

    label = {
        "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(len(contents.classes))},
    }
    image = {
        "pythonClassName": f"{_FEATURES}.image_feature.Image",
        "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"},
    }
    features: dict[str, Any] = {
        schema.ENCODED: image,
        schema.FORMAT: text,
        schema.HEIGHT: scalar("int64"),
        schema.WIDTH: scalar("int64"),
        schema.FILENAME: text,
        schema.SHA256: text,
    }
    if contents.labels == CLASS:
        features |= {schema.LABEL: label, schema.TEXT: text}
    elif contents.labels == CLASSES:
        features |= {schema.LABEL: several(label), schema.TEXT: several(text)}
    elif contents.labels == NUMBER:
        features[schema.TARGET] = scalar("float32")
    for name, type in contents.columns.items():
        features[name] = scalar(type) if type in (INT, FLOAT) else text
    return _nested(features)


def _nested(features: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A FeaturesDict; TFDS joins the names of nested ones by `/`."""
    children: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, feature in features.items():
        first, _, rest = name.partition("/")
        if rest:
            groups.setdefault(first, {})[rest] = feature
        else:
            children[name] = feature
    children |= {name: _nested(group) for name, group in groups.items()}
    return {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(sorted(children.items()))},
    }
