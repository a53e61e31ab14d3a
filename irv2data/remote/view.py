"""What a remote dataset looks like on this machine: a folder with its manifest and index, and links to its shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from irv2data import storage
from irv2data.errors import DatasetError, UsageError
from irv2data.remote import download
from irv2data.remote.cache import ShardCache
from irv2data.split import Split, array_path
from irv2data.storage import alone

FOLDER, MIB = "IRV2DATA_CACHE", "IRV2DATA_CACHE_MIB"


def open_cache(uri: str, cache_dir: str | os.PathLike[str] | None, cache_mib: int | None) -> ShardCache:
    """The cache of a remote dataset: as the arguments say, or the environment, or unbounded in the user's cache folder.

    Raises:
        UsageError: The bound is no positive number.
        DatasetError: The folder cannot be made.
    """
    given = os.environ.get(MIB) if cache_mib is None else cache_mib
    if given is not None and (isinstance(given, bool) or not str(given).isdecimal() or int(given) < 1):
        raise UsageError(f"cache_mib ({MIB}) must be a whole number of 1 or more, got {given!r}")
    folder = Path(cache_dir or os.environ.get(FOLDER) or storage.user_cache() / "remote")
    return ShardCache(folder=folder.absolute(), uri=uri.rstrip("/"), most=None if given is None else int(given) << 20)


def view_folder(cache: ShardCache, manifest: bytes) -> Path:
    """Where the view of a dataset lies: named as the dataset is, and by its manifest, which may change."""
    parts = urlsplit(cache.uri)
    # Without user and password; a part that is `..` leads nowhere.
    names = [parts.scheme, parts.netloc.rpartition("@")[2], *parts.path.split("/"), parts.query]
    safe = [name if name.strip(".") else "%2E" * len(name) for name in (quote(name, safe="") for name in names) if name]
    return cache.folder.joinpath("datasets", *safe[:-1], f"{safe[-1]}@{_digest(manifest)[:12]}")


def make_view(cache: ShardCache, folder: Path, splits: Iterable[Split], manifest: Mapping[str, bytes]) -> None:
    """Completes a view: every array of the index, checked, and where each shard is to be found.

    Args:
        cache: Where the shards are kept.
        folder: Of the view.
        splits: The splits, all their names checked.
        manifest: File name and content of the manifest, which is written last, as in any dataset.

    Raises:
        DatasetError: An array cannot be fetched or is not what the manifest says, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".lock"):
            for split in splits:
                for name, digest in split.index.items():
                    _fetch_array(cache, split, name, digest)
                for shard in split.shards:
                    link = folder / shard.file
                    if not link.is_symlink():
                        link.symlink_to(os.path.relpath(cache.path(shard), folder))
            for name, content in manifest.items():
                storage.write_bytes(str(folder / name), content)
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot be written ({error.strerror or error}); give another cache_dir ({FOLDER})"
        ) from error


def _fetch_array(cache: ShardCache, split: Split, name: str, digest: str) -> None:
    if name not in split.arrays:  # no name of ours: it could lead anywhere
        return
    place = array_path(Path(), split.name, name, split.contents.index_folder)
    path = split.folder / place
    if path.is_file() and _digest(path.read_bytes()) == digest:
        return
    uri = storage.join(cache.uri, place.as_posix())
    content = download.whole(
        uri, lambda data: _digest(data) == digest, lambda data: download.wrong(uri, _digest(data), digest)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(str(path), content)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
