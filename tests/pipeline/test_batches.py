"""`Pipeline.batches`: documented dtypes and shapes, any step as a start, filler, and epochs that differ."""

from __future__ import annotations

import numpy as np
import pytest

import irv2data
from irv2data.errors import UsageError
from irv2data.pipeline.planned import FILLER

DTYPES = {
    "canvas": "uint8",
    "box": "float32",
    "size": "int32",
    "flip": "bool",
    "draws": "float32",
    "label": "int64",
    "record": "int64",
    "weight": "float32",
}
SHAPES = {"box": (4,), "size": (2,), "flip": (), "draws": (8,), "label": (), "record": (), "weight": ()}


def make(dataset, **options):
    return irv2data.Pipeline(dataset, **{"image_size": (24, 24), "batch_size": 30, **options})


def epoch_of(pipeline, epoch=0, step=0):
    return list(pipeline.batches(epoch, step).as_numpy_iterator())


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("batch_size", [7, 67, 130])
def test_dtypes_and_shapes(dataset, batch_size):
    pipeline = make(dataset, batch_size=batch_size, drop_remainder=False)
    data = pipeline.batches()
    assert {name: spec.dtype.name for name, spec in data.element_spec.items()} == DTYPES
    shapes = {name: tuple(spec.shape) for name, spec in data.element_spec.items()}
    # The batch dimension is static however many chunks a batch is decoded in: a compiled step needs it.
    assert shapes == {
        "canvas": (batch_size, None, None, 3),
        **{name: (batch_size, *shape) for name, shape in SHAPES.items()},
    }
    canvases = set()
    for batch in data.as_numpy_iterator():
        assert {name: value.dtype.name for name, value in batch.items()} == DTYPES
        canvases.add(batch["canvas"].shape[1:3])
        for name, value in batch.items():
            assert value.shape[0] == batch_size
            assert value.shape[1:] == SHAPES.get(name, value.shape[1:])
        assert batch["canvas"].shape[1:3] in pipeline.plan.canvases
        assert batch["canvas"].shape[3] == 3
    assert len(canvases) > 1 or batch_size > 7


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "random_resized_crop"},
        {"shuffle": "blocks", "drop_remainder": False, "batch_size": 31},
        {"shuffle": None, "batch_size": 67, "drop_remainder": False},
    ],
)
def test_an_epoch_can_be_entered_at_every_step(dataset, options):
    pipeline = make(dataset, **options)
    whole = epoch_of(pipeline, epoch=2)
    assert len(whole) == pipeline.steps_per_epoch(epoch=2)
    for step in range(1, len(whole) + 1):
        assert_equal(epoch_of(pipeline, 2, step), whole[step:])


def test_an_epoch_of_several_windows_can_be_entered_around_their_borders(dataset):
    pipeline = make(dataset, batch_size=1)  # 120 steps in windows of 64
    whole = epoch_of(pipeline)
    assert [int(batch["record"][0]) for batch in whole] == [
        int(pipeline.plan.batch(0, s).record[0, 0]) for s in range(120)
    ]
    for step in (63, 64, 65):
        assert_equal(epoch_of(pipeline, 0, step), whole[step:])


def test_epochs_follow_one_another(dataset):
    pipeline = make(dataset, fit="random_resized_crop")
    apart = [*epoch_of(pipeline, 2, 3), *epoch_of(pipeline, 3), *epoch_of(pipeline, 4)]
    assert_equal(list(pipeline.batches(2, 3, epochs=3).as_numpy_iterator()), apart)
    with pytest.raises(UsageError, match="epochs must be 1 or more, got 0"):
        pipeline.batches(epochs=0)


def test_the_same_pipeline_twice_gives_the_same_batches(dataset):
    assert_equal(epoch_of(make(dataset, seed=3)), epoch_of(make(str(dataset.folder), seed=3)))


def test_epochs_and_seeds_differ(dataset):
    pipeline = make(dataset, batch_size=120, buckets=1, fit="random_resized_crop")
    (first,), (second,), (other,) = (
        epoch_of(pipeline),
        epoch_of(pipeline, 1),
        epoch_of(make(dataset, **vars(pipeline.config) | {"seed": 1})),
    )
    for batch in (second, other):
        assert sorted(batch["record"]) == sorted(first["record"]) == list(range(120))
        assert (batch["record"] != first["record"]).mean() > 0.9
        by_record = np.argsort(batch["record"]), np.argsort(first["record"])
        assert (batch["box"][by_record[0]] != first["box"][by_record[1]]).any(axis=1).mean() > 0.9
        assert np.isin(batch["draws"], first["draws"]).mean() < 0.01  # of 2^24 numbers


@pytest.mark.parametrize("batch_size", [67, 100, 128])
def test_filler(dataset, batch_size):
    batches = epoch_of(make(dataset, batch_size=batch_size, drop_remainder=False))
    assert len(batches) == -(-120 // batch_size)
    records = np.concatenate([batch["record"] for batch in batches])
    assert sorted(records[records != FILLER]) == list(range(120))
    labels = dataset.splits["train"].column("label")
    for batch in batches:
        filler = batch["record"] == FILLER
        np.testing.assert_array_equal(batch["weight"], np.where(filler, 0, 1))
        np.testing.assert_array_equal(batch["label"][~filler], labels[batch["record"][~filler]])
        assert not batch["label"][filler].any()
        assert not batch["canvas"][filler].any()
        assert batch["canvas"][~filler].any(axis=(1, 2, 3)).all()
        box = batch["box"][filler]
        assert (box[:, 2:] > 0).all()
        assert (box[:, :2] >= 0).all()
        assert (box[:, :2] + box[:, 2:] <= batch["canvas"].shape[1:3]).all()
        images = irv2data.device.preprocess(batch, irv2data.pipeline.config.OutputSpec(image_size=(8, 8))).numpy()
        assert (images[filler] == -1).all()
        assert np.isfinite(images).all()
    assert sum((batch["record"] == FILLER).sum() for batch in batches) == len(batches) * batch_size - 120


def test_dropping_the_remainder_needs_no_filler(dataset):
    batches = epoch_of(make(dataset, batch_size=50))
    records = np.concatenate([batch["record"] for batch in batches])
    assert len(batches) == 2
    assert len(set(records.tolist())) == 100
    assert records.min() >= 0
