"""Shards that others wrote, made a dataset without rewriting them: an index and a manifest beside them.

TensorFlow Model Garden, TFDS and most tutorials store an encoded image and an integer in a `tf.train.Example`; what
differs is the keys, which are found in the first record or given.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import index, manifest, schema, storage
from irv2data.convert import foreign
from irv2data.convert.config import AUTO, SPLIT_NAME
from irv2data.convert.engines import run_local
from irv2data.convert.folder import commit, is_dataset, write_index
from irv2data.convert.lock import WORK, locked
from irv2data.convert.records import check_image, is_turned
from irv2data.convert.rejects import by_code, reject_line
from irv2data.convert.sniff import SIGNATURE_BYTES, sniff
from irv2data.convert.writer import Marker, save_result
from irv2data.errors import DatasetError, SourceError, UsageError, one_line
from irv2data.labels import CLASS, CLASSES, NONE, NUMBER
from irv2data.tfrecord import FRAMING_BYTES, frame, read_frames

# `train-00000-of-00016.tfrecord`, `train-00000-of-01024`, `mnist-train.tfrecord-00000-of-00001`
_SHARDED = re.compile(
    r"(?:.*[-_.])?(?!tfrecord)([A-Za-z][A-Za-z0-9]*)(?:\.(?:tfrecords?|array_record))?[-_]\d+-of-\d+(?:\.\w+)?"
)
_SPLIT_WORDS = re.compile(r"(?:^|[^A-Za-z])(train|training|validation|valid|val|dev|test|testing)(?![A-Za-z])")
_DEFAULT_SPLIT = "train"


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What `adopt` made.

    Attributes:
        dataset: The dataset folder.
        splits: Split name to `records`, `shards` and `bytes`.
        rejected: Records that are left out of the index; `rejects.jsonl` says which and why.
        labels: What a label is, of `irv2data.labels.KINDS`.
        classes: Number of classes.
        image_key: Key of the compressed image.
        label_key: Key of the label; empty where there is none.
        turned: Images whose EXIF orientation says they are stored lying down. They are used as they are stored; a
            conversion would turn them.
    """

    dataset: str
    splits: dict[str, dict[str, int]]
    rejected: int
    labels: str
    classes: int
    image_key: str
    label_key: str
    turned: int


def adopt(
    shards: Sequence[str | os.PathLike[str]],
    dataset: str | os.PathLike[str],
    *,
    split: str = "",
    labels: str = AUTO,
    image_key: str = "",
    label_key: str = "",
    classes: Sequence[str] | None = None,
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda records: None,
) -> Adoption:
    """Reads every record of some TFRecord files once, and writes index and manifest for them.

    The files stay as they are. Those that do not lie in the dataset folder are linked there (symbolic links), never
    copied. Every image is decoded once; one that the pipeline cannot decode is left out and reported.

    Args:
        shards: The TFRecord files, uncompressed.
        dataset: Folder for index and manifest; it may be the files' own.
        split: Name of the split that all files belong to; empty: told by their names.
        labels: What a label is, of `irv2data.labels.KINDS`; `auto`: as the first record has it.
        image_key: Key of the compressed image; empty: looked for.
        label_key: Key of the label; empty: looked for.
        classes: Class names in label order; None: from a `*labels.txt` beside the files, from the records' class
            texts, or else the numbers.
        workers: Worker processes; 0 for the number of usable cores.
        overwrite: Replace an index and manifest that are there.
        progress: Called with how many more records are done.

    Raises:
        UsageError: The folder is a dataset already, or an option does not fit.
        SourceError: A file is missing, compressed, or holds no images.
        DatasetError: A file is damaged; the message names the record.
    """
    folder = os.fspath(dataset)
    paths = sorted({os.path.abspath(path) for path in shards}, key=os.fsencode)
    if not paths:
        raise UsageError("name at least one TFRecord file")
    if is_dataset(folder) and not overwrite:
        raise UsageError(f"{folder}: is a dataset already; --overwrite replaces its index and manifest")
    if is_dataset(folder) and not manifest.Dataset(folder, check_sizes=False).contents.adopted:
        raise UsageError(f"{folder}: was converted, not adopted, and has its own index; choose another folder")
    contents = _contents(paths[0], labels, image_key, label_key)
    with locked(folder):
        by_split = _place(paths, folder, split)
        results = _scan(by_split, folder, contents, workers, progress)
        return _commit(by_split, results, folder, contents, classes, paths)


def _contents(path: str, labels: str, image_key: str, label_key: str) -> manifest.Contents:
    """What the records have in common, by the first one."""
    found = schema.features(_first(path))
    if not image_key:
        images = [key for key, values in found.items() if len(values) == 1 and _is_image(values[0])]
        known = [key for key in foreign.IMAGE_KEYS if key in images]
        if not images:
            raise SourceError(f"{path}: no key of the first record holds an image; it has {', '.join(sorted(found))}")
        image_key = (known or sorted(images))[0]
    elif image_key not in found:
        raise UsageError(f"{path}: the first record has no key {image_key!r}; it has {', '.join(sorted(found))}")
    if label_key and label_key not in found:
        raise UsageError(f"{path}: the first record has no key {label_key!r}; it has {', '.join(sorted(found))}")
    if not label_key and labels != NONE:
        usable = [
            key for key in foreign.LABEL_KEYS if key in found and not any(isinstance(v, bytes) for v in found[key])
        ]
        label_key = usable[0] if usable else ""
    if labels == AUTO:
        values = found.get(label_key, [])
        single = NUMBER if any(isinstance(value, float) for value in values) else CLASS
        labels = NONE if not label_key else single if len(values) == 1 else CLASSES
    if labels != NONE and not label_key:
        raise UsageError(f"{path}: no key of the first record holds a label; name it, or take labels={NONE!r}")
    return manifest.Contents(labels=labels, encoded_key=image_key, label_key=label_key, adopted=True)


def _first(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise SourceError(
                    f"{path}: is compressed, and no record of it can be read by its place; gunzip it first"
                )
            file.seek(0)
            for _, payload in read_frames(file, path):
                return payload
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    raise SourceError(f"{path}: holds no records")


def _is_image(value: Any) -> bool:
    return isinstance(value, bytes) and sniff(value[:SIGNATURE_BYTES]) is not None


def split_of(name: str) -> str:
    """The split that a shard's file name tells: `train` where it tells none."""
    sharded = _SHARDED.fullmatch(name)
    if sharded and SPLIT_NAME.fullmatch(sharded[1]):
        return sharded[1]
    word = _SPLIT_WORDS.search(name)
    return word[1] if word else _DEFAULT_SPLIT


def _place(paths: Sequence[str], folder: str, split: str) -> dict[str, list[str]]:
    """Split to the file names of its shards, each of which lies in the folder now, if only as a link."""
    if split and not SPLIT_NAME.fullmatch(split):
        raise UsageError(f"split must be named by letters, digits and '_', and not 'all', got {split!r}")
    by_split: dict[str, list[str]] = {}
    os.makedirs(folder, exist_ok=True)
    for path in paths:
        name = os.path.basename(path)
        place = os.path.join(folder, name)
        if not os.path.lexists(place):
            os.symlink(path, place)
        elif not os.path.samefile(place, path):
            raise UsageError(f"{path}: the dataset folder has another file {name!r}; shards need names of their own")
        by_split.setdefault(split or split_of(name), []).append(name)
    return by_split


@dataclass(frozen=True, kw_only=True)
class _Task:
    path: str
    name: str
    number: int
    contents: manifest.Contents
    result: str
    barred: frozenset[int] = field(default_factory=frozenset)

    def without(self, record: int, code: str, detail: str) -> _Task:
        return replace(self, barred=self.barred | {record})


@dataclass(frozen=True, kw_only=True)
class _Scanned:
    shard: manifest.Shard
    rejects: list[tuple[int, str, str]]  # record, code, detail
    texts: dict[int, str]
    most: int
    turned: int
    formats: frozenset[int]


def _scan(
    by_split: dict[str, list[str]],
    folder: str,
    contents: manifest.Contents,
    workers: int,
    progress: Callable[[int], None],
) -> list[_Scanned]:
    def tasks() -> Iterator[_Task]:
        for names in by_split.values():
            for number, name in enumerate(names):
                yield _Task(
                    path=os.path.join(folder, name), name=name, number=number, contents=contents,
                    result=storage.join(folder, WORK, f"{name}.npz"),
                )  # fmt: skip

    results: dict[int, _Scanned] = {}
    run_local(
        scan_shard,
        tasks(),
        workers=workers,
        finished=results.__setitem__,
        progress=progress,
        lost=_Task.without,
    )
    return [results[number] for number in sorted(results)]


def scan_shard(task: _Task, marker: Marker) -> _Scanned:
    """Reads one shard and writes its index rows; runs in a worker."""
    contents = task.contents
    rows = index.Rows(contents.labels, ())
    rejects: list[tuple[int, str, str]] = []
    texts: dict[int, str] = {}
    turned = 0
    digest = hashlib.sha256()
    try:
        with open(task.path, "rb") as file:
            for record, (offset, payload) in enumerate(read_frames(file, task.name)):
                digest.update(frame(payload))
                marker.begin(record)
                try:
                    if record in task.barred:
                        raise ValueError("its decoder took its process down, twice")
                    found = schema.features(payload)
                    picked = foreign.pick(found, contents.labels, contents.encoded_key, contents.label_key)
                    _, code, height, width = check_image(picked.encoded, others=True)
                except (ValueError, MemoryError) as error:
                    rejects.append((record, "corrupt", one_line(error)))
                    continue
                finally:
                    marker.end()
                    marker.advance()
                place = (task.number, offset, FRAMING_BYTES + len(payload), height, width, code)
                content = np.frombuffer(hashlib.sha256(picked.encoded).digest(), np.uint8)
                rows.add(place, content, picked.filename, picked.label, ())
                named = found.get(schema.TEXT, [])
                if contents.labels == CLASS and len(named) == 1 and isinstance(named[0], bytes):
                    texts[int(picked.label)] = named[0].decode("utf-8", "surrogateescape")  # type: ignore[arg-type]
                turned += is_turned(picked.encoded, code)
    except OSError as error:
        raise SourceError(f"{task.path}: cannot be read ({error.strerror})") from error
    arrays = rows.arrays()
    save_result(task.result, {}, arrays)
    size = os.stat(task.path).st_size
    shard = manifest.Shard(file=task.name, records=len(arrays["offset"]), bytes=size, sha256=digest.hexdigest())
    labelled = contents.labels in (CLASS, CLASSES) and len(arrays[index.LABEL])
    return _Scanned(
        shard=shard,
        rejects=rejects,
        texts=texts,
        turned=turned,
        formats=frozenset(arrays["format"].tolist()),
        most=int(arrays[index.LABEL].max()) if labelled else -1,
    )


def _commit(
    by_split: dict[str, list[str]],
    results: list[_Scanned],
    folder: str,
    contents: manifest.Contents,
    classes: Sequence[str] | None,
    paths: Sequence[str],
) -> Adoption:
    texts: dict[int, str] = {}
    for result in results:
        texts |= result.texts
    most = max(result.most for result in results)
    if contents.labels in (CLASS, CLASSES):
        names = list(classes) if classes is not None else _class_names(paths, texts, most)
        if len(names) <= most:
            raise UsageError(f"labels go up to {most}, but there are {len(names)} class names")
        contents = replace(contents, classes=tuple(names))
    codes = frozenset[int]().union(*(result.formats for result in results))
    others = tuple(name for name in index.OTHERS if index.FORMAT_NAMES.index(name) in codes)
    contents = replace(contents, formats=others)
    if not any(result.shard.records for result in results):
        reason = results[0].rejects[0][2] if results[0].rejects else "they are empty"
        raise SourceError(f"{paths[0]}: no record holds an image that can be used ({reason})")
    # Of an earlier adoption: while its index is replaced, nothing may look finished.
    storage.remove(storage.join(folder, manifest.MANIFEST))
    splits, counts, rejects = {}, {}, []
    remaining = iter(results)
    for split, files in by_split.items():
        found = [next(remaining) for _ in files]
        shards = [result.shard for result in found]
        work = [storage.join(folder, WORK, f"{name}.npz") for name in files]
        splits[split] = (shards, write_index(folder, split, contents, work))
        counts[split] = {
            "records": sum(shard.records for shard in shards),
            "shards": len(shards),
            "bytes": sum(shard.bytes for shard in shards),
        }
        rejects += [
            reject_line(f"{result.shard.file}#{record}", code, detail)
            for result in found
            for record, code, detail in result.rejects
        ]
    records = sum(count["records"] for count in counts.values())
    source = {
        "sources": records + len(rejects), "rejected": len(rejects), "dropped": 0, "duplicates": 0, "conflicts": 0,
        "rejects": by_code(rejects), "done": {}, "options": {},
    }  # fmt: skip
    commit(folder, contents, splits, rejects=rejects, duplicates=[], source=source)
    return Adoption(
        dataset=folder,
        splits=counts,
        rejected=len(rejects),
        labels=contents.labels,
        classes=len(contents.classes),
        image_key=contents.encoded_key,
        label_key=contents.label_key,
        turned=sum(result.turned for result in results),
    )


def _class_names(paths: Sequence[str], texts: dict[int, str], most: int) -> list[str]:
    """Names by the label file that TFDS leaves beside its shards, by the records' texts, or the numbers."""
    for path in sorted(Path(paths[0]).parent.glob("*label*.txt")):
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: the class names cannot be read ({one_line(error)})") from error
        if len(names) > most:
            return names
    names = [texts.get(number, str(number)) for number in range(most + 1)]
    # A name that two numbers share would make them one class to whoever reads the names.
    return names if len(set(names)) == len(names) else [f"{number}: {name}" for number, name in enumerate(names)]
