"""What the tests ask of each page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.docs import pages

# Blocks that cannot run, page by page; each has its reason in the page.
SKIPPED = {
    "README.md": 2,
    "docs/conversion.md": 2,
    "docs/index.md": 1,
    "docs/howto/many-gpus.md": 2,
    "docs/howto/preemptible.md": 2,
    "docs/io.md": 2,
    "docs/measuring.md": 1,
    "docs/remote.md": 1,
    "docs/service.md": 2,
    "docs/tensorboard.md": 1,
    "docs/training.md": 1,
    "docs/tutorial.md": 1,
}

# Pages that take about half of the time.
APART = ("README.md", "docs/howto/")

# What would have to run may not stand in a block that is not run.
_COMMAND = re.compile(r"^\s*(\$ |irv2data \w|pip install|import \w+$|from \w+ import)", re.MULTILINE)


def by_name(found: list[Path]) -> dict[str, Path]:
    """Pages by their paths within the repository."""
    return {str(page.relative_to(pages.ROOT)): page for page in found}


def check_runs(name: str, page: Path, working_folder: Callable) -> None:
    """Every block runs, or is skipped for a reason and counted in `SKIPPED`."""
    seen = [fence for fence in pages.fences(page) if fence.language not in pages.NOT_RUN]
    if not seen:
        return
    with working_folder(page):
        outcome = pages.run(page)
    assert len(outcome.skipped) == SKIPPED.get(name, 0), outcome.skipped
    assert all(len(reason.split()) > 2 for reason in outcome.skipped), outcome.skipped
    # By another reading of the page than Sybil's: no block was passed over.
    assert len(seen) == len(outcome.ran) + len(outcome.skipped)


def check_languages(page: Path) -> None:
    """Every block names a language, and none hides from the tests behind `text`."""
    known = {*pages.EVALUATORS, *pages.NOT_RUN}
    fences = pages.fences(page)
    assert [(fence.line, fence.language) for fence in fences if fence.language not in known] == []
    assert [fence.line for fence in fences if fence.language == "text" and _COMMAND.search(fence.text)] == []
