"""The site is built without a warning; every link in it leads somewhere; and it loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from irv2data.tools.main import COMMANDS, parse

ROOT = Path(__file__).parents[1]
# What a browser fetches by itself, as opposed to what a reader may click on.
LOADED = {
    ("audio", "src"),
    ("embed", "src"),
    ("iframe", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("link", "href"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("video", "src"),
}

pytest.importorskip("sphinx", reason="the extra `docs` is not in this environment")


class Page(HTMLParser):
    """Anchors of a page, and all that it refers to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[str, str, str]] = []  # tag, attribute, value
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src", "srcset", "data") and value:
                self.references.append((tag, name, value))


class Texts(HTMLParser):
    """The text that a page shows, code blocks left out."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._hidden += tag in ("script", "style", "pre")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("script", "style", "pre")

    def handle_data(self, data):
        if not self._hidden:
            self.found.append(data)


def problems(site: Path) -> list[str]:
    """Every reference of every page below `site` that leads nowhere, or that loads from elsewhere."""
    pages = {file: Page(file) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        for tag, attribute, value in page.references:
            where = f"{file.relative_to(site)}: {value}"
            target = urlsplit(value)
            if target.scheme or target.netloc:
                if (tag, attribute) in LOADED and target.scheme != "data":
                    found.append(f"{where}: loaded from elsewhere")
                continue
            path = (file.parent / unquote(target.path)).resolve() if target.path else file
            if path.is_dir():
                path /= "index.html"
            if not path.is_file():
                found.append(f"{where}: no such file")
            elif target.fragment and path in pages and unquote(target.fragment) not in pages[path].anchors:
                found.append(f"{where}: no such anchor")
    found += [f"{file.relative_to(site)}: loads from elsewhere" for file in site.rglob("*.css") if _loads(file)]
    return found


def _loads(file: Path) -> bool:
    text = file.read_text(encoding="utf-8")
    return any(sign in text for sign in ("url(http", 'url("http', "url('http", "url(//", "@import"))


def build(source: Path, site: Path, conf: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    return subprocess.run(
        [*command, "-c", str(conf), "-d", str(site.with_name("doctrees")), str(source), str(site)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("site") / "html"
    done = build(ROOT, site, ROOT / "docs")
    assert done.returncode == 0, done.stderr
    return site


def test_every_page_is_there(site):
    sources = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "results" / "README.md"]
    for source in sources:
        page = site / source.relative_to(ROOT).with_suffix(".html")
        title = source.read_text(encoding="utf-8").splitlines()[0].strip("# ").replace("`", "")
        assert page.is_file(), source
        assert title.split(":")[0] in page.read_text(encoding="utf-8").replace("</span>", "").replace("</code>", "")
    assert "docs/index.html" in (site / "index.html").read_text(encoding="utf-8")


def test_every_reference_leads_somewhere(site):
    assert len(list(site.rglob("*.html"))) > 25
    assert problems(site) == []


def test_the_api_comes_from_the_docstrings(site):
    api = (site / "docs" / "api" / "pipeline.html").read_text(encoding="utf-8")
    assert 'id="irv2data.Pipeline.distribute"' in api
    text = " ".join(Texts(api).found)
    assert "Exactly how many batches an epoch has" in text
    assert "`" not in text, "a docstring's backticks are not shown as code"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_every_flag_of_a_command_is_there(site, name, capsys):
    with pytest.raises(SystemExit):
        parse(["irv2data", name, "--help"])
    flags = set(re.findall(r"--([a-z][\w-]*)", capsys.readouterr().out.split("\n\n")[0])) - {"helpfull"}  # absl's
    assert len(flags) > 1
    anchors = Page(site / "docs" / "api" / "commands.html").anchors
    assert {f"irv2data-{name}-{flag.replace('_', '-')}" for flag in flags} <= anchors


def test_no_comment_for_the_tests_is_published(site):
    # The page that explains them shows one as text, escaped.
    assert [file for file in site.rglob("*.html") if "<!-- invisible" in file.read_text(encoding="utf-8")] == []


def test_problems_are_found(tmp_path):
    """The comparator of this module on a site of two pages."""
    (tmp_path / "there.html").write_text('<p id="here">')
    (tmp_path / "site.css").write_text("body { background: url(https://example.org/x.png) }")
    (tmp_path / "index.html").write_text(
        '<a href="there.html#here"></a><a href="there.html#gone"></a><a href="gone.html"></a><a href="#gone"></a>'
        '<img src="gone.png"><script src="https://example.org/x.js"></script><a href="https://example.org"></a>'
        '<img src="data:image/png;base64,AA"><link href="//example.org/x.css">'
    )
    assert problems(tmp_path) == [
        "index.html: there.html#gone: no such anchor",
        "index.html: gone.html: no such file",
        "index.html: #gone: no such anchor",
        "index.html: gone.png: no such file",
        "index.html: https://example.org/x.js: loaded from elsewhere",
        "index.html: //example.org/x.css: loaded from elsewhere",
        "site.css: loads from elsewhere",
    ]


CONF = """
extensions = ["myst_parser"]
myst_heading_anchors = {anchors}
exclude_patterns = ["html", "doctrees"]
html_theme = "basic"
"""
SOUND = "# Title\n\n[known](keras.md#shuffling) [file](data.txt)\n\n```{toctree}\nkeras\n```\n"


@pytest.mark.parametrize(
    ("added", "complaint"),
    [
        ("", None),
        ("[gone](gone.md)", "'gone.md'"),
        ("[gone](gone.txt)", "gone.txt"),
        ("[gone](keras.md#gone)", "'gone'"),
        ("![gone](gone.png)", "gone.png"),
        ("orphan", "any toctree"),
    ],
)
def test_a_broken_link_fails_the_build(tmp_path, added, complaint):
    """With the site's own settings, on a copy of one page."""
    settings = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    (anchors,) = (line.split("=")[1] for line in settings.splitlines() if line.startswith("myst_heading_anchors"))
    (tmp_path / "conf.py").write_text(CONF.format(anchors=anchors))
    (tmp_path / "data.txt").write_text("data")
    page = (ROOT / "docs" / "keras.md").read_text(encoding="utf-8")
    # What it refers to is not copied.
    (tmp_path / "keras.md").write_text(re.sub(r"\]\([\w/.-]+\.md", "](index.md", page), encoding="utf-8")
    (tmp_path / "index.md").write_text(SOUND)
    if added == "orphan":
        shutil.copy(tmp_path / "keras.md", tmp_path / "orphan.md")
    else:
        (tmp_path / "index.md").write_text(SOUND + added + "\n")
    done = build(tmp_path, tmp_path / "html", tmp_path)
    if complaint is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert complaint in done.stderr
