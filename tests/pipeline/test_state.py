"""Positions: resuming at every step gives the rest of the epoch, and other batches are refused with the difference."""

from __future__ import annotations

import json

import numpy as np
import pytest

import irv2data
from irv2data.errors import UsageError

OPTIONS = {
    "shuffled": {"fit": "random_resized_crop", "batch_size": 9},
    "blocks": {"fit": "resize", "batch_size": 16, "shuffle": "blocks", "drop_remainder": False},
    "in order": {"fit": "letterbox", "batch_size": 30, "shuffle": None},
    "pixels": {"fit": "native", "max_pixels": 9000, "max_pixels_per_batch": 80_000, "batch_multiple": 2},
}


def make(dataset, **options):
    return irv2data.Pipeline(dataset, **{"image_size": (24, 24), "seed": 5, **options})


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_resuming_at_every_step_gives_the_rest(dataset, options):
    pipeline = make(dataset, **options)
    epoch = 2
    wanted = list(pipeline.batches(epoch).as_numpy_iterator())
    assert len(wanted) == pipeline.steps_per_epoch(epoch) > 3
    for step in range(len(wanted) + 1):
        state = json.loads(json.dumps(pipeline.state(epoch, step)))
        fresh = make(dataset, **options)
        assert fresh.resume(state) == (epoch, step)
        rest = list(fresh.batches(*fresh.resume(state)).as_numpy_iterator())
        assert len(rest) == len(wanted) - step
        for got, want in zip(rest, wanted[step:], strict=True):
            assert got.keys() == want.keys()
            for name, value in want.items():
                np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_a_state_is_small_and_says_what_it_counts(dataset):
    state = make(dataset, batch_size=8).state(3, 7)
    assert len(json.dumps(state)) < 1500
    assert (state["version"], state["epoch"], state["step"]) == (3, 3, 7)
    assert (state["dataset"], state["split"], state["records"]) == (dataset.fingerprint, "train", 120)
    assert state["config"]["batch_size"] == 8
    assert len(state["fingerprint"]) == 64


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"batch_size": 10}, "batch_size was 8, is 10"),
        ({"seed": 6, "fit": "letterbox"}, "fit was 'resize', is 'letterbox'; seed was 5, is 6"),
        ({"image_size": (24, 32)}, r"image_size was \[24, 24\], is \[24, 32\]"),
        ({"split": "validation"}, "split was 'train', is 'validation'; records was 120, is 60"),
        ({"batch_multiple": 4}, "batch_multiple was 8, is 4"),
    ],
)
def test_other_batches_are_refused_and_the_difference_is_named(dataset, changed, difference):
    state = make(dataset, batch_size=8).state(0, 1)
    with pytest.raises(UsageError, match=f"^state: of other batches than this pipeline gives: {difference}$"):
        make(dataset, **{"batch_size": 8, **changed}).resume(state)


def test_another_dataset_is_refused(dataset, tmp_path, photos):
    state = make(dataset, batch_size=8).state(0, 1)
    irv2data.convert.convert(
        photos, tmp_path / "other", irv2data.convert.ConvertConfig(splits="folders", seed=1), workers=1
    )
    other = irv2data.Dataset(tmp_path / "other")
    with pytest.raises(UsageError, match=f"dataset was '{dataset.fingerprint}', is '{other.fingerprint}'$"):
        make(other, batch_size=8).resume(state)


def test_what_changes_no_batch_may_change(dataset):
    state = make(dataset, batch_size=8).state(0, 1)
    assert make(dataset, batch_size=8, resize_on="host", max_bad_records=3).resume(state) == (0, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"version": 1}, "expected version 3"),
        ({"step": 16}, "epoch 0 has steps 0 to 15, got step 16"),
        ({"epoch": -1}, "epoch must be 0 or more, got -1"),
        ({"step": 1.5}, "epoch and step must be whole numbers, got 0 and 1.5"),
        ({"step": True}, "epoch and step must be whole numbers, got 0 and True"),
        ({"config": "none"}, "config must be a dict of options, got 'none'"),
        ({"fingerprint": "0" * 64}, "damaged, its fingerprint is not that of its content"),
    ],
)
def test_a_state_that_cannot_be_is_refused(dataset, damage, message):
    pipeline = make(dataset, batch_size=8)
    with pytest.raises(UsageError, match=message):
        pipeline.resume({**pipeline.state(0, 1), **damage})
    with pytest.raises(UsageError, match="no state"):
        pipeline.resume("nonsense")
    with pytest.raises(UsageError, match="lacks config, dataset"):
        pipeline.resume({"version": 3, "epoch": 0, "step": 0, "fingerprint": "", "split": "", "records": 0})


def test_there_is_no_state_of_a_step_that_is_not_there(dataset):
    pipeline = make(dataset, batch_size=8)
    assert pipeline.state(0, 15)["step"] == 15
    with pytest.raises(UsageError, match="epoch 0 has steps 0 to 15, got step 16"):
        pipeline.state(0, 16)


def test_locate_names_shard_offset_and_source(dataset, photos):
    pipeline = make(dataset, batch_size=50, drop_remainder=False)
    split = dataset.split("train")
    for step in range(3):
        found = pipeline.locate(1, step)
        (batch,) = pipeline.batches(1, step).take(1).as_numpy_iterator()
        assert [-1 if place is None else place.record for place in found] == batch["record"].tolist()
        for place in found:
            if place is not None:
                assert (place.shard, place.number, place.offset) == split.locate(place.record)
                assert split.read(place.record).filename.decode() == place.source
                assert (photos / place.source).is_file()
    assert sum(place is None for step in range(3) for place in pipeline.locate(1, step)) == 30
    with pytest.raises(UsageError, match="epoch 1 has steps 0 to 2, got step 3"):
        pipeline.locate(1, 3)
