"""The description files with which `tfds.builder_from_directory` reads a dataset folder.

Their form is TFDS's own (tensorflow_datasets `core/dataset_info.py` and `core/features/`, version 4.9), written
here as JSON so that a conversion needs neither TFDS nor TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from irv2data.manifest import Shard

_NAME = "irv2data"  # not the folder's: its bytes must not depend on where it lies
_FEATURES = "tensorflow_datasets.core.features"


def tfds_files(classes: Sequence[str], splits: Mapping[str, Sequence[Shard]]) -> dict[str, str]:
    """File name to content of the three description files.

    Args:
        classes: Class names in label order.
        splits: Split name to its shards.
    """
    info = {
        "name": _NAME,
        "version": "1.0.0",
        "description": "Variable-size images converted by irv2data.",
        "fileFormat": "tfrecord",
        "moduleName": "",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "shardLengths": [str(shard.records) for shard in shards],
                "numBytes": str(sum(shard.bytes for shard in shards)),
            }
            for split, shards in splits.items()
        ],
    }
    text = {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}
    integer = {
        "pythonClassName": f"{_FEATURES}.scalar.Scalar",
        "tensor": {"shape": {}, "dtype": "int64", "encoding": "none"},
    }
    label = {
        "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(len(classes))},
    }
    image = {
        "pythonClassName": f"{_FEATURES}.image_feature.Image",
        "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"},
    }

    def folder(**children: object) -> dict[str, object]:
        return {
            "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
            "featuresDict": {"features": dict(sorted(children.items()))},
        }

    features = folder(
        image=folder(
            **{
                "class": folder(label=label, text=text),
                "encoded": image,
                "filename": text,
                "format": text,
                "height": integer,
                "key": folder(sha256=text),
                "width": integer,
            }
        )
    )
    return {
        "dataset_info.json": json.dumps(info, indent=1) + "\n",
        "features.json": json.dumps(features, indent=1) + "\n",
        # One name a line, by TFDS's rule; a line break inside a class name is written as an escape.
        "image-class-label.labels.txt": "".join(name.replace("\n", "\\n") + "\n" for name in classes),
    }
