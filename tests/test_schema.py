"""Records: what TensorFlow parses, `decode` inverts, and a missing key is named."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from irv2data import schema
from irv2data.schema import Record

RECORD = Record(
    encoded=b"\xff\xd8\xff\x00image",
    format="JPEG",
    height=480,
    width=640,
    label=3,
    text="daisy",
    filename=b"daisy/1.jpg",
    sha256="ab" * 32,
)

records = st.builds(
    Record,
    encoded=st.binary(max_size=50),
    format=st.sampled_from(schema.FORMATS),
    height=st.integers(1, 65535),
    width=st.integers(1, 65535),
    label=st.integers(0, 2**31 - 1),
    # A class is a folder's name: any bytes, those that are no UTF-8 as surrogate escapes.
    text=st.binary(min_size=1, max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    filename=st.binary(min_size=1, max_size=12),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
)


def test_the_keys_are_those_that_others_read():
    assert schema.KEYS == (
        "image/encoded",
        "image/format",
        "image/height",
        "image/width",
        "image/class/label",
        "image/class/text",
        "image/filename",
        "image/key/sha256",
    )


def test_encode_is_the_example_that_tensorflow_parses():
    def strings(*values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def integers(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    example = tf.train.Example.FromString(schema.encode(RECORD))
    expected = {
        "image/encoded": strings(RECORD.encoded),
        "image/format": strings(b"JPEG"),
        "image/height": integers(480),
        "image/width": integers(640),
        "image/class/label": integers(3),
        "image/class/text": strings(b"daisy"),
        "image/filename": strings(b"daisy/1.jpg"),
        "image/key/sha256": strings(b"ab" * 32),
    }
    assert example == tf.train.Example(features=tf.train.Features(feature=expected))
    assert schema.encode(RECORD) == example.SerializeToString(deterministic=True)


@settings(max_examples=60, deadline=None)
@given(records)
def test_decode_inverts_encode(record):
    assert schema.decode(schema.encode(record)) == record


@settings(max_examples=20, deadline=None)
@given(records)
def test_parse_inverts_encode_in_a_graph(record):
    parsed = PARSE(schema.encode(record))
    assert {key: value.numpy() for key, value in parsed.items()} == {
        schema.ENCODED: record.encoded,
        schema.FORMAT: record.format.encode(),
        schema.HEIGHT: record.height,
        schema.WIDTH: record.width,
        schema.LABEL: record.label,
        schema.TEXT: record.text.encode("utf-8", "surrogateescape"),
        schema.FILENAME: record.filename,
        schema.SHA256: record.sha256.encode(),
    }


PARSE = tf.function(schema.parse, input_signature=[tf.TensorSpec([], tf.string)])


def test_parse_gives_scalars_of_the_documented_types_and_only_the_keys_asked_for():
    parsed = PARSE(schema.encode(RECORD))
    integers = {schema.HEIGHT, schema.WIDTH, schema.LABEL}
    assert {key: (value.dtype, value.shape.rank) for key, value in parsed.items()} == {
        key: (tf.int64 if key in integers else tf.string, 0) for key in schema.KEYS
    }
    assert list(schema.parse(schema.encode(RECORD), keys=(schema.ENCODED,))) == [schema.ENCODED]


def test_equal_records_give_equal_bytes_in_key_order():
    serialized = schema.encode(RECORD)
    assert schema.encode(Record(**asdict(RECORD))) == serialized
    positions = [serialized.index(key.encode()) for key in schema.KEYS]
    assert [schema.KEYS[number] for number in np.argsort(positions)] == sorted(schema.KEYS)


@pytest.mark.parametrize("text", ["naïve", "日本", "caf\udce9", "a/b\n"])
def test_any_class_name_and_file_name_survives(text):
    record = replace(RECORD, text=text, filename=b"caf\xe9/\xff\n.jpg")
    assert schema.decode(schema.encode(record)) == record
    parsed = schema.parse(schema.encode(record))
    assert parsed[schema.TEXT].numpy() == text.encode("utf-8", "surrogateescape")
    assert parsed[schema.FILENAME].numpy() == b"caf\xe9/\xff\n.jpg"


@pytest.mark.parametrize("key", schema.KEYS)
def test_a_missing_key_is_named(key):
    example = tf.train.Example.FromString(schema.encode(RECORD))
    del example.features.feature[key]
    with pytest.raises(ValueError, match=f"^key '{key}' has 0 values, not 1$"):
        schema.decode(example.SerializeToString())


@pytest.mark.parametrize("key", [schema.ENCODED, schema.LABEL])
def test_a_key_with_two_values_or_of_another_kind_is_named(key):
    example = tf.train.Example.FromString(schema.encode(RECORD))
    values = example.features.feature[key]
    for kind in (values.bytes_list, values.int64_list):
        if kind.value:
            kind.value.append(kind.value[0])
    with pytest.raises(ValueError, match=f"^key '{key}' has 2 values, not 1$"):
        schema.decode(example.SerializeToString())
    example.features.feature[key].float_list.value.append(1.0)
    with pytest.raises(ValueError, match=f"^key '{key}' has 0 values, not 1$"):
        schema.decode(example.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff\xff\xff", schema.encode(RECORD)[:-1], b"not a message"])
def test_bytes_that_are_no_example_are_refused(data):
    with pytest.raises(ValueError, match=r"^not a tf\.train\.Example: "):
        schema.decode(data)
