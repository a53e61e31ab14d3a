"""Which files of a folder are sources, in which order, with which labels, and what is passed over or refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sniff import sniff
from irv2data.convert.sources import list_sources, listing_of_paths, read_source
from irv2data.errors import SourceError

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def folder(tmp_path):
    """Makes files: `folder({"ant/1.jpg": JPEG})` gives the path; a name that ends in a slash is a folder."""

    def make(files: dict[str, bytes | None]) -> str:
        for name, content in files.items():
            path = tmp_path / "source" / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(JPEG if content is None else content)
        return str(tmp_path / "source")

    return make


def listing_of(root: str, **options):
    return list_sources(root, ConvertConfig(**options))


def labelled(listing) -> dict[str, str | None]:
    """Path to class name."""
    classes = (*listing.classes, None)
    return {path: classes[label] for path, label in zip(listing.names.paths(), listing.labels, strict=True)}


def test_order_is_by_bytes_and_labels_follow_their_class_folder(folder):
    names = [
        "b/z.jpg",
        "b/Z.jpg",
        "b/é.jpg",
        "b/sub/deep/a.jpg",
        "b/sub.jpg",
        "b/sub0.jpg",
        "b-/1.jpg",
        "b.c/1.jpg",
        "B/1.jpg",
        "a/x.jpg",
        "a/10.jpg",
        "a/9.jpg",
        "é/1.jpg",
    ]
    listing = listing_of(folder(dict.fromkeys(names)))
    assert listing.classes == ("B", "a", "b", "b-", "b.c", "é")
    assert list(listing.names.paths()) == sorted(names, key=os.fsencode)
    assert list(listing.names.paths())[5:9] == ["b.c/1.jpg", "b/Z.jpg", "b/sub.jpg", "b/sub/deep/a.jpg"]
    assert labelled(listing) == {name: name.split("/")[0] for name in names}
    assert (listing.kind, listing.labels.dtype, listing.splits, listing.rejects) == ("class", np.int32, (), {})


def test_hidden_files_and_folders_are_passed_over(folder):
    listing = listing_of(folder(dict.fromkeys(["a/1.jpg", "a/.2.jpg", "a/.git/3.jpg", ".cache/4.jpg"])))
    assert labelled(listing) == {"a/1.jpg": "a"}
    assert listing.ignored == {"(hidden folder)": 2, "(hidden)": 1}


@pytest.fixture
def links(folder, tmp_path):
    root = folder(dict.fromkeys(["a/1.jpg"]))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "2.jpg").write_bytes(PNG)
    os.symlink(tmp_path / "outside" / "2.jpg", f"{root}/a/link.jpg")
    os.symlink(tmp_path / "outside", f"{root}/a/folder")
    os.symlink(tmp_path / "outside", f"{root}/b")
    os.symlink(f"{root}/nowhere", f"{root}/a/broken.jpg")
    os.symlink("itself", f"{root}/a/itself")
    return root


def test_symbolic_links_are_not_followed(links):
    listing = listing_of(links)
    assert (labelled(listing), listing.classes) == ({"a/1.jpg": "a"}, ("a",))
    assert listing.ignored == {"(symbolic link)": 5}


def test_followed_links_are_read_and_loops_end(links, tmp_path):
    os.symlink(tmp_path / "source", f"{links}/a/loop")
    os.symlink(tmp_path / "source", tmp_path / "outside" / "back")
    listing = listing_of(links, follow_links=True)
    assert labelled(listing) == {
        "a/1.jpg": "a",
        "a/broken.jpg": "a",
        "a/folder/2.jpg": "a",
        "a/itself": "a",
        "a/link.jpg": "a",
        "b/2.jpg": "b",
    }
    assert listing.ignored == {"(link loop)": 3}
    assert read_source(links, b"a/link.jpg") == read_source(links, b"b/2.jpg") == PNG
    for name, reason in (b"a/broken.jpg", "No such file or directory"), (b"a/itself", "Too many levels of symbolic"):
        with pytest.raises(RejectError, match=reason) as caught:
            read_source(links, name)
        assert caught.value.code == "unreadable"


def test_content_finds_what_the_name_hides_and_the_name_what_the_content_hides(folder):
    files = {
        "a/no_extension": JPEG,
        "a/photo.dat": PNG,
        "a/text.jpg": b"hello",
        "a/notes.txt": b"hello",
        "a/README.TXT": b"",
        "a/UPPER.JPG": b"",
        "a/empty": b"",
        "a/a.very-long-extension-of-some-kind": b"",
    }
    listing = listing_of(folder(files))
    assert list(listing.names.paths()) == ["a/UPPER.JPG", "a/no_extension", "a/photo.dat", "a/text.jpg"]
    assert listing.ignored == {"(none)": 1, "(other)": 1, ".txt": 2}


def test_known_suffixes_are_never_opened(folder, monkeypatch):
    root = folder(dict.fromkeys(["a/1.jpg", "a/2.PNG", "a/3.json", "a/4.xml", "a/5.bin"]))
    opened = []
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *args, **kw: opened.append(path) or real(path, *args, **kw))
    assert len(listing_of(root)) == 3
    assert opened == [os.fsencode(f"{root}/a/5.bin")]


def test_unknown_suffixes_without_end_are_counted_together(folder):
    listing = listing_of(folder({"a/1.jpg": JPEG, **{f"a/x.{number:04d}": b"" for number in range(1005)}}))
    assert (len(listing.ignored), listing.ignored["(other)"]) == (1001, 5)


def test_odd_names_survive_byte_for_byte(folder):
    root = os.fsencode(folder(dict.fromkeys(["a/1.jpg"])))
    names = [b"a/1.jpg", b"a/new\nline.jpg", b"a/\xf0\x9f\x90\xb1.jpg", b"a/" + b"x" * 251 + b".jpg", b"a/..jpg.jpg"]
    names += [b"a/back\\..\\slash.jpg", b"caf\xe9/\xff.jpg"]
    for name in names:
        os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
        Path(os.fsdecode(os.path.join(root, name))).write_bytes(PNG)
    listing = listing_of(os.fsdecode(root))
    visible = sorted(set(names) - {b"a/..jpg.jpg"})
    assert list(listing.names) == visible
    assert [os.fsencode(name) for name in listing.classes] == [b"a", b"caf\xe9"]
    assert [read_source(listing.root, name) for name in visible] == [PNG] * len(visible)


def test_a_file_above_the_classes_is_a_reject(folder):
    listing = listing_of(folder(dict.fromkeys(["0.jpg", "a/1.jpg"])))
    assert labelled(listing) == {"0.jpg": None, "a/1.jpg": "a"}
    assert listing.rejects == {0: ("no_label", "lies in no class folder")}


def test_several_levels_make_a_class(folder):
    names = ["animals/cat/1.jpg", "animals/cat/more/2.jpg", "animals/3.jpg", "plants/cat/4.jpg"]
    listing = listing_of(folder(dict.fromkeys([*names, "plants/empty/"])), label_depth=2)
    assert labelled(listing) == {
        "animals/3.jpg": None,
        "animals/cat/1.jpg": "animals/cat",
        "animals/cat/more/2.jpg": "animals/cat",
        "plants/cat/4.jpg": "plants/cat",
    }
    assert listing.rejects == {0: ("no_label", "lies in no class folder (2 levels of folders make a class)")}
    assert listing.ignored == {"(empty class folder)": 1}


def test_unlabelled_takes_everything(folder):
    listing = listing_of(folder(dict.fromkeys(["0.jpg", "a/b/1.jpg", "c/"])), labels="none")
    assert list(listing.names) == [b"0.jpg", b"a/b/1.jpg"]
    assert (listing.kind, listing.classes, listing.labels.tolist(), listing.rejects) == ("none", (), [], {})
    assert listing.ignored == {}


def test_empty_class_folders_are_counted_and_are_no_classes(folder):
    listing = listing_of(folder({"a/1.jpg": JPEG, "b/readme.txt": b"", "c/d/": b"", "e/d/2.jpg": JPEG}))
    assert (listing.classes, listing.ignored) == (("a", "e"), {"(empty class folder)": 2, ".txt": 1})


SPLIT_NAMES = ["test/b/1.jpg", "train/a/1.jpg", "train/b/2.jpg", "train/stray.jpg", "stray.jpg"]


@pytest.mark.parametrize("splits", ["folders", "auto"])
def test_split_folders(folder, splits):
    listing = listing_of(folder(dict.fromkeys(SPLIT_NAMES)), splits=splits)
    assert (listing.splits, listing.classes, listing.split.dtype) == (("test", "train"), ("a", "b"), np.int32)
    rows = zip(listing.names.paths(), listing.split.tolist(), listing.labels.tolist(), strict=True)
    assert {path: (split, label) for path, split, label in rows} == {
        "stray.jpg": (-1, -1),
        "test/b/1.jpg": (0, 1),
        "train/a/1.jpg": (1, 0),
        "train/b/2.jpg": (1, 1),
        "train/stray.jpg": (1, -1),
    }
    assert listing.rejects == {
        0: ("no_label", "lies in no split folder"),
        4: ("no_label", "lies in no class folder"),
    }


@pytest.mark.parametrize(
    ("folders", "are_splits"),
    [
        (("train", "validation", "test"), True),
        (("Training", "HoldOut"), True),
        (("train", "dev", ".cache"), True),
        (("train",), False),
        (("val", "test"), False),  # without train they could be anything
        (("train", "test", "boat"), False),
    ],
)
def test_folders_named_like_splits_are_splits(folder, folders, are_splits):
    listing = listing_of(folder({f"{name}/a/1.jpg": JPEG for name in folders}))
    visible = tuple(sorted(name for name in folders if name[0] != "."))
    assert (listing.splits, listing.classes) == ((visible, ("a",)) if are_splits else ((), visible))


def test_fractions_make_classes_of_folders_named_like_splits(folder):
    listing = listing_of(folder(dict.fromkeys(SPLIT_NAMES)), splits=(("one", 1.0),))
    assert (listing.splits, listing.classes) == ((), ("test", "train"))


def test_splits_without_labels_and_an_empty_split(folder):
    listing = listing_of(folder(dict.fromkeys(["train/1.jpg", "val/2.jpg", "test/"])), labels="none")
    assert (listing.splits, listing.split.tolist(), listing.kind) == (("train", "val"), [0, 1], "none")
    assert listing.ignored == {"(empty split folder)": 1}


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        ([], {}, "no such folder; SOURCE is a folder of images laid out as {root}/CLASS/image.jpg"),
        (["a/"], {}, "holds no images; expected {root}/CLASS/image.jpg"),
        (["a/"], {"labels": "none"}, "holds no images; expected {root}/image.jpg"),
        (["1.jpg", "a/x.txt"], {}, "has no class folders; expected {root}/CLASS/image.jpg, or --labels=none"),
        (["train/1.jpg"], {"splits": "folders"}, "has no class folders; expected {root}/SPLIT/CLASS/image.jpg, or"),
        (["a/1.jpg"], {"label_depth": 2}, "has no class folders; expected {root}/CLASS/CLASS/image.jpg with another"),
        (["train/a/1.jpg", "my-split/a/1.jpg"], {"splits": "folders"}, "folder 'my-split' cannot name a split; use"),
        (["all/a/1.jpg"], {"splits": "folders"}, "folder 'all' cannot name a split; use letters, digits and '_'"),
        (["a/1.jpg"], {"labels": "number"}, "a folder without metadata.csv or metadata.jsonl has no labels of kind"),
        (["a/1.jpg"], {"splits": "column:fold"}, "a folder without metadata.csv or metadata.jsonl has no columns;"),
        (["a/1.jpg"], {"label_column": "x"}, "a folder without metadata.csv or metadata.jsonl has no columns;"),
    ],
)
def test_a_folder_that_cannot_be_used_says_what_was_expected(folder, names, options, reason):
    root = folder({name: b"text" if name.endswith("txt") else JPEG for name in names})
    if not names:
        root += "/nowhere"
    with pytest.raises(SourceError) as caught:
        listing_of(root, **options)
    assert str(caught.value).startswith(f"{root}: {reason.format(root=root)}")
    assert "\n" not in str(caught.value)


def test_a_file_is_no_source_folder(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match=r"photos\.zip: is no folder, table or tar archive; SOURCE is"):
        listing_of(str(tmp_path / "photos.zip"))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch, error):
    root = folder(dict.fromkeys(["a/1.jpg", "a/locked/2.jpg"]))
    real = os.scandir

    def refuse(path):
        if os.fsdecode(path).rstrip("/").endswith("locked"):
            raise type(error)(error.errno, error.strerror, path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError) as caught:
        listing_of(root)
    assert str(caught.value) == f"{root}/a/locked: cannot be listed ({error.strerror})"


def test_a_pipe_is_never_waited_for(folder):
    root = folder(dict.fromkeys(["a/1.jpg"]))
    os.mkfifo(f"{root}/a/pipe.jpg")
    os.mkfifo(f"{root}/a/pipe")

    def waited(signum, frame):
        raise TimeoutError("the pipe was waited for")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    try:
        listing = listing_of(root)
        with pytest.raises(RejectError, match="unreadable: is a pipe or a device, no file"):
            read_source(root, b"a/pipe.jpg")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (list(listing.names), listing.ignored) == ([b"a/1.jpg", b"a/pipe.jpg"], {"(none)": 1})


def test_progress_counts_every_file(folder):
    root = folder(dict.fromkeys([f"a/{number}.jpg" for number in range(2500)] + ["b/x.txt", "b/.y"]))
    seen = []
    list_sources(root, ConvertConfig(), progress=seen.append)
    assert (sum(seen), max(seen)) == (2502, 1000)


def test_a_deep_tree_is_no_recursion(tmp_path):
    root = str(tmp_path / "source")
    deep = root
    os.mkdir(root)
    try:
        for _ in range(1200):
            deep += "/d"
            os.mkdir(deep)
        with open(f"{deep}/1.jpg", "wb"):
            pass
        assert list(listing_of(root).names) == [b"d/" * 1200 + b"1.jpg"]
    finally:
        subprocess.run(["rm", "-r", root], check=True)  # what pytest cleans up with recurses


def test_a_local_folder_needs_no_fsspec(folder):
    root = folder(dict.fromkeys(["a/1.jpg"]))
    code = (
        "import sys\nfrom irv2data.convert.config import ConvertConfig\n"
        "from irv2data.convert.sources import list_sources, read_ahead\n"
        f"listing = list_sources({root!r}, ConvertConfig())\n"
        "contents = list(read_ahead(listing.root, [(name, None) for name in listing.names]))\n"
        "print(len(contents[0]), sorted(m for m in sys.modules if m.split('.')[0] in ('fsspec', 'tensorflow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "24 []\n"


def test_a_million_paths_are_columns():
    def paths():
        for folder in range(1000):
            for file in range(100):
                yield b"class_%04d/%07d.jpg" % (folder, file)

    listing = listing_of_paths("/images", paths(), ConvertConfig())
    stored = listing.names.data.nbytes + listing.names.ends.nbytes + listing.labels.nbytes
    assert stored / len(listing) == len(b"class_0000/0000000.jpg") + 8 + 4
    assert (len(listing), len(listing.classes), listing.names[-1]) == (100_000, 1000, b"class_0999/0000099.jpg")
    np.testing.assert_array_equal(listing.labels, np.repeat(np.arange(1000), 100))


_PARTS = st.sampled_from(["a", "b", "a.b", "a-", "é", ".h", "a b", "c.jpg", "train", "\udcff"])
_FILES = st.sampled_from(["1.jpg", "0.PNG", "x.txt", "none", ".h.jpg", "a", "z.jpg\n", "\udc80.webp", "n.tar"])
_TREES = st.sets(st.tuples(st.lists(_PARTS, max_size=3), _FILES).map(lambda path: "/".join([*path[0], path[1]])))


@given(trees=_TREES, depth=st.integers(1, 2))
@settings(max_examples=150, deadline=None)
def test_every_file_is_a_source_or_ignored(tmp_path_factory, trees, depth):
    root = tmp_path_factory.mktemp("tree")
    hidden_folders, made = set(), set()
    for name in sorted(trees):
        try:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(JPEG if name.endswith("none") else b"text")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):  # a folder has that name
            continue
        made.add(name)
    images, files = set(), 0
    for name in made:
        *folders, base = name.split("/")
        hidden = next((level for level, part in enumerate(folders) if part.startswith(".")), None)
        if hidden is not None:
            hidden_folders.add("/".join(folders[: hidden + 1]))
            continue
        files += 1
        if base.lower().endswith((".jpg", ".png", ".webp")) * (not base.startswith(".")) or base == "none":
            images.add(name)
    if not images:
        with pytest.raises(SourceError):
            list_sources(str(root), ConvertConfig(labels="none", label_depth=depth, splits=(("t", 1.0),)))
        return
    listing = list_sources(str(root), ConvertConfig(labels="none", label_depth=depth, splits=(("t", 1.0),)))
    assert list(listing.names) == sorted(map(os.fsencode, images))
    ignored = dict(listing.ignored)
    # A hidden folder may be made by a file that then could not be.
    assert ignored.pop("(hidden folder)", 0) >= len(hidden_folders)
    assert sum(ignored.values()) + len(images) == files
    if any(len(name.split("/")) > depth for name in images):
        classes = list_sources(str(root), ConvertConfig(label_depth=depth, splits=(("t", 1.0),)))
        expected = {}
        for name in images:
            parts = name.split("/")
            expected[name] = "/".join(parts[:depth]) if len(parts) > depth else None
        assert labelled(classes) == expected
        assert {classes.names.path(row) for row in classes.rejects} == {n for n in images if expected[n] is None}


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
