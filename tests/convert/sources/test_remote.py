"""Sources behind a URI, in fsspec's memory, and what is said where they cannot be reached."""

from __future__ import annotations

import io
import sys
import tarfile
import threading
import time

import pytest

from irv2data import storage
from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources import list_sources, read_ahead, read_source, reading
from irv2data.errors import SourceError

fsspec = pytest.importorskip("fsspec")

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)


@pytest.fixture
def memory():
    """Puts files into fsspec's memory: `memory({"bucket/a/1.jpg": JPEG})`."""
    fs = fsspec.filesystem("memory")

    def put(files: dict[str, bytes]) -> None:
        for name, content in files.items():
            fs.pipe_file(f"/{name}", content)

    yield put
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def listing_of(uri: str, **options):
    return list_sources(uri, ConvertConfig(**options))


@pytest.mark.parametrize("uri", ["memory://bucket/photos", "memory://bucket/photos/"])
def test_a_folder(memory, uri):
    names = ["b/2.jpg", "b/sub/3.PNG", "a-/x.webp", "a/é.jpg", "0.jpg"]
    others = [".h/1.jpg", ".h/a/2.jpg", "a/.h/3.jpg", "a/.4.jpg", "a/notes.txt", "a/unknown.bin", "a/none"]
    memory({f"bucket/photos/{name}": name.encode() for name in [*names, *others]})
    memory({"bucket/photos2/c/1.jpg": JPEG})
    listing = listing_of(uri)
    assert listing.root == "memory://bucket/photos"
    assert list(listing.names) == sorted(name.encode() for name in names)
    assert (listing.classes, listing.labels.tolist()) == (("a", "a-", "b"), [-1, 1, 0, 2, 2])
    # What has neither an image's suffix nor another known one is not downloaded to find out.
    assert listing.ignored == {"(hidden folder)": 2, "(hidden)": 1, "(none)": 1, ".bin": 1, ".txt": 1}
    assert listing.rejects == {0: ("no_label", "lies in no class folder")}
    assert [read_source(listing.root, name) for name in listing.names] == list(listing.names)


def test_the_whole_of_a_file_system(memory):
    memory({"a/1.jpg": b"one", "t.csv": b"path\na/1.jpg\n"})
    listing = listing_of("memory://")
    assert (list(listing.names), listing.classes) == ([b"a/1.jpg"], ("a",))
    assert read_source(listing.root, b"a/1.jpg") == b"one"
    listing = listing_of("memory://t.csv")
    assert (list(listing.names), read_source(listing.root, listing.names[0])) == ([b"a/1.jpg"], b"one")


def test_splits_and_metadata(memory):
    memory({f"b/{name}": JPEG for name in ("train/1.jpg", "val/2.jpg")})
    memory({"b/train/metadata.csv": b"file_name,label\n1.jpg,x\n", "b/val/metadata.csv": b"file_name,label\n2.jpg,y\n"})
    listing = listing_of("memory://b")
    assert (listing.splits, listing.split.tolist(), listing.classes) == (("train", "val"), [0, 1], ("x", "y"))


def test_a_table(memory, tmp_path):
    memory({"b/lists/t.csv": b"path,label\n1.jpg,x\nmemory://b/lists/2.jpg,y\n/3.jpg,x\n", "b/pictures/1.jpg": b"one"})
    listing = listing_of("memory://b/lists/t.csv")
    assert (listing.root, list(listing.names)[:2]) == ("memory://b/lists", [b"1.jpg", b"2.jpg"])
    assert {row: code for row, (code, _) in listing.rejects.items()} == {2: "outside"}
    (tmp_path / "t.jsonl").write_text('{"path": "1.jpg"}')
    for source in ("memory://b/lists/t.csv", str(tmp_path / "t.jsonl")):
        listing = listing_of(source, image_root="memory://b/pictures")
        assert read_source(listing.root, listing.names[0]) == b"one"


def test_archives(memory):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("0.jpg", b"first"), ("0.cls", b"3"), ("1.jpg", b""), ("1.cls", b"2")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    memory({"b/s/0.tar": out.getvalue(), "b/s/1.tar": out.getvalue()[:700]})
    for source, count in (("memory://b/s", 4), ("memory://b/s/0.tar", 2)):
        listing = listing_of(source)
        assert (len(listing), listing.classes, listing.labels.tolist()[:2]) == (count, ("2", "3"), [1, 0])
        places = listing.places
        items = [
            (name, (places.containers[place], offset, length))
            for name, place, offset, length in zip(
                listing.names, places.container.tolist(), places.offset.tolist(), places.length.tolist(), strict=True
            )
        ]
        assert list(read_ahead(listing.root, items[:2])) == [b"first", b""]
    (error,) = read_ahead("memory://b/s", [(b"0.tar/0.jpg", ("1.tar", 512, 5000))])
    assert (error.code, error.detail) == ("unreadable", "the archive ends before it")


def test_what_is_not_there(memory):
    memory({"b/x.txt": b""})
    with pytest.raises(SourceError, match=r"^memory://nowhere: cannot be listed \(no such folder\)$"):
        listing_of("memory://nowhere")
    with pytest.raises(SourceError, match=r"^memory://b: holds no images; expected memory://b/CLASS/image\.jpg$"):
        listing_of("memory://b")
    with pytest.raises(SourceError, match=r"^memory://b/t\.csv: cannot be read \("):
        listing_of("memory://b/t.csv")
    for name, code in (b"gone.jpg", "unreadable"), (b"../b/x.txt", "outside"), (b"/b/x.txt", "outside"):
        with pytest.raises(RejectError) as caught:
            read_source("memory://b", name)
        assert caught.value.code == code


def test_an_unknown_protocol_names_the_remedy():
    with pytest.raises(SourceError, match=r"^what://b: .*pip install 'irv2data\[remote\]' \(Protocol not known"):
        listing_of("what://b")


def test_a_missing_package_names_the_remedy(monkeypatch):
    storage._connect.cache_clear()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        SourceError, match=r"^memory://b: memory:// needs .*pip install 'irv2data\[remote\]' \("
    ) as caught:
        listing_of("memory://b")
    assert "\n" not in str(caught.value)


def test_other_errors_are_one_line_that_names_the_uri(memory, monkeypatch):
    memory({"b/a/1.jpg": JPEG})
    fs = fsspec.filesystem("memory")

    def refuse(*args, **options):
        raise RuntimeError("Access\nDenied")

    monkeypatch.setattr(type(fs), "find", refuse)
    monkeypatch.setattr(type(fs), "cat_file", refuse)
    with pytest.raises(SourceError, match=r"^memory://b: cannot be listed \(Access Denied\)$"):
        listing_of("memory://b")
    with pytest.raises(RejectError, match=r"^unreadable: Access Denied$"):
        read_source("memory://b", b"a/1.jpg")


def test_a_file_uri_goes_through_fsspec(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"one")
    listing = listing_of(f"file://{tmp_path}")
    assert (listing.root, list(listing.names), listing.classes) == (f"file://{tmp_path}", [b"a/1.jpg"], ("a",))
    assert read_source(listing.root, b"a/1.jpg") == b"one"


def test_reading_ahead_keeps_order_and_bounds_what_it_holds(memory, monkeypatch):
    names = [f"{number:03d}.jpg".encode() for number in range(100)]
    memory({f"b/{name.decode()}": name for name in names if not name.startswith(b"050")})
    lock = threading.Lock()
    reads = {"started": 0, "running": 0, "most": 0}
    real = reading.read_source

    def slow(*args):
        with lock:
            reads["started"] += 1
            reads["running"] += 1
            reads["most"] = max(reads["most"], reads["running"])
        time.sleep(0.01 if args[1][2:3] == b"0" else 0.002)  # so that they end in another order
        with lock:
            reads["running"] -= 1
        return real(*args)

    monkeypatch.setattr(reading, "read_source", slow)
    found = []
    for number, content in enumerate(read_ahead("memory://b", ((name, None) for name in names)), 1):
        found.append(content)
        assert reads["started"] <= number - 1 + reading.LOOK_AHEAD
    assert [c for c in found if isinstance(c, bytes)] == names[:50] + names[51:]
    assert isinstance(found[50], RejectError)
    assert 4 < reads["most"] <= reading.LOOK_AHEAD


def test_reading_ahead_stops_when_the_reader_does(memory, monkeypatch):
    memory({f"b/{number}.jpg": b"x" for number in range(100)})
    started = []
    monkeypatch.setattr(reading, "read_source", lambda *args: started.append(args) or b"")
    contents = read_ahead("memory://b", ((b"%d.jpg" % number, None) for number in range(100)))
    next(contents)
    contents.close()
    assert len(started) <= reading.LOOK_AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("irv2data-read") and started[16:]]


def test_local_files_are_read_one_by_one_without_threads(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    before = threading.active_count()
    asked = []
    items = ((asked.append(number) or b"%d.jpg" % number, None) for number in range(4))
    contents = read_ahead(str(tmp_path), items)
    assert (next(contents), asked, threading.active_count()) == (b"0", [0], before)
    rest = list(contents)
    assert (rest[:2], rest[2].code) == ([b"1", b"2"], "unreadable")
