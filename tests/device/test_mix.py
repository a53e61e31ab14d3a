"""Mixup and CutMix: who is mixed with whom, in which shares, and the labels in the same."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from irv2data import Augment
from irv2data.device import augment, mix_labels
from irv2data.pipeline.config import OutputSpec
from irv2data.pipeline.mixing import beta, partners, shares

SIZE = (20, 30)


def draws_of(options, count, seed=0):
    return np.random.default_rng(seed).random((count, options.num_draws)).astype(np.float32)


def flat(count):
    """Image i is all of value i."""
    return tf.constant(np.broadcast_to(np.arange(count)[:, None, None, None], (count, *SIZE, 3)), tf.float32)


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0, 8.0])
def test_shares_are_of_the_beta_distribution(alpha):
    drawn = np.random.default_rng(3).random((20_000, 2)).astype(np.float32)
    found = beta(tf.constant(drawn), alpha).numpy().astype(np.float64)
    assert ((found >= 0) & (found <= 1)).all()
    # What is near 0 has more digits than what is near 1, so that half is compared, and the other one mirrored on it.
    low = found[found < 0.5]
    assert abs(len(low) - 10_000) < 300
    assert scipy.stats.kstest(low, lambda x: 2 * scipy.stats.beta(alpha, alpha).cdf(x)).pvalue > 0.01
    assert scipy.stats.kstest(low, lambda x: 2 * scipy.stats.beta(1.3 * alpha, 1.3 * alpha).cdf(x)).pvalue < 1e-3
    np.testing.assert_allclose(np.mean(1 - found[found > 0.5]), low.mean(), atol=0.01)


def test_extreme_draws_give_numbers():
    drawn = np.array([[a, b] for a in (0, 0.5, 1 - 2**-24) for b in (0, 0.25, 0.5, 1 - 2**-24)], np.float32)
    for alpha in (0.01, 0.2, 1.0, 100.0):
        found = beta(tf.constant(drawn), alpha).numpy()
        assert ((found >= 0) & (found <= 1)).all()


def test_partners_are_neighbours():
    np.testing.assert_array_equal(partners(tf.range(6)), [1, 0, 3, 2, 5, 4])
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        partners(tf.range(5))


def test_mixup_blends_images_and_labels_alike():
    options = Augment(mixup=0.4)
    draws = draws_of(options, 8)
    images = augment(flat(8), draws, options).numpy()
    share = beta(tf.constant(draws[:, options.places()["mixup"]]), 0.4).numpy()
    assert share.std() > 0.1
    own, other = np.arange(8), np.arange(8) ^ 1
    np.testing.assert_allclose(
        images, np.broadcast_to((share * own + (1 - share) * other)[:, None, None, None], images.shape), atol=1e-5
    )
    labels = mix_labels({"label": tf.range(8, dtype=tf.int64), "draws": draws}, spec(options), classes=8).numpy()
    np.testing.assert_allclose(labels @ np.arange(8), images[:, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


def spec(options):
    return OutputSpec(image_size=SIZE, augment=options)


def test_cutmix_puts_a_box_of_the_partner():
    options = Augment(cutmix=1.0)
    draws = draws_of(options, 64)
    images = augment(flat(64), draws, options).numpy()
    labels = mix_labels({"label": tf.range(64, dtype=tf.int64), "draws": draws}, spec(options), classes=64).numpy()
    areas = []
    for number, image in enumerate(images):
        assert (image == image[..., :1]).all()
        other = image[..., 0] == number ^ 1
        assert (other | (image[..., 0] == number)).all()
        rows, columns = other.any(axis=1), other.any(axis=0)
        np.testing.assert_array_equal(other, rows[:, None] & columns[None])  # a box
        assert np.abs(np.diff(np.pad(rows, 1).astype(int))).sum() <= 2  # of neighbouring rows
        assert np.abs(np.diff(np.pad(columns, 1).astype(int))).sum() <= 2
        assert labels[number, number ^ 1] == pytest.approx(other.mean(), abs=1e-6)
        assert labels[number, number] == pytest.approx(1 - other.mean(), abs=1e-6)
        areas.append(other.mean())
    assert max(areas) > 0.6
    assert min(areas) < 0.05


def test_both_take_turns_and_leave_each_other_alone():
    both, cut, blend = Augment(mixup=0.4, cutmix=1.0), Augment(cutmix=1.0), Augment(mixup=0.4)
    draws = draws_of(both, 200)

    def part(options):
        names = np.concatenate([np.arange(8), *(np.arange(100)[both.places()[name]] for name in options.streams)])
        return draws[:, names.astype(int)]

    cuts = draws[:, both.places()["mixup or cutmix"]][:, 0] < 0.5
    assert 80 < cuts.sum() < 120
    found = augment(flat(200), draws, both).numpy()
    np.testing.assert_array_equal(found[cuts], augment(flat(200), part(cut), cut).numpy()[cuts])
    np.testing.assert_array_equal(found[~cuts], augment(flat(200), part(blend), blend).numpy()[~cuts])


@pytest.mark.parametrize("options", [Augment(mixup=1.0), Augment(cutmix=1.0)])
def test_filler_is_nobodys_partner(options):
    draws, record = draws_of(options, 6), tf.constant([5, 3, 7, -1, -1, -1], tf.int64)
    images = augment(flat(6), draws, options, record).numpy()
    batch = {"label": tf.constant([1, 2, 3, 0, 0, 0], tf.int64), "draws": draws, "record": record}
    labels = mix_labels(batch, spec(options), classes=4).numpy()
    assert (images[0] != 0).any()
    assert labels[0].max() < 1
    np.testing.assert_array_equal(images[2:], flat(6)[2:])
    np.testing.assert_array_equal(labels[2:], np.eye(4)[[3, 0, 0, 0]])


def test_labels_of_every_kind():
    options = Augment(mixup=0.4)
    draws = draws_of(options, 4)
    share = shares(tf.constant(draws), options, tf.constant(SIZE), None)[2].numpy()
    several = np.random.default_rng(0).integers(0, 2, (4, 3)).astype(np.float32)
    found = mix_labels({"label": tf.constant(several), "draws": draws}, spec(options))
    np.testing.assert_allclose(
        found, share[:, None] * several + (1 - share[:, None]) * several[[1, 0, 3, 2]], atol=1e-6
    )
    numbers = np.array([1.5, -2, 30, 0.25], np.float32)
    found = mix_labels({"label": tf.constant(numbers), "draws": draws}, spec(options))
    np.testing.assert_allclose(found, share * numbers + (1 - share) * numbers[[1, 0, 3, 2]], atol=1e-5)
    plain = mix_labels({"label": tf.constant([2, 0], tf.int64)}, OutputSpec(image_size=SIZE), classes=3)
    np.testing.assert_array_equal(plain, np.eye(3)[[2, 0]])
    with pytest.raises(ValueError, match="number of classes"):
        mix_labels({"label": tf.constant([2, 0], tf.int64), "draws": draws[:2]}, spec(options))
