"""`Pipeline.distribute`: the same global batches whatever the replicas, all at one shape, and every record once."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.errors import UsageError
from irv2data.pipeline.config import MAX_CHUNK, PipelineConfig
from irv2data.pipeline.distribute import Share, share_of
from irv2data.pipeline.planned import FILLER


def make(dataset, **options):
    return irv2data.Pipeline(dataset, **{"image_size": (24, 24), "batch_size": 24, **options})


def per_replica(strategy, data):
    """Each step's batch as a list of one dict of arrays a replica."""
    for element in data:
        values = {name: strategy.experimental_local_results(value) for name, value in element.items()}
        yield [{name: value[r].numpy() for name, value in values.items()} for r in range(strategy.num_replicas_in_sync)]


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"fit": "random_resized_crop", "shuffle": "blocks"},
        {"batch_size": 102, "drop_remainder": False},  # over one replica two chunks of 51 with the filler at the end
    ],
)
def test_replicas_get_the_row_blocks_of_the_global_batches(dataset, cpu_strategy, options, replicas):
    pipeline, strategy = make(dataset, **options), cpu_strategy(replicas)
    expected = list(pipeline.batches(epoch=1, step=1, epochs=2).as_numpy_iterator())
    steps = list(per_replica(strategy, pipeline.distribute(strategy, epoch=1, step=1, epochs=2)))
    assert len(steps) == len(expected) == 2 * pipeline.steps_per_epoch() - 1
    size = pipeline.config.batch_size // replicas
    for parts, batch in zip(steps, expected, strict=True):
        assert {part["canvas"].shape for part in parts} == {(size, *batch["canvas"].shape[1:])}
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value, err_msg=name)


@pytest.mark.parametrize("replicas", [2, 3])
def test_every_record_is_evaluated_once(dataset, cpu_strategy, replicas):
    # 120 records in batches of 36: the last batch has 24 of filler, which at three replicas fill two of them.
    pipeline = make(dataset, batch_size=36, drop_remainder=False, shuffle=None, buckets=1)
    strategy = cpu_strategy(replicas)
    seen, weight, fillers = Counter(), 0.0, []
    for parts in per_replica(strategy, pipeline.distribute(strategy)):
        for part in parts:
            seen.update(part["record"][part["record"] != FILLER].tolist())
            weight += part["weight"].sum()
            np.testing.assert_array_equal(part["weight"], part["record"] != FILLER)
        fillers.append([int((part["record"] == FILLER).sum()) for part in parts])
    assert seen == Counter(range(120))
    assert weight == 120
    assert fillers[-1] == ([6, 18] if replicas == 2 else [0, 12, 12])
    assert not np.any(fillers[:-1])


def test_the_default_strategy_gets_whole_batches(dataset):
    pipeline = make(dataset)
    found = list(pipeline.distribute(tf.distribute.get_strategy()).as_numpy_iterator())
    for a, b in zip(found, pipeline.batches().as_numpy_iterator(), strict=True):
        for name in b:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_replicas_shapes_are_static_but_for_the_canvas(dataset, cpu_strategy):
    # Three chunks a replica; compiled steps and synchronised statistics need the batch dimension.
    pipeline = make(dataset, batch_size=2 * 130, drop_remainder=False)
    data = pipeline.distribute(cpu_strategy(2))
    for part in data.element_spec["canvas"]._value_specs:
        assert part.shape.as_list() == [130, None, None, 3]


@pytest.mark.parametrize(
    ("batch_size", "replicas", "advice"),
    [(25, 2, "use 24 or 26"), (100, 3, "use 99 or 102"), (2, 3, "use 3"), (1, 2, "use 2")],
)
def test_replicas_must_divide_the_batch(dataset, cpu_strategy, batch_size, replicas, advice):
    pipeline, strategy = make(dataset, batch_size=batch_size), cpu_strategy(replicas)
    message = f"^batch_size {batch_size} is not divisible by {replicas} replicas; {advice}$"
    with pytest.raises(UsageError, match=message):
        pipeline.distribute(strategy)
    with pytest.raises(UsageError, match=message):
        pipeline.for_fit(strategy, epochs=1)


def test_a_step_that_is_not_there(dataset, cpu_strategy):
    with pytest.raises(UsageError, match="epoch 0 has steps 0 to 5, got step 6"):
        make(dataset).distribute(cpu_strategy(2), step=6)


def test_the_second_of_two_workers_with_two_replicas_each():
    context = tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=1, num_replicas_in_sync=4)
    for batch, size, chunks, chunk in ((40, 10, 1, 10), (4 * 65, 65, 2, 33)):
        share = share_of(plan_of(batch), 4)(context)
        assert share == Share(first=2, replicas=2, total=4, most=batch)
        assert (share.size, share.chunks, share.chunk) == (size, chunks, chunk)


def plan_of(*batch_sizes, multiple=None):
    """What of a plan `share_of` needs."""
    config = PipelineConfig(batch_size=batch_sizes[0])
    if multiple:
        config = PipelineConfig(fit="native", max_pixels_per_batch=1, batch_multiple=multiple)
    return SimpleNamespace(config=config, batch_sizes=batch_sizes)


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [1, 64, 65, 129])
def test_the_workers_shares_cover_the_batch_once(workers, size):
    replicas = 6
    rows = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, replicas)
        share = share_of(plan_of(replicas * size), replicas)(context)
        assert share.size == size
        assert share.chunk <= MAX_CHUNK
        assert share.chunks * share.chunk - share.chunks < size <= share.chunks * share.chunk
        rows += share.rows(np.array([size]))[0].tolist()
    assert [row for row in rows if row >= 0] == list(range(replicas * size))
    assert len(rows) == replicas * share.chunks * share.chunk


@pytest.mark.parametrize("workers", [1, 2])
def test_the_shares_of_batches_that_differ(workers):
    sizes = (160, 40, 8)
    for worker in range(workers):
        share = share_of(plan_of(*sizes, multiple=8), 2)(tf.distribute.InputContext(workers, worker, 2))
        assert (share.size, share.chunks, share.chunk) == (80, 2, 40)
        rows = share.rows(np.array(sizes) // 2).reshape(3, share.replicas, 2, 40)
        for size, batch in zip(sizes, rows, strict=True):
            for replica, chunks in enumerate(batch, start=worker):
                assert [row for row in chunks.ravel().tolist() if row >= 0] == list(
                    range(replica * size // 2, (replica + 1) * size // 2)
                )
                # Equally long, the last one but for what is missing in all.
                assert [(chunk >= 0).sum() for chunk in chunks] == [size // 4, size // 4]
    with pytest.raises(UsageError, match=r"^batch_multiple 8 is not divisible by 3 replicas; use 6 or 9$"):
        share_of(plan_of(*sizes, multiple=8), 3)


def test_the_shares_of_two_workers_make_the_global_batches(dataset):
    pipeline = make(dataset, batch_size=24, fit="random_resized_crop")
    share = share_of(pipeline.plan, 4)
    parts = [
        list(pipeline.host_batches([(1, 2)], share(tf.distribute.InputContext(2, worker, 4)), None).as_numpy_iterator())
        for worker in range(2)
    ]
    for step, batch in enumerate(pipeline.batches(epoch=1, step=2).as_numpy_iterator()):
        # Two replicas a worker, whose batches follow one another.
        four = [parts[worker][2 * step + replica] for worker in range(2) for replica in range(2)]
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in four]), value)
    assert len(parts[0]) == len(parts[1]) == 2 * (pipeline.steps_per_epoch() - 2)
