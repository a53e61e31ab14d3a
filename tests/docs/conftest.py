"""What a page finds in its working folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from irv2data.convert import ConvertConfig, convert
from irv2data.training import files as files_module
from tests.conftest import run_serial
from tests.docs import pages, shell
from tests.docs.network import TwoReplicas, small_network

ALWAYS = ("photographs", "flowers")


class Materials:
    """Folders for pages, each made when the first page asks for it, and copied for every page."""

    def __init__(self, folder: Path, photos: Path) -> None:
        self._folder = folder
        self._photos = photos

    def place(self, name: str, working: Path) -> None:
        """Puts a copy of the folder `name` into `working`."""
        made = self._folder / name
        if not made.exists():
            getattr(self, f"_{name}")(made)
        shutil.copytree(made, working / name)

    def _photographs(self, made: Path) -> None:
        """CLASS/*: training and validation photographs together."""
        for file in sorted(self._photos.glob("*/*/*.*")):
            target = made / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target)

    def _prepared(self, made: Path) -> None:
        shutil.copytree(self._photos, made)

    def _holiday(self, made: Path) -> None:
        made.mkdir()
        for file in sorted(self._photos.glob("validation/*/*-000.*")):
            shutil.copy(file, made)

    def _flowers(self, made: Path) -> None:
        if not (self._folder / "photographs").exists():
            self._photographs(self._folder / "photographs")
        convert(self._folder / "photographs", made, ConvertConfig())

    def _run1(self, made: Path) -> None:
        shell.run(
            f"irv2data train '{self._folder / 'flowers'}' '{made}' --image_size=96 --head_epochs=1 --fine_epochs=1"
            " --unfreeze=12 --max_steps=2 --replicas=1 --batch_size=32"
        )


@pytest.fixture(scope="session")
def materials(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """Places what a page works on."""
    return Materials(tmp_path_factory.mktemp("materials"), photos)


@pytest.fixture
def working_folder(
    materials: Materials, in_this_process, tmp_path_factory, monkeypatch
) -> Callable[[Path], AbstractContextManager[Path]]:
    """`with working_folder(page):` the current folder is the page's own and holds what it asks for."""
    weights = tmp_path_factory.mktemp("weights")

    @contextmanager
    def within(page: Path) -> Iterator[Path]:
        folder = tmp_path_factory.mktemp(page.stem)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
        monkeypatch.setattr(files_module, "run_local", run_serial)
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", TwoReplicas)
        with in_this_process(), ExitStack() as stack:
            with small_network(weights):
                for name in (*ALWAYS, *pages.wanted(page, "files")):
                    materials.place(name, folder)
            if "real" not in pages.wanted(page, "network"):
                stack.enter_context(small_network(weights))
            yield folder
        keras.backend.clear_session()  # or the pages' networks add up

    return within
