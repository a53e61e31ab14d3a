"""WebDataset archives: samples, labels and columns, without extracting anything."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest

from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources import list_sources, read_ahead, read_source
from irv2data.errors import SourceError


def archive(members: list[tuple[str | tarfile.TarInfo, bytes]], **options) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.type in (tarfile.REGTYPE,):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def tars(tmp_path):
    """Writes archives and lists them: `tars({"a.tar": archive(...)})`; with `single` the first file alone."""

    def make(files: dict[str, bytes], *, single: bool = False, **options):
        for name, content in files.items():
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(content)
        source = tmp_path / "in" / next(iter(files)) if single else tmp_path / "in"
        return list_sources(str(source), ConvertConfig(**options))

    return make


def places_of(listing) -> list[tuple[str, int, int]]:
    places = listing.places
    rows = zip(places.container.tolist(), places.offset.tolist(), places.length.tolist(), strict=True)
    return [(places.containers[container], offset, length) for container, offset, length in rows]


def contents(listing) -> list:
    return list(read_ahead(listing.root, zip(listing.names, places_of(listing), strict=True)))


def two_samples(first: str = "0", second: str = "1") -> bytes:
    return archive(
        [
            (f"{first}.cls", b"7\n"),
            (f"{first}.jpg", b"first"),
            (f"{second}.PNG", b"second, longer"),
            (f"{second}.cls", b"11"),
        ]
    )


def test_samples_of_several_archives(tars):
    listing = tars({"b.tar": two_samples("x/0", "x/1"), "a.tar": two_samples(), "notes.md": b""})
    assert list(listing.names) == [b"a.tar/0.jpg", b"a.tar/1.PNG", b"b.tar/x/0.jpg", b"b.tar/x/1.PNG"]
    assert (listing.kind, listing.classes, listing.labels.tolist()) == ("class", ("7", "11"), [0, 1, 0, 1])
    assert listing.places.containers == ("a.tar", "b.tar")
    assert [listing.places.container.dtype, listing.places.offset.dtype] == [np.int32, np.int64]
    assert contents(listing) == [b"first", b"second, longer"] * 2
    assert (listing.ignored, listing.rejects, dict(listing.columns)) == ({".md": 1}, {}, {})


def test_a_single_archive(tars):
    listing = tars({"a.tar": two_samples()}, single=True)
    assert (list(listing.names), listing.places.containers) == ([b"a.tar/0.jpg", b"a.tar/1.PNG"], ("a.tar",))
    assert contents(listing) == [b"first", b"second, longer"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names(tars, format):
    names = ["d/" * 20 + "x" * 60 + ".jpg"] + ([] if format == tarfile.USTAR_FORMAT else ["é" * 90 + ".jpg"])
    data = archive([(name, name.encode()) for name in names], format=format, encoding="utf-8")
    listing = tars({"a.tar": data})
    assert list(listing.names) == [f"a.tar/{name}".encode() for name in names]
    assert contents(listing) == [name.encode() for name in names]


def test_json_and_texts_become_columns(tars):
    members = [
        ("a.jpg", b"1"),
        ("a.json", json.dumps({"label": "cat", "width": 5, "tags": ["x"], "txt": "hidden"}).encode()),
        ("a.txt", b"a text\n"),
        ("b.input.jpg", b"2"),
        ("b.mask.png", b"3"),
        ("b.caption", b"two"),
        ("b.json", b'{"label": "dog"}'),
        ("c.jpg", b"4"),
        ("c.mp3", b""),
        ("c.json", b"[1]"),
        ("d.JPEG", b"5"),
    ]
    listing = tars({"s.tar": archive(members)})
    assert list(listing.names) == [
        b"s.tar/" + n for n in (b"a.jpg", b"b.input.jpg", b"b.mask.png", b"c.jpg", b"d.JPEG")
    ]
    assert (listing.classes, listing.labels.tolist()) == (("cat", "dog"), [0, 1, 1, -1, -1])
    assert list(listing.columns["txt"]) == [b"a text\n", b"", b"", b"", b""]
    assert list(listing.columns["caption"]) == [b"", b"two", b"two", b"", b""]
    assert list(listing.columns["tags"]) == [b'["x"]', b"", b"", b"", b""]
    np.testing.assert_array_equal(listing.columns["width"], np.array([5, *[np.nan] * 4], np.float32))
    assert listing.rejects == {3: ("bad_label", "c.json: no JSON object"), 4: ("no_label", "the label is empty")}
    assert listing.ignored == {".mp3": 1}


def test_the_label_is_the_field_asked_for_or_else_cls(tars):
    members = [("a.jpg", b""), ("a.cls", b"x"), ("a.json", b'{"label": "y", "other": "z"}')]
    with pytest.raises(SourceError, match="a column cannot be called 'label'"):
        tars({"s.tar": archive(members)})
    members[2] = ("a.json", b'{"other": "z"}')
    assert tars({"s.tar": archive(members)}).classes == ("x",)
    listing = tars({"s.tar": archive(members)}, label_column="other")
    assert (listing.classes, list(listing.columns["cls"])) == (("z",), [b"x"])
    assert tars({"s.tar": archive(members)}, labels="none").kind == "none"
    assert contents(listing) == [b""]


def test_samples_without_labels(tars):
    data = archive([("a.jpg", b"1"), ("a.txt", b"t")])
    assert tars({"s.tar": data}).kind == "none"
    with pytest.raises(SourceError, match=r"s\.tar: has no label column one of cls, label, labels"):
        tars({"s.tar": data}, labels="class")


def test_split_folders_hold_archives(tars):
    listing = tars({"train/0.tar": two_samples(), "val/0.tar": two_samples(), "stray.tar": two_samples()})
    assert (listing.splits, listing.split.tolist()) == (("train", "val"), [-1, -1, 0, 0, 1, 1])
    assert listing.rejects == dict.fromkeys((0, 1), ("no_label", "lies in no split folder"))
    assert list(listing.names)[2:4] == [b"train/0.tar/0.jpg", b"train/0.tar/1.PNG"]


def test_links_and_devices_are_ignored(tars):
    link, hard, device, folder = (tarfile.TarInfo(f"{name}.jpg") for name in ("l", "h", "d", "f"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.jpg"
    device.type, folder.type = tarfile.CHRTYPE, tarfile.DIRTYPE
    members = [("a.jpg", b"1"), (link, b""), (hard, b""), (device, b""), (folder, b""), (".jpg", b""), ("no_key", b"")]
    listing = tars({"s.tar": archive(members)})
    assert (list(listing.names), listing.rejects) == ([b"s.tar/a.jpg"], {})
    assert listing.ignored == {"(no plain file in an archive)": 3, "(without a key in an archive)": 2}


def test_a_sparse_member_is_ignored(tars, tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.seek(2**20)
        file.write(b"x" * 4096)
    if os.system(f"tar --sparse -C {tmp_path} -cf {tmp_path}/sparse.tar sparse.jpg 2>/dev/null"):
        pytest.skip("no GNU tar")
    sparse = (tmp_path / "sparse.tar").read_bytes()
    assert len(sparse) < 2**20
    listing = tars({"a.tar": two_samples(), "b.tar": sparse})
    assert (len(listing), listing.ignored) == (2, {"(no plain file in an archive)": 1})


def test_names_that_reach_outside_are_rejects_with_a_clean_name(tars):
    names = ["../../etc/a.jpg", "/etc/b.jpg", "./c.jpg", "x/../d.jpg"]
    listing = tars({"s.tar": archive([(name, b"1") for name in names])})
    assert list(listing.names) == [b"s.tar/etc/a.jpg", b"s.tar/etc/b.jpg", b"s.tar/c.jpg", b"s.tar/x/d.jpg"]
    assert {row: code for row, (code, _) in listing.rejects.items()} == {0: "outside", 1: "outside", 3: "outside"}
    assert listing.rejects[0][1] == "the archive calls it '../../etc/a.jpg'"


BEFORE = [b"a.tar/0.jpg", b"a.tar/1.PNG"]
FULL = two_samples()  # 512 + 512 a member, 4 members, then the end mark


@pytest.mark.parametrize(
    ("data", "found", "detail"),
    [
        (FULL[: 4 * 1024], 2, "the archive ends at byte 4096 without an end mark"),
        (FULL[: 3 * 1024], 2, "the archive ends at byte 3072 without an end mark"),
        (FULL[: 2 * 1024 + 515], 1, "the archive ends inside 1.PNG"),
        (FULL[: 2 * 1024 + 300], 1, "no readable header at byte 2048"),
        (FULL[:2048] + b"garbage!" * 64 + FULL[2560:], 1, "no readable header at byte 2048"),
        (b"", 0, "empty file"),
        (b"this is no archive" * 100, 0, "invalid header"),
    ],
)
def test_a_damaged_archive_is_a_reject_and_keeps_what_came_before(tars, data, found, detail):
    listing = tars({"a.tar": data, "b.tar": FULL})
    assert list(listing.names) == [*BEFORE[:found], b"a.tar", b"b.tar/0.jpg", b"b.tar/1.PNG"]
    assert listing.rejects[found][0] == "truncated"
    assert listing.rejects[found][1].startswith(detail)
    assert contents(listing)[found + 1 :] == [b"first", b"second, longer"]
    if not found:
        with pytest.raises(SourceError, match=r"a\.tar: holds no image \("):
            tars({"a.tar": data}, single=True)


def test_an_archive_that_shrinks_after_listing_is_unreadable(tars, tmp_path):
    listing = tars({"a.tar": FULL})
    (tmp_path / "in" / "a.tar").write_bytes(FULL[:2000])
    first, second = contents(listing)
    assert first == b"first"
    assert (second.code, second.detail) == ("unreadable", "the archive ends before it")
    (tmp_path / "in" / "a.tar").unlink()
    with pytest.raises(RejectError, match="unreadable: No such file"):
        read_source(listing.root, listing.names[0], places_of(listing)[0])


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
@pytest.mark.parametrize("single", [True, False])
def test_compressed_archives_name_the_remedy(tars, tmp_path, name, single):
    with pytest.raises(SourceError) as caught:
        tars({name: gzip.compress(FULL)}, single=single)
    remedy = "a compressed archive cannot be read in place; decompress it first (gunzip)"
    assert str(caught.value) == f"{tmp_path}/in/{name}: {remedy}"


def test_archives_beside_images_are_side_files(tars):
    listing = tars({"cat/1.jpg": b"\xff\xd8\xff", "cat/all.tar": FULL, "old.tgz": b""})
    assert (list(listing.names), listing.places) == ([b"cat/1.jpg"], None)
    assert listing.ignored == {".tar": 1, ".tgz": 1}


def test_many_archives_are_read_with_few_open_files(tars):
    listing = tars({f"{number:02d}.tar": two_samples() for number in range(40)})
    before = len(os.listdir("/dev/fd"))
    assert contents(listing) == [b"first", b"second, longer"] * 40
    assert len(os.listdir("/dev/fd")) <= before + 16
