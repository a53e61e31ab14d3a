"""Copies of photographs are found, whatever was done to them, and told apart from other photographs."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import photographs
import pytest
import tensorflow as tf
from PIL import Image

from irv2data import Dataset
from irv2data.convert import ConvertConfig, adopt, convert
from irv2data.convert.workers import Marker
from irv2data.errors import UsageError
from irv2data.near_duplicates import DISTANCE, MOST_DISTANCE, Group, Member, labels_of, near_duplicates
from irv2data.near_duplicates.hashing import hash_shard, perceptual_hash, tasks_of
from irv2data.selection import select

FOLDERS = ConvertConfig(splits="folders", png="keep")


def photograph(name: str, side: int = 400) -> Image.Image:
    """One of the photographs that scikit-image and scikit-learn ship, its longer side `side` pixels at most."""
    with Image.open(photographs.source_path(name)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((side, side))
    return image


def jpeg(image: Image.Image, quality: int = 90, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def folder(in_this_process, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs, copies of two of them, and flat images; read only."""
    root = tmp_path_factory.mktemp("alike")
    coffee, china = photograph("skimage:coffee.png"), photograph("sklearn:china.jpg")
    width, height = coffee.size
    noise = np.random.default_rng(0).integers(126, 131, (60, 90, 3), np.uint8)
    grey = Image.new("RGB", (80, 60), (90, 90, 90))
    exif = Image.Exif()
    exif[0x010E] = "a description, which the conversion removes"
    png = io.BytesIO()
    china.save(png, "PNG")
    source = write(
        root / "source",
        {
            "train/table/coffee.jpg": jpeg(coffee),
            "train/table/half.jpg": jpeg(coffee.resize((width // 2, height // 2)), 80),
            "train/table/cropped.jpg": jpeg(coffee.crop((4, 3, width - 4, height - 3))),
            "test/table/again.jpg": jpeg(coffee, 50),
            "train/outdoors/china.jpg": jpeg(china),
            "train/outdoors/described.jpg": jpeg(china, exif=exif),
            "train/city/china.png": png.getvalue(),
            "train/outdoors/mirrored.jpg": jpeg(china.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
            "train/outdoors/flower.jpg": jpeg(photograph("sklearn:flower.jpg")),
            "train/portrait/chelsea.jpg": jpeg(photograph("skimage:chelsea.png")),
            "test/portrait/astronaut.jpg": jpeg(photograph("skimage:astronaut.png")),
            "train/flat/grey.jpg": jpeg(grey),
            "train/flat/described.jpg": jpeg(grey, exif=exif),
            "train/flat/grey2.jpg": jpeg(Image.new("RGB", (80, 60), (91, 91, 91))),
            "test/flat/noise.jpg": jpeg(Image.fromarray(noise)),
        },
    )
    with in_this_process():
        convert(source, root / "dataset", FOLDERS)
    return root / "dataset"


def sources(group: Group) -> list[str]:
    return sorted(member.source for member in group.members)


COFFEE = ["test/table/again.jpg", "train/table/coffee.jpg", "train/table/cropped.jpg", "train/table/half.jpg"]
CHINA = ["train/city/china.png", "train/outdoors/china.jpg", "train/outdoors/described.jpg"]
GREY = ["train/flat/described.jpg", "train/flat/grey.jpg"]


def test_copies_are_groups_and_nothing_else_is(alone, folder):
    dataset = Dataset(folder)
    found = near_duplicates(dataset)
    by_sources = {tuple(sources(group)): group for group in found.groups}
    assert by_sources.keys() == {tuple(COFFEE), tuple(CHINA), tuple(GREY)}
    coffee, china, grey = (by_sources[tuple(names)] for names in (COFFEE, CHINA, GREY))
    assert (set(coffee.splits), coffee.leak, coffee.conflict, coffee.contents) == ({"train", "test"}, True, False, 4)
    assert (china.splits, china.leak, china.conflict, china.contents) == (("train",), False, True, 2)
    assert (grey.contents, grey.exact, grey.largest_distance) == (1, True, 0)
    assert [group.exact for group in (coffee, china)] == [False, False]
    assert found.leaks == (coffee,)
    assert found.conflicts == (china,)
    assert sorted(member.source for member in found.flat) == [
        "test/flat/noise.jpg", "train/flat/described.jpg", "train/flat/grey.jpg", "train/flat/grey2.jpg"
    ]  # fmt: skip
    assert found.damaged == ()
    assert found.fingerprint == dataset.fingerprint
    assert found.summary() == {
        "distance": DISTANCE, "records": 15, "groups": 3, "members": 9, "exact": 1, "leaks": 1, "conflicts": 1,
        "flat": 4, "damaged": 0,
    }  # fmt: skip


def test_members_say_what_the_records_hold(alone, folder):
    dataset = Dataset(folder)
    for group in near_duplicates(dataset).groups:
        for member in group.members:
            record = dataset.split(member.split).read(member.row)
            assert member == Member(
                split=member.split,
                row=member.row,
                source=record.filename.decode(),
                label=record.text,
                sha256=record.sha256,
            )
        places = [(list(dataset.splits).index(member.split), member.row) for member in group.members]
        assert places == sorted(places)
        hashes = [perceptual_hash(dataset.split(member.split).read(member.row).encoded)[0] for member in group.members]
        assert group.largest_distance == max((a ^ b).bit_count() for a in hashes for b in hashes)
        assert group.largest_distance <= 8


def test_the_distance_and_the_splits_decide(alone, folder):
    dataset = Dataset(folder)
    closest = near_duplicates(dataset, distance=0)
    assert all(group.largest_distance == 0 for group in closest.groups)
    assert tuple(COFFEE) not in {tuple(sources(group)) for group in closest.groups}
    one = near_duplicates(dataset, splits=["train"])
    assert one.records == 12
    assert {tuple(sources(group)) for group in one.groups} == {tuple(COFFEE[1:]), tuple(CHINA), tuple(GREY)}
    assert one.leaks == ()
    assert near_duplicates(dataset, splits=["test"]).groups == ()
    rows = np.array([row for row in range(12) if dataset.split("train").source(row) in CHINA[1:]])
    selected = near_duplicates(select(dataset, "train", rows))
    assert [[member.row for member in group.members] for group in selected.groups] == [[0, 1]]
    assert selected.groups[0].exact
    for wrong in (-1, MOST_DISTANCE + 1):
        with pytest.raises(UsageError, match=rf"distance must be 0 to 12 bits, got {wrong}"):
            near_duplicates(dataset, distance=wrong)
    with pytest.raises(UsageError, match=r"has no split 'dev'; it has test, train"):
        near_duplicates(dataset, splits=["dev"])
    with pytest.raises(UsageError, match=r"workers must be 0 \(all cores\) or more, got -2"):
        near_duplicates(dataset, workers=-2)


def test_worker_processes_find_the_same(folder, request):
    counted: list[tuple[int, int]] = []
    found = near_duplicates(Dataset(folder), workers=2, progress=lambda done, total: counted.append((done, total)))
    assert counted[-1] == (15, 15)
    request.getfixturevalue("alone")
    alone = near_duplicates(Dataset(folder))
    assert found == alone
    assert json.dumps(found.as_json()) == json.dumps(alone.as_json())


def test_a_damaged_record_is_named_and_the_others_are_found(alone, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    dataset = Dataset(tmp_path / "copy")
    train = dataset.split("train")
    row = next(row for row in range(12) if train.source(row) == "train/table/half.jpg")
    file, _, offset = train.locate(row)
    with open(tmp_path / "copy" / file, "r+b") as shard:
        shard.seek(offset + 300)
        byte = shard.read(1)
        shard.seek(offset + 300)
        shard.write(bytes([byte[0] ^ 1]))
    found = near_duplicates(dataset)
    (damaged,) = found.damaged
    assert (damaged.split, damaged.row, damaged.source) == ("train", row, "train/table/half.jpg")
    assert damaged.reason.startswith("checksum of the record at byte")
    names = [name for name in COFFEE if name != damaged.source]
    assert {tuple(sources(group)) for group in found.groups} == {tuple(names), tuple(CHINA), tuple(GREY)}
    os.unlink(tmp_path / "copy" / file)
    lost = near_duplicates(dataset)
    assert len(lost.damaged) == train.num_records
    assert {record.reason for record in lost.damaged} == {"the shard cannot be read (No such file or directory)"}
    assert lost.groups == ()


def test_a_record_that_crashes_its_decoder_is_passed_over(folder):
    split = Dataset(folder).split("train")
    task = next(iter(tasks_of([split])))
    whole, without = (hash_shard(each, Marker()) for each in (task, task.without(2, "decoder_crashed", "twice")))
    assert (whole.damaged, without.damaged) == ({}, {2: "twice"})
    others = np.arange(len(task.rows)) != 2
    np.testing.assert_array_equal(without.hashes[others], whole.hashes[others])
    assert not without.digests[2].any()
    assert whole.digests[2].tobytes().hex() == split.read(2).sha256


def test_an_image_that_cannot_be_decoded_is_damage(folder):
    whole = Dataset(folder).split("train").read(0).encoded
    with pytest.raises(ValueError, match="the image cannot be decoded"):
        perceptual_hash(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="the image cannot be decoded"):
        perceptual_hash(b"no image")


def test_adopted_records_are_read_by_their_own_keys(alone, tmp_path):
    coffee = photograph("skimage:coffee.png")
    images = [jpeg(coffee), jpeg(coffee, 60), jpeg(photograph("skimage:chelsea.png"))]
    path = tmp_path / "train.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, image in enumerate(images):
            values = {"img": tf.train.BytesList(value=[image]), "cls": tf.train.Int64List(value=[number])}
            features = {
                "img": tf.train.Feature(bytes_list=values["img"]), "cls": tf.train.Feature(int64_list=values["cls"])
            }  # fmt: skip
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    adopt([path], tmp_path / "out", label_key="cls", classes=["a", "b", "c"])
    (group,) = near_duplicates(Dataset(tmp_path / "out")).groups
    assert [(member.row, member.label) for member in group.members] == [(0, "a"), (1, "b")]
    assert group.conflict


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("classes", [["sky", "sea"], []], [("sea", "sky"), ()]),
        ("number", [1.5, -2], [1.5, -2.0]),
        ("none", ["a", "b"], [None, None]),
    ],
)
def test_labels_of_every_kind(alone, tmp_path, kind, labels, expected):
    coffee = photograph("skimage:coffee.png", 120)
    write(tmp_path / "source", {"a.jpg": jpeg(coffee), "b.jpg": jpeg(coffee, 70)})
    table = tmp_path / "source" / "table.jsonl"
    lines = [{"file": f"{name}.jpg", "label": label} for name, label in zip("ab", labels, strict=True)]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    convert(table, tmp_path / "out", ConvertConfig(labels=kind, splits=(("train", 1.0),)))
    dataset = Dataset(tmp_path / "out")
    (group,) = near_duplicates(dataset).groups
    assert {member.source: member.label for member in group.members} == dict(
        zip(("a.jpg", "b.jpg"), expected, strict=True)
    )
    assert group.conflict == (kind != "none")
    assert labels_of(dataset.split("train"))(group.members[0].row) == group.members[0].label


def test_without_imagehash_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UsageError, match=r"^near duplicates need the 'report' extra: pip install '.+report.+'$"):
        near_duplicates(Dataset(folder))


def test_a_remote_dataset_is_fetched_shard_by_shard(alone, folder, tmp_path):
    remote = Dataset(f"file://{folder}", cache_dir=tmp_path / "cache")
    assert near_duplicates(remote, splits=["test"]).records == 3
    kept = sum(path.stat().st_size for path in (tmp_path / "cache" / "shards").rglob("*") if path.is_file())
    assert kept == remote.split("test").num_bytes < remote.split("train").num_bytes
    assert near_duplicates(remote) == near_duplicates(Dataset(folder))


def test_a_dataset_read_where_it_is_must_be_opened_otherwise(folder):
    dataset = Dataset(folder)
    dataset.direct = True
    with pytest.raises(UsageError, match="open the dataset without direct"):
        near_duplicates(dataset)
