"""WebDataset archives as sources: which members are images, what the others say, and what is damaged."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irv2data.convert import ConvertConfig, convert
from irv2data.convert.sources import list_sources, read_source
from irv2data.convert.verify import verify
from irv2data.errors import SourceError
from irv2data.packed import Packed

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)


@pytest.fixture
def archive(tmp_path):
    """`archive("a.tar", {"1.jpg": content})`: writes an archive below `source`; a TarInfo is a member as it is."""

    def write(name: str, members: dict[str, bytes] | list, mode: str = "w", format: int = tarfile.PAX_FORMAT) -> Path:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode, format=format) as tar:
            for member in members.items() if isinstance(members, dict) else members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                    continue
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
        return path

    return write


def special(name: str, type: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    return info


def listing_of(path, **options):
    return list_sources(str(path), ConvertConfig(**options))


def content(listing, row: int) -> bytes:
    places = listing.places
    place = (places.containers[places.container[row]], int(places.offset[row]), int(places.length[row]))
    return read_source(listing.root, listing.names[row], place)


def columns_of(listing) -> dict[str, list]:
    return {
        name: list(column) if isinstance(column, Packed) else column.tolist()
        for name, column in listing.columns.items()
    }


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_labels_and_texts(archive, format):
    deep = "d" * 90 + "/" + "e" * 90
    path = archive(
        "a.tar",
        {
            "b/2.jpg": JPEG + b"2",
            "b/2.cls": b"10\n",
            "b/2.txt": "a caf\u00e9 ".encode(),
            "a/1.cls": b"9",
            "a/1.JPG": JPEG + b"1",
            f"{deep}/3.jpg": JPEG + b"3",
            f"{deep}/3.cls": b"10",
        },
        format=format,
    )
    listing = listing_of(path)
    assert listing.root == str(path.parent)
    assert list(listing.names) == [b"a.tar/b/2.jpg", b"a.tar/a/1.JPG", os.fsencode(f"a.tar/{deep}/3.jpg")]
    assert (listing.kind, listing.classes, listing.labels.tolist()) == ("class", ("9", "10"), [1, 0, 1])
    assert columns_of(listing) == {"txt": ["a caf\u00e9 ".encode(), b"", b""]}
    assert (listing.rejects, listing.ignored) == ({}, {})
    assert (listing.places.containers, listing.places.container.tolist()) == (("a.tar",), [0, 0, 0])
    assert [content(listing, row) for row in range(3)] == [JPEG + b"2", JPEG + b"1", JPEG + b"3"]


def test_json_fields_are_labels_and_columns(archive):
    fields = [{"label": 1.5, "n": 1, "who": "x"}, {"label": 2, "n": 2}, {"n": 3, "label": 3, "who": ""}]
    members = {}
    for row, field in enumerate(fields):
        members |= {f"{row}.jpg": JPEG, f"{row}.json": json.dumps(field).encode()}
    path = archive("a.tar", members)
    listing = listing_of(path)
    assert (listing.kind, listing.labels.dtype, listing.labels.tolist()) == ("number", np.float32, [1.5, 2, 3])
    assert columns_of(listing) == {"n": [1, 2, 3], "who": [b"x", b"", b""]}
    other = listing_of(archive("b.tar", {"1.jpg": JPEG, "1.json": b'{"species": ["b", "a"]}'}), label_column="species")
    assert (other.kind, other.classes, other.labels.tolist(), other.label_ends.tolist()) == (
        "classes",
        ("a", "b"),
        [0, 1],
        [2],
    )


def test_several_images_of_a_sample_share_what_it_says(archive):
    listing = listing_of(archive("a.tar", {"1.left.jpg": JPEG, "1.cls": b"x", "1.right.png": JPEG, "1.xyz": b""}))
    assert list(listing.names) == [b"a.tar/1.left.jpg", b"a.tar/1.right.png"]
    assert (listing.labels.tolist(), listing.ignored) == ([0, 0], {".xyz": 1})


@pytest.mark.parametrize(
    ("members", "rejects"),
    [
        ({"1.jpg": JPEG, "1.cls": b"a", "2.jpg": JPEG}, {1: "no_label"}),
        ({"1.jpg": JPEG, "1.cls": b"a", "2.jpg": JPEG, "2.cls": b" \n"}, {1: "no_label"}),
        ({"1.jpg": JPEG, "1.json": b"{", "2.jpg": JPEG, "2.json": b'{"label": "a"}'}, {0: "bad_label"}),
        ({"1.jpg": JPEG, "1.json": b"[]", "2.jpg": JPEG, "2.json": b'{"label": "a"}'}, {0: "bad_label"}),
        ({"1.jpg": JPEG, "1.json": b"[" * 100_000, "2.jpg": JPEG, "2.cls": b"a"}, {0: "bad_label"}),
    ],
)
def test_samples_without_a_label_are_rejects(archive, members, rejects):
    listing = listing_of(archive("a.tar", members))
    assert {row: code for row, (code, _) in listing.rejects.items()} == rejects
    assert len(listing) == 2


def test_members_that_are_no_plain_files_are_counted(archive):
    members = [
        special("folder", tarfile.DIRTYPE),
        ("1.jpg", JPEG),
        ("1.cls", b"a"),
        special("2.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("3.jpg", tarfile.LNKTYPE, "1.jpg"),
        special("4.jpg", tarfile.FIFOTYPE),
        special("5.jpg", tarfile.CHRTYPE),
        ("README", b"text"),
        (".hidden.jpg", JPEG),
        ("6.cls", b"a"),
    ]
    listing = listing_of(archive("a.tar", members))
    assert list(listing.names) == [b"a.tar/1.jpg"]
    assert listing.ignored == {
        "(no plain file in an archive)": 4,
        "(without a key in an archive)": 2,
        ".cls": 1,
    }


@pytest.mark.parametrize("name", ["../1.jpg", "a/../../1.jpg", "/etc/1.jpg", "a/../1.jpg"])
def test_names_that_reach_outside_are_rejects(archive, name):
    stem = name[:-4]
    listing = listing_of(archive("a.tar", {name: JPEG, f"{stem}.cls": b"a", "2.jpg": JPEG, "2.cls": b"a"}))
    assert {row: code for row, (code, _) in listing.rejects.items()} == {0: "outside"}
    assert b".." not in listing.names[0].split(b"/")
    assert listing.names[0].startswith(b"a.tar/")


SAMPLES = {f"{row}.{end}": {"jpg": JPEG, "cls": b"a"}[end] for row in range(3) for end in ("jpg", "cls")}


@pytest.mark.parametrize(
    ("size", "images", "is_cut", "detail"),
    [
        (6 * 1024, 3, False, "the archive ends at byte 6144 without an end mark"),
        (6 * 1024 - 512, 3, True, "the archive ends inside 2.cls"),
        (5 * 1024, 3, False, "the archive ends at byte 5120 without an end mark"),
        (5 * 1024 - 500, 2, False, "the archive ends inside 2.jpg"),
        (4 * 1024 + 100, 2, False, "no readable header at byte 4096"),
        (4 * 1024, 2, False, "the archive ends at byte 4096 without an end mark"),
    ],
)
def test_a_truncated_archive_is_a_reject_and_what_comes_before_counts(archive, size, images, is_cut, detail):
    path = archive("a.tar", SAMPLES)
    with open(path, "r+b") as file:
        file.truncate(size)
    listing = listing_of(path)
    assert list(listing.names) == [*(b"a.tar/%d.jpg" % row for row in range(images)), b"a.tar"]
    assert listing.rejects[images] == ("truncated", detail)
    if is_cut:
        assert listing.rejects[images - 1] == ("truncated", detail)


def test_a_damaged_header_is_a_reject(archive):
    path = archive("a.tar", SAMPLES)
    with open(path, "r+b") as file:
        file.seek(4096 + 150)  # the checksum of 2.jpg's header
        file.write(b"!!!!")
    listing = listing_of(path)
    assert list(listing.names) == [b"a.tar/0.jpg", b"a.tar/1.jpg", b"a.tar"]
    assert listing.rejects == {2: ("truncated", "no readable header at byte 4096")}


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar", "w:gz"), ("a.tar", "w:bz2")]
)
def test_a_compressed_archive_is_refused(archive, name, mode):
    path = archive(name, SAMPLES, mode)
    for source in (path, path.parent):
        with pytest.raises(SourceError) as caught:
            listing_of(source)
        assert str(caught.value).startswith(
            f"{path}: a compressed archive cannot be read in place; decompress it first"
        )


@pytest.mark.parametrize(
    ("members", "options", "reason"),
    [
        ({"1.txt": b"x"}, {}, "a.tar: holds no image"),
        ({}, {}, "a.tar: holds no image"),
        ({"1.jpg": JPEG}, {"labels": "class"}, "a.tar: has no label column one of cls, label, "),
        ({"1.jpg": JPEG}, {"splits": "folders"}, "--splits=folders goes with a folder"),
        ({"1.jpg": JPEG, "1.json": b'{"weight": 1}'}, {}, "a column cannot be called 'weight'"),
        ({"1.jpg": JPEG}, {"splits": "column:x"}, "has no column 'x' for --splits"),
    ],
)
def test_an_archive_that_cannot_be_used_says_so_in_one_line(archive, members, options, reason):
    with pytest.raises(SourceError) as caught:
        listing_of(archive("a.tar", members), **options)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", bytes(100)])
def test_a_file_that_is_no_archive_is_one_line(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SourceError) as caught:
        listing_of(tmp_path / "a.tar")
    assert str(caught.value).startswith(f"{tmp_path}/a.tar: holds no image (")
    assert "\n" not in str(caught.value)


def test_splits_from_folders_and_from_a_field(archive):
    for split in ("train", "val"):
        path = archive(f"{split}/0.tar", SAMPLES)
    listing = listing_of(path.parent.parent)
    assert (listing.splits, listing.split.tolist()) == (("train", "val"), [0, 0, 0, 1, 1, 1])
    assert listing.names[0] == b"train/0.tar/0.jpg"
    fields = {f"{row}.{end}": JPEG if end == "jpg" else b'{"s": "%s"}' % name for row, name in enumerate([b"b", b"a"])
              for end in ("jpg", "json")}  # fmt: skip
    by_field = listing_of(archive("b.tar", fields), splits="column:s")
    assert (by_field.splits, by_field.split.tolist(), dict(by_field.columns)) == (("a", "b"), [1, 0], {})


def test_a_conversion_stores_what_the_same_files_in_folders_give(
    serial, tmp_path, archive, small_source, small_dataset, records_of
):
    files = sorted(path.relative_to(small_source) for path in small_source.rglob("*.*g"))
    for number in range(2):
        members = {}
        for file in files[number::2]:
            members[str(file)] = (small_source / file).read_bytes()
            members[str(file.with_suffix(".cls"))] = str(file.parent).encode()
        archive(f"{number}.tar", members)
    path = archive("2.tar", {"x.jpg": b"no image", "x.cls": b"ant", "../y.jpg": JPEG, "../y.cls": b"ant"})
    with open(path, "r+b") as file:
        file.truncate(4 * 1024)
    config = ConvertConfig(splits=(("train", 0.6), ("validation", 0.4)), shard_mib=0.003)
    report = convert(tmp_path / "source", tmp_path / "out", config)
    assert report.rejects == {"not_an_image": 1, "outside": 1, "truncated": 1}
    for name, expected in records_of(small_dataset).items():
        found = records_of(tmp_path / "out")[name]
        assert [(r.encoded, r.text, r.sha256) for r in found] == [(r.encoded, r.text, r.sha256) for r in expected]
        assert {r.filename.split(b"/", 1)[1] for r in found} == {r.filename for r in expected}
    assert verify(str(tmp_path / "out"), deep=True) == []


def test_progress_counts_every_member(archive):
    seen: list[int] = []
    members = {f"{row}.{end}": b"x" for row in range(600) for end in ("jpg", "cls")}
    list_sources(str(archive("a.tar", members)), ConvertConfig(), progress=seen.append)
    assert (sum(seen), max(seen)) == (1200, 1000)


@given(
    edits=st.lists(st.tuples(st.integers(0, 10239), st.binary(min_size=1, max_size=12)), max_size=4),
    size=st.integers(0, 10240),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_is_more_than_a_reject_or_one_line(archive, edits, size):
    path = archive("a.tar", SAMPLES)
    damaged = bytearray(path.read_bytes())
    for offset, text in edits:
        damaged[offset : offset + len(text)] = text
    path.write_bytes(damaged[:size])
    listing, refusal = None, ""
    try:
        listing = listing_of(path)
    except SourceError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if listing is None:
        return
    ends = listing.places.offset + listing.places.length
    assert len(listing) == len(listing.labels) or listing.kind == "none"
    assert (ends <= size).all()
    assert all(code in ("truncated", "outside", "no_label", "bad_label") for code, _ in listing.rejects.values())
