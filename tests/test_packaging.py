"""pyproject.toml, setup.py and what is installed say the same."""

import ast
import importlib.metadata
import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXTRAS = {"cuda", "io", "beam", "remote", "report", "tfds", "heic", "lossless", "docs", "dev"}


def requirements(extra=None):
    """The requirements of the installed distribution, as written, for one extra or for none."""
    found = []
    for line in importlib.metadata.requires("irv2data"):
        text, _, marker = line.partition(";")
        of_extra = re.search(r"extra == ['\"](.+?)['\"]", marker)
        if (of_extra.group(1) if of_extra else None) == extra:
            found.append(text.strip())
    return found


def test_console_script():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="irv2data")
    assert script.value == "irv2data.tools.main:main_cli"
    assert callable(script.load())


def test_extras():
    assert set(importlib.metadata.metadata("irv2data").get_all("Provides-Extra")) == EXTRAS


def test_requirements_of_the_worker_processes_are_direct():
    names = {re.match(r"[A-Za-z0-9.-]+", text).group() for text in requirements()}
    assert names == {
        "tensorflow",
        "keras",
        "numpy",
        "absl-py",
        "pillow",
        "tqdm",
        "protobuf",
        "google-crc32c",
        "simplejpeg",
        "cykooz.resizer",
    }


def test_io_is_pinned_as_a_pair():
    assert {"tensorflow==2.16.2", "tensorflow-io==0.37.1"} <= set(requirements("io"))


def test_python_range_and_licence():
    metadata = importlib.metadata.metadata("irv2data")
    assert set(metadata["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    assert metadata["License-Expression"] == "Apache-2.0"


def test_setup_maps_tools():
    (call,) = [
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    assert set(arguments) == {"packages", "package_dir"}, "all else belongs in pyproject.toml"
    assert ast.literal_eval(arguments["package_dir"]) == {"irv2data.tools": "tools"}
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.search(r"^(packages|package-dir)\b|^\[tool\.setuptools\.packages", pyproject, re.MULTILINE)


def test_tools_is_found_as_irv2data_tools():
    spec = importlib.util.find_spec("irv2data.tools")
    assert [pathlib.Path(place).resolve() for place in spec.submodule_search_locations] == [ROOT / "tools"]


@pytest.mark.parametrize("top", ["irv2data", "tools"])
def test_every_folder_of_modules_is_a_package(top):
    """find_packages leaves a folder without __init__.py out of the wheel, and says nothing."""
    folders = {path.parent for path in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_py_typed_is_there():
    assert (ROOT / "irv2data" / "py.typed").exists()
