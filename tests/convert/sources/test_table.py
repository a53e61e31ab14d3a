"""Tables: which rows become sources, with which labels and columns, and what happens to the others."""

from __future__ import annotations

import json
import math
import os
from itertools import pairwise

import numpy as np
import pytest

from irv2data.convert.config import ConvertConfig
from irv2data.convert.rejects import REJECT_CODES, RejectError
from irv2data.convert.sources import list_sources, read_source
from irv2data.errors import SourceError


@pytest.fixture
def table(tmp_path):
    """Writes a table and lists it: `table("path,label\\na.jpg,x\\n", labels="class")`."""

    def make(content: str | bytes | list, suffix: str = ".csv", **options):
        if isinstance(content, list):
            content, suffix = "".join(json.dumps(row) + "\n" for row in content), ".jsonl"
        path = tmp_path / f"table{suffix}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list_sources(str(path), ConvertConfig(**options))

    return make


def classes_of(listing) -> list[str | None]:
    return [listing.classes[label] if label >= 0 else None for label in listing.labels]


def sets_of(listing) -> list[tuple[str, ...]]:
    starts = [0, *listing.label_ends.tolist()]
    return [tuple(listing.classes[label] for label in listing.labels[start:end]) for start, end in pairwise(starts)]


def test_rows_in_their_order_with_labels_and_columns(table, tmp_path):
    listing = table("id,file_name,category,note\n7,b/2.jpg,cat,\n8,./a//1.jpg,dog,hé\n7,b/2.jpg,cat,x\n")
    assert (listing.root, list(listing.names)) == (str(tmp_path), [b"b/2.jpg", b"a/1.jpg", b"b/2.jpg"])
    assert (listing.kind, listing.classes, listing.labels.tolist()) == ("class", ("cat", "dog"), [0, 1, 0])
    assert listing.labels.dtype == np.int32
    assert listing.columns["id"].tolist() == [7, 8, 7]
    assert list(listing.columns["note"]) == [b"", "hé".encode(), b"x"]
    assert listing.columns.keys() == {"id", "note"}
    assert (listing.rejects, listing.ignored, listing.splits) == ({}, {}, ())


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        ("\ufeffpath,label\r\na.jpg,x\r\n\r\n", ".csv"),
        ("path\tlabel\na.jpg\tx", ".TSV"),
        ('label,path\nx,"a.jpg"\n', ".csv"),
        ("Label,Image\nx,a.jpg\n", ".csv"),
        ('{"path": "a.jpg", "label": "x"}\n\n', ".ndjson"),
        ('\ufeff{"label": "x", "path": "a.jpg"}', ".jsonl"),
    ],
)
def test_dialects(table, content, suffix):
    listing = table(content, suffix)
    assert (list(listing.names), listing.classes, dict(listing.columns)) == ([b"a.jpg"], ("x",), {})


def test_columns_by_option_before_the_usual_ones(table):
    content = "path,file,class,species\nx,a.jpg,1,cat\n"
    listing = table(content, path_column="file", label_column="species")
    assert (list(listing.names), listing.classes) == ([b"a.jpg"], ("cat",))
    assert (list(listing.columns["path"]), listing.columns["class"].tolist()) == ([b"x"], [1])


def test_names_keep_bytes_that_are_not_utf8(table):
    listing = table(b'path,label,note\ncaf\xe9.jpg,\xff,\xe9\n"new\nline.jpg",b,\n')
    assert list(listing.names) == [b"caf\xe9.jpg", b"new\nline.jpg"]
    assert [os.fsencode(name) for name in listing.classes] == [b"b", b"\xff"]
    assert list(listing.columns["note"]) == ["\ufffd".encode(), b""]


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (["10", "9", "-1"], "class", ("-1", "9", "10")),
        (["10", "9", "x"], "class", ("10", "9", "x")),
        (["b", "B", "é"], "class", ("B", "b", "é")),
        (["1", "2.0", "3e2"], "class", ("1", "2.0", "3e2")),
        (["1", "2.5", ""], "number", ()),
        (["1.5", "x"], "class", ("1.5", "x")),
        ([1, 2], "class", ("1", "2")),
        (["b", "a"], "class", ("a", "b")),
        ([True, False], "class", ("false", "true")),
        ([0.5, 2], "number", ()),
        ([1.0, None], "number", ()),
        ([["b", "a"], []], "classes", ("a", "b")),
        ([[10], [9]], "classes", ("9", "10")),
    ],
)
def test_auto_finds_the_kind(table, labels, kind, classes):
    if all(isinstance(label, str) for label in labels) and labels != ["b", "a"]:
        listing = table("path,label\n" + "".join(f"{row}.jpg,{label}\n" for row, label in enumerate(labels)))
    else:
        listing = table([{"path": f"{row}.jpg", "label": label} for row, label in enumerate(labels)])
    assert (listing.kind, listing.classes) == (kind, classes)


def test_numbers(table):
    texts = ["1.5", "-2", "", "inf", "nan", "x", "1e39", "1_0"]
    listing = table("path,y\n" + "".join(f"{row}.jpg,{text}\n" for row, text in enumerate(texts)), labels="number")
    assert listing.labels.dtype == np.float32
    np.testing.assert_array_equal(listing.labels, np.array([1.5, -2] + [math.nan] * 6, np.float32))
    assert listing.rejects == {
        2: ("no_label", "the label is empty"),
        3: ("bad_label", "'inf' is not a finite number"),
        4: ("bad_label", "'nan' is not a finite number"),
        5: ("bad_label", "'x' is not a finite number"),
        6: ("bad_label", "'1e39' is not a finite number"),
        7: ("bad_label", "'1_0' is not a finite number"),
    }


def test_several_classes_in_a_field(table):
    content = "path,labels\n1.jpg, b ; a;b\n2.jpg,\n3.jpg,a;;c\n"
    listing = table(content, labels="classes", label_separator=";")
    assert (listing.kind, listing.classes) == ("classes", ("a", "b", "c"))
    assert (listing.labels.tolist(), listing.label_ends.tolist()) == ([0, 1, 0, 2], [2, 2, 4])
    assert (listing.labels.dtype, listing.label_ends.dtype, listing.rejects) == (np.int32, np.int64, {})


def test_several_classes_in_json(table):
    rows = [["b", "a", "b"], [], None, "one, two", 3, ["x", ["y"]], {"a": 1}]
    listing = table([{"path": f"{row}.jpg", "label": label} for row, label in enumerate(rows)])
    assert sets_of(listing) == [("a", "b"), (), (), ("one, two",), ("3",), (), ()]
    assert listing.rejects == {
        5: ("bad_label", '\'["x", ["y"]]\' is no list of classes'),
        6: ("bad_label", "'{\"a\": 1}' is no list of classes"),
    }


def test_an_empty_or_unfit_class_is_a_reject(table):
    listing = table([{"path": "1", "label": "a"}, {"path": "2"}, {"path": "3", "label": ["a"]}], labels="class")
    assert classes_of(listing) == ["a", None, None]
    assert listing.rejects == {1: ("no_label", "the label is empty"), 2: ("bad_label", "'[\"a\"]' is not one class")}


def test_without_a_label_column(table):
    listing = table("path,width\n1.jpg,5\n")
    assert (listing.kind, listing.labels.tolist(), listing.columns["width"].tolist()) == ("none", [], [5])
    listing = table("path,label\n1.jpg,5\n", labels="none")
    assert (listing.kind, listing.classes, dict(listing.columns)) == ("none", (), {})


def test_the_split_column(table):
    listing = table("path,label,fold\n1,a,train\n2,a, test\n3,b,\n4,b,train\n", splits="column:fold")
    assert (listing.splits, listing.split.tolist()) == (("test", "train"), [1, 0, -1, 1])
    assert listing.split.dtype == np.int32
    assert listing.rejects == {2: ("bad_label", "no split in column 'fold'")}
    assert dict(listing.columns) == {}


OUTSIDE = ["../1.jpg", "a/../../1.jpg", "a/../1.jpg", "/etc/passwd", "..\\1.jpg", "\\\\host\\1.jpg", "C:\\1.jpg"]


def test_no_name_reaches_outside(table, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(b"x")
    (tmp_path.parent / "secret.jpg").write_bytes(b"secret")
    os.symlink(tmp_path.parent, tmp_path / "way_out")
    os.symlink(tmp_path.parent / "secret.jpg", tmp_path / "link.jpg")
    os.symlink(tmp_path / "in", tmp_path / "inside")
    os.symlink("in/1.jpg", tmp_path / "inside.jpg")
    paths = [*OUTSIDE, "s3://bucket/1.jpg", "nul\0.jpg", "way_out/secret.jpg", "link.jpg", str(tmp_path) + "x/1.jpg"]
    good = ["inside/1.jpg", "inside.jpg", f"{tmp_path}/in/1.jpg", "in/1.jpg", "...jpg", "missing.jpg"]
    listing = table([{"path": path} for path in [*paths, *good]])
    assert {row: code for row, (code, _) in listing.rejects.items()} == dict.fromkeys(range(len(paths)), "outside")
    cleaned = [b"inside/1.jpg", b"inside.jpg", b"in/1.jpg", b"in/1.jpg", b"...jpg", b"missing.jpg"]
    assert list(listing.names)[len(paths) :] == cleaned
    assert [list(listing.names)[row] for row in range(len(paths))] == [path.encode() for path in paths]
    for name in listing.names[: len(OUTSIDE) - 3]:
        with pytest.raises(RejectError, match="outside"):
            read_source(listing.root, name)
    with pytest.raises(RejectError, match="unreadable: No such file"):
        read_source(listing.root, b"missing.jpg")
    followed = table([{"path": path} for path in [*paths, *good]], follow_links=True)
    assert set(listing.rejects) - set(followed.rejects) == {paths.index("way_out/secret.jpg"), paths.index("link.jpg")}


def test_paths_relative_to_another_folder(table, tmp_path):
    (tmp_path / "pictures").mkdir()
    root = str(tmp_path / "pictures")
    listing = table(f"path,label\n1.jpg,a\n{root}/2.jpg,a\n{tmp_path}/3.jpg,a\n", image_root=root)
    assert (listing.root, list(listing.names)[:2]) == (root, [b"1.jpg", b"2.jpg"])
    assert list(listing.rejects) == [2]


def test_rows_that_are_none_are_counted_as_sources(table):
    content = b'path,label\n1.jpg,a\n2.jpg\n3.jpg,a,b\n,a\n\n4.jpg,"b"c\n5.jpg,b\n"6.jpg,b\n7.jpg,b\n'
    listing = table(content)
    assert list(listing.names) == [
        b"1.jpg", b"table.csv:3", b"table.csv:4", b"table.csv:5", b"table.csv:7", b"5.jpg", b"table.csv:9",
    ]  # fmt: skip
    assert listing.rejects == {
        1: ("bad_label", "line 3: the number of fields is 1, the header has 2"),
        2: ("bad_label", "line 4: the number of fields is 3, the header has 2"),
        3: ("bad_label", "table.csv:5: no path"),
        4: ("bad_label", "line 7: ',' expected after '\"'"),
        6: ("bad_label", "lines 9 to 10: unexpected end of data"),
    }
    assert classes_of(listing) == ["a", None, None, "a", None, "b", None]
    assert {code for code, _ in listing.rejects.values()} <= REJECT_CODES.keys()


def test_json_rows_that_are_none_are_counted_as_sources(table):
    content = '{"path": "1.jpg", "label": 1}\n{"path": \n[1]\n{"label": 2}\n' + "[" * 100_000 + "\n" + "9" * 5000 + "\n"
    listing = table(content, ".jsonl")
    assert list(listing.names) == [b"1.jpg", *(b"table.jsonl:%d" % line for line in (2, 3, 4, 5, 6))]
    assert list(listing.rejects) == [1, 2, 3, 4, 5]
    assert listing.rejects[2] == ("bad_label", "line 3: no JSON object")
    assert listing.rejects[3] == ("bad_label", "table.jsonl:4: no path")
    assert classes_of(listing)[0] == "1"


def test_json_keys_may_come_late_or_stay_away(table):
    listing = table([{"path": "1"}, {"path": "2", "new": 5, "label": "a"}, {"path": "3", "label": "b", "s": "x"}])
    np.testing.assert_array_equal(listing.columns["new"], np.array([math.nan, 5, math.nan], np.float32))
    assert list(listing.columns["s"]) == [b"", b"", b"x"]
    assert classes_of(listing) == [None, "a", "b"]


def test_a_column_without_a_name_is_counted(table):
    listing = table(",path,label\n0,1.jpg,a\n")  # as pandas writes its index
    assert (dict(listing.columns), listing.ignored) == ({}, {"(column without a name)": 1})


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ("a;b\n1;2\n", {}, "has no path column one of path, file_name, filename, file, image, image_path, filepath"),
        ("path,label\n1,2\n", {"path_column": "x"}, "has no path column x; its columns (the first line of a CSV) are"),
        ("path,kind\n1,2\n", {"labels": "class"}, "has no label column one of label, labels, class, class_name, cat"),
        ("path,kind\n1,2\n", {"label_column": "x"}, "has no label column x; its columns are 'path', 'kind'; --label"),
        ("path,label\n", {}, "has no rows"),
        ("", {}, "has no rows"),
        ("path,size\n1,2\n", {}, "a column cannot be called 'size', which a batch or record uses; rename it"),
        ("path,image/x\n1,2\n", {}, "a column cannot be called 'image/x', which a batch or record uses; rename it"),
        ("path,x\n1,2\n", {"splits": "column:fold"}, "has no column 'fold' for --splits; its columns are 'path', 'x'"),
        ("path,x\n1,2\n", {"splits": "column:x"}, "'2' in column 'x' cannot name a split; use letters, digits and"),
        ("path,x\n1,2\n", {"splits": "folders"}, "--splits=folders goes with a folder; a table's splits are"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(table, tmp_path, content, options, reason):
    with pytest.raises(SourceError) as caught:
        table(content, **options)
    assert str(caught.value).startswith(f"{tmp_path}/table.csv: {reason}")


def test_repeated_columns_are_refused(table):
    with pytest.raises(SourceError, match=r"table\.csv: has several columns called 'x'; rename them"):
        table("path,x,x\n1,2,3\n")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(SourceError) as caught:
        list_sources(f"{tmp_path}/no.csv", ConvertConfig())
    assert str(caught.value) == f"{tmp_path}/no.csv: cannot be read (No such file or directory)"


def test_a_table_in_the_working_folder(table, tmp_path, monkeypatch):
    table("path,label\n1.jpg,a\n")
    (tmp_path / "1.jpg").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)
    listing = list_sources("table.csv", ConvertConfig())
    assert read_source(listing.root, listing.names[0]) == b"content"


def test_rows_stay_columns(table):
    listing = table("path,label,score\n" + "".join(f"{row:09d}.jpg,{row % 7},{row / 8}\n" for row in range(20_000)))
    stored = [listing.names.data, listing.names.ends, listing.labels, listing.columns["score"]]
    assert sum(array.nbytes for array in stored) / len(listing) == 13 + 8 + 4 + 4
    np.testing.assert_array_equal(listing.labels, np.arange(20_000) % 7)
    np.testing.assert_array_equal(listing.columns["score"], np.arange(20_000, dtype=np.float32) / 8)
