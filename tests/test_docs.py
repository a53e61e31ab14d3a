"""Pages that repeat what the code defines say the same."""

from __future__ import annotations

import re
from pathlib import Path

from irv2data import index, manifest, schema
from irv2data.convert.rejects import REJECT_CODES
from irv2data.convert.transcode import DONE
from irv2data.errors import EXIT_INTERRUPTED, EXIT_OVER_BUDGET, EXIT_USAGE
from irv2data.pipeline.config import FITS

ROOT = Path(__file__).parents[1]


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its own two head lines."""
    text = (ROOT / page).read_text(encoding="utf-8").split(heading, 1)[1]
    lines = [line for line in text.split("\n\n|", 1)[1].split("\n\n", 1)[0].splitlines() if line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_record_keys():
    assert [name for row in rows("docs/dataset-format.md", "## Record keys") for name in names(row[0])] == [
        *schema.KEYS,
        schema.TARGET,
    ]


def test_index_columns():
    table = rows("docs/dataset-format.md", "## Index columns")
    assert {name: row[1] for row in table for name in names(row[0]) if name in index.PLACE_COLUMNS} == {
        name: dtype.name for name, dtype in index.PLACE_COLUMNS.items()
    }
    assert {name for row in table for name in names(row[0])} == {
        *index.PLACE_COLUMNS, "label", "content", "filename", "filename_end", "columnN"
    }  # fmt: skip
    texts = ["baseline JPEG", "progressive JPEG", "PNG", "WebP", "WebP with alpha", "AVIF"]
    assert dict(manifest_format(table)) == dict(enumerate(texts))
    assert manifest.FORMAT_NAMES == ("baseline", "progressive", "png", "webp", "webp_alpha", "avif")


def manifest_format(table: list[list[str]]) -> list[tuple[int, str]]:
    cell = next(row[2] for row in table if "`format`" in row[0])
    return [(int(code), text) for code, text in re.findall(r"(\d) ([^,]+)", cell)]


def test_reject_codes():
    assert {names(row[0])[0]: row[1] for row in rows("docs/dataset-format.md", "## Reject codes")} == REJECT_CODES


def test_what_was_done():
    assert {names(row[0])[0]: row[1] for row in rows("docs/dataset-format.md", "## What was done")} == DONE


def test_fits():
    assert [names(row[0])[0] for row in rows("README.md", "## The path of an image")] == list(FITS)


def test_exit_codes():
    codes = [int(row[0]) for row in rows("README.md", "## From a folder to a trained network")]
    assert codes == [0, 1, EXIT_USAGE, EXIT_OVER_BUDGET, EXIT_INTERRUPTED]


def test_links_between_pages_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
