"""What a dataset folder holds: manifest, index, fingerprint. Neither TensorFlow nor the converter is needed to read it.

`dataset.json` is written last, so a folder without it is not a dataset. `index/SPLIT/ARRAY.npy` are the arrays of
`irv2data.index`, memory-mapped one by one, because scanning one column of a structured memory map would make the
whole file resident.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from irv2data import index, storage
from irv2data.errors import DatasetError, UsageError
from irv2data.index import BASELINE, FORMAT_NAMES, PNG, PROGRESSIVE
from irv2data.labels import KINDS
from irv2data.remote import download, view
from irv2data.remote.cache import ShardCache
from irv2data.split import INDEX, Contents, Shard, Split, array_path

# Whoever reads a dataset finds all of it here.
__all__ = [
    "BASELINE",
    "FORMAT_NAMES",
    "INDEX",
    "PNG",
    "PROGRESSIVE",
    "Contents",
    "Dataset",
    "Shard",
    "Split",
    "array_path",
]

MANIFEST = "dataset.json"
REJECTS = "rejects.jsonl"
DUPLICATES = "duplicates.jsonl"
QUARANTINE = "quarantine"
VERSION = 2
OTHERS_VERSION = 3  # with other formats than JPEG and PNG, which whoever reads only 2 would take for JPEG
_SEAL = "sha256"


def shard_name(split: str, number: int, of: int) -> str:
    """File name of a shard, in the form that TFDS and TensorFlow tools expect."""
    return f"{split}-{number:05d}-of-{of:05d}.tfrecord"


class Dataset:
    """An irv2data dataset folder, opened and checked against its manifest (files, sizes and index; no data is read).

    Of a remote one, manifest and index are fetched at once and checked, shards when they are needed (`docs/remote.md`).

    Args:
        folder: The folder that holds `dataset.json`; or its URI: `s3://`, `gs://`, `https://`, whatever fsspec knows.
        check_sizes: Compare the shards' sizes with the manifest's; only a repair does without.
        cache_dir: Folder on a local disk for what is fetched of a remote dataset. None for `IRV2DATA_CACHE`, else for
            `irv2data/remote` in the user's cache folder.
        cache_mib: What all shards in it may take, in MiB. None for `IRV2DATA_CACHE_MIB`, else for no bound.
        direct: TensorFlow reads the shards of a remote dataset where they are, and none is kept here (`docs/io.md`).

    Attributes:
        folder: The folder as a `pathlib.Path`; of a remote one, where manifest, index and links to shards lie here.
        location: The folder's absolute path, or its URI.
        cache: Where the shards of a remote dataset are kept; None where they lie in the folder, and with `direct`.
        direct: As given.
        contents: What all records have in common: classes, what a label is, further columns.
        classes: Class names.
        splits: Split name to `Split`.
        source: What the converter counted (`sources`, `rejected`, `dropped`, `done`) and the options it ran with.
        appended: How often `--append` added shards.

    Raises:
        DatasetError: No such folder, no dataset, a version this release cannot read, or a shard that is missing or
            has another size than the manifest says. Or something remote cannot be fetched or is not what it was.
        UsageError: `cache_mib` is out of range, or `direct` does not go with the folder or with `cache_mib`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        check_sizes: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_mib: int | None = None,
        direct: bool = False,
    ):
        self.direct = direct
        if direct:
            _check_direct(os.fspath(folder), cache_mib)
        cache: ShardCache | None = None
        if storage.is_remote(os.fspath(folder)):
            if not check_sizes:
                raise DatasetError(f"{folder}: is remote; copy it to this machine to look for damage or to repair it")
            cache = view.open_cache(os.fspath(folder), cache_dir, cache_mib)
            sealed = _fetch_manifest(cache.uri)
            self.folder, text = view.view_folder(cache, sealed), sealed.decode()
            self.location = cache.uri
        else:
            self.folder = Path(folder)
            self.location = str(self.folder.absolute())
            text = _read_manifest(self.folder)
        self.cache = None if direct else cache
        manifest = _parse_manifest(text, self.folder / MANIFEST)
        try:
            self.contents = Contents(
                classes=tuple(manifest["classes"]),
                labels=manifest["labels"],
                columns={column["name"]: column["type"] for column in manifest["columns"]},
                encoded_key=manifest["encoded_key"],
                label_key=manifest["label_key"],
                adopted=manifest["adopted"],
                index_folder=_plain(manifest["index_folder"]),
                formats=tuple(manifest.get("formats", ())),
            )
            self.source: dict[str, Any] = manifest["source"]
            self.appended: int = manifest["appended"]
            self.splits: dict[str, Split] = {
                _plain(name): Split(
                    name=name,
                    folder=self.folder,
                    shards=tuple(Shard(**{**shard, "file": _plain(shard["file"])}) for shard in split["shards"]),
                    index=split["index"],
                    contents=self.contents,
                    fetch=None if self.cache is None else self.cache.fetch,
                    uri=cache.uri if cache is not None and direct else None,
                )
                for name, split in manifest["splits"].items()
            }
            for name, split in self.splits.items():
                counted = {"records": split.num_records, "bytes": split.num_bytes}
                if {key: manifest["splits"][name][key] for key in counted} != counted:
                    raise KeyError(f"{name} does not add up")
            unknown = {self.contents.labels} - set(KINDS) | set(self.contents.columns.values()) - set(index.TYPES)
            unknown |= set(self.contents.formats) - set(index.OTHERS)
            if unknown:
                raise KeyError(unknown.pop())
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_ours(self.folder / MANIFEST, error) from error
        if cache is not None:
            view.make_view(cache, self.folder, self.splits.values(), {MANIFEST: sealed})
        for split in self.splits.values() if check_sizes and cache is None else ():
            for shard, path in zip(split.shards, split.paths, strict=True):
                _check_size(path, shard.bytes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.contents.classes

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            UsageError: There is none; the message lists those there are.
        """
        if name not in self.splits:
            raise UsageError(f"{self.folder} has no split {name!r}; it has {', '.join(sorted(self.splits))}")
        return self.splits[name]

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over the classes and every shard and index digest: equal exactly for equal content."""
        content = {
            "classes": self.classes,
            "labels": self.contents.labels,
            "columns": dict(self.contents.columns),
            "encoded_key": self.contents.encoded_key,
            "splits": {
                name: {"shards": [asdict(shard) for shard in split.shards], "index": dict(split.index)}
                for name, split in self.splits.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def classes_sha256(classes: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of a class list: two datasets whose labels mean the same have the same."""
    return hashlib.sha256(json.dumps(list(classes)).encode()).hexdigest()


def manifest_text(
    *,
    contents: Contents,
    splits: Mapping[str, tuple[Sequence[Shard], Mapping[str, str]]],
    source: Mapping[str, Any],
    appended: int = 0,
) -> str:
    """The content of `dataset.json`; equal arguments give equal text (no times, no absolute paths).

    Args:
        contents: What all records have in common.
        splits: Split name to its shards and the digests of its index arrays.
        source: What the converter counted and the options it ran with; JSON-able.
        appended: How often shards were added.
    """
    content = {
        "format": "irv2data",
        "version": OTHERS_VERSION if contents.formats else VERSION,
        "classes": list(contents.classes),
        "classes_sha256": classes_sha256(contents.classes),
        "labels": contents.labels,
        "columns": [{"name": name, "type": type} for name, type in contents.columns.items()],
        "encoded_key": contents.encoded_key,
        "label_key": contents.label_key,
        "adopted": contents.adopted,
        "index_folder": contents.index_folder,
        **({"formats": list(contents.formats)} if contents.formats else {}),
        "appended": appended,
        "splits": {
            name: {
                "records": sum(shard.records for shard in shards),
                "bytes": sum(shard.bytes for shard in shards),
                "shards": [asdict(shard) for shard in shards],
                "index": dict(index),
            }
            for name, (shards, index) in splits.items()
        },
        "source": dict(source),
    }
    return seal(content)


def seal(content: Mapping[str, Any]) -> str:
    """The text of a manifest: its content and, last, the digest of the text without it."""
    bare = {name: value for name, value in content.items() if name != _SEAL}
    digest = hashlib.sha256(json.dumps(bare, indent=1).encode()).hexdigest()
    return json.dumps({**bare, _SEAL: digest}, indent=1) + "\n"


def is_sealed(text: bytes) -> bool:
    """Whether the text of a manifest is to the byte what `seal` made."""
    try:
        return seal(json.loads(text)).encode() == text
    except (ValueError, AttributeError):
        return False


def _plain(name: str) -> str:
    """The name, unless it could reach outside the dataset's folder: a manifest may come from anywhere."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise KeyError(f"{name!r} is no plain file name")
    return name


def _check_direct(folder: str, cache_mib: int | None) -> None:
    if not storage.is_remote(folder):
        raise UsageError(f"direct: {folder} is a local folder, whose shards are read directly anyway; leave direct out")
    if cache_mib is not None:
        raise UsageError(f"direct: no shard of {folder} is kept here for cache_mib to bound; leave one of them out")


def _fetch_manifest(uri: str) -> bytes:
    path = storage.join(uri, MANIFEST)
    text = f"{path}: not a manifest of irv2data, or changed since it was written; convert the dataset again"
    return download.whole(path, is_sealed, lambda _: DatasetError(text))


def _read_manifest(folder: Path) -> str:
    path = folder / MANIFEST
    if not os.path.isdir(folder):
        raise DatasetError(f"{folder}: no such folder; make a dataset with `irv2data convert SOURCE {folder}`")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError(
            f"{folder}: not a dataset, it has no {MANIFEST}; make one with `irv2data convert`, "
            "or finish an interrupted conversion with --resume"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error


def _parse_manifest(text: str, path: Path) -> dict[str, Any]:
    readable = (VERSION, OTHERS_VERSION)
    try:
        manifest = json.loads(text)
        if manifest["format"] != "irv2data":
            raise KeyError("format")
        version = manifest["version"]
        # Checked here, before anything relies on the classes.
        if version in readable and classes_sha256(manifest["classes"]) != manifest["classes_sha256"]:
            raise DatasetError(f"{path}: the class list was changed by hand (its digest differs); convert again")
    except (ValueError, KeyError, TypeError) as error:
        raise _not_ours(path, error) from error
    if version not in readable:
        reads = " and ".join(map(str, readable))
        raise DatasetError(f"{path}: written in format version {version}, this release reads {reads}; convert again")
    return dict(manifest)


def _not_ours(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"{path}: not a manifest of irv2data ({error!r}); convert the dataset again")


def _check_size(path: str, expected: int) -> None:
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise DatasetError(f"{path}: the shard is missing ({error.strerror}); restore it or convert again") from error
    if size != expected:
        raise DatasetError(f"{path}: has {size} bytes, the manifest says {expected}; restore it or convert again")
