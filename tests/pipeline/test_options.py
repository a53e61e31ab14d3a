"""Every wrong option is refused when the pipeline is made, by a message that names option, rule and value."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import irv2data
from irv2data.errors import DatasetError, UsageError
from irv2data.pipeline.config import OutputSpec, PipelineConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fit": "stretch"},
            "fit must be one of resize, center_crop, random_resized_crop, letterbox, native, got 'stretch'",
        ),
        ({"max_pixels": 100}, "max_pixels goes with fit='native', got fit='resize'"),
        ({"fit": "native", "max_pixels": 0}, "max_pixels must be 1 or more, got 0"),
        ({"max_pixels_per_batch": 100}, "max_pixels_per_batch goes with fit='native', got fit='resize'"),
        ({"fit": "native", "max_pixels_per_batch": 0}, "max_pixels_per_batch must be 1 or more, got 0"),
        ({"batch_multiple": 0}, "batch_multiple must be 1 or more, got 0"),
        ({"pad_value": 256}, "pad_value must be in [0, 255], got 256"),
        ({"pad_value": "white"}, "pad_value must be a number, got 'white'"),
        ({"resize_on": "gpu"}, "resize_on must be one of auto, host, device, got 'gpu'"),
        ({"max_bad_records": -1}, "max_bad_records must be 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": "64"}, "batch_size must be a whole number, got '64'"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"seed": -1}, "seed must be between 0 and 2**63 - 1, got -1"),
        ({"seed": 2**63}, f"seed must be between 0 and 2**63 - 1, got {2**63}"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"shuffle": "some"}, "shuffle must be 'full', 'blocks' or None, got 'some'"),
        ({"shuffle": True}, "shuffle must be 'full', 'blocks' or None, got True"),
        ({"buckets": 0}, "buckets must be between 1 and 32, got 0"),
        ({"buckets": 33}, "buckets must be between 1 and 32, got 33"),
        ({"buckets": 1.5}, "buckets must be a whole number, got 1.5"),
        ({"canvases": []}, "canvases must name at least one shape"),
        ({"canvases": 64}, "canvases must be pairs (height, width), got 64"),
        ({"canvases": [64, 64]}, "canvases must be a pair (height, width) of positive whole numbers, got 64"),
        ({"canvases": [(64, 0)]}, "canvases must be a pair (height, width) of positive whole numbers, got (64, 0)"),
        ({"canvases": [(64, 64), (32, 32)]}, "canvases must be given from small to large, got ((64, 64), (32, 32))"),
        ({"canvases": [(64, 32), (32, 64)]}, "canvases must be given from small to large, got ((64, 32), (32, 64))"),
        ({"canvases": [(64, 64), (64, 64)]}, "canvases must be given from small to large, got ((64, 64), (64, 64))"),
        (
            {"max_canvas_pixels": 359_999},
            "max_canvas_pixels must be at least 360000 for image_size 299x299, got 359999",
        ),
        ({"max_canvas_pixels": 1e6}, "max_canvas_pixels must be a whole number or None, got 1000000.0"),
        ({"crop_fraction": 0}, "crop_fraction must be in (0, 1], got 0"),
        ({"crop_fraction": 1.1}, "crop_fraction must be in (0, 1], got 1.1"),
        ({"crop_fraction": float("nan")}, "crop_fraction must be in (0, 1], got nan"),
        ({"crop_fraction": "0.5"}, "crop_fraction must be a number, got '0.5'"),
        ({"crop_pixels": (9, 9)}, "crop_pixels goes with fit='center_crop', got fit='resize'"),
        ({"crop_pixels": (9, 0)}, "crop_pixels must be a pair (height, width) of positive whole numbers, got (9, 0)"),
        ({"image_size": 299}, "image_size must be a pair (height, width) of positive whole numbers, got 299"),
        ({"image_size": (299,)}, "image_size must be a pair (height, width) of positive whole numbers, got (299,)"),
        ({"image_size": (299, 0)}, "image_size must be a pair (height, width) of positive whole numbers, got (299, 0)"),
        (
            {"image_size": (299.5, 299)},
            "image_size must be a pair (height, width) of positive whole numbers, got (299.5, 299)",
        ),
        ({"drop_remainder": 1}, "drop_remainder must be True or False, got 1"),
        ({"antialias": "no"}, "antialias must be True or False, got 'no'"),
        ({"flip": "no"}, "flip must be True, False or None, got 'no'"),
    ],
)
def test_a_wrong_option_is_named_with_rule_and_value(dataset, options, message):
    with pytest.raises(UsageError) as caught:
        irv2data.Pipeline(dataset, **options)
    assert str(caught.value) == message


def test_an_unknown_option_is_named_with_those_there_are(dataset):
    with pytest.raises(UsageError) as caught:
        irv2data.Pipeline(dataset, batchsize=8)
    assert "Pipeline has no option 'batchsize'; it has fit, image_size, batch_size, " in str(caught.value)


def test_an_unknown_split_is_named_with_those_there_are(dataset):
    with pytest.raises(UsageError, match=r"has no split 'test'; it has train, validation$"):
        irv2data.Pipeline(dataset, split="test")


def test_a_split_too_small_for_a_batch(dataset):
    with pytest.raises(DatasetError, match=r"split 'validation' has 60 records, a batch needs 61; use a smaller"):
        irv2data.Pipeline(dataset, split="validation", batch_size=61)


def test_canvases_too_small_to_decode_onto(dataset):
    with pytest.raises(UsageError) as caught:
        irv2data.Pipeline(dataset, image_size=(100, 50), batch_size=8, canvases=[(100, 100), (201, 300)])
    assert str(caught.value) == "canvases: the largest must be at least 202x102 for image_size 100x50, got (201, 300)"
    enough = irv2data.Pipeline(dataset, image_size=(100, 50), batch_size=8, canvases=[(100, 100), (202, 102)])
    assert enough.plan.canvases == ((100, 100), (202, 102))


def test_sizes_and_numbers_may_be_of_any_kind(dataset):
    pipeline = irv2data.Pipeline(
        str(dataset.folder),
        image_size=np.array([64, 48]),
        batch_size=np.int64(6),
        canvases=[[130, 98], np.array([200, 300])],
        crop_fraction=np.float32(0.5),
        fit="center_crop",
    )
    config = pipeline.config
    assert config == PipelineConfig(
        image_size=(64, 48), batch_size=6, canvases=((130, 98), (200, 300)), crop_fraction=0.5, fit="center_crop"
    )
    assert {type(value) for value in (config.batch_size, *config.image_size, *config.canvases[0])} == {int}
    assert pipeline.steps_per_epoch() == 20


def test_options_are_frozen_and_keyword_only(dataset):
    config = irv2data.Pipeline(dataset, batch_size=8).config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.batch_size = 9
    with pytest.raises(TypeError):
        PipelineConfig("resize")


def test_the_output_follows_the_options(dataset):
    pipeline = irv2data.Pipeline(dataset, batch_size=8, image_size=(64, 48), antialias=False)
    assert pipeline.output == OutputSpec(image_size=(64, 48), antialias=False, dtype="float32")


@pytest.mark.parametrize(("epoch", "step"), [(0, 16), (0, -1), (3, 99)])
def test_a_step_that_is_not_there(dataset, epoch, step):
    pipeline = irv2data.Pipeline(dataset, batch_size=8)
    with pytest.raises(UsageError, match=rf"epoch {epoch} has steps 0 to 15, got step {step}$"):
        pipeline.batches(epoch, step)


def test_an_epoch_that_is_not_there(dataset):
    with pytest.raises(UsageError, match="epoch must be 0 or more, got -1"):
        irv2data.Pipeline(dataset, batch_size=8).batches(-1)
