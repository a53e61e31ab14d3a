"""What a conversion did, in numbers."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from irv2data.manifest import Dataset


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a conversion did; `sources == rejected + dropped + records of all splits`, always.

    After an append all counts are of the whole dataset, but `added` and `present`.

    Attributes:
        dataset: The dataset folder.
        sources: Files that were to be converted.
        rejected: Of these, how many could not be; `rejects.jsonl` says which and why.
        rejects: Reject code to count.
        dropped: Of these, how many were left out as duplicates; `duplicates.jsonl` says which.
        duplicates: Contents that several sources have.
        conflicts: Of these, how many have different labels.
        done: What was done to the images that are stored, by the names in `convert.transcode.DONE`, to a count.
        ignored: Extension, or a description in parentheses, to number of files that were passed over.
        labels: What a label is, of `irv2data.labels.KINDS`.
        classes: Number of classes.
        splits: Split name to `records`, `shards` and `bytes`.
        added: Records that this run wrote.
        present: Sources that an append found to be records already.
        over_budget: More than `max_bad_fraction` of the sources were rejected.
        dry_run: Nothing was written; the counts are what would be tried.
        seconds: Wall time.
    """

    dataset: str
    sources: int
    rejected: int
    rejects: dict[str, int]
    dropped: int
    duplicates: int
    conflicts: int
    done: dict[str, int]
    ignored: dict[str, int]
    labels: str
    classes: int
    splits: dict[str, dict[str, int]]
    added: int
    present: int
    over_budget: bool
    dry_run: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON-able dict."""
        return asdict(self)


def report_of(folder: str, started: float) -> Report:
    """What a conversion did that was stopped after its commit."""
    dataset = Dataset(folder)
    source = {name: value for name, value in dataset.source.items() if name != "options"}
    splits = {
        name: {"records": split.num_records, "shards": len(split.shards), "bytes": split.num_bytes}
        for name, split in dataset.splits.items()
    }
    return Report(
        dataset=folder,
        **source,
        ignored={},
        labels=dataset.contents.labels,
        classes=len(dataset.classes),
        splits=splits,
        added=sum(split["records"] for split in splits.values()),
        present=0,
        over_budget=source["rejected"] > dataset.source["options"]["max_bad_fraction"] * source["sources"],
        dry_run=False,
        seconds=round(time.monotonic() - started, 3),
    )
