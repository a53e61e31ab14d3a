"""Importing irv2data is cheap, and imports point one way."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import irv2data

ROOT = Path(__file__).parents[1]

# A module may import those to its left, never to its right; convert and pipeline never each other.
LAYERS = {
    "errors": 0,
    "labels": 0,
    "machine": 0,
    "packed": 0,
    "index": 1,
    "storage": 1,
    "tfrecord": 1,
    "schema": 2,
    "split": 3,
    "remote": 4,
    "manifest": 5,
    "selection": 6,
    "convert": 6,
    "pipeline": 6,
    "device": 7,
    "near_duplicates": 7,  # its workers are the converter's
    "directory": 8,
    "report": 8,
    "training": 8,
    "measure": 9,
    "preview": 10,
    "study": 10,
    "tools": 11,
}


# What the package itself offers, to the room it comes from.
FACADE = {name: home.split(".")[1] for name, home in irv2data._HOMES.items()}


def imported_rooms(path: str, source: str) -> set[str]:
    """The rooms of irv2data that the module `room/file` or `file` imports, at any depth of its code."""
    package = ["irv2data", *path.split("/")[:-1]]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += [node.module] if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    rooms = {name.split(".")[1] for name in names if name.startswith("irv2data.")}
    return {FACADE.get(room, room) for room in rooms} & LAYERS.keys()


def back_arrows(files: dict[str, str]) -> list[str]:
    """`room -> room` for each import that points to the same or a higher layer, given room/file to source."""
    return sorted(
        {
            f"{path.split('/')[0].removesuffix('.py')} -> {room}"
            for path, source in files.items()
            for room in imported_rooms(path, source)
            if room != (own := path.split("/")[0].removesuffix(".py")) and LAYERS[room] >= LAYERS[own]
        }
    )


def modules() -> dict[str, str]:
    package = {str(p.relative_to(ROOT / "irv2data")): p for p in (ROOT / "irv2data").rglob("*.py")}
    tools = {f"tools/{p.name}": p for p in (ROOT / "tools").glob("*.py")}
    files = {**package, **tools}
    files.pop("__init__.py")  # the façade names every room
    return {name: path.read_text() for name, path in files.items()}


def test_imports_point_one_way():
    files = modules()
    assert {name.split("/")[0].removesuffix(".py") for name in files} == LAYERS.keys()
    assert back_arrows(files) == []


@pytest.mark.parametrize(
    ("path", "source", "arrow"),
    [
        ("pipeline/plan.py", "from irv2data.convert import layout", "pipeline -> convert"),
        ("convert/run.py", "def f():\n    import irv2data.pipeline.plan", "convert -> pipeline"),
        ("errors.py", "from irv2data import manifest", "errors -> manifest"),
        ("index.py", "from irv2data.storage import join", "index -> storage"),
        ("convert/run.py", "from irv2data import Pipeline", "convert -> pipeline"),
        ("convert/run.py", "from ..pipeline import plan", "convert -> pipeline"),
        ("schema.py", "from . import convert", "schema -> convert"),
    ],
)
def test_an_arrow_back_is_found(path, source, arrow):
    assert back_arrows({path: source}) == [arrow]


def test_import_loads_no_tensorflow():
    code = (
        "import sys, json, irv2data, irv2data.convert, irv2data.tools.main\n"
        "irv2data.Dataset, irv2data.convert.ConvertConfig\n"
        "irv2data.tools.main.parse(['irv2data', 'convert', 'a', 'b'])\n"
        "print(json.dumps(sorted(m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert json.loads(done.stdout) == []
