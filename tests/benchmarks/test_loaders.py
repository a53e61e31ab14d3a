"""The arithmetic of the comparison with other loaders; measuring them is no test."""

import pytest

from benchmarks import loaders, loaders_report
from benchmarks.feeds import in_order


def turn(rate):
    return {
        "images_per_second": rate,
        "cpu_ms_per_image": 1.0,
        "seconds_to_first_batch": 1.0,
        "peak_mib": 100.0,
        "batch": [64, 299, 299, 3],
        "dtype": "float32",
        "versions": {},
    }


def rows(*rounds):
    return loaders.rows([{name: turn(rate) for name, rate in each.items()} for each in rounds], {})


def by_name(records):
    return {record["loader"]: record for record in records}


def test_the_first_round_does_not_count_and_ratios_are_paired():
    found = by_name(
        rows(
            {"irv2data": 9, "dali": 900},
            {"irv2data": 100, "dali": 60},
            {"irv2data": 400, "dali": 100},
            {"irv2data": 200, "dali": 20},
        )
    )
    assert found["dali"]["rounds"] == 3
    assert found["dali"]["images_per_second"] == {"median": 60, "min": 20, "max": 100}
    # Not the ratio of the medians, which is 0.3.
    assert found["dali"]["over_irv2data"] == {"median": 0.25, "min": 0.1, "max": 0.6}


def test_a_loader_that_failed_in_a_later_round_has_no_row():
    records = rows({"irv2data": 1, "grain": 1}, {"irv2data": 1, "grain": 1}, {"irv2data": 1})
    assert set(by_name(records)) == {"irv2data"}


def test_no_ratio_to_a_loader_that_did_not_run():
    (record,) = rows({"dali": 1}, {"dali": 1})
    assert record["over_irv2data"] is None
    assert "-" in loaders_report.text([record], "stage")


@pytest.mark.parametrize(
    ("table", "ours"), [("host", "irv2data_host"), ("stage", "irv2data")], ids=["finished crops", "canvases"]
)
def test_every_peer_is_in_both_tables_and_canvases_are_not_compared_as_crops(table, ours):
    each = dict.fromkeys(loaders.FEEDS, 1)
    shown = [record["loader"] for record in loaders_report.rows_of(rows(each, each), table)]
    assert {name for name in loaders.FEEDS if not name.startswith("irv2data")} <= set(shown)
    assert ours in shown
    assert not {"irv2data", "irv2data_host"} <= set(shown)


def test_in_order_keeps_the_order_and_takes_no_more_than_it_may():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number * 2, items(), threads=2, ahead=3)
    assert [next(results) for _ in range(10)] == [2 * number for number in range(10)]
    assert len(taken) <= 13
    results.close()
