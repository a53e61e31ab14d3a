"""Phases, sizes, class weights and early ends, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from irv2data.errors import UsageError
from irv2data.training import TrainConfig
from irv2data.training.phases import best_epoch, class_weights, image_sizes, phases, stops_early


def test_phases_follow_each_other():
    config = TrainConfig(
        head_epochs=2, fine_epochs=3, unfreeze=(2, 44), head_learning_rate=0.1, fine_learning_rate=0.01
    )
    assert [(p.name, p.first, p.epochs, p.unfreeze, p.learning_rate) for p in phases(config)] == [
        ("head", 0, 2, 0, 0.1),
        ("fine", 2, 3, 2, 0.01),
        ("fine", 5, 3, 44, 0.01),
    ]
    assert [p.first for p in phases(TrainConfig(head_epochs=0, fine_epochs=1, unfreeze=(1,)))] == [0]


@pytest.mark.parametrize(
    ("epochs", "progressive", "expected"),
    [
        (3, (), [299, 299, 299]),
        (3, (128, 192), [128, 192, 299]),
        (7, (128, 192), [128, 128, 192, 192, 299, 299, 299]),  # what does not go up is for the largest
        (2, (75,), [75, 299]),
    ],
)
def test_sizes_grow(epochs, progressive, expected):
    config = TrainConfig(head_epochs=epochs, progressive=tuple((side, side) for side in progressive))
    assert image_sizes(config) == [(side, side) for side in expected]


def test_balanced_is_as_scikit_learn_defines_it():
    labels = np.repeat([0, 1, 3], [50, 5, 20])
    found = class_weights(TrainConfig(class_weights="balanced"), labels, ["a", "b", "c", "d"])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert found == pytest.approx((expected[0], expected[1], 1.0, expected[2]))
    assert sum(np.array(found)[labels]) == pytest.approx(len(labels))
    assert class_weights(TrainConfig(class_weights=(1.0, 2.0)), labels, ["a", "b"]) == (1.0, 2.0)
    assert class_weights(TrainConfig(), labels, ["a", "b"]) is None


def test_the_first_of_the_smallest_is_the_best():
    assert best_epoch([3.0, 1.0, 2.0, 1.0]) == 1
    assert best_epoch([math.nan, 2.0, 1.0, math.nan]) == 2  # diverged


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([1.0, 2.0, 3.0], 0, False),
        ([1.0, 2.0], 2, False),
        ([1.0, 2.0, 3.0], 2, True),
        ([1.0, 2.0, 0.5, 0.6], 2, False),
        ([2.0, 2.0], 1, True),  # no smaller one
        ([2.0, math.nan, math.nan], 2, True),
    ],
)
def test_when_it_stops_early(losses, patience, expected):
    assert stops_early(losses, patience) is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze": (45,), "fine_epochs": 1}, r"unfreeze must be numbers of blocks between 1 and 44, got \(45,\)"),
        ({"unfreeze": (4,)}, "unfreeze and fine_epochs go together"),
        ({"block_decay": 0.0}, r"block_decay must be in \(0, 1\], got 0.0"),
        ({"schedule": "step"}, "schedule must be one of cosine, constant, got 'step'"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\), got -0.1"),
        ({"class_weights": "equal"}, "class_weights must be None, 'balanced' or a weight for each class, got 'equal'"),
        ({"class_weights": (0.0, 0.0)}, "class_weights must be"),
        ({"patience": 2, "validation_split": None}, "patience goes by the validation loss; give a validation_split"),
        ({"accumulate": 5}, "accumulate must divide batch_size, got 5 and 32"),
        ({"precision": "float16"}, "precision must be one of auto, float32, bfloat16, got 'float16'"),
        ({"accumulate": 2, "sync_bn": True}, "sync_bn needs the whole batch at once; use accumulate=1"),
        ({"fit": "native", "sync_bn": True}, "sync_bn would count the padding"),
        ({"fit": "native", "progressive": ((75, 75),), "head_epochs": 2}, "progressive sizes are for fits of one size"),
        ({"progressive": ((75, 75),), "head_epochs": 2, "cache": "host"}, "progressive sizes need a cache each"),
        ({"progressive": ((75, 75),)}, "progressive has 1 sizes, which needs at least one epoch more than that"),
        ({"progressive": ((64, 64),), "head_epochs": 2}, "sizes must be at least 75"),
        ({"weight_decay": 1.0}, r"weight_decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)
