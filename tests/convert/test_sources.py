"""Which files of a folder are sources, in which order, and what is passed over or refused."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from irv2data.convert import convert
from irv2data.convert.sniff import sniff
from irv2data.convert.sources import list_folder
from irv2data.errors import SourceError

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def folder(tmp_path):
    """Makes files: `folder({"ant/1.jpg": JPEG})` gives the folder's path."""

    def make(files: dict[str, bytes | None]) -> str:
        for name, content in files.items():
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(JPEG if content is None else content)
        return str(tmp_path / "source")

    return make


def test_order_is_by_bytes_and_labels_follow_their_class_folder(folder):
    names = [
        "b/z.jpg",
        "b/Z.jpg",
        "b/é.jpg",
        "b/sub/deep/a.jpg",
        "B/1.jpg",
        "a/x.jpg",
        "a/10.jpg",
        "a/9.jpg",
        "é/1.jpg",
    ]
    listing = list_folder(folder(dict.fromkeys(names)))
    assert listing.classes == ("B", "a", "b", "é")
    assert listing.paths == sorted(names, key=os.fsencode)
    assert listing.paths[:4] == ["B/1.jpg", "a/10.jpg", "a/9.jpg", "a/x.jpg"]
    assert [listing.classes[label] for label in listing.labels] == [path.split("/")[0] for path in listing.paths]
    assert listing.labels.dtype == np.int32
    assert listing.splits == ()


def test_hidden_files_and_folders_are_passed_over(folder):
    listing = list_folder(folder(dict.fromkeys(["a/1.jpg", "a/.2.jpg", "a/.git/3.jpg", ".cache/4.jpg"])))
    assert listing.paths == ["a/1.jpg"]
    assert listing.classes == ("a",)
    assert listing.ignored == {"(hidden folder)": 2, "(hidden)": 1}


def test_symbolic_links_are_not_followed(folder, tmp_path):
    root = folder(dict.fromkeys(["a/1.jpg"]))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "2.jpg").write_bytes(JPEG)
    os.symlink(tmp_path / "outside" / "2.jpg", f"{root}/a/link.jpg")
    os.symlink(tmp_path / "outside", f"{root}/a/folder")
    os.symlink(tmp_path / "outside", f"{root}/b")
    os.symlink(f"{root}/nowhere", f"{root}/a/broken.jpg")
    listing = list_folder(root)
    assert (listing.paths, listing.classes) == (["a/1.jpg"], ("a",))
    assert listing.ignored == {"(symbolic link)": 4}


def test_content_finds_what_the_name_hides_and_the_name_what_the_content_hides(folder):
    files = {
        "a/no_extension": JPEG,
        "a/photo.dat": PNG,
        "a/text.jpg": b"hello",
        "a/notes.txt": b"hello",
        "a/empty": b"",
    }
    listing = list_folder(folder(files))
    assert listing.paths == ["a/no_extension", "a/photo.dat", "a/text.jpg"]
    assert listing.ignored == {"(none)": 1, ".txt": 1}


def test_upper_case_extensions_count(folder):
    assert list_folder(folder({"a/1.JPG": b"", "a/2.PnG": b"", "a/README.TXT": b""})).ignored == {".txt": 1}


def test_names_that_are_not_utf8_survive(folder):
    root = folder(dict.fromkeys(["a/1.jpg"]))
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with open(os.fsencode(root) + b"/caf\xe9/\xff.jpg", "wb") as file:
        file.write(JPEG)
    listing = list_folder(root)
    assert [os.fsencode(path) for path in listing.paths] == [b"a/1.jpg", b"caf\xe9/\xff.jpg"]
    assert [os.fsencode(name) for name in listing.classes] == [b"a", b"caf\xe9"]


def test_a_file_outside_every_class_is_listed_without_a_class(folder):
    listing = list_folder(folder(dict.fromkeys(["0.jpg", "a/1.jpg"])))
    assert (listing.paths, listing.labels.tolist()) == (["0.jpg", "a/1.jpg"], [-1, 0])


def test_split_folders(folder):
    names = ["test/b/1.jpg", "train/a/1.jpg", "train/b/2.jpg", "train/stray.jpg", "stray.jpg"]
    listing = list_folder(folder(dict.fromkeys(names)), split_folders=True)
    assert (listing.splits, listing.classes) == (("test", "train"), ("a", "b"))
    rows = {
        path: (split, label) for path, split, label in zip(listing.paths, listing.split, listing.labels, strict=True)
    }
    assert rows == {
        "stray.jpg": (-1, -1),
        "test/b/1.jpg": (0, 1),
        "train/a/1.jpg": (1, 0),
        "train/b/2.jpg": (1, 1),
        "train/stray.jpg": (-1, -1),
    }


@pytest.mark.parametrize(
    ("names", "split_folders", "reason"),
    [
        ([], False, "no such folder; SOURCE is a folder of images laid out as {root}/CLASS/image.jpg"),
        (["1.jpg"], False, "has no class folders; expected {root}/CLASS/image.jpg"),
        (["train/1.jpg"], True, "has no class folders; expected {root}/SPLIT/CLASS/image.jpg"),
        (["a/1.jpg", "b/readme.txt"], False, "class 'b' holds no images; put some there or remove the folder"),
        (["train/a/1.jpg", "my-split/a/1.jpg"], True, "folder 'my-split' cannot name a split; use letters, digits and"),
        (["train/a/1.jpg", "test/a/x.txt"], True, "class 'test/a' holds no images"),
        ([f"{c}/x.txt" for c in "abcdefg"], False, "class 'a', 'b', 'c', 'd', 'e', ... holds no images"),
    ],
)
def test_a_folder_that_cannot_be_used_says_what_was_expected(folder, names, split_folders, reason):
    root = folder({name: b"text" if name.endswith("txt") else JPEG for name in names})
    with pytest.raises(SourceError) as caught:
        list_folder(root, split_folders=split_folders)
    assert str(caught.value).startswith(f"{root}: {reason.format(root=root)}")


def test_a_file_is_no_source_folder(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match=r"photos\.zip: no such folder"):
        list_folder(str(tmp_path / "photos.zip"))


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    root = folder(dict.fromkeys(["a/1.jpg", "a/locked/2.jpg"]))
    real = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"a/locked: cannot be listed \(Permission denied\)$"):
        list_folder(root)


def test_a_named_pipe_is_rejected_and_never_waited_for(folder, tmp_path, serial, picture, saved):
    root = folder({"a/1.jpg": saved(picture(8, 8)), "a/2.jpg": saved(picture(8, 9))})
    os.mkfifo(f"{root}/a/pipe.jpg")
    os.mkfifo(f"{root}/a/pipe")

    def waited(signum, frame):
        raise TimeoutError("the pipe was waited for")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    try:
        report = convert(root, tmp_path / "out")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (report.sources, report.rejected, report.ignored) == (3, 1, {"(none)": 1})
    reject = json.loads((tmp_path / "out" / "rejects.jsonl").read_text())
    assert reject == {"path": "a/pipe.jpg", "code": "unreadable", "detail": "is a pipe or a device, no file"}


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (JPEG, "JPEG"),
        (PNG, "PNG"),
        (b"GIF89a......", "GIF"),
        (b"GIF87a......", "GIF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x1cftypheic", "HEIC"),
        (b"\0\0\0\x1cftypisom", None),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"BM\x36\0\0\0\0\0\0\0", "BMP"),
        (b"BM is a text", None),
        (b"\xff\xd8", None),
        (b"", None),
    ],
)
def test_signatures(head, kind):
    assert sniff(head[:16]) == kind
