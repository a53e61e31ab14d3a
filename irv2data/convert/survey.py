"""The first half of a conversion: what the source holds, and where each of it goes. Nothing is written yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from irv2data import index, manifest, storage
from irv2data.convert import layout
from irv2data.convert.append import Known, fit_to, load_known, same_options
from irv2data.convert.config import AUTO, DEFAULT_SPLITS, FOLDERS, ConvertConfig
from irv2data.convert.describe import appended_split
from irv2data.convert.duplicates import duplicate_lines
from irv2data.convert.hashing import Hashed, hash_sources
from irv2data.convert.sources import list_sources
from irv2data.convert.writer import label_of
from irv2data.errors import SourceError
from irv2data.labels import CLASS
from irv2data.packed import Packed

Progress = Callable[[str, int, int | None], None]


class Survey:
    """Lists, hashes and lays out.

    Args:
        source: As `convert` takes it.
        folder: The dataset folder; read where something is to be appended to it.
        config: The options.
        workers: Worker processes.
        append: Add to the dataset.
        progress: As `convert` takes it.

    Attributes:
        config: The options, with what `auto` came down to.
        listing: The sources.
        hashed: What each one holds, and the rejects so far.
        known: What the dataset holds already; None unless something is appended.
        present: bool [N], sources that are records already.
        dropped: bool [N], sources that are left out because their content is elsewhere.
        names: The splits.
        plans: The shards to write.
        contents: What all records have in common.
        appended: Number of this append; 0 for a whole conversion.

    Raises:
        SourceError: The source cannot be used, or `on_error` is `fail` and a source cannot be read.
        UsageError: Options contradict the dataset.
    """

    def __init__(self, source: str, folder: str, config: ConvertConfig, workers: int, append: bool, progress: Progress):
        self.known: Known | None = load_known(folder) if append else None
        if self.known is not None:
            config = same_options(self.known.dataset, config)
        self.listing = list_sources(source, config, progress=counter(progress, "listing"))
        if config.splits == AUTO:
            config = replace(config, splits=FOLDERS if self.listing.splits else DEFAULT_SPLITS)
        self.config = config
        if self.known is not None:
            self.listing = fit_to(self.known.dataset, self.listing)
        self.hashed: Hashed = hash_sources(
            self.listing,
            workers=workers,
            worker_mib=config.worker_mib,
            progress=counter(progress, "hashing", len(self.listing)),
        )
        if config.on_error == "fail" and self.hashed.rejects:
            row, (code, detail) = next(iter(self.hashed.rejects.items()))
            place = storage.join(self.listing.root, self.listing.names.path(row))
            raise SourceError(f"{place}: {code}: {detail}; --on_error=reject goes on")
        self._lay_out()

    def _lay_out(self) -> None:
        """Decides each source's split, what is left out, and the shards."""
        listing, config, known = self.listing, self.config, self.known
        count = len(listing)
        usable = np.ones(count, bool)
        usable[list(self.hashed.rejects)] = False
        self.present = np.zeros(count, bool) if known is None else known.present(listing, self.hashed.digests) & usable
        usable &= ~self.present
        # Records that are there already come first: whatever repeats one of them is found by the same arithmetic.
        old = 0 if known is None else len(known.digests)
        digests = self.hashed.digests if known is None else np.concatenate([known.digests, self.hashed.digests])
        keys = layout.content_keys(digests, config.seed)
        all_usable = np.concatenate([np.ones(old, bool), usable])
        first = layout.first_of_content(keys, all_usable)
        there = [] if known is None else list(known.dataset.splits)
        if isinstance(config.splits, str):
            names = (*there, *(name for name in listing.splits if name not in there))
            number = np.array([names.index(name) for name in listing.splits] + [-1])
            split = number[listing.split]
        else:
            names = tuple(name for name, _ in config.splits)
            fractions = [fraction for _, fraction in config.splits]
            if config.exact_splits:
                stratum = listing.labels if listing.kind == CLASS else np.zeros(count, np.int32)
                split = layout.split_exactly(keys, first, usable, stratum, fractions)
            else:
                split = layout.split_by_content(keys[old:], fractions)
        if known is not None:
            split = np.concatenate([known.split, split])
        leaked = layout.leaks(first, all_usable, split, len(names), fixed=old)
        repeated = all_usable & (first != np.arange(len(first))) if config.duplicates == "drop" else False
        self.dropped = (leaked | repeated)[old:]
        self._first, self._usable, self._old = first, all_usable, old
        self.names = names
        kept = np.where(usable & ~self.dropped, split[old:], -1)
        self.plans = layout.plan_shards(
            keys[old:], self.hashed.sizes, kept, names, round(config.shard_mib * layout.MIB), empty=known is None
        )
        self.contents = manifest.Contents(
            classes=listing.classes,
            labels=listing.kind,
            columns={name: _type(values) for name, values in listing.columns.items()},
        )
        self.appended = 0
        if known is not None:
            self.appended = known.dataset.appended + 1
            self.contents = replace(self.contents, index_folder=f"{manifest.INDEX}-append{self.appended}")

    def plan_digest(self) -> str:
        """Hexadecimal SHA-256 of everything that the shards depend on."""
        listing = self.listing
        digest = hashlib.sha256(self.config.digest.encode())
        described = (listing.kind, listing.classes, self.contents.columns, listing.splits, self.appended)
        digest.update(repr(described).encode())
        arrays = [listing.names.data, listing.names.ends, listing.labels, listing.split, self.hashed.digests]
        if listing.label_ends is not None:
            arrays.append(listing.label_ends)
        for values in listing.columns.values():
            arrays += [values.data, values.ends] if isinstance(values, Packed) else [values]
        for array in arrays:
            # Its length too, or rows could move from one array to the next unseen.
            digest.update(len(array).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def shard_names(self) -> list[str]:
        """File name of each of the `plans`."""
        return [
            manifest.shard_name(
                appended_split(plan.split, self.appended) if self.appended else plan.split, plan.number, plan.of
            )
            for plan in self.plans
        ]

    def old_shards(self, split: str) -> tuple[manifest.Shard, ...]:
        """The shards that a split has already."""
        known = self.known
        return known.dataset.splits[split].shards if known is not None and split in known.dataset.splits else ()

    def duplicate_lines(self) -> Iterator[dict[str, Any]]:
        """Lines of `duplicates.jsonl`."""
        listing, old = self.listing, self._old

        def path(row: int) -> str:
            if row >= old:
                return listing.names.path(row - old)
            assert self.known is not None
            split, record = self.known.place(row)
            return split.source(record)

        def label(row: int) -> Any:
            if row >= old:
                return self._readable(label_of(listing, row - old))
            assert self.known is not None
            split, record = self.known.place(row)
            return self._readable(split.read(record).label)

        yield from duplicate_lines(
            self._first,
            self._usable,
            np.concatenate([np.zeros(old, bool), self.dropped]),
            digest=lambda row: (
                (self.hashed.digests[row - old] if row >= old or self.known is None else self.known.digests[row])
                .tobytes()
                .hex()
            ),
            path=path,
            label=label,
            earlier={} if self.known is None else self.known.duplicates,
        )

    def _readable(self, label: Any) -> Any:
        if isinstance(label, tuple):
            return [self.listing.classes[number] for number in label]
        return self.listing.classes[label] if isinstance(label, int) else label


def _type(values: np.ndarray | Packed) -> str:
    return index.STRING if isinstance(values, Packed) else str(values.dtype)


def counter(progress: Progress, stage: str, total: int | None = None) -> Callable[[int], None]:
    """Turns the counts of one stage, told bit by bit, into `progress(stage, done, total)`."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(stage, done, total)

    return count
