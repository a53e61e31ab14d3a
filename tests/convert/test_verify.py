"""`verify` finds each kind of damage and says where it lies."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irv2data import Dataset, index, manifest, schema
from irv2data.convert import Problem, verify
from irv2data.errors import DatasetError
from irv2data.tfrecord import frame, read_frames

FIRST = 0  # the number of the train shard that most tests damage


@pytest.fixture
def folder(small_dataset, tmp_path) -> Path:
    """A copy of the small dataset, to be damaged."""
    return Path(shutil.copytree(small_dataset, tmp_path / "dataset"))


def shard_of(folder: Path, number: int = FIRST) -> Path:
    return Path(Dataset(folder).split("train").paths[number])


def payloads(path: Path) -> list[bytes]:
    return [payload for _, payload in read_frames(io.BytesIO(path.read_bytes()), path.name)]


def edit_manifest(folder: Path, change) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    change(content)
    for split in content["splits"].values():  # the totals are checked when the manifest is read
        for name in ("records", "bytes"):
            split[name] = sum(shard[name] for shard in split["shards"])
    (folder / "dataset.json").write_text(manifest.seal(content))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def rewrite(folder: Path, record: int, change) -> str:
    """Replaces a record of the first train shard, framed properly, with manifest and index to match its new size."""
    path = shard_of(folder)
    frames = payloads(path)
    frames[record] = schema.encode(change(schema.decode(frames[record])))
    data = b"".join(map(frame, frames))
    path.write_bytes(data)
    lengths = np.array([len(payload) + 16 for payload in frames])
    for column, values in (("length", lengths), ("offset", np.cumsum(lengths) - lengths)):
        edit_column(folder, column, lambda array, values=values: np.concatenate([values, array[len(values) :]]))
    digest = hashlib.sha256(data).hexdigest()
    edit_manifest(folder, lambda m: m["splits"]["train"]["shards"][FIRST].update(bytes=len(data), sha256=digest))
    return path.name


def edit_column(folder: Path, name: str, change) -> None:
    """Changes a column of the train index, and its digest in the manifest."""
    path = manifest.array_path(folder, "train", name)
    array = np.load(path)
    np.save(path, change(array).astype(array.dtype))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(folder, lambda m: m["splits"]["train"]["index"].update({name: digest}))


def test_a_sound_dataset_has_no_problems_and_tells_its_progress(folder):
    told = []
    assert verify(str(folder)) == []
    assert verify(str(folder), deep=True, progress=lambda done, total: told.append((done, total))) == []
    assert told[-1] == (24, 24)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_shard_that_the_manifest_does_not_name_is_a_stray(folder):
    shutil.copy(shard_of(folder), folder / "train-00000-of-00001.tfrecord")
    problem = Problem(
        file="train-00000-of-00001.tfrecord", record=None, reason="a shard that the manifest does not name"
    )
    assert verify(str(folder)) == [problem]


def test_the_dataset_of_photographs_is_sound(dataset):
    assert verify(str(dataset.folder), deep=True) == []


def test_a_flipped_byte_of_an_image_is_located(folder):
    path = shard_of(folder)
    second = len(payloads(path)[0]) + 16
    flip(path, second + 16 + 100)
    assert verify(str(folder)) == []  # sizes and counts alone do not show it
    reason = f"checksum of the record at byte {second} is wrong"
    assert verify(str(folder), deep=True) == [Problem(file=path.name, record=1, reason=reason)]


def test_a_flipped_byte_of_the_framing_is_located(folder):
    path = shard_of(folder)
    second = len(payloads(path)[0]) + 16
    flip(path, second)
    reason = f"checksum of the length at byte {second} is wrong"
    assert verify(str(folder), deep=True) == [Problem(file=path.name, record=1, reason=reason)]


def test_a_cut_at_a_record_boundary_is_found_though_the_manifest_agrees_on_the_size(folder):
    path = shard_of(folder)
    frames = payloads(path)
    data = b"".join(map(frame, frames[:-1]))
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit_manifest(folder, lambda m: m["splits"]["train"]["shards"][FIRST].update(bytes=len(data), sha256=digest))
    mismatch = Problem(file=path.name, record=None, reason="the index does not describe this shard")
    count = f"holds {len(frames) - 1} records, the manifest says {len(frames)}"
    assert verify(str(folder)) == [mismatch]
    assert verify(str(folder), deep=True) == [mismatch, Problem(file=path.name, record=None, reason=count)]


def test_swapped_shards_are_found(folder):
    first, second = shard_of(folder, 0), shard_of(folder, 1)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    edit_manifest(folder, lambda m: swap_sizes(m["splits"]["train"]["shards"]))
    found = verify(str(folder), deep=True)
    assert {problem.file for problem in found} == {first.name, second.name}
    assert Problem(file=first.name, record=None, reason="the index does not describe this shard") in found


def swap_sizes(shards) -> None:
    shards[0]["bytes"], shards[1]["bytes"] = shards[1]["bytes"], shards[0]["bytes"]


def test_equal_records_in_another_order_are_found_by_the_digest(folder):
    path = shard_of(folder)
    frames = [frame(payload) for payload in payloads(path)]
    path.write_bytes(b"".join(frames[::-1]))
    found = verify(str(folder), deep=True)
    assert [problem.record for problem in found if problem.record is not None][:1] == [0]
    assert all(problem.file == path.name for problem in found)


def test_a_shard_of_sound_records_with_another_digest_is_found(folder):
    edit_manifest(folder, lambda m: m["splits"]["train"]["shards"][FIRST].update(sha256="0" * 64))
    reason = "its SHA-256 differs from the manifest's"
    assert verify(str(folder), deep=True) == [Problem(file=shard_of(folder).name, record=None, reason=reason)]


def test_missing_and_resized_files_are_all_named(folder):
    first, second = shard_of(folder, 0), shard_of(folder, 1)
    size = second.stat().st_size
    first.unlink()
    second.write_bytes(second.read_bytes() + b"x")
    assert verify(str(folder)) == [
        Problem(file=first.name, record=None, reason="missing"),
        Problem(file=second.name, record=None, reason=f"has {size + 1} bytes, the manifest says {size}"),
    ]


def test_a_manifest_that_cannot_be_read_is_a_problem_and_a_missing_one_an_error(folder):
    (folder / "dataset.json").write_text('{"format": "irv2data"')
    (problem,) = verify(str(folder))
    assert (problem.file, problem.record) == ("dataset.json", None)
    assert "not a manifest of irv2data" in problem.reason
    (folder / "dataset.json").unlink()
    with pytest.raises(DatasetError, match=r"not a dataset, it has no dataset\.json"):
        verify(str(folder))


@pytest.mark.parametrize("column", index.spec("class", ()))
def test_a_changed_index_column_is_named(folder, column):
    path = manifest.array_path(folder, "train", column)
    flip(path, -1)
    found = verify(str(folder), deep=True)
    assert (
        Problem(file=f"index/train/{column}.npy", record=None, reason="its SHA-256 differs from the manifest's")
        in found
    )


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("height", 0, 999), ("width", 1, 999), ("format", 1, None), ("label", 0, None)],
)
def test_an_index_that_differs_from_its_records_is_located(folder, column, row, value):
    other = {"format": lambda old: 2 if old != 2 else 0, "label": lambda old: (old + 1) % 3}.get(
        column, lambda _: value
    )

    def change(array):
        array[row] = other(array[row])
        return array

    edit_column(folder, column, change)
    assert verify(str(folder)) == []
    (problem,) = verify(str(folder), deep=True)
    assert (problem.file, problem.record) == (shard_of(folder).name, row)
    assert problem.reason.startswith(f"the index says {column} ")


@pytest.mark.parametrize("value", [-1, 3, 2**31 - 1])
def test_a_label_without_a_class_is_found_without_reading(folder, value):
    edit_column(folder, "label", lambda array: np.where(np.arange(len(array)) == 2, value, array))
    assert verify(str(folder)) == [Problem(file="index/train/label.npy", record=2, reason="no such class")]


@pytest.mark.parametrize("value", [-1, 2**31 - 1])
@pytest.mark.parametrize("deep", [False, True])
def test_a_shard_number_that_cannot_be_is_a_problem_and_no_crash(folder, value, deep):
    edit_column(folder, "shard", lambda array: np.where(np.arange(len(array)) == 0, value, array))
    first = verify(str(folder), deep=deep)[0]
    assert first == Problem(file=shard_of(folder).name, record=None, reason="the index does not describe this shard")


def test_a_column_that_the_manifest_does_not_list_is_a_problem(folder):
    edit_manifest(folder, lambda m: m["splits"]["train"]["index"].pop("label"))
    (problem,) = verify(str(folder), deep=True)
    assert (problem.file, problem.reason[:37]) == ("dataset.json", "split 'train' lists the index arrays ")


def test_a_missing_column_is_a_problem(folder):
    manifest.array_path(folder, "train", "width").unlink()
    (problem,) = verify(str(folder))
    assert (problem.file, problem.record) == ("index/train/width.npy", None)
    assert "cannot be read" in problem.reason


def png_of(size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "PNG")
    return out.getvalue()


def short_png(record: schema.Record) -> bytes:
    """A PNG of the record's size whose data ends after a row; decoders leave the others black and say nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", record.width, record.height, 8, 2, 0, 0, 0)
    row = zlib.compress(bytes(1 + 3 * record.width))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def with_image(encoded: bytes):
    return lambda record: replace(record, encoded=encoded, sha256=hashlib.sha256(encoded).hexdigest())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: replace(r, sha256="0" * 64), "image/key/sha256 is not the digest of the image"),
        (lambda r: replace(r, text="wasp"), "label {r.label} is not class 'wasp'"),
        (lambda r: replace(r, label=7), "label 7 is no class number"),
        (lambda r: replace(r, height=r.height + 1), "is {r.width}x{r.height}, recorded as "),
        (with_image(b"no image"), "the image is no image, neither JPEG nor PNG"),
        (lambda r: with_image(r.encoded[: len(r.encoded) * 2 // 3])(r), "the image cannot be decoded ("),
        (lambda r: replace(with_image(png_of((r.width, r.height)))(r), format="JPEG"), "is PNG, recorded as JPEG"),
        (lambda r: replace(with_image(short_png(r))(r), format="PNG"), "the image cannot be decoded (truncated"),
        (lambda r: replace(r, filename=b"x", format="GIF"), "is {format}, recorded as GIF"),
    ],
)
def test_a_record_that_is_wrong_in_itself_is_located(folder, change, reason):
    record = schema.decode(payloads(shard_of(folder))[1])
    name = rewrite(folder, 1, change)
    (problem,) = verify(str(folder), deep=True)
    assert (problem.file, problem.record) == (name, 1)
    assert problem.reason.startswith(reason.format(r=record, format=record.format))


def test_a_record_without_a_key_is_located(folder):
    path = shard_of(folder)
    frames = payloads(path)
    frames[1] = frames[1].replace(b"image/height", b"image/heighT")
    path.write_bytes(b"".join(map(frame, frames)))
    found = verify(str(folder), deep=True)
    assert Problem(file=path.name, record=1, reason="key 'image/height' has 0 values, not 1") in found


def test_images_larger_than_pillow_opens_by_default_are_sound(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert verify(str(folder), deep=True) == []
