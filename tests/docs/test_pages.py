"""Every code block of docs runs, or says why not; README.md and docs/howto have a module of their own."""

from __future__ import annotations

import pytest

from tests.docs import checks, pages

ALL = checks.by_name(pages.pages())
PAGES = {name: page for name, page in ALL.items() if not name.startswith(checks.APART)}


@pytest.mark.parametrize("name", PAGES)
def test_page(name, working_folder):
    checks.check_runs(name, PAGES[name], working_folder)


@pytest.mark.parametrize("name", ALL)
def test_every_block_has_a_known_language(name):
    checks.check_languages(ALL[name])


def test_no_page_that_is_gone_has_skips():
    assert set(checks.SKIPPED) <= set(ALL)
