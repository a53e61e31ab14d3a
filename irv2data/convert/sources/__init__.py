"""Where images come from: folders, tables, metadata files, tar archives, local or remote."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from irv2data.convert.config import FOLDERS, ConvertConfig
from irv2data.convert.sources import rows, tar
from irv2data.convert.sources.folder import has_split_folders, listing_of_paths
from irv2data.convert.sources.listing import Listing, Places
from irv2data.convert.sources.metadata import list_metadata
from irv2data.convert.sources.reading import read_ahead, read_source
from irv2data.convert.sources.store import Store, open_store
from irv2data.convert.sources.table import list_table
from irv2data.convert.sources.walk import Passed
from irv2data.errors import SourceError
from irv2data.labels import CLASS, NONE
from irv2data.packed import Packed
from irv2data.storage import is_remote

__all__ = ["Listing", "Places", "list_folder", "list_sources", "listing_of_paths", "read_ahead", "read_source"]


def list_sources(
    source: str, config: ConvertConfig, *, progress: Callable[[int], None] = lambda files: None
) -> Listing:
    """Lists what a source offers for conversion, whatever kind of source it is.

    Args:
        source: A folder of class folders, of split folders with class folders, with metadata tables, or of tar
            archives; a `.csv`, `.tsv`, `.jsonl` or `.ndjson` table; a `.tar` archive; or the URI of any of these.
        config: How to read it.
        progress: Called with the number of files, rows or members seen since the last call.

    Raises:
        SourceError: It is missing, unreadable or not laid out as the configuration needs it.
    """
    is_folder = not is_remote(source) and os.path.isdir(source)
    if not is_folder and source.lower().endswith((*rows.SUFFIXES, *tar.SUFFIXES)):
        cut = source.rfind("/") + 1
        store = open_store(source[:cut] if is_remote(source) else os.path.dirname(source) or os.curdir)
        name = os.fsencode(source[cut:])
        if source.lower().endswith(rows.SUFFIXES):
            return list_table(store, name, config, progress)
        if config.splits == FOLDERS:
            raise SourceError(f"{source}: --splits=folders goes with a folder; give the one that holds the archives")
        return tar.list_archives(store, [name], config, progress)
    if not is_folder and not is_remote(source):
        form = os.path.join(source, "CLASS", "image.jpg")
        missing = "is no folder, table or tar archive" if os.path.lexists(source) else "no such folder"
        known = ", ".join((*rows.SUFFIXES, ".tar"))
        raise SourceError(f"{source}: {missing}; SOURCE is a folder of images laid out as {form}, or a file ({known})")
    return list_folder(open_store(source), config, progress)


def list_folder(store: Store, config: ConvertConfig, progress: Callable[[int], None] = lambda files: None) -> Listing:
    """Lists a folder: by its metadata tables if it has any, else its images, else its tar archives.

    Args:
        store: The folder.
        config: How to read it.
        progress: Called with the number of files, rows or members seen since the last call.

    Raises:
        SourceError: It cannot be listed, or is not laid out as the configuration needs it.
    """
    folders = store.top_folders(follow_links=config.follow_links)
    split_folders = has_split_folders(store.root, folders, config)
    levels = 1 if split_folders else 0
    passed = Passed(metadata_depth=levels)
    names = Packed.of(
        store.images(
            passed,
            class_depth=0 if config.labels == NONE else levels + config.label_depth,
            follow_links=config.follow_links,
            progress=progress,
        )
    )
    if passed.archives and (names or passed.metadata):
        for archive in passed.archives:
            passed.ignored.add_file(archive)
    if passed.metadata:
        listing = list_metadata(store, names, passed, config, split_folders=split_folders, progress=progress)
    elif passed.archives and not names:
        listing = tar.list_archives(
            store, passed.archives, config, progress, split_folders=split_folders, ignored=passed.ignored
        )
    else:
        listing = listing_of_paths(store.root, names, config, split_folders=split_folders)
    if split_folders and (empty := len(set(folders).difference(listing.splits))):
        passed.ignored.add("(empty split folder)", empty)
    if not listing.places and listing.kind == CLASS:
        passed.ignored.add("(empty class folder)", passed.empty_class_folders)
    return replace(listing, ignored=passed.ignored.as_dict())
