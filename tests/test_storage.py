"""Files here and behind a URI: complete or not there, and the same names for both."""

from __future__ import annotations

import os
import subprocess
import sys

import fsspec
import pytest

from irv2data import storage
from irv2data.errors import UsageError


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    """An empty folder, on the disk or in fsspec's own memory."""
    if request.param == "local":
        return str(tmp_path / "folder")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return "memory://bucket/folder"


def test_a_file_is_written_found_read_and_removed(folder):
    storage.make_folder(storage.join(folder, "a"))
    path = storage.join(folder, "a", "file")
    assert (storage.exists(path), storage.size(path)) == (False, None)
    storage.write_bytes(path, b"content")
    assert (storage.exists(path), storage.size(path), storage.read_bytes(path)) == (True, 7, b"content")
    assert (storage.names(folder), storage.names(storage.join(folder, "a"))) == (["a"], ["file"])
    assert storage.size(folder) is None
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(path)


def test_a_folder_is_removed_with_all_that_is_in_it(folder):
    for name in ("x", "y"):
        storage.make_folder(storage.join(folder, "deep", "er"))
        storage.write_bytes(storage.join(folder, "deep", "er", name), b"1")
    storage.remove(storage.join(folder, "deep"))
    assert storage.names(storage.join(folder, "deep")) == []


def test_a_write_that_fails_leaves_what_was_there(folder):
    storage.make_folder(folder)
    path = storage.join(folder, "file")
    storage.write_bytes(path, b"old")

    def fail():
        with storage.atomic_file(path) as file:
            file.write(b"half of the new one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (storage.read_bytes(path), storage.names(folder)) == (b"old", ["file"])
    storage.write_bytes(path, b"new")
    assert (storage.read_bytes(path), storage.names(folder)) == (b"new", ["file"])


def test_a_missing_folder_has_no_names(folder):
    assert storage.names(storage.join(folder, "nowhere")) == []


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    os.symlink(tmp_path / "real", tmp_path / "link")
    storage.remove(str(tmp_path / "link"))
    assert storage.names(str(tmp_path)) == ["real"]
    assert storage.names(str(tmp_path / "real")) == ["file"]


def test_a_protocol_that_is_not_installed_names_the_extra():
    with pytest.raises(UsageError, match=r"^nonsense:// needs the 'remote' extra, pip install 'irv2data\[remote\]'"):
        storage.exists("nonsense://bucket/file")


def test_local_paths_import_no_fsspec(tmp_path):
    code = (
        "import sys; from irv2data import storage;"
        f"storage.write_bytes({str(tmp_path / 'x')!r}, b'1'); assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
