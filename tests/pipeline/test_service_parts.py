"""Order restored, chunks packed and joined, and what a client says of itself: without any server."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from irv2data import Augment, Pipeline
from irv2data.errors import UsageError
from irv2data.pipeline.distribute import Share
from irv2data.pipeline.service.address import route_to, split_address
from irv2data.pipeline.service.in_order import in_order
from irv2data.pipeline.service.parts import join, pack, zeros
from irv2data.pipeline.service.request import Request, Steps, pipeline_options


def ordered(coming, total, most, limit=None):
    """What comes out of `in_order`, and the positions that were made here."""
    made, source = [], iter(coming)

    def make(position):
        made.append(position)
        return f"here {position}"

    def receive():
        position = next(source, None)
        return None if position is None else (position, f"there {position}")

    return list(in_order(receive, total, make, most=most, limit=limit or most)), made


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_every_order_with_every_loss_gives_each_position_once(most):
    for kept in itertools.chain.from_iterable(itertools.combinations(range(4), n) for n in range(5)):
        for coming in itertools.permutations(kept):
            found, made = ordered(coming, 4, most)
            assert [int(element.split()[1]) for element in found] == [0, 1, 2, 3]
            assert set(range(4)) - set(kept) <= set(made)  # what was lost is made
            if most == 4:  # and nothing else, where all that is late may be waited for
                assert set(range(4)) - set(kept) == set(made)


@pytest.mark.parametrize(
    ("coming", "most", "expected", "made"),
    [
        ([1, 2, 0], 3, ["there 0", "there 1", "there 2"], []),
        ([1, 2, 0], 2, ["here 0", "there 1", "there 2"], [0]),  # 0 comes too late: dropped
        ([2, 1, None, 0], 3, ["here 0", "there 1", "there 2"], [0]),  # nothing comes for a while
        ([0, 0, 1, 1, 2], 1, ["there 0", "there 1", "there 2"], []),  # twice
        ([], 1, ["here 0", "here 1", "here 2"], [0, 1, 2]),
    ],
)
def test_what_is_waited_for(coming, most, expected, made):
    assert ordered(coming, 3, most) == (expected, made)


def test_more_is_held_back_once_something_came_too_late():
    # In twos: 0 comes after 1 and 2, 3 after 4 and 5. The first is made here, the second is waited for.
    coming = [1, 2, 0, 4, 5, 3]
    assert ordered(coming, 6, 2, 2)[1] == [0, 3]
    assert ordered(coming, 6, 2, 4)[1] == [0]
    assert ordered([1, 2, 2, 1, 4, 5, 3], 6, 2, 4)[1] == [0, 3]  # what comes twice is not late


def chunk(rng, record, sizes, height=6, width=7, dtype=np.uint8):
    pixels = np.zeros((len(record), height, width, 3), dtype)
    for row, (h, w) in enumerate(sizes):
        if record[row] >= 0:
            pixels[row, :h, :w] = rng.integers(1, 256, (h, w, 3)).astype(dtype)
    return {
        "canvas": pixels, "record": np.array(record), "size": np.array(sizes, np.int32),
        "name": np.array([b"a"] * len(record), object),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_packed_chunks_become_the_batch_again(dtype):
    rng = np.random.default_rng(0)
    parts = [
        chunk(rng, [5, -1, 7], [(6, 7), (1, 1), (2, 3)], dtype=dtype),  # a damaged record between two others
        chunk(rng, [9, -1, -1], [(1, 7), (1, 1), (1, 1)], dtype=dtype),
        chunk(rng, [-1, -1, -1], [(1, 1)] * 3, dtype=dtype),
    ]
    packed = [pack(part) for part in parts]
    assert [part["canvas"].size for part in packed] == [3 * (42 + 6), 3 * 7, 0]
    whole = {name: np.concatenate([part[name] for part in parts])[:8] for name in parts[0]}
    for given in (packed, parts):
        batch = join(given, 8)
        assert batch.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_array_equal(batch[name], value)
            assert batch[name].dtype == value.dtype


def test_missing_pixels_are_noticed():
    part = pack(chunk(np.random.default_rng(0), [5, 7], [(6, 7), (2, 3)]))
    for wrong in (part["canvas"][:-1], np.append(part["canvas"], np.uint8(1))):
        with pytest.raises(ValueError, match="a chunk has"):
            join([{**part, "canvas": wrong}], 2)


@pytest.mark.parametrize("rows", [1, 5])
def test_batches_of_several_sizes_have_their_own_rows(rows):
    rng = np.random.default_rng(0)
    record = [[n if n < rows else -1] for n in range(5)]
    parts = [{**pack(chunk(rng, each, [(2, 2)])), "rows": np.int32(rows)} for each in record]
    assert join(parts, 8)["record"].tolist() == list(range(rows))


def test_memory_is_aligned_as_tensorflow_wants_it():
    for shape in ((1,), (3, 5, 7, 3), (64, 304, 304, 3)):
        array = zeros(shape, np.float32)
        assert (array.ctypes.data % 64, array.shape, array.any()) == (0, shape, False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fit": "native", "max_pixels": 9000, "canvases": [(128, 128), (256, 256)], "shuffle": None, "flip": True},
        {"fit": "random_resized_crop", "augment": Augment(translate=(0.1, 0.2), rotate=7, mixup=0.3), "seed": 2**60},
        {"columns": ("source/filename",), "max_bad_records": 3, "drop_remainder": False},
    ],
    ids=str,
)
def test_a_worker_plans_what_its_client_would(dataset, options):
    if "columns" in options:
        options = {**options, "columns": tuple(sorted(dataset.contents.columns))[:1]}
    plan = Pipeline(dataset, batch_size=16, image_size=(96, 96), service="grpc://localhost:1", **options).plan
    share = Share(first=1, replicas=1, total=2, most=16)
    request = Request.of(dataset, plan, False, share, [(2, 3), (3, 0)])
    same = Request.decode(request.encode())
    assert same == request
    planned = Pipeline(same.dataset, split=same.split, **pipeline_options(same.options)).plan.batch(3, 1)
    for name, value in plan.batch(3, 1).arrays().items():
        np.testing.assert_array_equal(planned.arrays()[name], value)


def test_steps_are_counted_through(dataset):
    plan = Pipeline(dataset, batch_size=32).plan  # 3 steps an epoch
    steps = Steps(plan, [(4, 2), (5, 0), (6, 3), (7, 1)])
    assert [steps.at(number) for number in range(len(steps))] == [(4, 2), (5, 0), (5, 1), (5, 2), (7, 1), (7, 2)]
    with pytest.raises(UsageError, match="epoch 4 has steps 0 to 3, got step 4"):
        Steps(plan, [(4, 4)])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("grpc://10.0.0.7:5050", ("10.0.0.7", 5050)),
        ("input-0.pool:80", ("input-0.pool", 80)),
        ("grpc://[::1]:5050", ("::1", 5050)),
    ],
)
def test_addresses(address, expected):
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", "localhost", "http://a:1", "grpc://a:b", "grpc://a:1/x", "grpc:///a:1"])
def test_what_is_no_address_is_refused(dataset, address):
    with pytest.raises(UsageError, match="service must be grpc://host:port, got"):
        Pipeline(dataset, service=address)


def test_a_worker_finds_its_own_address():
    assert route_to("127.0.0.1:9") == "127.0.0.1"


@pytest.mark.parametrize("cache", ["host", "device", "disk", "auto"])
def test_a_cache_beside_a_service_is_refused(dataset, cache, tmp_path):
    with pytest.raises(UsageError, match=f"cache='{cache}' keeps decoded images on this machine, and a service"):
        Pipeline(dataset, service="grpc://localhost:1", cache=cache, cache_dir=str(tmp_path))


def test_nobody_at_the_address(dataset):
    pipeline = Pipeline(dataset, service="grpc://127.0.0.1:1")
    with pytest.raises(UsageError, match=r"grpc://127.0.0.1:1: nothing answers there \(Connection refused\); start it"):
        pipeline.batches()


def test_epochs_without_end_are_refused(dataset):
    with pytest.raises(UsageError, match="service: workers must know all epochs beforehand"):
        Pipeline(dataset, service="grpc://127.0.0.1:1").epoch_by_epoch()


def test_a_state_goes_with_or_without_a_service(dataset):
    saved = Pipeline(dataset).state(1, 0)
    assert Pipeline(dataset, service="grpc://localhost:1").resume(saved) == (1, 0)
