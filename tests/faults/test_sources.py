"""Sources that go or change while they are converted are rejects, each counted once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from faulty import CONFIG, OPTIONS, accounted, command, payloads, tree

from irv2data import Dataset, schema
from irv2data.convert import convert, verify

GONE = "No such file or directory"


@pytest.fixture
def mine(source, tmp_path) -> Path:
    """A copy of the source, to be changed."""
    return Path(shutil.copytree(source, tmp_path / "source"))


def at(stage: str, done: int, act):
    """A progress function that acts once, when a stage has come so far."""
    acted = []

    def progress(now: str, number: int, total: int | None) -> None:
        if (now, number >= done, acted) == (stage, True, []):
            acted.append(True)
            act()

    return progress


def rejects(folder: Path) -> dict[str, tuple[str, str]]:
    lines = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    assert len({line["path"] for line in lines}) == len(lines)
    return {line["path"]: (line["code"], line["detail"]) for line in lines if line["path"] != "ant/text.jpg"}


def break_some(folder: Path) -> None:
    """Of five sources: gone, of other content, cut, and now a folder and a pipe."""
    (folder / "ant" / "003.jpg").unlink()
    shutil.copy(folder / "ant" / "006.jpg", folder / "ant" / "009.jpg")
    os.truncate(folder / "bee" / "004.jpg", 100)
    for name, make in (("cow/005.png", os.mkdir), ("cow/008.png", os.mkfifo)):
        (folder / name).unlink()
        make(folder / name)


@pytest.mark.parametrize("stage", ["hashing", "converting"])
def test_some_sources(serial, mine, tmp_path, stage):
    report = convert(mine, tmp_path / "out", CONFIG, progress=at(stage, 0, lambda: break_some(mine)))
    changed = ("changed_while_reading", "the content differs from when the source was scanned")
    expected = {
        "ant/003.jpg": ("unreadable", GONE),
        "bee/004.jpg": ("truncated", "") if stage == "hashing" else changed,
        "cow/005.png": ("unreadable", "Is a directory"),
        "cow/008.png": ("unreadable", "is a pipe or a device, no file"),
    }
    found = rejects(tmp_path / "out")
    if stage == "hashing":  # another content before the scan is the content; the copy is a duplicate
        assert found["bee/004.jpg"][0] == "truncated"
        found["bee/004.jpg"] = ("truncated", "")
    else:
        expected["ant/009.jpg"] = changed
    assert found == expected
    dropped = 2 if stage == "hashing" else 1
    assert accounted(tmp_path / "out") == (26, len(expected) + 1, dropped, 25 - len(expected) - dropped)
    assert (report.sources, report.rejected, report.dropped) == (26, len(expected) + 1, dropped)
    assert verify(str(tmp_path / "out"), deep=True) == []
    names = {
        schema.decode(payload).filename.decode() for found in payloads(tmp_path / "out").values() for payload in found
    }
    assert names.isdisjoint(expected)


@pytest.mark.parametrize("stage", ["hashing", "converting"])
def test_the_whole_source(serial, mine, tmp_path, stage):
    out = tmp_path / "out"
    report = convert(mine, out, CONFIG, progress=at(stage, 0, lambda: shutil.rmtree(mine)))
    assert report.over_budget
    assert {reject[0] for reject in rejects(out).values()} == {"unreadable"}
    dropped = 0 if stage == "hashing" else 1  # the copy was found before
    assert accounted(out) == (26, 26 - dropped, dropped, 0)
    assert verify(str(out), deep=True) == []
    assert [split.num_records for split in Dataset(out).splits.values()] == [0, 0]
    assert sorted(path.stat().st_size for path in out.glob("*.tfrecord")) == [0] * len(list(out.glob("*.tfrecord")))


def test_a_source_that_comes_back_is_resumed_as_it_was(serial, mine, sound, tmp_path):
    """A change after the scan that ends the run: with the old content, the shards that are there still count."""
    out = tmp_path / "out"
    text = (mine / "ant" / "006.jpg").read_bytes()

    def stop() -> None:
        (mine / "ant" / "006.jpg").write_bytes(b"other")
        raise KeyboardInterrupt

    with pytest.raises(Exception, match="go on with --resume"):
        convert(mine, out, CONFIG, progress=at("converting", 3, stop))
    with pytest.raises(Exception, match="sources or options changed since the conversion began"):
        convert(mine, out, CONFIG, resume=True)
    (mine / "ant" / "006.jpg").write_bytes(text)
    convert(mine, out, CONFIG, resume=True)
    assert tree(out) == tree(sound)


def test_a_source_that_is_not_there_touches_no_output(folder, tmp_path):
    before = tree(folder)
    for words in (("--overwrite",), ("--append",)):
        code, printed, errors = command("convert", tmp_path / "none", folder, *OPTIONS, *words)
        assert (code, printed, errors.count("\n")) == (1, "", 1)
        assert str(tmp_path / "none") in errors
    code, _, _ = command("convert", tmp_path / "none", tmp_path / "out", *OPTIONS)
    assert (code, (tmp_path / "out").exists()) == (1, False)
    assert tree(folder) == before
