"""Small sources and datasets to break."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from irv2data.convert import convert

# The drivers, which are processes of their own, import the same module.
sys.path.insert(0, str(Path(__file__).parent))

from faulty import CONFIG, MODULES, make_source, run_serial


@pytest.fixture
def serial(monkeypatch):
    """Conversions, checks and repairs in this process, which no power cut will hit."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time of small runs
    for module in MODULES:
        monkeypatch.setattr(sys.modules[f"irv2data.convert.{module}"], "run_local", run_serial)


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """24 sound images, a text that is named as one, and a copy; read only."""
    folder = make_source(tmp_path_factory.mktemp("faults") / "source")
    (folder / "ant" / "text.jpg").write_text("no image")
    shutil.copy(folder / "ant" / "000.jpg", folder / "bee" / "copy.jpg")
    return folder


@pytest.fixture(scope="session")
def sound(source, tmp_path_factory) -> Path:
    """`source` converted with `CONFIG`: several shards in each split; read only."""
    folder = tmp_path_factory.mktemp("sound") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(sys.modules[f"irv2data.convert.{module}"], "run_local", run_serial)
        convert(source, folder, CONFIG)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy of `sound`, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "dataset"))
