"""A whole conversion, top to bottom: list, hash, lay out, write shards, commit."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from irv2data import index, manifest, storage
from irv2data.convert import layout
from irv2data.convert.append import Known, fit_to, load_known, same_options
from irv2data.convert.config import AUTO, DEFAULT_SPLITS, FOLDERS, ConvertConfig
from irv2data.convert.describe import appended_split
from irv2data.convert.duplicates import duplicate_lines
from irv2data.convert.engines import run_local
from irv2data.convert.folder import (
    check_output,
    commit,
    finish,
    has_begun,
    prepare,
    remove_partial,
    remove_work,
    write_index,
)
from irv2data.convert.hashing import Hashed, hash_sources
from irv2data.convert.lock import WORK, locked, require_free
from irv2data.convert.sources import list_sources
from irv2data.convert.writer import Rows, ShardResult, Task, label_of, load_result, write_shard
from irv2data.errors import DatasetError, InterruptedRunError, Irv2dataError, SourceError, UsageError
from irv2data.labels import CLASS
from irv2data.packed import Packed

Progress = Callable[[str, int, int | None], None]


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


def convert(
    source: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    *,
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    append: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Turns images into a dataset folder.

    The result depends on the sources and `config` alone: byte-identical for any number of workers. Worker processes
    are spawned, so a script that calls this needs the usual `if __name__ == "__main__":` guard.

    Args:
        source: Folder of images, table, archive, or a URI of one; see `irv2data.convert.sources.list_sources`.
        dataset: Folder to make, or a URI.
        config: What decides the bytes; the defaults of `ConvertConfig` if None.
        workers: Worker processes; 0 for the number of usable cores.
        resume: Keep the finished shards of an interrupted conversion of the same sources and options.
        overwrite: Replace a dataset, or an unfinished one, that is there already.
        append: Add what is new to a dataset that is there; its shards stay as they are.
        dry_run: List, hash and lay out, but write nothing.
        progress: Called as `progress(stage, done, total)`; `total` is None where it is not known yet.

    Raises:
        UsageError: `dataset` exists and none of `resume`, `overwrite` and `append` was given, or options contradict.
        SourceError: The source cannot be used.
        DatasetError: The output cannot be written, or another conversion is writing it.
        InterruptedRunError: A signal stopped the run; finished shards are kept for `resume`.
    """
    started = time.monotonic()
    origin, folder = os.fspath(source), os.fspath(dataset)
    config = config or ConvertConfig()
    if workers < 0:
        raise UsageError(f"workers must be 0 (all cores) or more, got {workers}")
    if overwrite and (resume or append):
        raise UsageError("overwrite removes what is there, resume and append keep it; give one of them")
    try:
        require_free(folder)
        check_output(folder, origin, resume=resume, overwrite=overwrite, append=append)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be used ({error.strerror or error})") from error
    try:
        if dry_run:
            return _Run(origin, folder, config, workers, append, progress).report(started, dry_run=True)
        with locked(folder):
            try:
                if finish(folder) and resume:
                    return _report_of(folder, started)
                run = _Run(origin, folder, config, workers, append, progress)
                prepare(folder, run.plan_digest(), overwrite=overwrite, appended=run.appended)
                run.write()
                return run.report(started)
            except KeyboardInterrupt:
                remove_partial(folder)
                again = "--append again" if append else "--resume"
                kept = (
                    f"finished shards are kept, go on with {again}" if has_begun(folder) else "nothing was written yet"
                )
                raise InterruptedRunError(f"interrupted; {kept}: {folder}") from None
            except (Irv2dataError, OSError):
                remove_partial(folder)
                raise
    except OSError as error:
        again = ("; --append again goes on" if append else "; --resume goes on") if _begun(folder) else ""
        reason = error.strerror or str(error)
        raise DatasetError(f"{error.filename or folder}: cannot be written ({reason}){again}") from error


def _begun(folder: str) -> bool:
    try:
        return has_begun(folder)
    except OSError:
        return False


def _report_of(folder: str, started: float) -> Report:
    """What a conversion did that was stopped after its commit."""
    dataset = manifest.Dataset(folder)
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


class _Run:
    """One conversion: what it found (the constructor), wrote (`write`) and says (`report`)."""

    def __init__(self, source: str, folder: str, config: ConvertConfig, workers: int, append: bool, progress: Progress):
        self.folder = folder
        self.workers = workers
        self.progress = progress
        self.known: Known | None = load_known(folder) if append else None
        if self.known is not None:
            config = same_options(self.known.dataset, config)
        self.listing = list_sources(source, config, progress=_counter(progress, "listing"))
        if config.splits == AUTO:
            config = replace(config, splits=FOLDERS if self.listing.splits else DEFAULT_SPLITS)
        self.config = config
        if self.known is not None:
            self.listing = fit_to(self.known.dataset, self.listing)
        self.hashed: Hashed = hash_sources(
            self.listing, workers=workers, progress=_counter(progress, "hashing", len(self.listing))
        )
        if config.on_error == "fail" and self.hashed.rejects:
            row, (code, detail) = next(iter(self.hashed.rejects.items()))
            place = storage.join(self.listing.root, self.listing.names.path(row))
            raise SourceError(f"{place}: {code}: {detail}; --on_error=reject goes on")
        self._lay_out()
        self.results: list[ShardResult] = []
        self.totals: dict[str, Any] = {}

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
        self.first, self.usable, self.old = first, all_usable, old
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

    def _shard_names(self) -> list[str]:
        return [
            manifest.shard_name(
                appended_split(plan.split, self.appended) if self.appended else plan.split, plan.number, plan.of
            )
            for plan in self.plans
        ]

    def write(self) -> None:
        """Writes the shards that are not there yet, then everything that makes them a dataset."""
        names = self._shard_names()
        results = {number: result for number, name in enumerate(names) if (result := self._finished(name)) is not None}
        todo = [number for number in range(len(names)) if number not in results]
        count = _counter(self.progress, "converting", sum(len(plan.sources) for plan in self.plans))
        count(sum(len(self.plans[number].sources) for number in results))

        def finished(number: int, result: ShardResult) -> None:
            results[todo[number]] = result

        run_local(
            write_shard,
            (self._task(number, names[number]) for number in todo),
            workers=self.workers,
            finished=finished,
            progress=count,
            lost=Task.without,
            item_seconds=self.config.decode_seconds,
            worker_mib=self.config.worker_mib,
        )
        self.results = [results[number] for number in range(len(names))]
        self._commit(names)

    def _finished(self, name: str) -> ShardResult | None:
        result = load_result(self._result(name))
        there = result is not None and storage.size(storage.join(self.folder, name)) == result.bytes
        return result if there else None

    def _result(self, name: str) -> str:
        return storage.join(self.folder, WORK, f"{name}.npz")

    def _task(self, number: int, name: str) -> Task:
        plan, listing = self.plans[number], self.listing
        before = 0 if self.known is None else len(self._old_shards(plan.split))
        return Task(
            root=listing.root,
            rows=Rows.of(listing, plan.sources, self.hashed.digests, self.hashed.checksums),
            kind=listing.kind,
            types=tuple(self.contents.columns.values()),
            classes=listing.classes,
            shard=storage.join(self.folder, name),
            shard_number=before + plan.number,
            result=self._result(name),
            config=self.config,
        )

    def _old_shards(self, split: str) -> tuple[manifest.Shard, ...]:
        known = self.known
        return known.dataset.splits[split].shards if known is not None and split in known.dataset.splits else ()

    def _commit(self, names: list[str]) -> None:
        rejects, duplicates = self._reject_lines(), list(self._duplicate_lines())
        if self.known is not None:
            names = self._without_empty_parts(names)
        counted = {
            split: [
                *self._old_shards(split),
                *(
                    manifest.Shard(file=names[row], records=result.records, bytes=result.bytes, sha256=result.sha256)
                    for row, result in enumerate(self.results)
                    if self.plans[row].split == split
                ),
            ]
            for split in self.names
        }
        self.totals = self._count(rejects, duplicates, {name: (shards, {}) for name, shards in counted.items()})
        if not names and self._adds_nothing(rejects, duplicates):
            remove_work(self.folder)
            return
        splits = {}
        for split in self.names:
            old = None if self.known is None else self.known.dataset.splits.get(split)
            paths = [self._result(names[row]) for row, plan in enumerate(self.plans) if plan.split == split]
            digests = write_index(self.folder, split, self.contents, paths, old)
            splits[split] = (counted[split], digests)
        source = {**self.totals, "options": asdict(self.config)}
        commit(
            self.folder,
            self.contents,
            splits,
            rejects=rejects,
            duplicates=duplicates,
            source=source,
            appended=self.appended,
        )

    def _without_empty_parts(self, names: list[str]) -> list[str]:
        """Leaves out what an append would add to a split without a record in it: rejects that were tried again."""
        grown = {plan.split for plan, result in zip(self.plans, self.results, strict=True) if result.records}
        rows = [row for row, plan in enumerate(self.plans) if plan.split in grown]
        # Before the commit: until then the plan tells whose they are.
        for row in set(range(len(names))) - set(rows):
            storage.remove(storage.join(self.folder, names[row]))
        self.plans = [self.plans[row] for row in rows]
        self.results = [self.results[row] for row in rows]
        return [names[row] for row in rows]

    def _adds_nothing(self, rejects: list[dict[str, str]], duplicates: list[dict[str, Any]]) -> bool:
        """Whether an append would only number the dataset anew: one that is done again after a kill, for instance."""
        known = self.known
        return (
            known is not None
            and known.rejects == rejects
            and list(known.duplicates.values()) == duplicates
            and known.dataset.classes == self.contents.classes
            and list(known.dataset.splits) == list(self.names)
        )

    def _reject_lines(self) -> list[dict[str, str]]:
        """All rejects in the order of their paths; of an earlier run, those that this one did not see again."""
        names = self.listing.names
        lines = [
            {"path": names.path(row), "code": code, "detail": detail}
            for row, (code, detail) in self.hashed.rejects.items()
        ]
        for result in self.results:
            lines += [{"path": path, "code": code, "detail": detail} for path, code, detail in result.rejects]
        if self.known is not None and self.known.rejects:
            seen = set(names.paths())
            lines += [line for line in self.known.rejects if line["path"] not in seen]
        return sorted(lines, key=lambda line: (os.fsencode(line["path"]), line["code"], line["detail"]))

    def _duplicate_lines(self) -> Iterator[dict[str, Any]]:
        listing, old = self.listing, self.old

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
            self.first,
            self.usable,
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

    def _count(
        self, rejects: list[dict[str, str]], duplicates: list[dict[str, Any]], splits: Mapping[str, Any]
    ) -> dict[str, Any]:
        records = sum(shard.records for shards, _ in splits.values() for shard in shards)
        dropped = sum(len(line["dropped"]) for line in duplicates)
        sources = len(rejects) + dropped + records
        if self.known is None and sources != len(self.listing):
            raise AssertionError(f"{len(self.listing)} sources, but {sources} accounted for; please report this")
        done = Counter({} if self.known is None else self.known.dataset.source["done"])
        for result in self.results:
            done.update(result.done)
        return {
            "sources": sources,
            "rejected": len(rejects),
            "rejects": dict(sorted(Counter(line["code"] for line in rejects).items())),
            "dropped": dropped,
            "duplicates": len(duplicates),
            "conflicts": sum(line["conflict"] for line in duplicates),
            "done": dict(sorted(done.items())),
        }

    def report(self, started: float, *, dry_run: bool = False) -> Report:
        """What was done; with `dry_run`, what would be tried."""
        splits = {name: {"records": 0, "shards": 0, "bytes": 0} for name in self.names}

        def count(split: str, records: int, size: int) -> None:
            splits[split]["records"] += records
            splits[split]["shards"] += 1
            splits[split]["bytes"] += size

        for split in self.names:
            for shard in self._old_shards(split):
                count(split, shard.records, shard.bytes)
        if dry_run:
            added = 0
            for plan in self.plans:
                added += len(plan.sources)
                count(plan.split, len(plan.sources), int(self.hashed.sizes[plan.sources].sum()))
            planned: dict[str, Any] = {
                name: ([manifest.Shard(file="", records=s["records"], bytes=0, sha256="")], {})
                for name, s in splits.items()
            }
            self.totals = self._count(self._reject_lines(), list(self._duplicate_lines()), planned)
        else:
            added = sum(result.records for result in self.results)
            for plan, result in zip(self.plans, self.results, strict=True):
                count(plan.split, result.records, result.bytes)
        return Report(
            dataset=self.folder,
            **self.totals,
            ignored=dict(self.listing.ignored),
            labels=self.listing.kind,
            classes=len(self.listing.classes),
            splits=splits,
            added=added,
            present=int(self.present.sum()),
            over_budget=self.totals["rejected"] > self.config.max_bad_fraction * self.totals["sources"],
            dry_run=dry_run,
            seconds=round(time.monotonic() - started, 3),
        )


def _type(values: np.ndarray | Packed) -> str:
    return index.STRING if isinstance(values, Packed) else str(values.dtype)


def _counter(progress: Progress, stage: str, total: int | None = None) -> Callable[[int], None]:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(stage, done, total)

    return count
