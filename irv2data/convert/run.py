"""A whole conversion, top to bottom: survey the source, write shards, commit."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from irv2data import manifest, storage
from irv2data.convert.config import BEAM, ENGINES, LOCAL, ConvertConfig
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
from irv2data.convert.layout import ShardPlan
from irv2data.convert.lock import WORK, locked, require_free
from irv2data.convert.rejects import by_code, in_order, reject_line
from irv2data.convert.report import Report, report_of
from irv2data.convert.survey import Progress, Survey, counter
from irv2data.convert.writer import Rows, ShardResult, Task, load_result, write_shard
from irv2data.errors import DatasetError, InterruptedRunError, Irv2dataError, UsageError


def convert(
    source: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    config: ConvertConfig | None = None,
    *,
    workers: int = 0,
    engine: str = LOCAL,
    beam_options: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    append: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Turns images into a dataset folder.

    The result depends on the sources and `config` alone: byte-identical for any number of workers and either engine.
    Worker processes are spawned, so a script that calls this needs the usual `if __name__ == "__main__":` guard.

    Args:
        source: Folder of images, table, archive, or a URI of one; see `irv2data.convert.sources.list_sources`.
        dataset: Folder to make, or a URI.
        config: What decides the bytes; the defaults of `ConvertConfig` if None.
        workers: Worker processes; 0 for the number of usable cores. With Beam they only read the sources through first.
        engine: What writes the shards: `local`, processes on this machine, or `beam`, an Apache Beam pipeline.
        beam_options: Beam's own flags, each as `--name=value`; its runner among them.
        resume: Keep the finished shards of an interrupted conversion of the same sources and options.
        overwrite: Replace a dataset, or an unfinished one, that is there already.
        append: Add what is new to a dataset that is there; its shards stay as they are.
        dry_run: List, hash and lay out, but write nothing.
        progress: Called as `progress(stage, done, total)`; `total` is None where it is not known yet.

    Raises:
        UsageError: `dataset` exists and none of `resume`, `overwrite` and `append` was given, options contradict, or
            Beam is not installed or refuses its options.
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
    apply = _engine(engine, workers, beam_options)
    try:
        require_free(folder)
        check_output(folder, origin, resume=resume, overwrite=overwrite, append=append)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be used ({error.strerror or error})") from error
    try:
        if dry_run:
            survey = Survey(origin, folder, config, workers, append, progress)
            return _Run(folder, survey, apply, progress).report(started, dry_run=True)
        run: _Run | None = None
        with locked(folder):
            try:
                if finish(folder) and resume:
                    return report_of(folder, started)
                survey = Survey(origin, folder, config, workers, append, progress)
                prepare(folder, survey.plan_digest(), overwrite=overwrite, appended=survey.appended)
                run = _Run(folder, survey, apply, progress)
                run.write()
                return run.report(started)
            except KeyboardInterrupt:
                remove_partial(folder)
                written = "" if run is None else f" ({run.written():,} of {len(run.plans):,} are written)"
                again = "--append again" if append else "--resume"
                kept = (
                    f"finished shards are kept, go on with {again}{written}"
                    if has_begun(folder)
                    else "nothing was written yet, run it again"
                )
                raise InterruptedRunError(f"interrupted; {kept}: {folder}") from None
            except (Irv2dataError, OSError):
                remove_partial(folder)
                raise
    except OSError as error:
        again = ("; --append again goes on" if append else "; --resume goes on") if _begun(folder) else ""
        reason = error.strerror or str(error)
        raise DatasetError(f"{error.filename or folder}: cannot be written ({reason}){again}") from error


def _engine(name: str, workers: int, beam_options: Sequence[str]) -> Callable[..., None]:
    """What applies a function to tasks, as `run_local` does; whatever stands against it shows before any work."""
    if name not in ENGINES:
        raise UsageError(f"engine must be one of {ENGINES}, got {name!r}")
    if name == BEAM:
        from irv2data.convert.beam import new_pipeline, run_beam

        return partial(run_beam, pipeline=new_pipeline(beam_options))
    if beam_options:
        raise UsageError(f"beam_options go with engine={BEAM!r}, got engine={name!r}")
    return partial(run_local, workers=workers)


def _begun(folder: str) -> bool:
    try:
        return has_begun(folder)
    except OSError:
        return False


class _Run:
    """One conversion behind its survey: what it wrote (`write`), and what it says of it (`report`)."""

    def __init__(self, folder: str, survey: Survey, apply: Callable[..., None], progress: Progress):
        self.folder = folder
        self.survey = survey
        self.apply = apply
        self.progress = progress
        self.plans = survey.plans
        self.results: list[ShardResult] = []
        self.totals: dict[str, Any] = {}

    def write(self) -> None:
        """Writes the shards that are not there yet, then everything that makes them a dataset."""
        names, plans, config = self.survey.shard_names(), self.plans, self.survey.config
        results = {number: result for number, name in enumerate(names) if (result := self._finished(name)) is not None}
        todo = [number for number in range(len(names)) if number not in results]
        count = counter(self.progress, "converting", sum(len(plan.sources) for plan in plans))
        count(sum(len(plans[number].sources) for number in results))

        def finished(number: int, result: ShardResult) -> None:
            results[todo[number]] = result

        self.apply(
            write_shard,
            (self._task(plans[number], names[number]) for number in todo),
            finished=finished,
            progress=count,
            lost=Task.without,
            item_seconds=config.decode_seconds,
            worker_mib=config.worker_mib,
        )
        self.results = [results[number] for number in range(len(names))]
        self._commit(names)

    def written(self) -> int:
        """How many of the planned shards are there."""
        return sum(self._finished(name) is not None for name in self.survey.shard_names())

    def _finished(self, name: str) -> ShardResult | None:
        result = load_result(self._result(name))
        there = result is not None and storage.size(storage.join(self.folder, name)) == result.bytes
        return result if there else None

    def _result(self, name: str) -> str:
        return storage.join(self.folder, WORK, f"{name}.npz")

    def _task(self, plan: ShardPlan, name: str) -> Task:
        survey = self.survey
        return Task(
            root=survey.listing.root,
            rows=Rows.of(survey.listing, plan.sources, survey.hashed.digests, survey.hashed.checksums),
            kind=survey.listing.kind,
            types=tuple(survey.contents.columns.values()),
            classes=survey.listing.classes,
            shard=storage.join(self.folder, name),
            shard_number=len(survey.old_shards(plan.split)) + plan.number,
            result=self._result(name),
            config=survey.config,
        )

    def _commit(self, names: list[str]) -> None:
        survey = self.survey
        rejects, duplicates = self._reject_lines(), list(survey.duplicate_lines())
        if survey.known is not None:
            names = self._without_empty_parts(names)
        new = [
            manifest.Shard(file=name, records=result.records, bytes=result.bytes, sha256=result.sha256)
            for name, result in zip(names, self.results, strict=True)
        ]
        records = sum(shard.records for split in survey.names for shard in survey.old_shards(split))
        records += sum(shard.records for shard in new)
        self.totals = self._totals(rejects, duplicates, records)
        if not names and self._adds_nothing(rejects, duplicates):
            remove_work(self.folder)
            return
        splits = {}
        for split in survey.names:
            old = None if survey.known is None else survey.known.dataset.splits.get(split)
            mine = [shard for plan, shard in zip(self.plans, new, strict=True) if plan.split == split]
            paths = [self._result(shard.file) for shard in mine]
            digests = write_index(self.folder, split, survey.contents, paths, old)
            splits[split] = ([*survey.old_shards(split), *mine], digests)
        commit(
            self.folder,
            survey.contents,
            splits,
            rejects=rejects,
            duplicates=duplicates,
            source={**self.totals, "options": asdict(survey.config)},
            appended=survey.appended,
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

    def _adds_nothing(self, rejects: Sequence[Mapping[str, str]], duplicates: Sequence[Mapping[str, Any]]) -> bool:
        """Whether an append would only number the dataset anew: one that is done again after a kill, for instance."""
        known = self.survey.known
        return (
            known is not None
            and known.rejects == rejects
            and list(known.duplicates.values()) == duplicates
            and known.dataset.classes == self.survey.contents.classes
            and list(known.dataset.splits) == list(self.survey.names)
        )

    def _reject_lines(self) -> list[Mapping[str, str]]:
        """All rejects; of an earlier run, those that this one did not see again."""
        names, known = self.survey.listing.names, self.survey.known
        lines = [reject_line(names.path(row), *reason) for row, reason in self.survey.hashed.rejects.items()]
        lines += [reject_line(*reject) for result in self.results for reject in result.rejects]
        if known is not None and known.rejects:
            seen = set(names.paths())
            lines += [line for line in known.rejects if line["path"] not in seen]
        return in_order(lines)

    def _totals(
        self, rejects: Sequence[Mapping[str, str]], duplicates: Sequence[Mapping[str, Any]], records: int
    ) -> dict[str, Any]:
        known = self.survey.known
        dropped = sum(len(line["dropped"]) for line in duplicates)
        sources = len(rejects) + dropped + records
        if known is None and sources != len(self.survey.listing):
            raise AssertionError(f"{len(self.survey.listing)} sources, but {sources} accounted for; please report this")
        done = Counter({} if known is None else known.dataset.source["done"])
        for result in self.results:
            done.update(result.done)
        return {
            "sources": sources,
            "rejected": len(rejects),
            "rejects": by_code(rejects),
            "dropped": dropped,
            "duplicates": len(duplicates),
            "conflicts": sum(line["conflict"] for line in duplicates),
            "done": dict(sorted(done.items())),
        }

    def report(self, started: float, *, dry_run: bool = False) -> Report:
        """What was done; with `dry_run`, what would be tried."""
        survey = self.survey
        splits = {name: {"records": 0, "shards": 0, "bytes": 0} for name in survey.names}
        old = [(split, shard.records, shard.bytes) for split in survey.names for shard in survey.old_shards(split)]
        if dry_run:
            sizes = survey.hashed.sizes
            new = [(plan.split, len(plan.sources), int(sizes[plan.sources].sum())) for plan in self.plans]
        else:
            new = [
                (plan.split, result.records, result.bytes)
                for plan, result in zip(self.plans, self.results, strict=True)
            ]
        for split, records, size in (*old, *new):
            for name, more in (("records", records), ("shards", 1), ("bytes", size)):
                splits[split][name] += more
        totals = self.totals
        if dry_run:
            records = sum(split["records"] for split in splits.values())
            totals = self._totals(self._reject_lines(), list(survey.duplicate_lines()), records)
        return Report(
            dataset=self.folder,
            **totals,
            ignored=dict(survey.listing.ignored),
            labels=survey.listing.kind,
            classes=len(survey.listing.classes),
            splits=splits,
            added=sum(records for _, records, _ in new),
            present=int(survey.present.sum()),
            over_budget=totals["rejected"] > survey.config.max_bad_fraction * totals["sources"],
            dry_run=dry_run,
            seconds=round(time.monotonic() - started, 3),
        )
