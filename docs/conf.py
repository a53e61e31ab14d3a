"""The site: the repository's Markdown pages, the API from its docstrings, each command's help. `make docs` builds it.

The source folder is the repository's root (`sphinx-build -c docs . build/site`), so that a relative link means the same
here and on GitHub, to a page, to README.md or to a file of the code.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

from docutils import nodes

# Before TensorFlow is imported, for the API's sake: no word of it belongs to the build's.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "irv2data"
author = "the irv2data authors"
release = version = importlib.metadata.version(project)
copyright = "the irv2data authors, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "commands",
]

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "benchmarks/results/README.md"]
exclude_patterns = [".*", "build", "demo-output", "tests", "irv2data", "tools", "scripts", "requirements", "*.egg-info"]

myst_heading_anchors = 4
nitpicky = True
# Types of other packages, which this site does not describe.
nitpick_ignore_regex = [("py:class", r"(numpy|tensorflow|keras)\..*")]

# A name in single backticks is code, in docstrings as in Markdown.
default_role = "code"
smartquotes = False  # would make one dash of the two before a flag
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = f"irv2data {release}"
html_copy_source = False
html_show_sphinx = False
html_extra_path = ["_root"]
html_static_path = ["_static"]
html_css_files = ["site.css"]


# In place of a property's colons while napoleon reads it: it takes the words before the first one for a type.
_COLON = "\x00"


def _hide_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what in ("attribute", "property"):
        lines[:] = [line.replace(":", _COLON) for line in lines]


def _show_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


_SHORT = 24  # characters: code so short is not broken, for it would be after the dashes of a flag


def _as_shown(app: Any, doctree: nodes.document) -> None:
    """Leaves out HTML comments, which are for the tests of the pages' code (tests/docs), and names fields as we do."""
    for raw in list(doctree.findall(nodes.raw)):
        if raw.astext().strip().startswith("<!--"):
            raw.parent.remove(raw)
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":  # Sphinx's own, between a parameter and its description
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))
    for code in doctree.findall(nodes.literal):
        if len(code.astext()) <= _SHORT:
            code["classes"].append("short")
    for name in list(doctree.findall(nodes.field_name)):
        if name.astext() == "Variables":
            name.replace(name.children[0], nodes.Text("Attributes"))


def setup(app: Any) -> None:
    """Connects the above; napoleon's priority is 500."""
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)
    app.connect("autodoc-process-docstring", _show_colons, priority=600)
    app.connect("doctree-read", _as_shown)
