"""Every code block of README.md and docs/howto runs, or says why not: apart, so that two processes share the pages."""

from __future__ import annotations

import pytest

from tests.docs import checks, pages

PAGES = {name: page for name, page in checks.by_name(pages.pages()).items() if name.startswith(checks.APART)}


@pytest.mark.parametrize("name", PAGES)
def test_page(name, working_folder):
    checks.check_runs(name, PAGES[name], working_folder)
