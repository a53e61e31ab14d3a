"""A position in training as a small JSON: whose batches it counts, and the check that they are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from irv2data.errors import UsageError
from irv2data.manifest import Dataset
from irv2data.pipeline.config import FREE_OPTIONS, PipelineConfig
from irv2data.split import Split

VERSION = 3
# Options that change no batch: where the work is done, what is carried along, and what is tolerated.
_FREE = ("resize_on", "dtype", *FREE_OPTIONS, "max_bad_records", "columns")


def state(dataset: Dataset, split: Split, config: PipelineConfig, epoch: int, step: int) -> dict[str, Any]:
    """A position, JSON-able.

    Returns:
        `version`; `epoch`; `step`; `dataset`, the dataset's fingerprint; `split`, its name; `records`, their number;
        `config`, the options that decide the batches; `fingerprint`, hexadecimal SHA-256 of all of it but the position.
    """
    kept = _identity(dataset, split, config)
    return {"version": VERSION, "epoch": epoch, "step": step, **kept, "fingerprint": _digest(kept)}


def resume(saved: Mapping[str, Any], dataset: Dataset, split: Split, config: PipelineConfig) -> tuple[int, int]:
    """The position of a state, if it counts the batches of this dataset and these options.

    Raises:
        UsageError: It is no state, or counts other batches; the message names what differs.
    """
    if not isinstance(saved, Mapping) or saved.get("version") != VERSION:
        raise UsageError(f"state: made by another version of irv2data, or no state: expected version {VERSION}")
    missing = {"epoch", "step", "fingerprint", "config", "dataset", "split", "records"} - saved.keys()
    if missing:
        raise UsageError(f"state: lacks {', '.join(sorted(missing))}")
    if not isinstance(saved["config"], Mapping):
        raise UsageError(f"state: config must be a dict of options, got {saved['config']!r}")
    # As JSON gives it back, for tuples become lists there.
    here = json.loads(json.dumps(_identity(dataset, split, config)))
    there = json.loads(json.dumps({name: saved[name] for name in here}))
    different = [
        f"{name} was {there[name]!r}, is {here[name]!r}"
        for name in here
        if name != "config" and here[name] != there[name]
    ]
    options = sorted(here["config"].keys() | there["config"].keys())
    different += [
        f"{name} was {there['config'].get(name)!r}, is {here['config'].get(name)!r}"
        for name in options
        if here["config"].get(name) != there["config"].get(name)
    ]
    if different:
        raise UsageError(f"state: of other batches than this pipeline gives: {'; '.join(different)}")
    if saved["fingerprint"] != _digest(here):
        raise UsageError("state: damaged, its fingerprint is not that of its content")
    epoch, step = saved["epoch"], saved["step"]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in (epoch, step)):
        raise UsageError(f"state: epoch and step must be whole numbers, got {epoch!r} and {step!r}")
    return epoch, step


def _identity(dataset: Dataset, split: Split, config: PipelineConfig) -> dict[str, Any]:
    options = {name: value for name, value in asdict(config).items() if name not in _FREE}
    return {
        "dataset": dataset.fingerprint,
        "split": split.name,
        "records": split.num_records,
        "config": options,
    }


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
