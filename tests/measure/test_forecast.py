"""The doctor's arithmetic: known answers, limits, and laws."""

from __future__ import annotations

import pytest

from irv2data.measure import forecast
from irv2data.measure.forecast import Change, Job


def test_the_slowest_of_those_that_work_side_by_side_decides():
    assert Job(host=1000, devices=400).fed == 400
    assert Job(host=300, devices=400).fed == 300
    assert Job(host=300, devices=400).wait == pytest.approx(0.25)
    assert Job(host=1000, devices=400).wait == 0
    assert Job(host=1000, devices=400, copy=250).fed == 250
    assert Job(host=1000, devices=None).fed == 1000
    assert Job(host=1000, devices=None, copy=800).fed == 800
    assert Job(host=1000, devices=None).wait is None


def test_on_one_processor_the_times_add_up():
    job = Job(host=100, devices=25, shared=True)
    assert job.fed == pytest.approx(20)  # 10 ms and 40 ms an image
    assert job.wait == pytest.approx(0.2)


def test_a_change_is_judged_by_the_whole_job():
    before = Job(host=300, devices=400)
    found = forecast.change(before, Job(host=900, devices=400), name="cache", what="w", basis="b")
    assert (found.host, found.fed) == (900, 400)
    assert found.gain == pytest.approx(1 / 3)


def make(name: str, gain: float) -> Change:
    return Change(name=name, what="", host=0, fed=100 * (1 + gain), gain=gain, basis="")


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ({}, None),
        ({"cache": 0.05, "cores": -0.2}, None),  # within what a machine drifts
        ({"shrink": 0.5, "cores": 0.2}, "shrink"),
        ({"service": 0.51, "shrink": 0.5, "cores": 0.5}, "cores"),  # as good within 2 %: the least effort
        ({"service": 0.6, "cores": 0.5}, "service"),
        ({"buckets": 0.3, "cache": 0.3}, "cache"),
    ],
)
def test_the_best_change(gains, chosen):
    found = forecast.best([make(name, gain) for name, gain in gains.items()])
    assert (found and found.name) == chosen


def test_amdahls_law_goes_through_what_was_measured():
    serial, parallel = 0.001, 0.009  # seconds an image
    measured = {n: 1 / (serial + parallel / n) for n in (1, 2, 4)}
    assert forecast.at_cores(measured, 2) == measured[2]
    assert forecast.at_cores(measured, 16) == pytest.approx(1 / (serial + parallel / 16))
    assert forecast.at_cores({4: 400.0}, 8) == pytest.approx(800)
    # One that became slower with more cores is not taken to become faster with still more.
    assert forecast.at_cores({1: 100.0, 2: 90.0}, 8) <= 100


def test_cores_for_a_rate_are_the_fewest_that_do():
    measured = {n: 1 / (0.001 + 0.009 / n) for n in (1, 2)}
    for wanted in (50, 101, 300, 700, 950):
        found = forecast.cores_for(measured, wanted)
        assert forecast.at_cores(measured, found) >= wanted
        assert found == 1 or forecast.at_cores(measured, found - 1) < wanted
    assert forecast.cores_for(measured, 1001) is None  # 1,000 is what the serial part allows


def test_shares_add_up_and_none_is_negative():
    found = forecast.shares({"read": 1000.0, "decode": 200.0, "batch": 160.0})
    assert found == pytest.approx({"read": 0.16, "decode": 0.64, "batch": 0.2})
    drifted = forecast.shares({"read": 1000.0, "decode": 1100.0, "batch": 500.0})
    assert drifted == pytest.approx({"read": 0.5, "decode": 0.0, "batch": 0.5})
    last = forecast.shares({"read": 1000.0, "decode": 200.0, "batch": 250.0})
    assert last == pytest.approx({"read": 0.2, "decode": 0.8, "batch": 0.0})


@pytest.mark.parametrize(
    ("devices", "count", "host"),
    [(1000.0, 5, 1000.0), (100.0, 1, 200.0), (None, 10, 2000.0), (90000.0, 10, 2000.0)],
)
def test_workers_are_as_many_as_the_devices_or_the_client_take(devices, count, host):
    assert forecast.workers_for(Job(host=400, devices=devices), 200.0, 2000.0) == (count, host)
