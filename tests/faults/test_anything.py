"""Laws that hold for any folder and any options: every source once, no content in two splits, a sound dataset."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faulty import MODULES, accounted, image, payloads, run_serial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irv2data import Dataset, index, schema
from irv2data.convert import ConvertConfig, convert, verify

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif"}
# Written to a file's start, so that it is found by content and not by its name.
BROKEN = {"empty": b"", "text": b"no image", "header": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n\x1a\n" + bytes(20)}


@st.composite
def contents(draw) -> tuple[str, bytes]:
    """Suffix and bytes of a source; few of them, so that equal ones are met."""
    import io

    kind = draw(st.sampled_from([*SUFFIXES, "progressive", "grey", "alpha", "cut", *BROKEN]))
    if kind in BROKEN:
        return "jpg", BROKEN[kind]
    picture = image(draw(st.integers(0, 5)), draw(st.integers(1, 3)) * 7, 16)
    out = io.BytesIO()
    if kind == "alpha":
        picture.convert("RGBA").save(out, "PNG")
    elif kind == "grey":
        picture.convert("L").save(out, "JPEG")
    elif kind in ("progressive", "cut"):
        picture.save(out, "JPEG", progressive=kind == "progressive")
    else:
        picture.save(out, kind)
    data = out.getvalue()
    return SUFFIXES.get(kind, "jpg"), data[: len(data) * 2 // 3] if kind == "cut" else data


NAMES = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/."), min_size=1, max_size=6).map(
        os.fsencode
    ),
    st.sampled_from([b"a b", b"\xff\xfe", b"'\"", b"new\nline", b"-x", b"%s{}", "é".encode(), "e\u0301".encode()]),
)
CLASSES = st.sampled_from([b"ant", b"bee", b"c w", "käfer".encode()])
FOLDERS = st.sampled_from([b"train", b"test"])


@st.composite
def folders(draw) -> dict[bytes, bytes]:
    """Path, SPLIT/CLASS/NAME, to content."""
    files: dict[bytes, bytes] = {}
    for _ in range(draw(st.integers(1, 14))):
        suffix, data = draw(contents())
        path = b"/".join((draw(FOLDERS), draw(CLASSES), draw(NAMES) + b"." + suffix.encode()))
        files[path] = draw(st.sampled_from([data, *files.values()])) if draw(st.booleans()) else data
    return files


@st.composite
def configs(draw) -> ConvertConfig:
    split = draw(st.sampled_from(["fractions", "exact", "folders", "auto"]))
    fractions = draw(st.sampled_from([(("train", 1.0),), (("a", 0.5), ("b", 0.3), ("c", 0.2))]))
    return ConvertConfig(
        splits=fractions if split in ("fractions", "exact") else split,
        exact_splits=split == "exact",
        label_depth=draw(st.sampled_from([1, 2])) if split in ("fractions", "exact") else 1,
        duplicates=draw(st.sampled_from(["keep", "drop"])),
        shard_mib=draw(st.sampled_from([1e-9, 0.001, 128])),
        max_short_side=draw(st.sampled_from([0, 9])),
        png=draw(st.sampled_from(["keep", "jpeg", "auto"])),
        seed=draw(st.integers(0, 3)),
        max_bad_fraction=1,
    )


@pytest.fixture(scope="module", autouse=True)
def in_this_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for module in MODULES:
            patch.setattr(sys.modules[f"irv2data.convert.{module}"], "run_local", run_serial)
        yield


def write(root: Path, files: dict[bytes, bytes]) -> None:
    for path, data in files.items():
        place = os.path.join(os.fsencode(root), path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(data)


def check(out: Path, names: list[str]) -> None:
    """The laws, of a dataset made of the sources of those names."""
    assert accounted(out)[0] == len(names)
    dataset = Dataset(out)
    records = {name: [schema.decode(payload) for payload in found] for name, found in payloads(out).items()}
    rejected = [json.loads(line)["path"] for line in (out / "rejects.jsonl").read_bytes().splitlines()]
    lines = [json.loads(line) for line in (out / "duplicates.jsonl").read_bytes().splitlines()]
    dropped = [path for line in lines for path in line["dropped"]]
    stored = [os.fsdecode(record.filename) for found in records.values() for record in found]
    assert Counter([*stored, *rejected, *dropped]) == Counter(names)
    where: dict[bytes, str] = {}
    for name, split in dataset.splits.items():
        for digest in split.array(index.CONTENT):
            assert where.setdefault(digest.tobytes(), name) == name
        assert [record.label for record in records[name]] == split.column("label").tolist()
        assert [dataset.classes[record.label] for record in records[name]] == [record.text for record in records[name]]
    assert verify(str(out), deep=True) == []


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(files=folders(), config=configs(), later=folders())
def test_any_folder_with_any_options(files, config, later):
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "source", Path(folder) / "out"
        write(root, files)
        relative = {os.fsdecode(path) for path in files}
        report = convert(root, out, config)
        check(out, sorted(relative))
        assert report.sources == len(files)
        assert report.sources == report.rejected + report.dropped + sum(s["records"] for s in report.splits.values())
        if config.duplicates == "drop":
            digests = [split.array(index.CONTENT) for split in Dataset(out).splits.values()]
            joined = np.concatenate(digests)
            assert len(np.unique(joined, axis=0)) == len(joined)
        if config.exact_splits or config.splits == "auto":
            return
        # What is appended obeys the same laws, and what was there stays.
        before = payloads(out)
        added = {path: data for path, data in later.items() if path not in files}
        write(root, added)
        convert(root, out, config, append=True)
        check(out, sorted(relative | {os.fsdecode(path) for path in added}))
        for name, found in before.items():
            assert payloads(out)[name][: len(found)] == found
