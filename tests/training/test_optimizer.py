"""Learning rates, groups, decay and averages, against arithmetic by hand and Keras' own Adam."""

from __future__ import annotations

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.training import TrainConfig
from irv2data.training.optimizer import GroupedOptimizer, learning_rate, make_optimizer
from irv2data.training.phases import Phase

PHASE = Phase(name="fine", first=0, epochs=1, unfreeze=2, learning_rate=0.1)
PLAIN = TrainConfig(schedule="constant")


def test_learning_rate_rises_and_falls():
    rate = learning_rate(0.5, 14, TrainConfig(warmup_steps=4))
    rise = [0.125 + step / 4 * (0.5 - 0.125) for step in range(4)]
    fall = [0.25 * (1 + math.cos(math.pi * step / 10)) for step in range(11)]
    np.testing.assert_allclose([float(rate(step)) for step in range(15)], rise + fall, atol=1e-6)


def test_constant_learning_rate():
    rate = learning_rate(0.5, 14, replace(PLAIN, warmup_steps=2))
    np.testing.assert_allclose([float(rate(step)) for step in range(5)], [0.25, 0.375, 0.5, 0.5, 0.5])
    assert float(learning_rate(0.5, 14, PLAIN)(0)) == 0.5


def test_a_warm_up_longer_than_the_phase_is_refused():
    with pytest.raises(UsageError, match="warmup_steps must be less than the steps of a phase, 3, got 3"):
        learning_rate(0.5, 3, TrainConfig(warmup_steps=3))


def variables() -> list[keras.Variable]:
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=shape)) for shape in ((3, 2), (2,), (2, 4), (4,))]


GRADIENTS = [[np.random.default_rng(step).normal(size=v.shape) for v in variables()] for step in range(4)]


def stepped(optimizer, own) -> list[np.ndarray]:
    optimizer.build(own)
    for gradients in GRADIENTS:
        optimizer.apply([tf.constant(each, tf.float32) for each in gradients], own)
    return [np.array(each) for each in own]


def test_one_group_is_adam():
    own = variables()
    found = stepped(make_optimizer([(1.0, own)], PHASE, 10, PLAIN), own)
    for ours, theirs in zip(found, stepped(keras.optimizers.Adam(0.1), variables()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_each_group_has_its_own_rate():
    own = variables()
    # In another order than the variables are given in.
    optimizer = make_optimizer([(0.25, own[2:]), (1.0, own[:2])], PHASE, 10, PLAIN)
    found = stepped(optimizer, own)
    slow, fast = stepped(keras.optimizers.Adam(0.025), variables()), stepped(keras.optimizers.Adam(0.1), variables())
    for ours, theirs in zip(found, [*fast[:2], *slow[2:]], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert optimizer.learning_rate == pytest.approx(0.025)
    assert abs(fast[2] - slow[2]).max() > 0.1


def test_groups_hold_each_variable_once():
    own = variables()
    for held in (own[:3], [*own, own[0]]):
        with pytest.raises(ValueError, match="each learning variable once"):
            GroupedOptimizer([(keras.optimizers.Adam(0.1), held)]).build(own)


def test_decay_takes_from_kernels_alone():
    own = variables()
    optimizer = make_optimizer([(1.0, own)], PHASE, 10, replace(PLAIN, weight_decay=0.5))
    optimizer.build(own)
    before = [np.array(each) for each in own]
    optimizer.apply([tf.zeros(each.shape) for each in own], own)
    for ours, old in zip(own, before, strict=True):
        np.testing.assert_allclose(np.array(ours), old * (0.95 if old.ndim > 1 else 1.0), rtol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_averages(cpu_strategy, replicas):
    strategy = cpu_strategy(replicas)
    with strategy.scope():
        own = variables()
        optimizer = make_optimizer([(1.0, own[:2]), (0.5, own[2:])], PHASE, 10, replace(PLAIN, ema=0.75))
        optimizer.build(own)
    start = [each.numpy() for each in own]
    with optimizer.averaged():  # before any step there is nothing to average
        for each, value in zip(own, start, strict=True):
            np.testing.assert_array_equal(each.numpy(), value)

    @tf.function
    def step(gradients):
        strategy.run(lambda: optimizer.apply([each / replicas for each in gradients], own))

    average = None
    for gradients in GRADIENTS:
        step([tf.constant(each, tf.float32) for each in gradients])
        now = [each.numpy() for each in own]
        average = now if average is None else [0.75 * a + 0.25 * b for a, b in zip(average, now, strict=True)]
    with optimizer.averaged():
        for each, value in zip(own, average, strict=True):
            np.testing.assert_allclose(each.numpy(), value, atol=1e-6)
    for each, value, mean in zip(own, now, average, strict=True):
        np.testing.assert_array_equal(each.numpy(), value)
        assert abs(value - mean).max() > 0.01
