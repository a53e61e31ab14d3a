"""TFRecord framing without TensorFlow, so that conversion workers start in 0.2 s and stay small.

A record on disk is: length (uint64, little endian), masked CRC-32C of those eight bytes (uint32), the payload,
masked CRC-32C of the payload (uint32). Source: tensorflow/tsl `lib/io/record_writer.h` and `lib/hash/crc32c.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from irv2data.errors import RecordError

HEADER_BYTES = 12
FOOTER_BYTES = 4
FRAMING_BYTES = HEADER_BYTES + FOOTER_BYTES
_MASK_DELTA = 0xA282EAD8


def _masked_crc(data: bytes) -> int:
    return _masked(google_crc32c.value(data))


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def framing(*parts: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind a payload on disk, 12 and 4 bytes; the payload may come in parts."""
    length = struct.pack("<Q", sum(map(len, parts)))
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return length + struct.pack("<I", _masked_crc(length)), struct.pack("<I", _masked(crc))


def frame(payload: bytes) -> bytes:
    """The bytes on disk of one record, `len(payload) + 16` of them."""
    header, footer = framing(payload)
    return b"".join((header, payload, footer))


def read_frames(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset of the record, payload) from the file's current position to its end.

    Args:
        file: A binary file open for reading, positioned at the start of a record.
        name: What to call the file in an error.

    Raises:
        RecordError: The file ends inside a record, or a checksum does not match. It names the record.
    """
    record = 0
    while True:
        offset = file.tell()
        header = file.read(HEADER_BYTES)
        if not header:
            return
        if len(header) < HEADER_BYTES:
            raise RecordError(f"ends inside a record header at byte {offset}", shard=name, record=record)
        length, crc = struct.unpack("<QI", header)
        # Check the length's own checksum first: a flipped bit there must not make us allocate 2**63 bytes.
        if _masked_crc(header[:8]) != crc:
            raise RecordError(f"checksum of the length at byte {offset} is wrong", shard=name, record=record)
        body = file.read(length + FOOTER_BYTES)
        if len(body) < length + FOOTER_BYTES:
            raise RecordError(f"ends inside the record at byte {offset}", shard=name, record=record)
        payload = body[:length]
        if _masked_crc(payload) != struct.unpack("<I", body[length:])[0]:
            raise RecordError(f"checksum of the record at byte {offset} is wrong", shard=name, record=record)
        yield offset, payload
        record += 1


def salvage_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (byte offset, payload) of every record in damaged data whose checksums are right, wherever it lies.

    After damage the next record is found by its length's checksum, byte by byte; that a stretch of other bytes has
    both checksums right is a matter of one in 2**64.
    """
    position = 0
    while position + FRAMING_BYTES <= len(data):
        length, crc = struct.unpack_from("<QI", data, position)
        end = position + FRAMING_BYTES + length
        # The length first: it is wrong nearly everywhere but at a record, and comparing costs less than a checksum.
        if end <= len(data) and _masked_crc(data[position : position + 8]) == crc:
            payload = data[position + HEADER_BYTES : end - FOOTER_BYTES]
            if _masked_crc(payload) == struct.unpack_from("<I", data, end - FOOTER_BYTES)[0]:
                yield position, payload
                position = end
                continue
        position += 1
