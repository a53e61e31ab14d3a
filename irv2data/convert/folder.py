"""The output folder of a conversion: refused, prepared, committed. The manifest is written last and removed first."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import manifest
from irv2data.convert.describe import tfds_files
from irv2data.convert.layout import ShardPlan
from irv2data.convert.writer import ShardResult, atomic_file
from irv2data.errors import DatasetError, UsageError

WORK = ".convert"  # results of finished shards, while a conversion is not committed
_PLAN = "plan.json"


def check_output(folder: Path, source: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses, before any work, what would destroy something."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; DATASET is a folder to make")
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{folder}: lies inside the source folder {source}; choose a folder outside it")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (_is_dataset(folder) or (folder / WORK).is_dir()):
        raise UsageError(f"{folder}: is not empty and no dataset of irv2data; choose another folder")
    if resume and (folder / manifest.MANIFEST).exists():
        raise UsageError(f"{folder}: is a finished dataset, there is nothing to resume; --overwrite replaces it")
    if not (resume or overwrite):
        raise UsageError(f"{folder}: exists; --overwrite replaces it, --resume finishes an interrupted conversion")


def _is_dataset(folder: Path) -> bool:
    # The name alone proves nothing: other tools write a dataset.json too, and --overwrite removes files.
    try:
        return bool(json.loads((folder / manifest.MANIFEST).read_text(encoding="utf-8"))["format"] == "irv2data")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def prepare(folder: Path, plan_digest: str, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder ready for a plan's shards: emptied, or as an interrupted run of the same plan left it."""
    if overwrite and folder.is_dir():
        _clear(folder)
    plan = folder / WORK / _PLAN
    if resume and plan.exists() and json.loads(plan.read_text())["digest"] != plan_digest:
        raise DatasetError(f"{folder}: sources or options changed since the conversion began; --overwrite starts anew")
    plan.parent.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    with atomic_file(plan) as file:
        file.write(json.dumps({"digest": plan_digest}).encode())


def remove_partial(folder: Path) -> None:
    """Removes half-written files, which carry names of their own and are of no use."""
    for place in (".*.partial", f"{WORK}/.*.partial", f"{manifest.INDEX}/*/.*.partial"):
        for path in folder.glob(place):
            path.unlink(missing_ok=True)


def commit(
    folder: Path,
    classes: Sequence[str],
    plans: Sequence[ShardPlan],
    results: Sequence[ShardResult],
    rejects: Sequence[tuple[str, str, str]],
    source: dict[str, Any],
) -> None:
    """Writes index, rejects and descriptions, then the manifest, then removes the work folder."""
    splits: dict[str, tuple[list[manifest.Shard], dict[str, str]]] = {}
    for split in dict.fromkeys(plan.split for plan in plans):
        pairs = [(plan, result) for plan, result in zip(plans, results, strict=True) if plan.split == split]
        shards = [
            manifest.Shard(
                file=manifest.shard_name(split, plan.number, plan.of),
                records=result.records,
                bytes=result.bytes,
                sha256=result.sha256,
            )
            for plan, result in pairs
        ]
        splits[split] = shards, _write_index(folder, split, [result for _, result in pairs])
    lines = (json.dumps({"path": path, "code": code, "detail": detail}) + "\n" for path, code, detail in rejects)
    _write_text(folder / manifest.REJECTS, "".join(lines))
    for file, text in tfds_files(classes, {split: shards for split, (shards, _) in splits.items()}).items():
        _write_text(folder / file, text)
    _write_text(folder / manifest.MANIFEST, manifest.manifest_text(classes=classes, splits=splits, source=source))
    shutil.rmtree(folder / WORK)


def _clear(folder: Path) -> None:
    """Removes what a conversion writes and nothing else; the manifest first, so that no moment looks finished."""
    # The work folder marks the rest as ours, should this be cut short: it is there before the manifest goes.
    (folder / WORK).mkdir(exist_ok=True)
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    if (folder / manifest.INDEX).exists():
        shutil.rmtree(folder / manifest.INDEX)
    for path in (
        *(folder / WORK).iterdir(),
        *folder.glob("*-?????-of-?????.tfrecord"),
        *(folder / name for name in tfds_files((), {})),
    ):
        path.unlink(missing_ok=True)
    (folder / manifest.REJECTS).unlink(missing_ok=True)


def _write_index(folder: Path, split: str, results: Sequence[ShardResult]) -> dict[str, str]:
    digests = {}
    for column in manifest.COLUMNS:
        path = manifest.column_path(folder, split, column)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate([result.columns[column] for result in results]))
        with atomic_file(path) as file:
            file.write(buffer.getbuffer())
        digests[column] = hashlib.sha256(buffer.getbuffer()).hexdigest()
    return digests


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
