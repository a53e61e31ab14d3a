"""Searches without worker processes."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def alone(serial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions and searches in this process."""
    serial_run = importlib.import_module("irv2data.convert.run").run_local
    monkeypatch.setattr(importlib.import_module("irv2data.near_duplicates.search"), "run_local", serial_run)
