"""The output folder of a conversion: refused, prepared, committed. The manifest is written last and removed first.

The work folder's plan says what is under way, so that whatever a kill leaves behind can be told apart: a folder that is
being cleared for another conversion, an unfinished conversion or append, a commit that only lacks its tidying up.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, manifest, storage
from irv2data.convert.croissant import CROISSANT, croissant_text
from irv2data.convert.describe import TFDS_FILES, appended_split, tfds_files
from irv2data.convert.lock import LOCK, WORK
from irv2data.convert.writer import load_arrays
from irv2data.errors import DatasetError, UsageError
from irv2data.manifest import Contents, Shard, Split

NEAR_DUPLICATES = "near_duplicates.json"  # written on request, behind the commit; see `irv2data convert`
_PLAN = "plan.json"
JOURNAL = "repair.json"  # what a repair has decided to do and may not have done yet; see `repair`
SHARD = re.compile(r".*-\d{5}-of-\d{5}\.tfrecord")
_INDEXES = re.compile(rf"{manifest.INDEX}(-append\d+|-repair\d+)?")


def check_output(folder: str, source: str, *, resume: bool, overwrite: bool, append: bool) -> None:
    """Refuses, before any work, what would destroy something."""
    if append and storage.is_remote(folder):
        raise UsageError(f"{folder}: append needs a local dataset; copy it, append, and copy it back")
    if not storage.is_remote(folder):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise UsageError(f"{folder}: is a file; DATASET is a folder to make")
        if os.path.isdir(source) and Path(folder).resolve().is_relative_to(Path(source).resolve()):
            raise UsageError(f"{folder}: lies inside the source folder {source}; choose a folder outside it")
    there = storage.names(folder)
    finished = is_dataset(folder)
    if not overwrite and finished and storage.exists(storage.join(folder, WORK, JOURNAL)):
        raise UsageError(f"{folder}: a repair of it was interrupted; `irv2data verify --repair` finishes it")
    if append and not finished:
        raise UsageError(f"{folder}: is no finished dataset, there is nothing to append to; convert without --append")
    if append or not there:
        return
    begun = storage.exists(storage.join(folder, WORK))
    if not (finished or begun):
        raise UsageError(f"{folder}: is not empty and no dataset of irv2data; choose another folder")
    plan = _read_plan(folder)
    if resume and finished and plan is None:
        raise UsageError(f"{folder}: is a finished dataset, there is nothing to resume; --overwrite replaces it")
    if resume and finished and plan is not None and not plan["clearing"] and plan["appended"] > _appended(folder):
        raise UsageError(f"{folder}: it is an append that was interrupted; --append again goes on")
    if finished and overwrite and not storage.is_remote(folder) and _adopted(folder):
        raise UsageError(
            f"{folder}: its shards were adopted, and replacing it would remove them; choose another folder"
        )
    if not (resume or overwrite):
        raise UsageError(
            f"{folder}: exists; --overwrite replaces it, --append adds to it, --resume finishes an interrupted run"
        )


def is_dataset(folder: str) -> bool:
    """Whether a folder holds a manifest of irv2data: others write a dataset.json too, and --overwrite removes files."""
    return _manifest(folder).get("format") == "irv2data"


def _manifest(folder: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_bytes(storage.join(folder, manifest.MANIFEST)))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _adopted(folder: str) -> bool:
    return bool(_manifest(folder).get("adopted", False))


def _appended(folder: str) -> int:
    number = _manifest(folder).get("appended", 0)
    return number if isinstance(number, int) else 0


def _read_plan(folder: str) -> dict[str, Any] | None:
    """`digest`, `clearing` and `appended` of what is under way, or None."""
    path = storage.join(folder, WORK, _PLAN)
    return dict(json.loads(storage.read_bytes(path))) if storage.exists(path) else None


def _write_plan(folder: str, digest: str, *, clearing: bool = False, appended: int = 0) -> None:
    content = {"digest": digest, "clearing": clearing, "appended": appended}
    storage.make_folder(storage.join(folder, WORK))
    storage.write_bytes(storage.join(folder, WORK, _PLAN), json.dumps(content).encode())


def has_begun(folder: str) -> bool:
    """Whether something is under way in a folder that `--resume` or `--append` can go on with."""
    return _read_plan(folder) is not None


def finish(folder: str) -> bool:
    """Tidies up after a commit that was cut short behind its manifest; whether there was one."""
    plan = _read_plan(folder)
    if plan is None or plan["clearing"] or not is_dataset(folder) or plan["appended"] > _appended(folder):
        return False
    _tidy(folder, _manifest(folder).get("index_folder", manifest.INDEX))
    return True


def prepare(folder: str, plan_digest: str, *, overwrite: bool, appended: int) -> None:
    """Makes the folder ready for a plan's shards: emptied, or as an interrupted run of the same plan left it.

    Args:
        folder: The dataset folder.
        plan_digest: What tells the plan from others.
        overwrite: Empty the folder.
        appended: Number of the append that this is; 0 for a whole conversion.
    """
    plan = None if overwrite else _read_plan(folder)
    if plan is not None and plan["digest"] != plan_digest and not appended:
        raise DatasetError(f"{folder}: sources or options changed since the conversion began; --overwrite starts anew")
    if overwrite or (plan is not None and plan["clearing"] and not appended):
        # Said first: a kill in the middle leaves what looks like an unfinished conversion of the old sources.
        _write_plan(folder, plan_digest, clearing=True)
        _clear(folder)
    elif appended and (plan is None or plan["digest"] != plan_digest):
        drop_uncommitted(folder)  # of an earlier append; the dataset itself does not know of it
    remove_partial(folder)
    _write_plan(folder, plan_digest, appended=appended)


def remove_partial(folder: str) -> None:
    """Removes half-written files, which carry names of their own and are of no use."""
    if not storage.is_remote(folder):
        for place in ("", f"{WORK}/", f"{manifest.INDEX}*/*/"):
            for path in Path(folder).glob(f"{place}.*{storage.PARTIAL}"):
                path.unlink(missing_ok=True)


def write_index(
    folder: str, split: str, contents: Contents, results: Sequence[str], old: Split | None = None
) -> dict[str, str]:
    """Writes the arrays of a split's index, one after another, and returns their digests.

    Args:
        folder: The dataset folder.
        split: Name of the split.
        contents: What all records have in common, with the name of the index folder.
        results: Path of each new shard's result, in order.
        old: The split's index so far, which comes first.
    """
    digests = {}
    spec = index.spec(contents.labels, tuple(contents.columns.values()))
    for name in spec:
        # One array at a time: a split's whole index need not fit beside what a conversion holds.
        needed = {name, name.removesuffix(index.END)} & spec.keys()
        parts = [{part: old.array(part) for part in needed}] if old is not None else []
        if not results and not parts:  # a split of an append of which nothing could be used
            parts = [{part: index.empty(part, spec[part][0]) for part in needed}]
        for path in results:
            with load_arrays(path) as arrays:
                parts.append({part: arrays[part] for part in needed})
        digests[name] = write_array(folder, split, contents.index_folder, name, index.join(name, parts))
    return digests


def write_array(folder: str, split: str, index_folder: str, name: str, array: np.ndarray) -> str:
    """Writes one array of an index and returns its digest."""
    place = storage.join(folder, index_folder, split)
    storage.make_folder(place)
    buffer = io.BytesIO()
    np.save(buffer, array)
    with storage.atomic_file(storage.join(place, f"{name}.npy")) as file:
        file.write(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def commit(
    folder: str,
    contents: Contents,
    splits: Mapping[str, tuple[Sequence[Shard], Mapping[str, str]]],
    *,
    rejects: Iterable[Mapping[str, str]],
    duplicates: Iterable[Mapping[str, Any]],
    source: Mapping[str, Any],
    appended: int = 0,
) -> None:
    """Writes rejects, duplicates and descriptions, then the manifest, then removes what only the work needed.

    Args:
        folder: The dataset folder, with its shards and index.
        contents: What all records have in common.
        splits: Split name to its shards and the digests of its index arrays.
        rejects: Lines of `rejects.jsonl`.
        duplicates: Lines of `duplicates.jsonl`.
        source: What was counted, and the options.
        appended: How often shards were added.
    """
    for name, lines in ((manifest.REJECTS, rejects), (manifest.DUPLICATES, duplicates)):
        with storage.atomic_file(storage.join(folder, name)) as file:
            for line in lines:
                file.write(json.dumps(line).encode() + b"\n")
    described = {} if contents.adopted else {split: shards for split, (shards, _) in splits.items()}
    for name, text in tfds_files(contents, described).items() if described else ():  # adopted shards have their own
        storage.write_bytes(storage.join(folder, name), text.encode("utf-8", "surrogateescape"))
    _write_croissant(folder, contents, {split: shards for split, (shards, _) in splits.items()}, appended)
    if not contents.adopted:  # where a file of that name would be theirs
        storage.remove(storage.join(folder, NEAR_DUPLICATES))  # told of what the records were before
    text = manifest.manifest_text(contents=contents, splits=splits, source=source, appended=appended)
    storage.write_bytes(storage.join(folder, manifest.MANIFEST), text.encode())
    _tidy(folder, contents.index_folder)


def _write_croissant(folder: str, contents: Contents, splits: Mapping[str, Sequence[Shard]], appended: int) -> None:
    path = storage.join(folder, CROISSANT)
    present = storage.read_bytes(path) if storage.size(path) is not None else None
    text = croissant_text(contents, splits, appended=appended, present=present)
    if text is not None:
        storage.write_bytes(path, text.encode())


def _tidy(folder: str, index_folder: str) -> None:
    """Removes what a committed dataset does not need."""
    remove_partial(folder)
    _drop_indexes(folder, but=index_folder)
    remove_work(folder)


def _drop_indexes(folder: str, *, but: str) -> None:
    for name in storage.names(folder):
        if _INDEXES.fullmatch(name) and name != but:
            storage.remove(storage.join(folder, name))


def remove_work(folder: str) -> None:
    """Empties the work folder; the plan goes last: while it is there, everybody knows what this is."""
    work = storage.join(folder, WORK)
    for name in sorted(storage.names(work), key=lambda name: name in (_PLAN, JOURNAL)):
        if name != LOCK:
            storage.remove(storage.join(work, name))


def drop_uncommitted(folder: str) -> None:
    """Removes what an interrupted append or repair wrote: the manifest does not know of it."""
    dataset = manifest.Dataset(folder, check_sizes=False)
    committed = {shard.file for split in dataset.splits.values() for shard in split.shards}
    # By name: an append that is killed right behind a shard leaves nothing else that tells of it.
    added = re.compile(appended_split(".*", dataset.appended + 1) + r"-\d{5}-of-\d{5}\.tfrecord")
    for name in storage.names(folder):
        if added.fullmatch(name) and name not in committed:
            storage.remove(storage.join(folder, name))
    _drop_indexes(folder, but=dataset.contents.index_folder)
    remove_work(folder)


def _clear(folder: str) -> None:
    """Removes what a conversion writes and nothing else; the manifest first, so that no moment looks finished."""
    storage.remove(storage.join(folder, manifest.MANIFEST))
    own = {*TFDS_FILES, CROISSANT, NEAR_DUPLICATES, manifest.REJECTS, manifest.DUPLICATES, manifest.QUARANTINE}
    for name in storage.names(folder):
        if name in own or _INDEXES.fullmatch(name) or SHARD.fullmatch(name):
            storage.remove(storage.join(folder, name))
    for name in storage.names(storage.join(folder, WORK)):
        if name not in (LOCK, _PLAN):
            storage.remove(storage.join(folder, WORK, name))
