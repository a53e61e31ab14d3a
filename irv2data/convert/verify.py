"""Is a dataset folder what its manifest says? `verify` answers with every problem it finds, not the first one."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from irv2data import manifest, schema
from irv2data.errors import DatasetError, RecordError
from irv2data.manifest import Dataset, Split
from irv2data.tfrecord import FRAMING_BYTES, frame, read_frames


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: the file, the record's number within it (None for the whole file), and the reason."""

    file: str
    record: int | None
    reason: str


def verify(
    folder: str, *, deep: bool = False, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Problem]:
    """Compares a dataset folder with its manifest.

    Args:
        folder: The dataset folder.
        deep: Also read every byte: digests, framing, each record against the index, each image decoded whole.
            Otherwise sizes, counts and the index's own consistency are checked, and no shard is read.
        progress: Called as `progress(done, total)` in records.

    Returns:
        The problems, in the order of the files; an empty list means the dataset is sound.

    Raises:
        DatasetError: The folder is no dataset at all (no manifest, or one that cannot be read).
    """
    try:
        dataset = Dataset(folder)
    except DatasetError as error:
        if not (Path(folder) / manifest.MANIFEST).exists():
            raise
        # The manifest itself is unreadable, or a shard is missing or of the wrong size: say so, with all the others.
        return _missing_or_resized(Path(folder), error)
    problems: list[Problem] = []
    total = sum(split.num_records for split in dataset.splits.values())
    done = 0
    for split in dataset.splits.values():
        found = list(_check_index(dataset, split, deep=deep))
        problems += found
        if deep:
            columns = None if found else {name: np.asarray(split.column(name)) for name in manifest.COLUMNS}
            for number in range(len(split.shards)):
                problems += _check_shard(dataset, split, number, columns)
                done += split.shards[number].records
                progress(done, total)
    return problems


def _missing_or_resized(folder: Path, first: DatasetError) -> list[Problem]:
    try:
        splits = json.loads((folder / manifest.MANIFEST).read_text(encoding="utf-8"))["splits"].values()
        shards = [manifest.Shard(**shard) for split in splits for shard in split["shards"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [Problem(file=manifest.MANIFEST, record=None, reason=str(first))]
    problems = []
    for shard in shards:
        path = folder / shard.file
        if not path.is_file():
            problems.append(Problem(file=shard.file, record=None, reason="missing"))
        elif path.stat().st_size != shard.bytes:
            reason = f"has {path.stat().st_size} bytes, the manifest says {shard.bytes}"
            problems.append(Problem(file=shard.file, record=None, reason=reason))
    return problems or [Problem(file=manifest.MANIFEST, record=None, reason=str(first))]


def _check_index(dataset: Dataset, split: Split, *, deep: bool) -> Iterator[Problem]:
    columns = {}
    if split.index.keys() != manifest.COLUMNS.keys():
        reason = f"split {split.name!r} lists the index columns {sorted(split.index)}, not {sorted(manifest.COLUMNS)}"
        yield Problem(file=manifest.MANIFEST, record=None, reason=reason)
        return
    for name, digest in split.index.items():
        path = manifest.column_path(dataset.folder, split.name, name)
        file = str(path.relative_to(dataset.folder))
        try:
            columns[name] = np.asarray(split.column(name))
        except DatasetError as error:
            yield Problem(file=file, record=None, reason=str(error))
            continue
        if deep and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield Problem(file=file, record=None, reason="its SHA-256 differs from the manifest's")
    if columns.keys() != manifest.COLUMNS.keys():
        return
    ends = columns["offset"] + columns["length"]
    for number, shard in enumerate(split.shards):
        rows = columns["shard"] == number
        contiguous = np.array_equal(columns["offset"][rows], np.concatenate([[0], ends[rows]])[:-1])
        if rows.sum() != shard.records or not contiguous or ends[rows].max(initial=0) != shard.bytes:
            yield Problem(file=shard.file, record=None, reason="the index does not describe this shard")
    wrong = np.flatnonzero((columns["label"] < 0) | (columns["label"] >= len(dataset.classes)))
    for row in wrong[:10]:
        yield Problem(file=f"{manifest.INDEX}/{split.name}/label.npy", record=int(row), reason="no such class")


def _check_shard(
    dataset: Dataset, split: Split, number: int, columns: dict[str, np.ndarray] | None
) -> Iterator[Problem]:
    shard = split.shards[number]
    digest = hashlib.sha256()
    record = -1
    try:
        with open(split.paths[number], "rb") as file:
            rows = iter(np.flatnonzero(columns["shard"] == number).tolist()) if columns else None
            for record, (offset, payload) in enumerate(read_frames(file, shard.file)):
                digest.update(frame(payload))
                reason = _wrong_image(payload, dataset)
                row = None if rows is None else next(rows, None)  # also for a record that is wrong by itself
                if reason is None and columns is not None:
                    expected = None if row is None else {name: int(column[row]) for name, column in columns.items()}
                    reason = _differs_from_index(schema.decode(payload), offset, len(payload), number, expected)
                if reason is not None:
                    yield Problem(file=shard.file, record=record, reason=reason)
    except RecordError as error:
        yield Problem(file=shard.file, record=error.record, reason=error.reason)
        return
    except OSError as error:
        yield Problem(file=shard.file, record=None, reason=f"cannot be read ({error.strerror})")
        return
    if record + 1 != shard.records:
        yield Problem(
            file=shard.file, record=None, reason=f"holds {record + 1} records, the manifest says {shard.records}"
        )
    elif digest.hexdigest() != shard.sha256:
        yield Problem(file=shard.file, record=None, reason="its SHA-256 differs from the manifest's")


def _wrong_image(payload: bytes, dataset: Dataset) -> str | None:
    """What is wrong with one record by itself."""
    try:
        record = schema.decode(payload)
    except ValueError as error:
        return str(error)
    if hashlib.sha256(record.encoded).hexdigest() != record.sha256:
        return f"{schema.SHA256} is not the digest of the image"
    if not 0 <= record.label < len(dataset.classes) or dataset.classes[record.label] != record.text:
        return f"label {record.label} is not class {record.text!r}"
    # Pillow refuses very large images by default; what was converted was within --max_megapixels.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(record.encoded), formats=schema.FORMATS) as image:
            size = image.size
            if record.format != image.format:
                return f"is {image.format}, recorded as {record.format}"
            # Reads all of the compressed data; for JPEG most of the inverse DCT is skipped.
            image.draft(image.mode, (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
    except Exception as error:  # Pillow raises nearly every exception type on malformed input
        return f"the image cannot be decoded ({error})"
    if size != (record.width, record.height):
        return f"is {size[0]}x{size[1]}, recorded as {record.width}x{record.height}"
    return None


def _differs_from_index(
    record: schema.Record, offset: int, payload: int, shard: int, expected: dict[str, int] | None
) -> str | None:
    if expected is None:
        return "the index has no row for it"
    actual = {
        "shard": shard,
        "offset": offset,
        "length": FRAMING_BYTES + payload,
        "height": record.height,
        "width": record.width,
        "label": record.label,
    }
    for name, value in actual.items():
        if expected[name] != value:
            return f"the index says {name} {expected[name]}, the record {value}"
    png = record.format == "PNG"
    return None if (expected["format"] == manifest.PNG) == png else f"the index has another format than {record.format}"
