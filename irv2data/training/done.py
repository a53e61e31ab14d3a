"""How far a run is: what a checkpoint holds beside the variables, and the check that it is of the same run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from irv2data.errors import UsageError
from irv2data.labels import difference
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import FREE_OPTIONS
from irv2data.training.config import TrainConfig

_VERSION = 2
# Options that a run may go on with in another way: where images are kept, how often it is saved.
_FREE = (
    "checkpoint_steps",
    "keep_checkpoints",
    "tensorboard",
    "figures_steps",
    "profile_steps",
    *FREE_OPTIONS,
)


@dataclass
class Done:
    """What a run has done so far.

    Attributes:
        epoch: The running epoch.
        step: Its next step.
        sums: Of each of its steps so far, what `Objective.sums` gives.
        weights_sha256: Of the weights file that it began with; None of random weights.
        before: Evaluation before the first epoch, `Evaluation.figures`.
        after: The last one since.
        history: A row for each epoch before this one.
    """

    epoch: int = 0
    step: int = 0
    sums: list[list[float]] = field(default_factory=list)
    weights_sha256: str | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def state(self, config: TrainConfig, pipeline: Pipeline) -> dict[str, Any]:
        """All of it, JSON-able, with what it is of."""
        position = {"epoch": self.epoch, "step": self.step}
        return {
            "version": _VERSION,
            "config": _identity(config),
            "classes": list(pipeline.dataset.classes),
            "pipeline": pipeline.state(**position),
            **{name: value for name, value in asdict(self).items() if name not in position},
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], config: TrainConfig, training: Callable[[int], Pipeline]) -> Done:
        """What a state says, if it is of these options, classes and records.

        Args:
            state: Of a checkpoint.
            config: The options now.
            training: From an epoch to its pipeline now.

        Raises:
            UsageError: It is not; the message names what differs.
        """
        if state.get("version") != _VERSION:
            raise UsageError(f"checkpoint: of another version of irv2data: expected {_VERSION}")
        was, now = state["classes"], list(training(0).dataset.classes)
        if was != now:
            raise UsageError(
                f"checkpoint: of another class list, {len(was)} classes; the dataset has {len(now)}, it "
                f"{difference(was, now)}; give --overwrite to begin anew"
            )
        here = json.loads(json.dumps(_identity(config)))
        different = [
            f"{name} was {state['config'].get(name)!r}, is {here.get(name)!r}"
            for name in sorted(here.keys() | state["config"].keys())
            if state["config"].get(name) != here.get(name)
        ]
        if different:
            raise UsageError(f"checkpoint: of a run with other options: {'; '.join(different)}")
        epoch, step = training(state["pipeline"]["epoch"]).resume(state["pipeline"])
        names = ("sums", "weights_sha256", "before", "after", "history")
        return cls(epoch=epoch, step=step, **{name: state[name] for name in names})


def _identity(config: TrainConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in _FREE}
