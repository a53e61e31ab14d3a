"""Fine-tuning Inception-ResNet-v2 under a `tf.distribute` strategy: model, step, loop, evaluation.

The names load on first use, so that a command can check its options without waiting for TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Evaluation": "evaluation",
    "PipelineFigures": "callback",
    "TrainConfig": "config",
    "build_model": "model",
    "evaluate": "evaluation",
    "make_strategy": "strategy",
    "train": "loop",
    "unfreeze": "model",
}

__all__ = [
    "Evaluation",
    "PipelineFigures",
    "TrainConfig",
    "build_model",
    "evaluate",
    "make_strategy",
    "train",
    "unfreeze",
]

if TYPE_CHECKING:
    from irv2data.training.callback import PipelineFigures
    from irv2data.training.config import TrainConfig
    from irv2data.training.evaluation import Evaluation, evaluate
    from irv2data.training.loop import train
    from irv2data.training.model import build_model, unfreeze
    from irv2data.training.strategy import make_strategy


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"irv2data.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'irv2data.training' has no attribute {name!r}")
