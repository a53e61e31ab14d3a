"""The layout's promises, for any sizes and seeds: each source in one shard, no split that moves, no shard too large."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irv2data.convert.layout import content_keys, first_of_content, leaks, plan_shards, split_by_content, split_exactly

quick = settings(max_examples=120, deadline=None)
names = ("a", "b", "c")
# Sizes of very different orders on purpose, and zero: an empty file is a source too, rejected later.
sizes_of = st.lists(st.sampled_from([0, 1, 2, 9, 10, 11, 50, 1000, 2**31]) | st.integers(0, 200), max_size=150)


def digests_of(contents) -> np.ndarray:
    hashed = b"".join(hashlib.sha256(str(content).encode()).digest() for content in contents)
    return np.frombuffer(hashed, np.uint8).reshape(-1, 32)


@quick
@given(sizes_of, st.integers(0, 2**63 - 1), st.integers(1, 3), st.integers(0, 3000), st.data())
def test_every_usable_source_is_in_exactly_one_shard_of_its_split(sizes, seed, splits, shard_bytes, data):
    split = np.array(data.draw(st.lists(st.integers(-1, splits - 1), min_size=len(sizes), max_size=len(sizes))), int)
    keys = content_keys(digests_of(range(len(sizes))), seed)
    plans = plan_shards(keys, np.array(sizes, np.int64), split, names[:splits], shard_bytes)
    placed = np.concatenate([plan.sources for plan in plans])
    assert sorted(placed.tolist()) == np.flatnonzero(split >= 0).tolist()
    for number, name in enumerate(names[:splits]):
        mine = [plan for plan in plans if plan.split == name]
        assert [(plan.number, plan.of) for plan in mine] == [(n, len(mine)) for n in range(len(mine))]
        assert len(mine) >= 1
        assert all((split[plan.sources] == number).all() for plan in mine)
        assert all(len(plan.sources) for plan in mine) or len(mine) == 1


@quick
@given(sizes_of, st.integers(0, 3000))
def test_no_shard_is_too_large_unless_it_is_one_record(sizes, shard_bytes):
    sizes = np.array(sizes, np.int64)
    keys = content_keys(digests_of(range(len(sizes))), 0)
    for plan in plan_shards(keys, sizes, np.zeros(len(sizes), int), ["train"], shard_bytes):
        assert sizes[plan.sources].sum() <= shard_bytes or len(plan.sources) == 1


@pytest.mark.parametrize("sizes", [[2000, 0], [0, 2000, 0], [2_000_000, 10, 2_000_000], [10**12, 1] * 50])
def test_an_empty_file_next_to_a_too_large_one_ends(sizes):
    plans = plan_shards(
        content_keys(digests_of(range(len(sizes))), 0), np.array(sizes), np.zeros(len(sizes), int), "t", 1000
    )
    assert sorted(np.concatenate([plan.sources for plan in plans]).tolist()) == list(range(len(sizes)))


@pytest.mark.parametrize(
    ("records", "size", "shard_bytes", "shards"),
    [
        (0, 1, 100, 1),
        (31, 1, 10**6, 1),
        (64, 1, 10**6, 2),  # 32 records are enough for a shard of their own ...
        (512, 1, 10**6, 16),
        (5000, 1, 10**6, 16),  # ... up to 16 of them
        (5000, 1, 100, 50),
        (40, 60, 100, 40),
        (41, 50, 100, 21),
    ],
)
def test_the_number_of_shards(records, size, shard_bytes, shards):
    keys = content_keys(digests_of(range(records)), 0)
    plans = plan_shards(keys, np.full(records, size), np.zeros(records, int), ["train"], shard_bytes)
    assert len(plans) == shards


@quick
@given(st.integers(40, 300), st.integers(0, 100))
def test_shards_are_nearly_equal_in_bytes(records, seed):
    sizes = np.random.default_rng(seed).integers(50, 150, records)
    plans = plan_shards(content_keys(digests_of(range(records)), 0), sizes, np.zeros(records, int), ["train"], 2000)
    totals = [int(sizes[plan.sources].sum()) for plan in plans]
    assert len(plans) <= -(-int(sizes.sum()) // (2000 - 150)) + 1
    assert max(totals) <= int(sizes.sum()) / len(plans) + 300


@quick
@given(st.integers(0, 2**63 - 1), st.sets(st.integers(0, 999), min_size=1, max_size=40), st.sets(st.integers(0, 999)))
def test_a_source_keeps_its_split_when_others_are_added(seed, before, added):
    fractions = (0.6, 0.3, 0.1)

    def assigned(contents):
        contents = sorted(contents)
        splits = split_by_content(content_keys(digests_of(contents), seed), fractions)
        return dict(zip(contents, splits.tolist(), strict=True))

    small, large = assigned(before), assigned(before | added)
    assert small == {content: large[content] for content in before}


@quick
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 99))
def test_equal_content_gets_one_split_and_stays_in_the_order_of_paths(contents, seed):
    keys = content_keys(digests_of(contents), seed)
    split = split_by_content(keys, (0.5, 0.5))
    assert len({(content, number) for content, number in zip(contents, split.tolist(), strict=True)}) == len(
        set(contents)
    )
    plans = plan_shards(keys, np.ones(len(contents), int), split, ["a", "b"], 10**6)
    for content in set(contents):
        rows = [row for plan in plans for row in plan.sources.tolist() if contents[row] == content]
        assert rows == sorted(rows)


@quick
@given(st.permutations(range(60)), st.integers(0, 99))
def test_the_layout_does_not_depend_on_the_order_of_rows(order, seed):
    def layout(contents):
        keys = content_keys(digests_of(contents), seed)
        sizes = np.array([10 + content for content in contents])
        plans = plan_shards(keys, sizes, split_by_content(keys, (0.7, 0.3)), ["a", "b"], 400)
        return [(plan.split, plan.number, [contents[row] for row in plan.sources]) for plan in plans]

    assert layout(order) == layout(list(range(60)))


@pytest.mark.parametrize("fractions", [(0.9, 0.1), (0.5, 0.25, 0.25), (1.0,), (0.001, 0.999)])
@pytest.mark.parametrize("seed", [0, 1])
def test_fractions_hold_in_expectation(fractions, seed):
    count = 20_000
    split = split_by_content(content_keys(digests_of(range(count)), seed), fractions)
    counts = np.bincount(split, minlength=len(fractions))
    deviation = np.sqrt(count * np.array(fractions) * (1 - np.array(fractions)))
    assert (np.abs(counts - count * np.array(fractions)) <= 4 * deviation + 1e-9).all()


def test_keys_are_those_of_the_first_release():
    # Datasets of one seed stay comparable over releases: these values must never change.
    keys = content_keys(digests_of(["a", "b"]), 7)
    assert keys.dtype == np.uint64
    assert keys.tolist() == [[10839834478096313322, 11134060876818587086], [710917014827257958, 17338727632130110403]]


def test_seeds_give_other_splits_and_orders_independent_of_the_split():
    first, second = (content_keys(digests_of(range(2000)), seed) for seed in (0, 1))
    assert 0.4 < (split_by_content(first, (0.5, 0.5)) == split_by_content(second, (0.5, 0.5))).mean() < 0.6
    assert abs(np.corrcoef(first[:, 0].astype(float), first[:, 1].astype(float))[0, 1]) < 0.1


some_contents = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=30)


@quick
@given(some_contents)
def test_the_first_of_a_content_is_the_first_usable_source_that_has_it(sources):
    contents = [content for content, _ in sources]
    usable = np.array([good for _, good in sources], bool)
    first = first_of_content(content_keys(digests_of(contents), 3), usable)
    for row, content in enumerate(contents):
        same = [other for other, kind in enumerate(contents) if kind == content and usable[other]]
        assert first[row] == (same[0] if usable[row] else row)


@quick
@given(some_contents, st.lists(st.integers(0, 2), min_size=30, max_size=30), st.integers(0, 5))
def test_no_content_is_left_in_two_splits_and_the_smallest_keeps_it(sources, splits, fixed):
    contents = np.array([content for content, _ in sources], int)
    usable = np.array([good for _, good in sources], bool)
    fixed = min(fixed, len(sources))
    usable[:fixed] = True
    split = np.array(splits[: len(sources)], int)
    for row in range(fixed):  # what is there already is in one split for each content
        split[row] = split[list(contents).index(contents[row])]
    first = first_of_content(content_keys(digests_of(contents), 0), usable)
    out = leaks(first, usable, split, 3, fixed=fixed)
    counts = [int((split[usable] == number).sum()) for number in range(3)]
    assert not out[~usable].any()
    assert not out[:fixed].any()
    for content in set(contents[usable].tolist()):
        rows = np.flatnonzero(usable & (contents == content))
        (stays,) = set(split[rows[~out[rows]]].tolist())
        if rows[0] < fixed:
            assert stays == split[rows[0]]
        else:
            assert counts[stays] == min(counts[number] for number in split[rows])
        assert (out[rows] == (split[rows] != stays)).all()


def test_exact_splits_have_the_counts_of_their_fractions_in_every_class():
    stratum = np.array([0] * 100 + [1] * 10 + [2] * 3 + [3])
    keys = content_keys(digests_of(range(len(stratum))), 5)
    everything = np.ones(len(stratum), bool)
    split = split_exactly(keys, np.arange(len(stratum)), everything, stratum, (0.8, 0.1, 0.1))
    counts = [np.bincount(split[stratum == number], minlength=3).tolist() for number in range(4)]
    assert counts == [[80, 10, 10], [8, 1, 1], [2, 1, 0], [1, 0, 0]]
    # Not the first ones of a class, but those that the seed chooses.
    assert set(np.flatnonzero(split[:100] == 1).tolist()) != set(range(80, 90))
    other = split_exactly(content_keys(digests_of(range(114)), 6), np.arange(114), everything, stratum, (0.8, 0.1, 0.1))
    assert (other != split).any()


def test_exact_splits_keep_equal_content_together_and_count_it_once():
    contents = [0, 0, 0, 1, 2, 3]
    keys = content_keys(digests_of(contents), 0)
    usable = np.array([True, True, True, True, True, False])
    first = first_of_content(keys, usable)
    split = split_exactly(keys, first, usable, np.array([0, 1, 0, 0, 0, 0]), (0.34, 0.66))
    assert len({split[0], split[1], split[2]}) == 1
    assert sorted([split[0], split[3], split[4]]) == [0, 1, 1]
