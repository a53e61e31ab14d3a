"""The picture of a benchmark: every point where its figure is."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from irv2data.report import bench_chart
from tests.tools.test_measuring_commands import BENCH


@pytest.fixture
def axes():
    return Figure().add_subplot()


def points(axes):
    """The dots: x and y of each."""
    return [tuple(float(value[0]) for value in line.get_data()) for line in axes.lines if line.get_marker() == "o"]


@pytest.mark.parametrize("log", [False, True])
def test_ranges_lie_within_the_picture(axes, log):
    rows = [("one", {"median": 1000.0, "low": 900.0, "high": 1100.0}, 0)]
    rows.append(("other", {"median": 50.0, "low": 40.0, "high": 60.0}, 1))
    bench_chart._ranges(axes, rows, log=log)
    assert points(axes) == [(1000.0, 0.0), (50.0, 1.0)]
    left, right = axes.get_xlim()
    assert left < 40
    assert right > 1100
    assert (left > 0) == log
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "other"]


def test_a_report_has_a_panel_for_each_list(tmp_path, monkeypatch):
    seen = []
    for name in ("_whole", "_stages", "_cores", "_memory"):
        real = getattr(bench_chart, name)
        monkeypatch.setattr(bench_chart, name, lambda *given, real=real, name=name: (seen.append(name), real(*given)))
    bench_chart.draw(BENCH, tmp_path / "all.svg", other="buckets=12")
    text = (tmp_path / "all.svg").read_text()
    assert text.startswith("<?xml")
    assert seen == ["_whole", "_stages", "_cores", "_memory"]
    seen.clear()
    few = {name: BENCH[name] for name in ("images_per_second", "finished_images_per_second", "rounds", "config")}
    bench_chart.draw({**few, "memory": []}, tmp_path / "few.pdf")
    assert (tmp_path / "few.pdf").read_bytes().startswith(b"%PDF")
    assert seen == ["_whole"]
