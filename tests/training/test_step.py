"""N replicas do what one does: same sums, same weights, step after step."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from irv2data import Augment, Pipeline
from irv2data.errors import UsageError
from irv2data.training import evaluation
from irv2data.training.evaluation import Evaluation, Evaluator, evaluate
from irv2data.training.step import Objective, Preprocessor, TrainStep
from irv2data.training.strategy import make_strategy

CLASSES = 5


def small_model(seed: int = 0) -> keras.Model:
    """Has what can go wrong when distributed: a regulariser, and a normalisation in inference mode."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 5, strides=4, kernel_regularizer=keras.regularizers.L2(0.01))(images)
    normalise = keras.layers.BatchNormalization()
    normalise.trainable = False
    x = keras.layers.Flatten()(keras.layers.Activation("relu")(normalise(x)))
    return keras.Model(images, keras.layers.Dense(CLASSES)(x))


def trained(
    dataset, strategy, steps: int = 5, objective: Objective | None = None, accumulate: int = 1, **options
) -> tuple[list[np.ndarray], np.ndarray]:
    pipeline = Pipeline(dataset, fit="random_resized_crop", image_size=(32, 32), batch_size=12, seed=3, **options)
    with strategy.scope():
        model = small_model()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    step = TrainStep(strategy, model, optimizer, 12, pipeline.output, objective, accumulate)
    preprocess = Preprocessor(strategy, pipeline.output)
    sums = [
        step(preprocess(batch), batch).numpy()
        for batch, _ in zip(pipeline.distribute(strategy), range(steps), strict=False)
    ]
    return [np.array(v) for v in model.weights], np.array(sums)


@pytest.fixture(scope="module")
def one_replica(dataset):
    return trained(dataset, make_strategy(1))


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_equal_one(dataset, cpu_strategy, one_replica, replicas):
    weights, sums = trained(dataset, cpu_strategy(replicas))
    np.testing.assert_allclose(sums, one_replica[1], rtol=1e-4)
    for ours, theirs in zip(weights, one_replica[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_replicas_equal_one_with_augmentation(dataset, cpu_strategy, one_replica):
    augment = Augment(rotate=20, translate=0.1, brightness=0.3, saturation=0.3, erase=0.5, mixup=0.4, cutmix=1.0)
    weights, sums = trained(dataset, cpu_strategy(3), augment=augment)
    expected, expected_sums = trained(dataset, make_strategy(1), augment=augment)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-4)
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert max(np.abs(a - b).max() for a, b in zip(weights, one_replica[0], strict=True)) > 1e-2


@pytest.mark.parametrize(("replicas", "accumulate"), [(1, 4), (2, 3), (3, 2)])
def test_parts_of_a_batch_equal_the_whole(dataset, cpu_strategy, one_replica, replicas, accumulate):
    weights, sums = trained(dataset, cpu_strategy(replicas), accumulate=accumulate)
    np.testing.assert_allclose(sums, one_replica[1], rtol=1e-4)
    for ours, theirs in zip(weights, one_replica[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_parts_of_mixed_images_equal_the_whole(dataset):
    options = {"augment": Augment(mixup=0.4), "objective": Objective(label_smoothing=0.1)}
    weights, sums = trained(dataset, make_strategy(1), **options)
    found, found_sums = trained(dataset, make_strategy(1), accumulate=4, **options)  # pairs lie in one part or two
    np.testing.assert_allclose(found_sums, sums, rtol=1e-4)
    for ours, theirs in zip(found, weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_parts_that_do_not_divide_a_share_are_refused(dataset, cpu_strategy):
    with pytest.raises(UsageError, match="batch_size 12 is not divisible by 2 replicas times accumulate 5; use 20"):
        trained(dataset, cpu_strategy(2), accumulate=5)


def test_class_weights_and_smoothing_on_replicas_equal_one(dataset, cpu_strategy, one_replica):
    objective = Objective(label_smoothing=0.2, class_weights=(0.2, 3.0, 1.0, 0.5, 2.0))
    weights, sums = trained(dataset, make_strategy(1), objective=objective)
    found, found_sums = trained(dataset, cpu_strategy(3), objective=objective, accumulate=2)
    np.testing.assert_allclose(found_sums, sums, rtol=1e-4)
    for ours, theirs in zip(found, weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert abs(sums[:, 0] - one_replica[1][:, 0]).max() > 1


def test_the_comparison_would_notice_a_wrong_scale(dataset, one_replica):
    strategy = make_strategy(1)
    pipeline = Pipeline(dataset, fit="random_resized_crop", image_size=(32, 32), batch_size=12, seed=3)
    with strategy.scope():
        model = small_model()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    step = TrainStep(strategy, model, optimizer, 6, pipeline.output)  # as if each of two replicas took its own mean
    preprocess = Preprocessor(strategy, pipeline.output)
    for batch, _ in zip(pipeline.distribute(strategy), range(5), strict=False):
        step(preprocess(batch), batch)
    differences = [np.abs(np.array(a) - b).max() for a, b in zip(model.weights, one_replica[0], strict=True)]
    assert max(differences) > 1e-2


def test_step_equals_keras_by_hand(dataset):
    """One plain SGD step against the gradient of the mean loss plus regulariser, taken directly."""
    strategy = make_strategy(2)
    pipeline = Pipeline(dataset, fit="resize", image_size=(32, 32), batch_size=8)
    with strategy.scope():
        model = small_model()
        optimizer = keras.optimizers.SGD(0.5)
    reference = small_model()
    batch = next(iter(pipeline.batches()))
    from irv2data.device import preprocess

    with tf.GradientTape() as tape:
        logits = reference(preprocess(batch, pipeline.output), training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits))
        loss += tf.add_n(reference.losses)
    gradients = tape.gradient(loss, reference.trainable_variables)
    step = TrainStep(strategy, model, optimizer, 8, pipeline.output)
    shared = next(iter(pipeline.distribute(strategy)))
    step(Preprocessor(strategy, pipeline.output)(shared), shared)
    for ours, before, gradient in zip(model.trainable_variables, reference.trainable_variables, gradients, strict=True):
        np.testing.assert_allclose(ours, before - 0.5 * gradient, atol=1e-5)


def test_preprocessor_traces_once_a_canvas(dataset, cpu_strategy):
    strategy = cpu_strategy(2)
    pipeline = Pipeline(dataset, fit="resize", image_size=(32, 32), batch_size=8)
    preprocess = Preprocessor(strategy, pipeline.output)
    met = set()
    for epoch in range(3):
        for batch in pipeline.distribute(strategy, epoch):
            images = preprocess(batch)
            met.add(tuple(strategy.experimental_local_results(batch["canvas"])[0].shape))
    assert strategy.experimental_local_results(images)[0].shape == (4, 32, 32, 3)
    assert len(met) > 1
    assert preprocess.graphs.keys() == met
    assert [graph.experimental_get_tracing_count() for graph in preprocess.graphs.values()] == [1] * len(met)


def test_sums_of_by_hand():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]], "float32")
    label, weight = np.array([0, 0, 1]), np.array([1.0, 1.0, 0.0], "float32")
    loss = -np.log(np.exp(2) / (np.exp(2) + 1)) - np.log(1 / (1 + np.exp(1)))
    np.testing.assert_allclose(Objective().sums(logits, label, weight), [loss, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(Objective().sums(logits, tf.one_hot(label, 2), weight), [loss, 1, 2], rtol=1e-6)
    mixed = np.array([[0.4, 0.6], [0.25, 0.75], [0.5, 0.5]], "float32")
    logs = [np.log(np.exp(row) / np.exp(row).sum()) for row in logits]
    loss = -sum(share @ log for share, log in zip(mixed[:2], logs[:2], strict=True))
    np.testing.assert_allclose(Objective().sums(logits, mixed, weight), [loss, 1, 2], rtol=1e-6)


def test_objective_equals_keras():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(6, 4)).astype("float32"), np.array([0, 3, 1, 1, 2, 0])
    keras_losses = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3, reduction=None)
    weights = np.array([0.5, 2.0, 1.0, 4.0])
    expected = np.array(keras_losses(tf.one_hot(label, 4), logits)) * weights[label]
    objective = Objective(label_smoothing=0.3, class_weights=tuple(weights.tolist()))
    np.testing.assert_allclose(objective.losses(logits, tf.constant(label)), expected, rtol=1e-5)
    # A mixed image weighs as its shares do.
    mixed = tf.constant(rng.dirichlet(np.ones(4), 6), tf.float32)
    expected = np.array(keras_losses(mixed, logits)) * (mixed.numpy() @ weights)
    np.testing.assert_allclose(objective.losses(logits, mixed), expected, rtol=1e-5)
    plain = np.array(tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits))
    assert abs(np.array(objective.losses(logits, tf.constant(label))) - plain).max() > 0.1


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_evaluation_counts_every_record_once(dataset, cpu_strategy, replicas, monkeypatch):
    """60 records in batches of 36: the second batch holds 12 fillers, which weigh nothing."""
    monkeypatch.setattr(evaluation, "_TOP", 2)  # of five classes, five are all
    strategy = cpu_strategy(replicas)
    options = {"split": "validation", "fit": "resize", "image_size": (32, 32), "shuffle": None}
    pipeline = Pipeline(dataset, batch_size=36, drop_remainder=False, **options)
    with strategy.scope():
        model = small_model(seed=1)
    result = evaluate(model, pipeline, strategy)
    from irv2data.device import preprocess

    losses, hits, top5, confusion = [], [], [], np.zeros((5, 5), int)
    for batch in Pipeline(dataset, batch_size=1, **options).batches():
        logits = np.array(model(preprocess(batch, pipeline.output)), np.float64)[0]
        label = int(batch["label"][0])
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
        hits.append(logits.argmax() == label)
        top5.append(label in np.argsort(-logits)[:2])
        confusion[label, logits.argmax()] += 1
    np.testing.assert_array_equal(result.confusion, confusion)
    assert 2 < (confusion > 0).sum() < 25
    assert result.top5 == np.mean(top5)
    assert result.accuracy < result.top5 < 1
    assert result.figures() == {
        "loss": result.loss, "accuracy": result.accuracy, "top5": result.top5, "records": 60,
    }  # fmt: skip
    for number, row in enumerate(result.by_class()):
        there, taken = confusion[number].sum(), confusion[:, number].sum()
        assert (row["records"], row["predicted"]) == (there, taken)
        assert row["recall"] == (confusion[number, number] / there if there else None)
        assert row["precision"] == (confusion[number, number] / taken if taken else None)
    assert result.records == len(losses) == 60
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert result.accuracy == pytest.approx(np.mean(hits))


def test_by_class_by_hand():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 4]])
    found = Evaluation(loss=1, accuracy=0.7, top5=1, records=10, confusion=confusion).by_class()
    assert found == [
        {"records": 4, "predicted": 5, "precision": 0.6, "recall": 0.75},
        {"records": 0, "predicted": 1, "precision": 0.0, "recall": None},
        {"records": 6, "predicted": 4, "precision": 1.0, "recall": 4 / 6},
    ]


def test_evaluation_refuses_to_drop_records(dataset, cpu_strategy):
    pipeline = Pipeline(dataset, fit="resize", image_size=(32, 32), batch_size=8)
    with pytest.raises(UsageError, match="drop_remainder=False"):
        Evaluator(small_model(), pipeline, cpu_strategy(1))
