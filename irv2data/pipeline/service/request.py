"""What a client says of its pipeline to the workers, and how both count the steps of its batches."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data import __version__
from irv2data.manifest import Dataset
from irv2data.pipeline.augmentation import Augment
from irv2data.pipeline.batch import PATH
from irv2data.pipeline.config import DEVICE, HOST, PLACE_OPTIONS
from irv2data.pipeline.distribute import Share
from irv2data.pipeline.feed import chunk_specs
from irv2data.pipeline.plan import Plan

# Of the functions that a worker registers (`worker.register`): the one that plans, the one that recovers chunks.
TOKENS = ("pyfunc_0", "pyfunc_1")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A client's pipeline, in words that a worker can make it again from.

    Attributes:
        version: Of irv2data.
        dataset: Path or URI of the dataset's folder.
        fingerprint: The dataset's.
        split: Name of the split.
        options: Of the pipeline, as JSON.
        share: The rows of each batch that the client wants.
        begins: For each epoch wanted, (epoch, first step).
    """

    version: str
    dataset: str
    fingerprint: str
    split: str
    options: str
    share: Share
    begins: list[tuple[int, int]]

    @classmethod
    def of(cls, dataset: Dataset, plan: Plan, on_host: bool, share: Share, begins: list[tuple[int, int]]) -> Request:
        """What a client says.

        Args:
            dataset: Its dataset.
            plan: Its plan.
            on_host: Whether images are resized before they go to the devices; what its devices are decides that.
            share: As in `planned_chunks`.
            begins: As in `planned_chunks`.
        """
        options = {name: value for name, value in asdict(plan.config).items() if name not in PLACE_OPTIONS}
        return cls(
            version=__version__,
            dataset=dataset.location,
            fingerprint=dataset.fingerprint,
            split=plan.split.name,
            options=json.dumps({**options, "resize_on": HOST if on_host else DEVICE}, sort_keys=True),
            share=share,
            begins=begins,
        )

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, text: bytes) -> Request:
        """From JSON."""
        fields = json.loads(text)
        begins = [(epoch, step) for epoch, step in fields["begins"]]
        return cls(**{**fields, "share": Share(**fields["share"]), "begins": begins})


def pipeline_options(text: str) -> dict[str, Any]:
    """`Request.options` as `Pipeline` takes them."""
    options = json.loads(text)
    augment = options["augment"]
    if augment is not None:
        pairs = {name: tuple(value) for name, value in augment.items() if isinstance(value, list)}
        options["augment"] = Augment(**{**augment, **pairs})
    return options


def answer_specs(plan: Plan, share: Share) -> dict[str, tf.TensorSpec]:
    """What a worker's plan of a step consists of: `chunk_specs`, and the path of each record's shard on that worker."""
    return {**chunk_specs(plan, share), PATH: tf.TensorSpec((None, share.chunk), tf.string)}


class Steps:
    """The steps of some epochs, numbered through.

    Args:
        plan: The plan.
        begins: For each epoch, (epoch, first step); every epoch runs to its end.

    Raises:
        UsageError: An epoch has no such step.
    """

    def __init__(self, plan: Plan, begins: list[tuple[int, int]]):
        for epoch, step in begins:
            plan.check_step(epoch, step)
        self._begins = begins
        self._before = np.cumsum([0, *(plan.steps_per_epoch(epoch) - step for epoch, step in begins)])

    def __len__(self) -> int:
        """How many there are."""
        return int(self._before[-1])

    def at(self, number: int) -> tuple[int, int]:
        """Epoch and step of one of them."""
        which = int(np.searchsorted(self._before, number, side="right")) - 1
        epoch, step = self._begins[which]
        return epoch, step + number - int(self._before[which])
