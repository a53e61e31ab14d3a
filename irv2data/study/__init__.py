"""Which way of fitting images to the network costs what, on the user's own images.

The names load on first use, so that a command can check its options without waiting for TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {"StudyConfig": "config", "study": "run"}

__all__ = ["StudyConfig", "study"]

if TYPE_CHECKING:
    from irv2data.study.config import StudyConfig
    from irv2data.study.run import study


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"irv2data.study.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'irv2data.study' has no attribute {name!r}")
