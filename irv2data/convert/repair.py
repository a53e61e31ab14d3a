"""A damaged dataset into a sound one: what can be read is kept, the rest is quarantined and named.

A repair decides first and acts then: salvaged shards and the new index are written beside the old ones, then a journal
of all that is to be done. A kill before the journal changes nothing; after it, the next repair does what is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, manifest, schema, storage
from irv2data.convert.append import read_lines
from irv2data.convert.engines import run_local
from irv2data.convert.folder import JOURNAL, commit, drop_uncommitted, write_index
from irv2data.convert.lock import WORK, locked
from irv2data.convert.rejects import by_code, in_order, reject_line
from irv2data.convert.salvage import Lost, Salvaged, SalvageTask, intact_arrays, salvage_shard
from irv2data.convert.verify import Problem, strays, verify
from irv2data.errors import DatasetError
from irv2data.manifest import Contents, Dataset, Shard, Split
from irv2data.packed import Packed
from irv2data.tfrecord import salvage_frames

_VOTES = 16  # records that are asked where a shard belongs


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What a repair did.

    Attributes:
        problems: What was wrong.
        recovered: Records that were read out of damaged shards and are in the dataset again.
        lost: Records that are not.
        quarantined: Files that were moved to `quarantine/`, as they were.
    """

    problems: list[Problem]
    recovered: int
    lost: list[Lost]
    quarantined: list[str]


def repair(folder: str, *, workers: int = 0, progress: Callable[[int, int], None] = lambda done, total: None) -> Repair:
    """Makes a damaged dataset sound again, as far as its bytes allow.

    Every record that can still be read is kept, in its place; damaged shards are moved to `quarantine/` as they are,
    index and manifest are written anew. Lost records become rejects (`lost_in_storage`), so that appending their
    source files brings them back. A repair that was cut short is finished; an append that was, is dropped.

    Args:
        folder: The dataset folder.
        workers: Worker processes; 0 for the number of usable cores.
        progress: Called as `progress(done, total)` in records.

    Raises:
        DatasetError: There is no readable manifest, a conversion is writing the folder, or it cannot be written.
    """
    Dataset(folder, check_sizes=False)  # before a lock would make the folder
    try:
        with locked(folder):
            journal = Path(folder, WORK, JOURNAL)
            if not journal.exists():
                problems = verify(folder, deep=True, workers=workers, progress=progress)
                if not problems:
                    return Repair(problems=[], recovered=0, lost=[], quarantined=[])
                drop_uncommitted(folder)
                storage.make_folder(str(journal.parent))
                plan = _Repair(Dataset(folder, check_sizes=False), problems, workers).plan()
                storage.write_bytes(str(journal), json.dumps(plan).encode())
            return _do(folder, json.loads(journal.read_bytes()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(f"{error.filename or folder}: cannot be written ({reason}); repair again") from error


def _do(folder: str, plan: Mapping[str, Any]) -> Repair:
    """Does what a journal says; whatever of it is done already stays done."""
    place = Path(folder, manifest.QUARANTINE)
    for file, name in plan["quarantine"].items():
        place.mkdir(exist_ok=True)
        if not os.path.lexists(place / name):
            _second_name(Path(folder, file), place / name)
    if plan["quarantine"]:
        storage.sync_folder(str(place))
    for file in plan["replace"]:
        if os.path.lexists(salvaged := _salvaged(folder, file)):
            os.replace(salvaged, Path(folder, file))
    for file in plan["remove"]:
        storage.remove(storage.join(folder, file))
    what = plan["commit"]
    contents: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in what["contents"].items()
    }
    commit(
        folder,
        Contents(**contents),
        {name: ([Shard(**shard) for shard in shards], digests) for name, shards, digests in what["splits"]},
        rejects=what["rejects"],
        duplicates=what["duplicates"],
        source=what["source"],
        appended=what["appended"],
    )
    done = plan["report"]
    return Repair(
        problems=[Problem(**problem) for problem in done["problems"]],
        recovered=done["recovered"],
        lost=[Lost(**lost) for lost in done["lost"]],
        quarantined=sorted(f"{manifest.QUARANTINE}/{name}" for name in plan["quarantine"].values()),
    )


def _second_name(path: Path, other: Path) -> None:
    """Keeps a file under another name too, so that no moment is without it."""
    try:
        os.link(path, other, follow_symlinks=False)
    except OSError:  # a file system without hard links
        copy = other.with_name(f".{other.name}{storage.PARTIAL}")
        shutil.copy2(path, copy, follow_symlinks=False)
        os.replace(copy, other)


def _result(folder: str, file: str) -> str:
    return storage.join(folder, WORK, f"{file}.npz")


def _salvaged(folder: str, file: str) -> str:
    return storage.join(folder, WORK, f"{file}.salvaged")


class _Repair:
    def __init__(self, dataset: Dataset, problems: Sequence[Problem], workers: int):
        self.dataset = dataset
        self.folder = str(dataset.folder)
        self.strays = list(strays(dataset))
        self.problems = [*problems, *(stray for stray in self.strays if stray not in problems)]
        self.named = {problem.file for problem in self.problems}
        self.workers = workers
        self.shards = [(split, number) for split in dataset.splits.values() for number in range(len(split.shards))]
        self.intact = {name: intact_arrays(split) for name, split in dataset.splits.items()}

    def plan(self) -> dict[str, Any]:
        """Salvages every shard into the work folder, writes the index, and says what is to be done; a journal."""
        dataset, folder = self.dataset, self.folder
        # Not the folder in use; what an earlier try left in the other one is gone.
        number = 2 if dataset.contents.index_folder == f"{manifest.INDEX}-repair1" else 1
        contents = replace(dataset.contents, index_folder=f"{manifest.INDEX}-repair{number}")
        found = self._salvage()
        splits = []
        for name, split in dataset.splits.items():
            results = [_result(folder, shard.file) for shard in split.shards]
            digests = write_index(folder, name, contents, results)
            shards = [found[name, number].shard for number in range(len(split.shards))]
            splits.append((name, [asdict(shard) for shard in shards], digests))
        lost = [lost for salvaged in found.values() for lost in salvaged.lost]
        rewritten = [salvaged.shard for salvaged in found.values() if salvaged.rewritten]
        rejects = [
            *read_lines(dataset.folder / manifest.REJECTS),
            *(reject_line(one.source, "lost_in_storage", f"was in {one.shard}, which was damaged") for one in lost),
        ]
        duplicates = list(read_lines(dataset.folder / manifest.DUPLICATES))
        records = sum(salvaged.shard.records for salvaged in found.values())
        dropped = sum(len(line["dropped"]) for line in duplicates)
        return {
            "quarantine": self._quarantine([*(s.file for s in rewritten), *(stray.file for stray in self.strays)]),
            "replace": [shard.file for shard in rewritten],
            "remove": [stray.file for stray in self.strays],
            "commit": {
                "contents": asdict(contents),
                "splits": splits,
                "rejects": in_order(rejects),
                "duplicates": duplicates,
                "source": {
                    **dataset.source,
                    "sources": records + dropped + len(rejects),
                    "rejected": len(rejects),
                    "rejects": by_code(rejects),
                    "dropped": dropped,
                },
                "appended": dataset.appended,
            },
            "report": {
                "problems": [asdict(problem) for problem in self.problems],
                "recovered": sum(salvaged.shard.records for salvaged in found.values() if salvaged.damaged),
                "lost": [asdict(one) for one in lost],
            },
        }

    def _quarantine(self, files: Sequence[str]) -> dict[str, str]:
        """Each file that is there, with a free name in the quarantine."""
        place = self.dataset.folder / manifest.QUARANTINE
        names = {}
        for file in files:
            name, number = file, 1
            while os.path.lexists(place / name):
                name, number = f"{file}.{number}", number + 1
            if os.path.lexists(self.dataset.folder / file):
                names[file] = name
        return names

    def _salvage(self) -> dict[tuple[str, int], Salvaged]:
        paths = self._contents_of_shards()
        results: dict[int, Salvaged] = {}
        run_local(
            salvage_shard,
            (self._task(split, number, paths) for split, number in self.shards),
            workers=self.workers,
            finished=results.__setitem__,
            progress=lambda more: None,
            lost=SalvageTask.without,
        )
        return {(split.name, number): results[row] for row, (split, number) in enumerate(self.shards)}

    def _contents_of_shards(self) -> dict[str, str]:
        """Name of a damaged shard to the path of the file that holds its records, where it is not its own.

        Files that were swapped or renamed are told by their digest; if they are damaged as well, by the names of the
        sources that their records were made of.
        """
        shards = [split.shards[number] for split, number in self.shards]
        damaged = {shard.file: shard for shard in shards if shard.file in self.named}
        files = [file for file in [*damaged, *(stray.file for stray in self.strays)] if self._size(file)]
        wanted = {shard.sha256: file for file, shard in damaged.items()}
        home = {file: wanted.get(_digest(storage.join(self.folder, file))) for file in files}
        if not all(home.values()) and not self.dataset.contents.adopted:
            places = self._shard_by_source()
            for file in files:
                home[file] = home[file] or self._vote(file, places)
        own = {file for file in files if home[file] in (file, None)}
        return {
            belongs: storage.join(self.folder, file)
            for file, belongs in home.items()
            if belongs in damaged and belongs != file and belongs not in own
        }

    def _size(self, file: str) -> int:
        return storage.size(storage.join(self.folder, file)) or 0

    def _shard_by_source(self) -> dict[bytes, str]:
        places = {}
        for split in self.dataset.splits.values():
            arrays = self.intact[split.name]
            if index.FILENAME in arrays:
                names = Packed(arrays[index.FILENAME], arrays[index.FILENAME + index.END])
                for name, number in zip(names, arrays["shard"].tolist(), strict=True):
                    places[name] = split.shards[number].file
        return places

    def _vote(self, file: str, places: Mapping[bytes, str]) -> str | None:
        votes: Counter[str] = Counter()
        for _, payload in salvage_frames(storage.read_bytes(storage.join(self.folder, file))):
            for name in _values(payload, schema.FILENAME):
                if name in places:
                    votes[places[name]] += 1
            if votes.total() == _VOTES:
                break
        return votes.most_common(1)[0][0] if votes else None

    def _task(self, split: Split, number: int, paths: Mapping[str, str]) -> SalvageTask:
        shard, arrays = split.shards[number], self.intact[split.name]
        place = f"{split.contents.index_folder}/{split.name}"
        return SalvageTask(
            path=split.paths[number],
            data=paths.get(shard.file, split.paths[number]),
            split=split.name,
            shard=shard,
            number=number,
            contents=split.contents,
            arrays=index.take(arrays, np.flatnonzero(arrays["shard"] == number)),
            complete=arrays.keys() == split.arrays.keys(),
            sound=shard.file not in self.named and not any(file.startswith(place) for file in self.named),
            result=_result(self.folder, shard.file),
            salvaged=_salvaged(self.folder, shard.file),
        )


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _values(payload: bytes, key: str) -> list[Any]:
    try:
        return schema.features(payload).get(key, [])
    except ValueError:
        return []
