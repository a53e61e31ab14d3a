"""irv2data: variable-size images into Inception-ResNet-v2, at the speed of the hardware.

The public names load on first use, so that `import irv2data` (and every command's `--help`) does not wait for
TensorFlow.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Augment": "irv2data.pipeline.augmentation",
    "Dataset": "irv2data.manifest",
    "Irv2dataError": "irv2data.errors",
    "Pipeline": "irv2data.pipeline.build",
    "image_dataset_from_directory": "irv2data.directory.drop_in",
}
_MODULES = ("convert", "device", "errors", "manifest", "pipeline", "schema", "training")

__all__ = [
    "Augment",
    "Dataset",
    "Irv2dataError",
    "Pipeline",
    "__version__",
    "convert",
    "device",
    "errors",
    "image_dataset_from_directory",
    "manifest",
    "pipeline",
    "schema",
    "training",
]

if TYPE_CHECKING:
    __version__: str
    from irv2data import convert, device, errors, manifest, pipeline, schema, training
    from irv2data.directory.drop_in import image_dataset_from_directory
    from irv2data.errors import Irv2dataError
    from irv2data.manifest import Dataset
    from irv2data.pipeline.augmentation import Augment
    from irv2data.pipeline.build import Pipeline


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("irv2data")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"irv2data.{name}")
    raise AttributeError(f"module 'irv2data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
