"""TFRecord framing: TensorFlow's own bytes, read back, and every kind of damage named with its record."""

from __future__ import annotations

import io
import struct
from itertools import islice

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from irv2data.errors import DatasetError, RecordError
from irv2data.tfrecord import FRAMING_BYTES, frame, read_frames

PAYLOADS = [b"", b"a", bytes(range(256)) * 40, b"\x00" * 1000, b"\xff" * 33]
FIRST = len(PAYLOADS[1]) + FRAMING_BYTES  # where record 1 of `damaged` begins


def test_framing_is_what_tensorflow_writes(tmp_path):
    path = tmp_path / "theirs.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert b"".join(map(frame, PAYLOADS)) == path.read_bytes()


def test_tensorflow_reads_our_framing(tmp_path):
    path = tmp_path / "ours.tfrecord"
    path.write_bytes(b"".join(map(frame, PAYLOADS)))
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == PAYLOADS


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_reading_gives_back_payloads_and_offsets(payloads):
    frames = [frame(payload) for payload in payloads]
    offsets = [sum(map(len, frames[:number])) for number in range(len(frames))]
    assert list(read_frames(io.BytesIO(b"".join(frames)), "x")) == list(zip(offsets, payloads, strict=True))
    assert [len(one) for one in frames] == [len(payload) + FRAMING_BYTES for payload in payloads]


def test_reading_starts_at_the_position_of_the_file():
    file = io.BytesIO(frame(b"first") + frame(b"second"))
    file.seek(len(frame(b"first")))
    assert list(read_frames(file, "x")) == [(21, b"second")]


def flipped(position: int) -> bytes:
    data = bytearray(frame(b"a") + frame(b"payload") + frame(b"last"))
    data[position] ^= 0x10
    return bytes(data)


WHOLE = frame(b"a") + frame(b"payload")


@pytest.mark.parametrize(
    ("data", "record", "reason"),
    [
        (flipped(FIRST), 1, "checksum of the length at byte 17 is wrong"),
        (flipped(FIRST + 7), 1, "checksum of the length at byte 17 is wrong"),  # length + 2**60: nothing is allocated
        (flipped(FIRST + 9), 1, "checksum of the length at byte 17 is wrong"),
        (flipped(FIRST + 14), 1, "checksum of the record at byte 17 is wrong"),
        (flipped(FIRST + 20), 1, "checksum of the record at byte 17 is wrong"),
        (flipped(0), 0, "checksum of the length at byte 0 is wrong"),
        (flipped(len(WHOLE) + 12), 2, "checksum of the record at byte 40 is wrong"),
        (WHOLE[: FIRST + 1], 1, "ends inside a record header at byte 17"),
        (WHOLE[: FIRST + 11], 1, "ends inside a record header at byte 17"),
        (WHOLE[: FIRST + 12], 1, "ends inside the record at byte 17"),
        (WHOLE[: FIRST + 15], 1, "ends inside the record at byte 17"),
        (WHOLE[:-1], 1, "ends inside the record at byte 17"),
    ],
)
def test_damage_is_named_after_the_sound_records_before_it(data, record, reason):
    frames = read_frames(io.BytesIO(data), "train-0")
    assert [payload for _, payload in islice(frames, record)] == [b"a", b"payload"][:record]
    with pytest.raises(RecordError) as caught:
        next(frames)
    assert (caught.value.shard, caught.value.record) == ("train-0", record)
    assert str(caught.value) == f"train-0, record {record}: {reason}"
    assert isinstance(caught.value, DatasetError)


def test_a_cut_at_a_record_boundary_reads_as_a_clean_end():
    # Which is why the manifest counts records.
    assert list(read_frames(io.BytesIO(WHOLE[:FIRST]), "x")) == [(0, b"a")]


def test_the_length_is_little_endian():
    assert struct.unpack_from("<Q", frame(b"x" * 300))[0] == 300
