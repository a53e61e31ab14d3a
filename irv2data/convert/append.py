"""What a dataset holds already, for a conversion that adds to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, manifest
from irv2data.convert.config import ConvertConfig
from irv2data.convert.sources.listing import Listing
from irv2data.errors import DatasetError, UsageError
from irv2data.labels import CLASS, CLASSES
from irv2data.manifest import Dataset
from irv2data.packed import Packed

# What may differ from the conversion before: where labels come from, and what happens at a bad file.
_FREE = {
    "on_error", "max_bad_fraction", "decode_seconds", "worker_mib", "duplicates", "follow_links",
    "label_column", "path_column", "label_separator", "label_depth", "image_root", "max_megapixels",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Known:
    """The records of a dataset, over all of its splits.

    Attributes:
        dataset: The dataset.
        digests: uint8 [M, 32], SHA-256 of each record's source.
        split: int64 [M], number of its split.
        rejects: Lines of `rejects.jsonl`.
        duplicates: Lines of `duplicates.jsonl`, by digest.
    """

    dataset: Dataset
    digests: np.ndarray
    split: np.ndarray
    rejects: list[dict[str, str]]
    duplicates: dict[str, dict[str, Any]]

    def present(self, listing: Listing, digests: np.ndarray) -> np.ndarray:
        """Which sources are records already, under the same name with the same content: bool [N]."""
        there = set()
        for split in self.dataset.splits.values():
            for name, digest in zip(split.packed(index.FILENAME), split.array(index.CONTENT), strict=True):
                there.add(_identity(name, digest))
        return np.array(
            [_identity(name, digest) in there for name, digest in zip(listing.names, digests, strict=True)], bool
        )

    def place(self, row: int) -> tuple[manifest.Split, int]:
        """The split and the row in its index of a record counted over all splits."""
        for split in self.dataset.splits.values():
            if row < split.num_records:
                return split, row
            row -= split.num_records
        raise IndexError(row)


def _identity(name: bytes, digest: np.ndarray) -> bytes:
    return hashlib.blake2b(digest.tobytes() + name, digest_size=16).digest()


def load_known(folder: str) -> Known:
    """Reads what a dataset holds.

    Raises:
        DatasetError: The dataset is damaged, or holds shards that others wrote.
    """
    dataset = Dataset(folder)
    if dataset.contents.adopted:
        raise DatasetError(f"{folder}: its shards were adopted, not converted; nothing can be appended")
    splits = list(dataset.splits.values())
    counts = [split.num_records for split in splits]
    return Known(
        dataset=dataset,
        digests=np.concatenate([split.array(index.CONTENT) for split in splits]),
        split=np.repeat(np.arange(len(splits)), counts),
        rejects=list(read_lines(dataset.folder / manifest.REJECTS)),
        duplicates={line["sha256"]: line for line in read_lines(dataset.folder / manifest.DUPLICATES)},
    )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; none if there is no such file.

    Raises:
        DatasetError: A line is no JSON object.
    """
    if path.exists():
        try:
            yield from (json.loads(line) for line in path.read_bytes().splitlines())
        except ValueError as error:
            raise DatasetError(f"{path}: is damaged ({error}); restore it or convert again") from error


def same_options(dataset: Dataset, config: ConvertConfig) -> ConvertConfig:
    """The options to append with: the dataset's own, where they decide what its records look like.

    Raises:
        UsageError: An option was given that contradicts them, or the dataset has exact splits.
    """
    default = asdict(ConvertConfig())
    given, options = asdict(config), dict(dataset.source["options"])
    if options.get("exact_splits"):
        raise UsageError(f"{dataset.folder}: has exact splits, which appending would have to move; convert again")
    options["background"] = tuple(options["background"])
    if not isinstance(options["splits"], str):
        options["splits"] = tuple((name, fraction) for name, fraction in options["splits"])
    for name, value in given.items():
        if name in _FREE:
            options[name] = value
        elif value not in (default[name], options[name]):
            raise UsageError(
                f"{dataset.folder}: was converted with {name}={options[name]!r}, an append cannot have {value!r}"
            )
    return replace(ConvertConfig(**options), labels=dataset.contents.labels)


def fit_to(dataset: Dataset, listing: Listing) -> Listing:
    """The listing with the dataset's class numbers and columns; new classes come after the old ones.

    Raises:
        UsageError: The further columns are others than the dataset's.
    """
    old = dataset.contents
    classes = (*old.classes, *(name for name in listing.classes if name not in set(old.classes)))
    labels = listing.labels
    if old.labels in (CLASS, CLASSES):
        number = {name: number for number, name in enumerate(classes)}
        new = np.array([number[name] for name in listing.classes] + [-1], np.int32)  # -1, no label, stays -1
        labels = new[labels]
    columns = {}
    for name, type in old.columns.items():
        if name not in listing.columns:
            raise UsageError(f"{listing.root}: has no column {name!r}, which the records of {dataset.folder} have")
        columns[name] = _as_type(listing.columns[name], type, f"{listing.root}: column {name!r}")
    extra = set(listing.columns) - set(old.columns)
    if extra:
        raise UsageError(f"{listing.root}: column {sorted(extra)[0]!r} is new; {dataset.folder} has no such column")
    return replace(listing, classes=classes, labels=labels, columns=columns)


def _as_type(values: np.ndarray | Packed, type: str, what: str) -> np.ndarray | Packed:
    if type == index.STRING:
        if isinstance(values, Packed):
            return values
        return Packed.of(("" if value != value else str(value)).encode() for value in values.tolist())
    if isinstance(values, Packed) or (type == index.INT and values.dtype != np.int64):
        raise UsageError(f"{what} holds other values than the dataset's {type}")
    return values.astype(type)
