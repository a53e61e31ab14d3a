"""Labels of every kind and further columns, from a table to the batch, and back from a record to its source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import irv2data
from irv2data.convert import ConvertConfig, convert, verify
from irv2data.convert.survey import Survey

pytestmark = pytest.mark.usefixtures("serial")
WHOLE = (("train", 1.0),)
ROWS = [
    {"file": "0.png", "label": ["sky", "sea"], "age": 3, "weight_kg": 0.5, "note": "naïve"},
    {"file": "1.png", "label": [], "age": -7, "weight_kg": None, "note": None},
    {"file": "2.png", "label": ["sea"], "age": 2**40, "weight_kg": 2, "note": ["a", 1]},
    {"file": "3.png", "label": ["dog", "sea", "sky"], "age": 0, "weight_kg": -1.25, "note": ""},
]


@pytest.fixture
def table(tmp_path, picture):
    """`table(rows)`: a JSONL file of rows and the images 0.png to 3.png, each of another height."""

    def write(rows) -> Path:
        for number in range(4):
            picture(10 + number, 12, number).save(tmp_path / f"{number}.png")
        (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "table.jsonl"

    return write


def with_labels(*labels):
    return [{"file": row["file"], "label": label} for row, label in zip(ROWS, labels, strict=True)]


def batch_of(folder: Path, **options) -> dict[str, np.ndarray]:
    """The only batch of a split in the order of its records, with filler in the last place."""
    pipeline = irv2data.Pipeline(
        folder, batch_size=5, image_size=(8, 8), shuffle=None, drop_remainder=False, buckets=1, **options
    )
    (batch,) = pipeline.batches()
    order = np.argsort(np.where(batch["record"] < 0, 99, batch["record"]))
    return {name: value.numpy()[order] for name, value in batch.items()}


def by_source(folder: Path, values: np.ndarray) -> list:
    """Values of a batch in the order of the sources' names; filler last."""
    split = irv2data.Dataset(folder).split("train")
    names = [split.source(row) for row in range(split.num_records)]
    return [*(values[row] for row in np.argsort(names)), *values[len(names) :]]


def test_several_classes(tmp_path, table, records_of):
    convert(table(ROWS), tmp_path / "out", ConvertConfig(splits=WHOLE))
    dataset = irv2data.Dataset(tmp_path / "out")
    assert (dataset.contents.labels, dataset.classes) == ("classes", ("dog", "sea", "sky"))
    records = {record.filename: record for record in records_of(tmp_path / "out")["train"]}
    assert [records[name].label for name in (b"0.png", b"1.png", b"3.png")] == [(1, 2), (), (0, 1, 2)]
    assert records[b"0.png"].text == ("sea", "sky")
    batch = batch_of(tmp_path / "out")
    assert batch["label"].dtype == np.float32
    hot = by_source(tmp_path / "out", batch["label"])
    np.testing.assert_array_equal(hot, [[0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert batch["weight"].tolist() == [1, 1, 1, 1, 0]
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_numbers(tmp_path, table):
    convert(table(with_labels(1.5, -2.0, 0.0, 1e6)), tmp_path / "out", ConvertConfig(splits=WHOLE))
    dataset = irv2data.Dataset(tmp_path / "out")
    assert (dataset.contents.labels, dataset.classes) == ("number", ())
    batch = batch_of(tmp_path / "out")
    assert batch["label"].dtype == np.float32
    assert by_source(tmp_path / "out", batch["label"]) == [1.5, -2.0, 0.0, 1e6, 0.0]
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_none(tmp_path, table):
    table(ROWS)
    (tmp_path / "table.jsonl").unlink()
    (tmp_path / "flat").mkdir()
    for number in range(4):
        (tmp_path / f"{number}.png").rename(tmp_path / "flat" / f"{number}.png")
    convert(tmp_path / "flat", tmp_path / "out", ConvertConfig(splits=WHOLE, labels="none"))
    batch = batch_of(tmp_path / "out")
    assert (batch["label"].dtype, batch["label"].tolist()) == (np.int64, [-1, -1, -1, -1, 0])
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_columns_are_in_the_batch_under_their_names(tmp_path, table):
    convert(table(ROWS), tmp_path / "out", ConvertConfig(splits=WHOLE))
    dataset = irv2data.Dataset(tmp_path / "out")
    assert dict(dataset.contents.columns) == {"age": "int64", "weight_kg": "float32", "note": "string"}
    assert "age" not in batch_of(tmp_path / "out")
    batch = batch_of(tmp_path / "out", columns=("note", "age", "weight_kg"))
    assert (batch["age"].dtype, batch["weight_kg"].dtype) == (np.int64, np.float32)
    assert by_source(tmp_path / "out", batch["age"]) == [3, -7, 2**40, 0, 0]
    np.testing.assert_array_equal(by_source(tmp_path / "out", batch["weight_kg"]), [0.5, np.nan, 2, -1.25, 0])
    assert by_source(tmp_path / "out", batch["note"]) == ["naïve".encode(), b"", b'["a", 1]', b"", b""]
    with pytest.raises(irv2data.errors.UsageError, match=r"has no column 'colour'; it has age, weight_kg, note$"):
        irv2data.Pipeline(dataset, batch_size=2, columns=("colour",))


def test_columns_reach_replicas_and_chunks(tmp_path, table, cpu_strategy):
    convert(table(ROWS), tmp_path / "out", ConvertConfig(splits=WHOLE))
    pipeline = irv2data.Pipeline(
        tmp_path / "out", batch_size=2, image_size=(8, 8), columns=("age", "note"), drop_remainder=False
    )
    strategy = cpu_strategy(2)
    split = pipeline.dataset.split("train")
    seen = []
    for batch in pipeline.distribute(strategy):
        parts = {name: strategy.experimental_local_results(value) for name, value in batch.items()}
        for rows, ages, notes in zip(parts["record"], parts["age"], parts["note"], strict=True):
            for row, age, note in zip(rows.numpy(), ages.numpy(), notes.numpy(), strict=True):
                assert (age, note) == (split.column("age")[row], split.column("note")[row])
                seen.append(int(row))
    assert sorted(seen) == [0, 1, 2, 3]
    inputs, label, _ = next(iter(pipeline.for_fit(cpu_strategy(1), epochs=1)))
    assert "age" in inputs
    assert "note" not in inputs
    assert label.shape == (2, 3)


@pytest.mark.parametrize("labels", [ROWS, with_labels(1.5, 2.5, 0.5, 3.5), with_labels("a", "b", "a", "c")])
def test_tfds_and_tensorflow_read_them(tmp_path, table, labels):
    convert(table(labels), tmp_path / "out", ConvertConfig(splits=WHOLE))
    dataset = irv2data.Dataset(tmp_path / "out")
    kind = dataset.contents.labels
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    split = dataset.split("train")
    examples = {e["image"]["filename"]: e for e in builder.as_dataset(split="train").as_numpy_iterator()}
    assert len(examples) == 4
    for row in range(4):
        record = split.read(row)
        example = examples[record.filename]
        if kind == "number":
            assert example["image"]["target"] == record.label
        else:
            np.testing.assert_array_equal(example["image"]["class"]["label"], record.label)
        for name, value in record.columns.items():
            np.testing.assert_array_equal(example[name], value)
    if kind == "classes":
        assert builder.info.features["image"]["class"]["label"].feature.names == ["dog", "sea", "sky"]
        spec = {"image/class/label": tf.io.VarLenFeature(tf.int64), "age": tf.io.FixedLenFeature([], tf.int64)}
        for raw in tf.data.TFRecordDataset(list(split.paths)):
            parsed = tf.io.parse_example(raw[None], spec)
            assert parsed["age"].numpy()[0] in (3, -7, 2**40, 0)


def test_a_record_number_leads_back_to_its_source(tmp_path, table):
    convert(table(ROWS), tmp_path / "out", ConvertConfig(splits=WHOLE))
    split = irv2data.Dataset(tmp_path / "out").split("train")
    for row in range(4):
        name = split.source(row)
        assert split.read(row).height == 10 + int(name[0])
        assert split.array("height")[row] == 10 + int(name[0])
        shard, number, offset = split.locate(row)
        assert (tmp_path / "out" / shard).exists()
        assert number == row
        assert offset == split.array("offset")[row]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([["a", "b"], ["c"]], [["a"], ["b", "c"]]),
        ([{"note": "ab"}, {"note": "c"}], [{"note": "a"}, {"note": "bc"}]),
    ],
)
def test_rows_that_only_begin_elsewhere_are_another_plan(tmp_path, table, before, after):
    digests = []
    for rows in (before, after):
        lines = [
            {"file": f"{number}.png", **(row if isinstance(row, dict) else {"label": row})}
            for number, row in enumerate(rows)
        ]
        config = ConvertConfig(splits=WHOLE, labels="none" if isinstance(rows[0], dict) else "classes")
        survey = Survey(str(table(lines)), str(tmp_path / "out"), config, 1, False, lambda stage, done, total: None)
        digests.append(survey.plan_digest())
    assert digests[0] != digests[1]
