"""Augmentation in the pipeline: draws of the plan by name, the same pixels whoever shares a batch, labels for Keras."""

from __future__ import annotations

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data import Augment
from irv2data.device import Preprocess, mix_labels, preprocess
from irv2data.errors import UsageError
from irv2data.labels import NONE
from irv2data.pipeline.config import PipelineConfig
from irv2data.pipeline.plan import Plan
from tests.pipeline.test_plan import MadeUpSplit, make_plan, whole_epoch

EVERYTHING = Augment(
    translate=0.1, rotate=20, zoom=0.2, shear=10, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, grayscale=0.2,
    erase=0.5, mixup=0.4, cutmix=1.0, rand_layers=2,
)  # fmt: skip
NAMES = [name for name in EVERYTHING.streams if not name.startswith(("rand_augment", "mixup or"))] + ["rand_layers"]


def make(dataset, **options):
    given = {
        "image_size": (32, 32),
        "batch_size": 12,
        "fit": "random_resized_crop",
        "buckets": 1,
        "augment": EVERYTHING,
    }
    return irv2data.Pipeline(dataset, **{**given, **options})


def test_every_augmentation_has_draws_of_its_own():
    draws = whole_epoch(make_plan(60, batch_size=12, augment=EVERYTHING))["draws"]
    assert draws.shape == (5, 12, EVERYTHING.num_draws)
    assert ((draws >= 0) & (draws < 1)).all()
    columns = draws.reshape(60, -1)
    assert abs(np.corrcoef(columns, rowvar=False) - np.eye(EVERYTHING.num_draws)).max() < 0.6
    assert 0.3 < columns.mean(axis=0).min() < columns.mean(axis=0).max() < 0.7


@pytest.mark.parametrize("name", NAMES)
def test_switching_one_off_changes_nothing_else(name):
    with_all = whole_epoch(make_plan(60, batch_size=12, augment=EVERYTHING, fit="random_resized_crop"))
    less = replace(EVERYTHING, **{name: type(getattr(EVERYTHING, name))(0)})
    without = whole_epoch(make_plan(60, batch_size=12, augment=less, fit="random_resized_crop"))
    for field in with_all.keys() - {"draws"}:
        np.testing.assert_array_equal(with_all[field], without[field], err_msg=field)
    assert less.num_draws < EVERYTHING.num_draws
    for stream, columns in less.places().items():
        expected = with_all["draws"][..., EVERYTHING.places()[stream]]
        np.testing.assert_array_equal(without["draws"][..., columns], expected, err_msg=stream)


def test_the_users_own_draws_stay():
    plain = whole_epoch(make_plan(60, batch_size=12))["draws"]
    np.testing.assert_array_equal(
        whole_epoch(make_plan(60, batch_size=12, augment=EVERYTHING))["draws"][..., :8], plain
    )


def images_and_labels(pipeline, strategy, classes):
    """Of an epoch: the finished images and mixed labels of each step, all replicas in one."""

    @tf.function
    def on_replicas(batch):
        def both(batch):
            return preprocess(batch, pipeline.output), mix_labels(batch, pipeline.output, classes)

        return strategy.run(both, args=(batch,))

    for batch in pipeline.distribute(strategy):
        parts = [strategy.experimental_local_results(value) for value in on_replicas(batch)]
        yield tuple(np.concatenate(part) for part in parts)


@pytest.mark.parametrize("options", [{}, {"drop_remainder": False, "batch_size": 36, "resize_on": "host"}])
def test_replicas_have_the_pixels_and_labels_of_one(dataset, cpu_strategy, options):
    pipeline, classes = make(dataset, **options), len(dataset.classes)
    alone = list(images_and_labels(pipeline, cpu_strategy(1), classes))
    assert len(alone) == pipeline.steps_per_epoch()
    for replicas in (2, 3):
        shared = list(images_and_labels(pipeline, cpu_strategy(replicas), classes))
        for (images, labels), (expected, wanted) in zip(shared, alone, strict=True):
            np.testing.assert_allclose(labels, wanted, atol=1e-6)
            # Posterize and solarize have thresholds, which rounding may push a pixel over.
            assert (np.abs(images - expected) > 1e-3).mean() < 1e-4
    plain = make(dataset, **options, augment=None)
    ((images, labels), *_), ((others, hard), *_) = alone, images_and_labels(plain, cpu_strategy(1), classes)
    assert np.abs(images - others).mean() > 0.05
    assert np.abs(labels - hard).max() > 0.1


def test_fit_gets_labels_mixed_as_the_images(dataset, cpu_strategy):
    pipeline, strategy = make(dataset), cpu_strategy(2)
    alone = list(images_and_labels(pipeline, cpu_strategy(1), len(dataset.classes)))
    layer = Preprocess(pipeline.output)
    fed = iter(pipeline.for_fit(strategy, epochs=1))
    for images, labels in alone:
        inputs, label, weight = (
            tf.nest.map_structure(lambda value: tf.concat(strategy.experimental_local_results(value), axis=0), part)
            for part in next(fed)
        )
        np.testing.assert_allclose(label, labels, atol=1e-6)
        assert (np.abs(layer(inputs, training=True) - images) > 1e-3).mean() < 1e-4
        np.testing.assert_array_equal(weight, np.ones(12))


def test_fit_trains_on_mixed_labels(dataset, cpu_strategy):
    pipeline, strategy = make(dataset), cpu_strategy(2)
    with strategy.scope():
        inputs = Preprocess.inputs(pipeline.output)
        pooled = keras.layers.GlobalAveragePooling2D()(Preprocess(pipeline.output)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(len(dataset.classes))(pooled))
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile=False)
    steps = pipeline.steps_per_epoch()
    before = model.layers[-1].kernel.numpy()
    history = model.fit(
        pipeline.for_fit(strategy, epochs=1), steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    assert np.abs(model.layers[-1].kernel.numpy() - before).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 15}, "batch_size must be even for mixup and cutmix, got 15"),
        ({"fit": "native"}, "augment changes finished images of one size"),
        ({"augment": {"rotate": 3}}, "augment must be an irv2data.Augment or None, got {'rotate': 3}"),
        ({"image_size": (2, 9)}, "rand_layers needs images of 3 pixels or more, got image_size (2, 9)"),
    ],
)
def test_what_cannot_be_augmented(dataset, options, message):
    with pytest.raises(UsageError) as error:
        make(dataset, **options)
    assert message in str(error.value)


def test_replicas_without_pairs_are_refused(dataset, cpu_strategy):
    with pytest.raises(UsageError, match=r"gives 2 replicas 15 images each, an odd number.*use 32"):
        make(dataset, batch_size=30).distribute(cpu_strategy(2))
    make(dataset, batch_size=30, augment=Augment(rotate=10)).distribute(cpu_strategy(2))


def test_mixing_needs_labels():
    split = MadeUpSplit(60)
    split.contents = replace(split.contents, labels=NONE)
    with pytest.raises(UsageError, match="has no labels that mixup and cutmix could mix"):
        Plan(split, PipelineConfig(batch_size=8, augment=Augment(mixup=0.2)))
    Plan(split, PipelineConfig(batch_size=8, augment=Augment(rotate=10)))


def test_a_state_knows_its_augmentation(dataset):
    pipeline = make(dataset)
    saved = json.loads(json.dumps(pipeline.state(1, 2)))
    assert make(dataset).resume(saved) == (1, 2)
    pair = make(dataset, augment=Augment(translate=(0.1, 0.2)))
    assert pair.resume(json.loads(json.dumps(pair.state(0, 1)))) == (0, 1)
    for other in (None, replace(EVERYTHING, rotate=21)):
        with pytest.raises(UsageError, match=r"augment was .*'rotate': 20.*, is"):
            make(dataset, augment=other).resume(saved)
