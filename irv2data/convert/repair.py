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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, manifest, schema, storage
from irv2data.convert.append import read_lines
from irv2data.convert.config import ConvertConfig
from irv2data.convert.engines import run_local
from irv2data.convert.folder import JOURNAL, commit, drop_uncommitted, write_index
from irv2data.convert.lock import WORK, locked
from irv2data.convert.records import Checked, check_record, differs, row_of
from irv2data.convert.verify import Problem, strays, verify
from irv2data.convert.writer import Marker, save_result, to_arrays
from irv2data.errors import DatasetError
from irv2data.manifest import Contents, Dataset, Shard, Split
from irv2data.packed import Packed
from irv2data.tfrecord import FOOTER_BYTES, FRAMING_BYTES, HEADER_BYTES, frame, framing, salvage_frames

_VOTES = 16  # records that are asked where a shard belongs


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A record that could not be recovered.

    Attributes:
        split: Name of the split.
        shard: File name of the shard.
        record: Number within the shard before the repair; None where the index could not tell.
        source: Path of the file it was made of; empty where the index could not tell.
    """

    split: str
    shard: str
    record: int | None
    source: str


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
    commit(
        folder,
        Contents(**{**what["contents"], "classes": tuple(what["contents"]["classes"])}),
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
            *(
                {"path": one.source, "code": "lost_in_storage", "detail": f"was in {one.shard}, which was damaged"}
                for one in lost
            ),
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
                "rejects": sorted(rejects, key=lambda line: (os.fsencode(line["path"]), line["code"], line["detail"])),
                "duplicates": duplicates,
                "source": {
                    **dataset.source,
                    "sources": records + dropped + len(rejects),
                    "rejected": len(rejects),
                    "rejects": dict(sorted(Counter(line["code"] for line in rejects).items())),
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

    def _salvage(self) -> dict[tuple[str, int], _Salvaged]:
        paths = self._contents_of_shards()
        results: dict[int, _Salvaged] = {}
        run_local(
            salvage_shard,
            (self._task(split, number, paths) for split, number in self.shards),
            workers=self.workers,
            finished=results.__setitem__,
            progress=lambda more: None,
            lost=_Task.without,
            item_seconds=ConvertConfig().decode_seconds,
            worker_mib=ConvertConfig().worker_mib,
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

    def _task(self, split: Split, number: int, paths: Mapping[str, str]) -> _Task:
        shard, arrays = split.shards[number], self.intact[split.name]
        place = f"{split.contents.index_folder}/{split.name}"
        return _Task(
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


def intact_arrays(split: Split) -> dict[str, np.ndarray]:
    """The arrays of a split's index that are as they were written, or follow from such.

    `shard` is always among them: the manifest tells it.
    """
    arrays = {}
    for name in split.arrays:
        path = manifest.array_path(split.folder, split.name, name, split.contents.index_folder)
        try:
            array = split.array(name)
            if split.index.get(name) == hashlib.sha256(path.read_bytes()).hexdigest():
                arrays[name] = array
        except (DatasetError, OSError):
            continue
    for name in list(arrays):
        partner = name.removesuffix(index.END) if name.endswith(index.END) else name + index.END
        if partner in split.arrays and partner not in arrays:
            del arrays[name]
    counts = [shard.records for shard in split.shards]
    arrays["shard"] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    if not split.contents.adopted:  # records lie one behind another
        bounds = np.cumsum([0, *counts])
        if "offset" not in arrays and "length" in arrays:
            parts = [arrays["length"][a:b] for a, b in pairwise(bounds)]
            arrays["offset"] = np.concatenate([np.empty(0, np.int64), *(np.cumsum(part) - part for part in parts)])
        elif "length" not in arrays and "offset" in arrays:
            sized = [
                np.diff(arrays["offset"][a:b], append=shard.bytes)
                for (a, b), shard in zip(pairwise(bounds), split.shards, strict=True)
            ]
            arrays["length"] = np.concatenate([np.empty(0, np.int64), *sized])
    return {name: arrays[name] for name in split.arrays if name in arrays}


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One shard to salvage.

    Attributes:
        path: The shard.
        data: The file that holds its records: itself, but for shards that were swapped or renamed.
        split: Name of its split.
        shard: What the manifest says of it.
        number: Its number in its split.
        contents: What all records have in common.
        arrays: What is intact of the index of its records, `shard` at least.
        complete: All of the index is.
        sound: Nothing is wrong with the shard and the index of its split.
        result: Where the index rows go.
        salvaged: Where the records go, if the shard cannot stay as it is.
        barred: Numbers of records whose decoding took a worker down.
    """

    path: str
    data: str
    split: str
    shard: Shard
    number: int
    contents: Contents
    arrays: dict[str, np.ndarray]
    complete: bool
    sound: bool
    result: str
    salvaged: str
    barred: frozenset[int] = field(default_factory=frozenset)

    def without(self, record: int, code: str, detail: str) -> _Task:
        return replace(self, barred=self.barred | {record})

    @property
    def by_offset(self) -> dict[int, int]:
        """Offset to row, as far as the index tells."""
        return {offset: row for row, offset in enumerate(self.arrays.get("offset", np.empty(0)).tolist())}


@dataclass(frozen=True, kw_only=True)
class _Salvaged:
    """What is left of a shard, whether it was damaged and had to be written anew, and what is missing."""

    shard: Shard
    damaged: bool
    rewritten: bool
    lost: list[Lost]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A record that can be read: where it lay, whether its framing was right, and its row in the old index."""

    offset: int
    payload: bytes
    checked: Checked
    framed: bool
    row: int | None = None


def salvage_shard(task: _Task, marker: Marker) -> _Salvaged:
    """Keeps the sound records of a shard and writes their index rows; runs in a worker."""
    if task.sound:  # every record was read and decoded just now
        save_result(task.result, {}, task.arrays)
        return _Salvaged(shard=task.shard, damaged=False, rewritten=False, lost=[])
    try:
        data = storage.read_bytes(task.data)
    except OSError:
        data = b""
    readable = []
    for number, (offset, payload) in enumerate(_candidates(task, data)):
        found = _read(task, number, data, offset, payload, marker)
        marker.advance()
        if found is not None:
            readable.append(found)
    kept = _in_rows(task, readable)
    content = b"".join(frame(found.payload) for found in kept)
    lengths = [FRAMING_BYTES + len(found.payload) for found in kept]
    offsets = (np.cumsum(lengths, dtype=np.int64) - lengths).tolist() if kept else []
    same = content == data
    if task.contents.adopted and not same:
        # Others' shards may hold more than the records that are in the index.
        intact = hashlib.sha256(data).hexdigest() == task.shard.sha256
        if intact and len(kept) == task.shard.records and all(found.framed for found in kept):
            same, content, offsets = True, data, [found.offset for found in kept]
    rewritten = not (same and task.data == task.path and storage.size(task.path) is not None)
    if rewritten:
        storage.write_bytes(task.salvaged, content)
    save_result(task.result, {}, _rows(task, kept, offsets, lengths))
    shard = Shard(
        file=task.shard.file, records=len(kept), bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    damaged = rewritten or shard != task.shard
    return _Salvaged(shard=shard, damaged=damaged, rewritten=rewritten, lost=list(_lost(task, kept)))


def _candidates(task: _Task, data: bytes) -> list[tuple[int, bytes]]:
    """(offset, payload) of what may be a record, in order; those with right checksums, and what lies in between."""
    sound = dict(salvage_frames(data))
    found = dict(sound)

    def consider(offset: int, end: int) -> None:
        if offset not in found and offset >= 0 and offset + FRAMING_BYTES <= end <= len(data):
            found[offset] = data[offset + HEADER_BYTES : end - FOOTER_BYTES]

    ends = [0, *(offset + FRAMING_BYTES + len(payload) for offset, payload in sound.items())]
    if "length" in task.arrays:
        for offset, length in zip(*(task.arrays[name].tolist() for name in ("offset", "length")), strict=True):
            consider(offset, offset + length)
    for start, stop in zip(ends, [*sound, len(data)], strict=True):
        consider(start, stop)  # one record whose length is damaged fills the gap between its neighbours
    if task.contents.adopted and task.by_offset:  # others' shards may hold records that were left out
        found = {offset: payload for offset, payload in found.items() if offset in task.by_offset}
    return [(offset, found[offset]) for offset in sorted(found)]


def _read(task: _Task, number: int, data: bytes, offset: int, payload: bytes, marker: Marker) -> _Found | None:
    """The record at a place, if it is certain that its bytes are those that were written."""
    header, footer = framing(payload)
    end = offset + FRAMING_BYTES + len(payload)
    whole = data[end - FOOTER_BYTES : end] == footer
    if number in task.barred or not (whole or (task.complete and not task.contents.adopted)):
        return None
    marker.begin(number)
    try:
        checked = check_record(payload, task.contents)
    except (ValueError, MemoryError):
        return None
    finally:
        marker.end()
    if not whole:
        # No checksum vouches for it: all that it says must be what the index says, and said as we say it.
        row = task.by_offset.get(offset)
        if row is None or differs(checked, row_of(task.arrays, task.contents, row)):
            return None
        if schema.encode(schema.decode(payload, task.contents.labels, task.contents.columns)) != payload:
            return None
    framed = whole and data[offset : offset + HEADER_BYTES] == header
    return _Found(offset=offset, payload=payload, checked=checked, framed=framed)


def _in_rows(task: _Task, readable: Sequence[_Found]) -> list[_Found]:
    """The records that the shard should hold, each once and in order, as far as the index tells."""
    by_offset = task.by_offset
    if index.FILENAME in task.arrays and not task.contents.adopted:
        names = Packed(task.arrays[index.FILENAME], task.arrays[index.FILENAME + index.END])
        free: dict[bytes, list[int]] = {}
        for row, name in enumerate(names):
            free.setdefault(name, []).append(row)
        kept = []
        for found in readable:
            rows = free.get(found.checked.filename, [])
            if rows:  # else a record of another shard, or the second copy of one

                def fitness(row: int, found: _Found = found) -> tuple[bool, bool]:
                    differ = differs(found.checked, row_of(task.arrays, task.contents, row))
                    return by_offset.get(found.offset) != row, differ is not None

                row = min(rows, key=fitness)
                rows.remove(row)
                kept.append(replace(found, row=row))
        return sorted(kept, key=lambda found: found.row or 0)
    if by_offset:
        return [replace(found, row=by_offset.get(found.offset)) for found in readable]
    if len(readable) == task.shard.records:
        return [replace(found, row=row) for row, found in enumerate(readable)]
    return list(readable)


def _rows(task: _Task, kept: Sequence[_Found], offsets: Sequence[int], lengths: Sequence[int]) -> dict[str, np.ndarray]:
    types = tuple(task.contents.columns.values())
    collected: dict[str, list[Any]] = {
        name: [] for name in index.spec(task.contents.labels, types) if not name.endswith(index.END)
    }
    for found, offset, length in zip(kept, offsets, lengths, strict=True):
        checked = found.checked
        values = (task.number, offset, length, checked.height, checked.width, checked.format)
        for column, value in zip(index.PLACE_COLUMNS, values, strict=True):
            collected[column].append(value)
        # What the source's digest was is known only to the index; without it, what is stored stands for it.
        digests = task.arrays.get(index.CONTENT)
        known = digests is not None and found.row is not None
        collected[index.CONTENT].append(digests[found.row] if known else np.frombuffer(checked.sha256, np.uint8))  # type: ignore[index]
        collected[index.FILENAME].append(checked.filename)
        if index.LABEL in collected:
            collected[index.LABEL].append(checked.label)
        for number, extra in enumerate(checked.columns):
            collected[index.stem(number)].append(extra)
    return to_arrays(collected, task.contents.labels, types)


def _lost(task: _Task, kept: Sequence[_Found]) -> Iterator[Lost]:
    split, shard = task.split, task.shard
    rows = {found.row for found in kept}
    if None in rows or not (task.by_offset or index.FILENAME in task.arrays or len(kept) == shard.records):
        for _ in range(shard.records - len(kept)):  # how many, but not which
            yield Lost(split=split, shard=shard.file, record=None, source="")
        return
    arrays = task.arrays
    names = Packed(arrays[index.FILENAME], arrays[index.FILENAME + index.END]) if index.FILENAME in arrays else None
    for row in range(shard.records):
        if row not in rows:
            yield Lost(split=split, shard=shard.file, record=row, source=names.path(row) if names is not None else "")
