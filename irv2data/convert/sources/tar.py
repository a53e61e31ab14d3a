"""WebDataset archives: images inside uncompressed tar files, found by their headers and never extracted."""

from __future__ import annotations

import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from irv2data.convert.config import ConvertConfig
from irv2data.convert.sources.columns import FIELD, Cell, Columns, encode, json_cell
from irv2data.convert.sources.folder import by_folders
from irv2data.convert.sources.labelling import LABEL_COLUMNS, Labels, label_column, labels_of, no_labels
from irv2data.convert.sources.listing import Listing, Places
from irv2data.convert.sources.naming import ARCHIVE, IMAGE, PACKED_ARCHIVES, Ignored, suffix
from irv2data.convert.sources.store import Progress, Store
from irv2data.convert.sources.table import Rejects, assemble
from irv2data.errors import SourceError
from irv2data.labels import NONE
from irv2data.packed import Packed

SUFFIXES = tuple(ending.decode() for ending in (ARCHIVE, *PACKED_ARCHIVES))

_CLASS = "cls"
_TEXTS = ("txt", "caption", "text")
_SIDE_BYTES = 2**24
# WebDataset's own rule: the key ends at the first dot of the base name.
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_PROGRESS_EVERY = 1000


@dataclass(frozen=True, kw_only=True)
class _Member:
    name: str
    key: str
    extension: str
    offset: int
    length: int


class _CutError(tarfile.ReadError):
    def __init__(self, name: str):
        super().__init__(f"the archive ends inside {name}")
        self.name = name


def list_archives(
    store: Store,
    archives: Iterable[bytes],
    config: ConvertConfig,
    progress: Progress,
    *,
    split_folders: bool = False,
    ignored: Ignored | None = None,
) -> Listing:
    """Lists the images in tar archives, in the order of the archives given and of their members.

    Members whose paths agree up to the first dot of the base name, and follow one another, are one sample. Its images
    are the sources; `.cls`, or a field of its `.json`, is their label, and the other fields of the `.json` and the
    texts in `.txt`, `.caption` and `.text` are columns.

    An archive that is damaged or ends early is a source of its own and a reject; what was found in it before counts.

    Args:
        store: The archives' folder.
        archives: Their paths in it.
        config: `label_column` names a field of the `.json`.
        progress: Called with the number of members since the last call.
        split_folders: The folders directly below the root are splits.
        ignored: What was passed over before.

    Raises:
        SourceError: There is no image, or an archive is compressed or cannot be opened.
    """
    found = _Found(ignored or Ignored())
    for archive in archives:
        found.read(store, archive, progress)
    where = store.root if len(found.containers) > 1 else os.path.join(store.root, *found.containers)
    if not any(length >= 0 for length in found.length):
        problem = next((f" ({detail})" for _, detail in found.rejects.values()), "")
        raise SourceError(f"{where}: holds no image{problem}")
    found.columns.pad(len(found.container))
    labels, used = _labels(found.columns, config, where)
    archive_of = (os.fsencode(found.containers[number]) for number in found.container)
    _, _, splits = by_folders(archive_of, config, split_folders=split_folders)
    return assemble(
        store.root,
        found.names,
        found.columns,
        labels,
        splits,
        config,
        where,
        used=used,
        rejects=found.rejects,
        places=found.places,
        ignored=found.ignored,
    )


def _labels(columns: Columns, config: ConvertConfig, where: str) -> tuple[Labels, set[str]]:
    usual = (_CLASS, *LABEL_COLUMNS)
    name = label_column(columns, config, where, usual=usual)
    if not name:
        return no_labels(), set()
    return (no_labels() if config.labels == NONE else labels_of(columns[name], config)), {name}


class _Found:
    """Sources as they are found, in columns."""

    def __init__(self, ignored: Ignored):
        self.ignored = ignored
        self.containers: list[str] = []
        self.columns = Columns()
        self.rejects: Rejects = {}
        self.container = array("i")
        self.offset = array("q")
        self.length = array("q")  # -1 for an archive that stands for itself
        self._data, self._ends = bytearray(), array("q")

    @property
    def names(self) -> Packed:
        return Packed(np.frombuffer(self._data, np.uint8), np.frombuffer(self._ends, np.int64))

    @property
    def places(self) -> Places:
        return Places(
            containers=tuple(self.containers),
            container=np.frombuffer(self.container, np.int32),
            offset=np.frombuffer(self.offset, np.int64),
            length=np.maximum(np.frombuffer(self.length, np.int64), 0),
        )

    def read(self, store: Store, archive: bytes, progress: Progress) -> None:
        """Adds the images of one archive."""
        where = os.path.join(store.root, os.fsdecode(archive))
        self.containers.append(os.fsdecode(archive))
        if archive.lower().endswith(PACKED_ARCHIVES):
            raise compressed(where)
        size = store.size(archive)
        with store.open(archive) as file:
            head = file.read(3)
            if head[:2] == b"\x1f\x8b" or head == b"BZh":
                raise compressed(where)
            file.seek(0)
            sample: list[_Member] = []
            try:
                for member in _members(file, size, self.ignored, progress):
                    if sample and member.key != sample[0].key:
                        self._add(archive, sample, file)
                        sample = []
                    sample.append(member)
            except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two from senseless headers
                problem = ("truncated", str(error))
                # The sample before the damage is whole, unless it is one of its own members that is cut.
                is_cut = bool(sample) and isinstance(error, _CutError) and error.name.startswith(f"{sample[0].key}.")
                self._add(archive, sample, file, problem if is_cut else None)
                self._put(archive, 0, -1, problem, {})
            else:
                self._add(archive, sample, file)

    def _add(
        self, archive: bytes, sample: list[_Member], file: BinaryIO, damage: tuple[str, str] | None = None
    ) -> None:
        images: list[_Member] = []
        sides: list[_Member] = []
        for member in sample:
            (images if suffix(encode(f"x.{member.extension}")) in IMAGE else sides).append(member)
        if not images:
            for member in sides:
                self._ignore(member)
            return
        cells, problem = self._side_cells(sides, file)
        problem = damage or problem
        for member in images:
            parts = member.name.split("/")
            clean = [part for part in parts if part not in ("", ".", "..")]
            is_outside = ".." in parts or member.name.startswith("/") or "\0" in member.name
            reject = ("outside", f"the archive calls it {member.name!r}") if is_outside else problem
            name = archive + b"/" + encode("/".join(clean))
            self._put(name, member.offset, member.length, reject, cells)

    def _put(
        self, name: bytes, offset: int, length: int, reject: tuple[str, str] | None, cells: dict[str, Cell]
    ) -> None:
        row = len(self.container)
        if reject:
            self.rejects[row] = reject
        for column, cell in cells.items():
            self.columns.put(row, column, cell)
        self._data += name
        self._ends.append(len(self._data))
        self.container.append(len(self.containers) - 1)
        self.offset.append(offset)
        self.length.append(length)

    def _side_cells(self, sides: list[_Member], file: BinaryIO) -> tuple[dict[str, Cell], tuple[str, str] | None]:
        """What a sample's other members say, and what is wrong with them."""
        fields: dict[str, Cell] = {}
        texts: dict[str, Cell] = {}
        problem = None
        for member in sides:
            if member.extension not in (_CLASS, "json", *_TEXTS):
                self._ignore(member)
                continue
            if member.length > _SIDE_BYTES:
                problem = ("bad_label", f"{member.name} has more than {_SIDE_BYTES} bytes")
                continue
            file.seek(member.offset)
            text = file.read(member.length).decode("utf-8", "surrogateescape")
            if member.extension == _CLASS:
                texts[_CLASS] = FIELD, encode(text.strip())
            elif member.extension != "json":
                texts[member.extension] = FIELD, encode(text)
            else:
                try:
                    values = json.loads(text)
                except (ValueError, RecursionError) as error:
                    problem = ("bad_label", f"{member.name}: no JSON ({error})")
                    continue
                if not isinstance(values, dict):
                    problem = ("bad_label", f"{member.name}: no JSON object")
                    continue
                fields = {name: json_cell(value) for name, value in values.items()}
        return {**fields, **texts}, problem

    def _ignore(self, member: _Member) -> None:
        self.ignored.add_file(encode(f"x.{member.extension}"))


def _members(file: BinaryIO, size: int, ignored: Ignored, progress: Progress) -> Iterator[_Member]:
    """The files in an archive, in its order.

    Raises:
        tarfile.TarError: The archive is damaged, or ends before its end mark or inside a member.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        seen, before = 0, -1
        while (info := tar.next()) is not None:
            if tar.offset <= before:  # a header can give a size that leads back, and so round for ever
                raise tarfile.ReadError(f"no readable header at byte {info.offset}")
            before = tar.offset
            tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
            seen += 1
            if seen % _PROGRESS_EVERY == 0:
                progress(_PROGRESS_EVERY)
            if info.isdir():
                continue
            found = _KEY.fullmatch(info.name)
            if not info.isreg() or info.sparse is not None:
                ignored.add("(no plain file in an archive)")
            elif info.size < 0 or info.offset_data + info.size > size:
                raise _CutError(info.name)
            elif found is None:
                ignored.add("(without a key in an archive)")
            else:
                yield _Member(
                    name=info.name,
                    key=found[1],
                    extension=found[2].lower(),
                    offset=info.offset_data,
                    length=info.size,
                )
        progress(seen % _PROGRESS_EVERY)
        # To tarfile, a header it cannot read and a file that just stops are both the end.
        file.seek(tar.offset)
        block = file.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"no readable header at byte {tar.offset}")
        if len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"the archive ends at byte {tar.offset} without an end mark")


def compressed(where: str) -> SourceError:
    """The refusal of a compressed archive, whose members cannot be read one by one."""
    return SourceError(f"{where}: a compressed archive cannot be read in place; decompress it first (gunzip)")
