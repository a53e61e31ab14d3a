"""Folders with metadata tables: images and rows joined by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources import list_sources, read_source
from irv2data.convert.sources.metadata import match
from irv2data.errors import SourceError
from irv2data.packed import Packed


@pytest.fixture
def folder(tmp_path):
    """Makes images (names) and tables (texts or lists of rows) and lists them."""

    def make(images: list[str], tables: dict[str, str | list], **options):
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"\xff\xd8\xff" + name.encode())
        for name, content in tables.items():
            text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
            (tmp_path / name).write_text(text)
        return list_sources(str(tmp_path), ConvertConfig(**options))

    return make


def rows_of(listing) -> dict[str, str | None]:
    classes = (*listing.classes, None)
    return {name: classes[label] for name, label in zip(listing.names.paths(), listing.labels, strict=True)}


def test_labels_and_columns_are_joined_by_file(folder):
    text = "file_name,label,age\nb.jpg,cat,3\nsub/c.jpg,dog,4\nmissing.jpg,cat,5\nb.jpg,dog,6\n../x.jpg,cat,7\n"
    listing = folder(["b.jpg", "a.jpg", "sub/c.jpg"], {"metadata.csv": text})
    assert list(listing.names) == [b"a.jpg", b"b.jpg", b"sub/c.jpg", b"missing.jpg", b"b.jpg", b"../x.jpg"]
    assert (listing.classes, listing.labels.tolist()[:5]) == (("cat", "dog"), [-1, 0, 1, 0, 1])
    np.testing.assert_array_equal(listing.columns["age"], np.array([math.nan, 3, 4, 5, 6, 7], np.float32))
    assert listing.rejects.keys() == {0, 5}
    assert listing.rejects[0] == ("no_label", "no row of the metadata names it")
    assert listing.rejects[5][0] == "outside"
    assert listing.ignored == {}
    with pytest.raises(RejectError, match="unreadable: No such file"):
        read_source(listing.root, listing.names[3])


def test_class_folders_give_the_label_where_the_metadata_does_not(folder):
    rows = [{"file_name": "cat/1.jpg", "caption": "a cat"}]
    listing = folder(["cat/1.jpg", "dog/2.jpg", "stray.jpg"], {"metadata.jsonl": rows})
    assert rows_of(listing) == {"cat/1.jpg": "cat", "dog/2.jpg": "dog", "stray.jpg": None}
    assert list(listing.columns["caption"]) == [b"a cat", b"", b""]
    assert listing.rejects == {2: ("no_label", "lies in no class folder")}


def test_without_any_label_it_is_unlabelled(folder):
    listing = folder(["1.jpg", "2.jpg"], {"metadata.csv": "file_name,text\n2.jpg,hello\n"})
    assert (listing.kind, list(listing.columns["text"]), listing.rejects) == ("none", [b"", b"hello"], {})


def test_a_table_in_each_split(folder):
    listing = folder(
        ["train/1.jpg", "train/sub/2.jpg", "test/1.jpg", "0.jpg"],
        {
            "train/metadata.csv": "file_name,label,extra\n1.jpg,a,x\nsub/2.jpg,b,y\nlost.jpg,b,z\n",
            "test/metadata.jsonl": [{"file_name": "1.jpg", "label": "b"}],
        },
    )
    assert rows_of(listing) == {
        "0.jpg": None,
        "test/1.jpg": "b",
        "train/1.jpg": "a",
        "train/sub/2.jpg": "b",
        "train/lost.jpg": "b",
    }
    assert (listing.splits, listing.split.tolist()) == (("test", "train"), [-1, 0, 1, 1, 1])
    assert list(listing.columns["extra"]) == [b"", b"", b"x", b"y", b"z"]
    assert list(listing.rejects) == [0]


def test_several_classes_and_none(folder):
    rows = [{"file_name": "1.jpg", "label": ["b", "a"]}, {"file_name": "2.jpg", "label": []}]
    listing = folder(["1.jpg", "2.jpg", "3.jpg"], {"metadata.jsonl": rows})
    assert (listing.kind, listing.classes, listing.label_ends.tolist()) == ("classes", ("a", "b"), [2, 2, 2])
    assert listing.rejects == {2: ("no_label", "no row of the metadata names it")}


def test_a_split_column(folder):
    text = "file_name,y,part\n1.jpg,0.5,train\n2.jpg,1,test\n"
    listing = folder(["1.jpg", "2.jpg"], {"metadata.csv": text}, splits="column:part")
    assert (listing.kind, listing.labels.tolist(), listing.splits) == ("number", [0.5, 1.0], ("test", "train"))
    assert (listing.split.tolist(), dict(listing.columns)) == ([1, 0], {})


def test_a_metadata_file_in_a_class_folder_is_a_side_file(folder):
    listing = folder(["cat/1.jpg"], {"cat/metadata.csv": "file_name,label\n1.jpg,dog\n"})
    assert (rows_of(listing), listing.ignored) == ({"cat/1.jpg": "cat"}, {".csv": 1})


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (
            "name,label\n1.jpg,a\n",
            {},
            "/metadata.csv: has no path column one of file_name, path, filename, file, image",
        ),
        ("file_name,x\n1.jpg,a\n", {"label_column": "y"}, ": has no label column y; its columns are 'file_name', 'x'"),
        ("file_name,x\n1.jpg,a\n", {"labels": "number"}, ": has no label column one of label, labels, class,"),
        ("file_name,flip\n1.jpg,a\n", {}, ": a column cannot be called 'flip', which a batch or record uses; rename"),
    ],
)
def test_metadata_that_cannot_be_used_says_why(folder, tmp_path, text, options, reason):
    with pytest.raises(SourceError) as caught:
        folder(["1.jpg"], {"metadata.csv": text}, **options)
    assert str(caught.value).startswith(f"{tmp_path}{reason}")


@given(names=st.lists(st.binary(max_size=2)), wanted=st.lists(st.binary(max_size=2)))
def test_match_finds_the_first_equal_row(names, wanted):
    expected = [wanted.index(name) if name in wanted else -1 for name in names]
    assert match(Packed.of(names), Packed.of(wanted)).tolist() == expected


def test_match_survives_equal_hashes(monkeypatch):
    monkeypatch.setattr("irv2data.convert.sources.metadata.hash", lambda name: 7, raising=False)
    assert match(Packed.of([b"c", b"x", b"a"]), Packed.of([b"a", b"b", b"c", b"a"])).tolist() == [2, -1, 0]
