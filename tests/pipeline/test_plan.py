"""The plan: whole epochs, exact steps, no record twice, and every step known by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from irv2data.errors import DatasetError
from irv2data.index import BASELINE, PLACE_COLUMNS, PNG
from irv2data.manifest import Contents
from irv2data.pipeline import order
from irv2data.pipeline.augmentation import DRAWS
from irv2data.pipeline.config import PipelineConfig
from irv2data.pipeline.plan import WINDOW, Plan
from irv2data.pipeline.planned import FILLER


class MadeUpSplit:
    """A split that is only an index: the plan needs no more."""

    name = "train"
    folder = Path("made-up")

    def __init__(self, records, seed=0, smallest=4, largest=90):
        rng = np.random.default_rng(seed)
        self.num_records = records
        columns = {
            "shard": np.arange(records) * 3 // max(records, 1),
            "offset": np.arange(records) * 1000,
            "length": np.full(records, 1000),
            "height": np.exp(rng.uniform(np.log(smallest), np.log(largest), records)),
            "width": np.exp(rng.uniform(np.log(smallest), np.log(largest), records)),
            "format": rng.choice([BASELINE, PNG], records),
            "label": rng.integers(0, 5, records),
        }
        dtypes = {**PLACE_COLUMNS, "label": np.int32}
        self.contents = Contents(classes=tuple("abcde"))
        self._columns = {name: column.astype(dtypes[name]) for name, column in columns.items()}

    def array(self, name):
        return self._columns[name]

    column = array


def make_plan(records, split_options=None, **options):
    return Plan(MadeUpSplit(records, **(split_options or {})), PipelineConfig(**{"image_size": (16, 16), **options}))


def whole_epoch(plan, epoch=0):
    """Every field of an epoch, [steps, ..]."""
    windows = [plan.window(epoch, window).arrays() for window in range(plan.windows_per_epoch())]
    return {name: np.concatenate([window[name] for window in windows]) for name in windows[0]}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype


@pytest.mark.parametrize("shuffle", ["full", "blocks", None])
@pytest.mark.parametrize("records", [1, 2, 5, 12, 31])
def test_steps_and_records_of_an_epoch_for_every_batch_size(records, shuffle):
    for batch in range(1, records + 1):
        plan = make_plan(records, batch_size=batch, shuffle=shuffle)
        assert plan.steps_per_epoch() == records // batch
        record = whole_epoch(plan)["record"]
        assert record.shape == (records // batch, batch)
        assert len(set(record.ravel().tolist())) == record.size
        assert ((record >= 0) & (record < records)).all()
    for batch in range(1, records + 3):
        plan = make_plan(records, batch_size=batch, shuffle=shuffle, drop_remainder=False)
        assert plan.steps_per_epoch() == -(-records // batch)
        record = whole_epoch(plan)["record"].ravel()
        assert sorted(record[record != FILLER].tolist()) == list(range(records))
        assert (record == FILLER).sum() == plan.steps_per_epoch() * batch - records < batch


@pytest.mark.parametrize("shuffle", ["full", "blocks", None])
def test_many_windows(shuffle):
    records = 3 * (2 * WINDOW + 7) + 2
    plan = make_plan(records, batch_size=3, shuffle=shuffle)
    assert plan.windows_per_epoch() == 3
    assert [len(plan.window(0, window)) for window in range(3)] == [WINDOW, WINDOW, 7]
    record = whole_epoch(plan)["record"]
    assert record.shape == (2 * WINDOW + 7, 3)
    assert len(set(record.ravel().tolist())) == records - 2
    if shuffle is None:
        assert set(record[:WINDOW].ravel().tolist()) == set(range(3 * WINDOW))


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_what_is_dropped_changes_from_epoch_to_epoch(shuffle):
    plan = make_plan(100, batch_size=30, shuffle=shuffle)
    dropped = [frozenset(range(100)) - set(whole_epoch(plan, epoch)["record"].ravel().tolist()) for epoch in range(12)]
    assert {len(records) for records in dropped} == {10}
    # Of whole blocks only the last one's tail is dropped: fewer different sets, but never the same one throughout.
    assert len(set(dropped)) > (11 if shuffle == "full" else 4)
    assert len(frozenset.union(*dropped)) > (60 if shuffle == "full" else 30)


def test_epochs_and_seeds_differ_and_repeat():
    config = {"batch_size": 10, "fit": "random_resized_crop"}
    first = whole_epoch(make_plan(200, **config))
    assert_equal(first, whole_epoch(make_plan(200, **config)))
    for other in (whole_epoch(make_plan(200, **config), epoch=1), whole_epoch(make_plan(200, seed=1, **config))):
        assert (first["record"] != other["record"]).mean() > 0.9
        assert np.abs(first["draws"] - other["draws"]).mean() > 0.2
        # The same record has another crop.
        by_record = [
            dict(zip(e["record"].ravel(), map(tuple, e["crop"].reshape(-1, 4)), strict=True)) for e in (first, other)
        ]
        assert sum(by_record[0][record] != by_record[1][record] for record in range(200)) > 150


@pytest.mark.parametrize("shuffle", ["full", "blocks", None])
def test_a_batch_is_known_by_itself(shuffle):
    plan = make_plan(2 * WINDOW * 2 + 9, batch_size=2, shuffle=shuffle, fit="random_resized_crop", drop_remainder=False)
    epoch = whole_epoch(plan, epoch=3)
    fresh = make_plan(
        2 * WINDOW * 2 + 9, batch_size=2, shuffle=shuffle, fit="random_resized_crop", drop_remainder=False
    )
    for step in (plan.steps_per_epoch() - 1, 0, 1, WINDOW - 1, WINDOW, 2 * WINDOW, 2 * WINDOW + 3):
        batch = fresh.batch(3, step)
        assert len(batch) == 1
        assert_equal(batch.arrays(), {name: value[step : step + 1] for name, value in epoch.items()})


def test_no_shuffle_keeps_the_order_of_the_records():
    plan = make_plan(400, batch_size=4, shuffle=None)
    assert len(plan.canvases) > 1
    for window in range(plan.windows_per_epoch()):
        batches = plan.window(0, window)
        for canvas in plan.canvases:
            rows = batches.record[(batches.canvas == canvas).all(axis=1)].ravel()
            assert (np.diff(rows) > 0).all()
        # The batches stand in the order of their first records.
        assert (np.diff(batches.record[:, 0]) > 0).all()
    one_canvas = make_plan(400, batch_size=4, shuffle=None, buckets=1)
    np.testing.assert_array_equal(whole_epoch(one_canvas)["record"].ravel(), np.arange(400))
    assert_equal(whole_epoch(plan, epoch=0), {**whole_epoch(plan, epoch=5), "draws": whole_epoch(plan)["draws"]})


def test_shuffled_batches_mix_the_canvases():
    plan = make_plan(600, batch_size=4)
    areas = np.prod(whole_epoch(plan)["canvas"], axis=1)
    assert len(set(areas.tolist())) == len(plan.canvases) > 1
    # Sorted by canvas there would be one change less than canvases.
    assert (np.diff(areas) != 0).sum() > 30


def test_blocks_stay_in_one_window_and_are_mixed_there():
    plan = make_plan(16 * 40, batch_size=2, shuffle="blocks", buckets=1)
    for window in range(plan.windows_per_epoch()):
        record = plan.window(0, window).record.ravel()
        assert set(record // 16 * 16) <= set(record.tolist())
        assert len(set(record // 16)) * 16 == len(record)
        assert (np.diff(record) == 1).sum() < 20


def test_fields_come_from_the_index():
    split = MadeUpSplit(50)
    plan = Plan(split, PipelineConfig(image_size=(16, 16), batch_size=5))
    epoch = whole_epoch(plan)
    for name in ("shard", "offset", "format", "label"):
        np.testing.assert_array_equal(epoch[name], split.column(name)[epoch["record"]])
    np.testing.assert_array_equal(epoch["weight"], np.ones((10, 5)))
    assert epoch["draws"].shape == (10, 5, DRAWS)
    assert ((epoch["draws"] >= 0) & (epoch["draws"] < 1)).all()
    dtypes = {name: str(value.dtype) for name, value in epoch.items()}
    assert dtypes == {
        "record": "int64", "label": "int64", "weight": "float32", "shard": "int32", "offset": "int64",
        "format": "int32", "scale": "int32", "crop": "int32", "reduce": "int32", "size": "int32", "box": "float32",
        "output": "int32", "flip": "bool", "draws": "float32", "canvas": "int32", "rows": "int32",
    }  # fmt: skip


@pytest.mark.parametrize("fit", ["resize", "center_crop", "random_resized_crop"])
def test_every_image_fits_its_canvas_and_every_canvas_is_of_the_ladder(fit):
    plan = make_plan(500, batch_size=7, fit=fit, max_canvas_pixels=34 * 34)
    for epoch in range(4):
        planned = whole_epoch(plan, epoch)
        assert (planned["size"] <= planned["canvas"][:, None]).all()
        assert set(map(tuple, planned["canvas"].tolist())) <= set(plan.canvases)
        assert (planned["box"][..., :2] + planned["box"][..., 2:] <= planned["size"] + 1e-4).all()
    assert all(height * width <= 34 * 34 for height, width in plan.canvases)


def test_switching_flips_changes_nothing_else():
    off, on = (make_plan(300, batch_size=10, fit="random_resized_crop", flip=flip) for flip in (False, True))
    default = make_plan(300, batch_size=10, fit="random_resized_crop")
    without, with_flips = whole_epoch(off), whole_epoch(on)
    assert not without.pop("flip").any()
    assert 0.4 < with_flips["flip"].mean() < 0.6
    assert_equal(with_flips, whole_epoch(default))
    with_flips.pop("flip")
    assert_equal(without, with_flips)
    assert not whole_epoch(make_plan(300, batch_size=10))["flip"].any()
    assert whole_epoch(make_plan(300, batch_size=10, flip=True))["flip"].any()


def test_every_use_of_randomness_has_a_stream_of_its_own(monkeypatch):
    plan = make_plan(300, batch_size=10, fit="random_resized_crop", shuffle="blocks")
    real, streams = order.uniforms, []

    def recorded(seed, epoch, window, stream, shape):
        assert (seed, epoch) == (0, 7)
        streams.append(stream)
        return real(seed, epoch, window, stream, shape)

    monkeypatch.setattr(order, "uniforms", recorded)
    plan.window(7, 0)
    assert sorted(streams) == ["batches", "crop", "draws", "flip", "mix", "rest of blocks"]


@pytest.mark.parametrize("shuffle", ["full", "blocks", None])
def test_filler_ends_its_batch(shuffle):
    for records in (1, 5, 22, 43):
        plan = make_plan(records, batch_size=8, shuffle=shuffle, drop_remainder=False, fit="random_resized_crop")
        epoch = whole_epoch(plan)
        filler = epoch["record"] == FILLER
        assert filler.sum() == -records % 8
        assert (np.diff(filler.astype(int), axis=1) >= 0).all()
        assert (epoch["label"][filler] == 0).all()
        np.testing.assert_array_equal(epoch["weight"], ~filler)
        np.testing.assert_array_equal(epoch["box"][filler], np.tile([0, 0, 1, 1], (filler.sum(), 1)))
        np.testing.assert_array_equal(epoch["size"][filler], np.ones((filler.sum(), 2)))


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_padding_waste_is_the_share_of_padding(drop_remainder):
    plan = make_plan(WINDOW * 4 * 3 + 5, batch_size=4, drop_remainder=drop_remainder)
    for windows in (1, 2, 16):
        steps = min(windows * WINDOW, plan.steps_per_epoch())
        valid = total = 0
        for step in range(0, steps):
            batch = plan.batch(2, step)
            valid += int(batch.size.astype(int).prod(axis=-1).sum())
            total += 4 * int(batch.canvas.astype(int).prod())
        assert plan.padding_waste(epoch=2, windows=windows) == pytest.approx(1 - valid / total, abs=1e-12)
    assert 0 < plan.padding_waste() < 1


def test_more_buckets_waste_less():
    plans = [
        make_plan(2000, {"largest": 900}, image_size=(64, 64), batch_size=8, buckets=buckets)
        for buckets in (1, 2, 4, 8)
    ]
    waste = [plan.padding_waste() for plan in plans]
    assert waste == sorted(waste, reverse=True)
    assert waste[0] - waste[3] > 0.1
    assert [len(plan.canvases) for plan in plans] == [1, 2, 4, 8]


def test_given_canvases_are_used():
    canvases = ((34, 40), (50, 60))
    plan = make_plan(100, batch_size=10, canvases=canvases)
    assert plan.canvases == canvases
    assert set(map(tuple, whole_epoch(plan)["canvas"].tolist())) <= set(canvases)


@pytest.mark.parametrize(
    ("image_size", "split_options"),
    [((299, 299), {}), ((16, 16), {"largest": 3000}), ((5, 60), {"largest": 900}), ((60, 5), {"largest": 900})],
)
def test_chosen_canvases_hold_every_epoch(image_size, split_options):
    for fit in ("resize", "center_crop", "random_resized_crop"):
        plan = make_plan(300, split_options, batch_size=10, image_size=image_size, fit=fit)
        for epoch in range(3):
            planned = whole_epoch(plan, epoch)
            assert (planned["size"] <= planned["canvas"][:, None]).all()
        bound = image_size[0] * image_size[1] * 64 / 9
        least = (2 * image_size[0] + 2) * (2 * image_size[1] + 2)
        assert max(height * width for height, width in plan.canvases) <= max(bound, least)


def test_a_split_smaller_than_a_batch():
    with pytest.raises(
        DatasetError, match=r"made-up: split 'train' has 7 records, a batch needs 8; use a smaller batch_size"
    ):
        make_plan(7, batch_size=8)
    with pytest.raises(DatasetError, match=r"split 'train' has no records; use another split"):
        make_plan(0, batch_size=8, drop_remainder=False)
    assert make_plan(7, batch_size=8, drop_remainder=False).steps_per_epoch() == 1
