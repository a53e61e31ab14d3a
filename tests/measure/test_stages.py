"""The pipeline cut off behind each stage: each image is worked on once an epoch, and no more is done than that."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data import Pipeline
from irv2data.errors import UsageError
from irv2data.measure import stages
from irv2data.measure.stages import ABOUT, BATCH, DECODE, PARSE, PLAN, READ, RESIZE
from irv2data.training.step import Preprocessor


def images_of(subject, images):
    """The units that make up so many images."""
    opened, seen = subject.open(), []
    while sum(seen) < images:
        seen.append(next(opened))
    return seen


def small(dataset, **options):
    given = {"image_size": (32, 32), "batch_size": 15, "drop_remainder": False, **options}
    return Pipeline(dataset, **given)


@pytest.mark.parametrize(
    ("replicas", "options", "names"),
    [
        (1, {"fit": "random_resized_crop"}, [PLAN, READ, PARSE, DECODE, BATCH]),
        (3, {"fit": "resize", "resize_on": "host"}, [PLAN, READ, PARSE, DECODE, RESIZE, BATCH]),
        (1, {"fit": "native", "max_pixels": 64 * 64, "split": "validation"}, [PLAN, READ, PARSE, DECODE, BATCH]),
    ],
)
def test_each_stage_handles_every_image_of_an_epoch_once(dataset, cpu_strategy, replicas, options, names):
    pipeline = small(dataset, **options)
    found = stages.host_stages(pipeline, cpu_strategy(replicas))
    assert list(found) == names
    records = pipeline.plan.split.num_records
    for subject in found.values():
        units = images_of(subject, records)
        assert sum(units) == records  # chunks end with the epoch
        assert max(units) <= 15


def test_filler_counts_as_no_image(dataset):
    pipeline = small(dataset, batch_size=64)  # 120 records: 8 rows of filler
    found = stages.host_stages(pipeline, tf.distribute.get_strategy())
    for name in (DECODE, BATCH):
        assert sum(itertools.islice(found[name].open(), 2)) == 120, name


def test_a_stage_does_what_it_is_called_and_no_more(dataset, tmp_path):
    """A record whose image is damaged is read and parsed, but not decoded; one whose bytes are damaged is not read."""
    folder = tmp_path / "copy"
    shutil.copytree(dataset.folder, folder)
    split = irv2data.Dataset(folder).split("train")
    file, _, offset = split.locate(5)
    encoded = split.read(5).encoded
    content = bytearray((folder / file).read_bytes())
    place = content.index(encoded[:64], offset)

    def errors(stage):
        pipeline = Pipeline(folder, image_size=(32, 32), batch_size=15)
        subject = stages.host_stages(pipeline, tf.distribute.get_strategy())[stage]
        try:
            images_of(subject, 120)
        except tf.errors.OpError as error:
            return type(error)
        return None

    content[place + 100] ^= 1  # the record's checksum no longer holds
    (folder / file).write_bytes(content)
    assert errors(PLAN) is None
    assert errors(READ) is tf.errors.DataLossError
    # With a checksum that holds, of an image that is none.
    content[place + 100] ^= 1
    content[place : place + 2] = b"\0\0"
    length = int(split.array("length")[5])
    from google_crc32c import value

    payload = bytes(content[offset + 12 : offset + length - 4])
    crc = value(payload)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    content[offset + length - 4 : offset + length] = masked.to_bytes(4, "little")
    (folder / file).write_bytes(content)
    assert errors(READ) is None
    assert errors(PARSE) is None
    assert errors(DECODE) is tf.errors.InvalidArgumentError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "host"}, "stages: once images are kept, an epoch reads and decodes nothing; leave the cache out"),
        ({"service": "grpc://127.0.0.1:1"}, "stages: a service's workers are elsewhere"),
    ],
)
def test_what_has_other_stages_is_refused(dataset, options, message):
    with pytest.raises(UsageError, match=message):
        stages.host_stages(small(dataset, **options), tf.distribute.get_strategy())


def test_finished_images_are_traced_before_a_clock_runs(dataset):
    pipeline = small(dataset, fit="letterbox", batch_size=8)
    finish = Preprocessor(tf.distribute.get_strategy(), pipeline.output)
    stages.trace(finish, pipeline)
    assert set(finish.graphs) == {(8, *shape, 3) for shape in pipeline.plan.shapes}
    for batch in pipeline.batches():
        finish(batch)
    assert set(finish.graphs) == {(8, *shape, 3) for shape in pipeline.plan.shapes}
    assert all(graph.experimental_get_tracing_count() == 1 for graph in finish.graphs.values())


def test_with_a_cache_the_epoch_that_fills_it_is_left_out(dataset):
    pipeline = small(dataset, cache="host", batch_size=40)
    opened = stages.batches(pipeline, tf.distribute.get_strategy()).open()
    assert not pipeline.cache.there.any()
    assert next(opened) == 40
    assert pipeline.cache.there.all()
    assert np.count_nonzero(pipeline.cache.there) == 120


def test_the_table_knows_every_stage():
    assert list(ABOUT) == [PLAN, READ, PARSE, DECODE, RESIZE, BATCH]
