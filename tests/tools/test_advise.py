"""`irv2data convert --advise`: what it recommends, and what it measures."""

from __future__ import annotations

import json

import photographs
import pytest
from PIL import Image

from irv2data.tools import main
from irv2data.tools.advise import Row, recommend


def row(side, rate, psnr, size):
    return Row(
        max_short_side=side, quality=92, bytes_per_image=size, total_bytes=size, images_per_second=rate, psnr=psnr
    )


ROWS = [row(0, 100, 99, 900), row(600, 300, 45, 500), row(400, 500, 41, 300), row(320, 700, 36, 200)]


@pytest.mark.parametrize(
    ("wanted", "side", "words"),
    [
        (0, 400, "the smallest on disk that changes what the network sees by no more than 40 dB"),
        (50, 0, "reaches 50 images/s"),
        (300, 600, "reaches 300 images/s"),
        (301, 400, "reaches 301 images/s"),
        (600, 320, "reaches 600 images/s"),
        (800, 320, "none reaches 800 images/s on this machine; this is the fastest"),
    ],
)
def test_the_recommendation(wanted, side, words):
    chosen, why = recommend(ROWS, wanted)
    assert chosen.max_short_side == side
    assert why.startswith(words)


def test_without_a_good_row_the_original_is_recommended():
    assert recommend([row(0, 1, 30, 9), row(320, 9, 20, 1)], 0)[0].max_short_side == 0


def test_the_table_of_a_folder(tmp_path, capsys, monkeypatch, serial):
    monkeypatch.setattr("irv2data.tools.advise._ROUND_SECONDS", 0.01)
    (tmp_path / "source" / "a").mkdir(parents=True)
    with Image.open(photographs.source_path("skimage:astronaut.png")) as image:
        for number in range(3):
            image.convert("RGB").crop((number, 0, number + 500, 480)).save(
                tmp_path / "source" / "a" / f"{number}.jpg", quality=97
            )
    (tmp_path / "source" / "a" / "bad.jpg").write_bytes(b"text")
    assert main.run(main.parse(["irv2data", "convert", str(tmp_path / "source"), "--advise", "--json"])) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["sources"], report["sampled"], report["skipped"]) == (4, 3, 1)
    rows = report["rows"]
    ways = [(row["max_short_side"], row["quality"]) for row in rows]
    assert ways == [(0, 92), (400, 92), (400, 80), (320, 92), (320, 80)]
    assert rows[0]["psnr"] == 99
    assert all(25 < row["psnr"] < 60 for row in rows[1:])
    assert rows[1]["psnr"] > rows[2]["psnr"]
    assert rows[2]["bytes_per_image"] < rows[1]["bytes_per_image"] < rows[0]["bytes_per_image"]
    assert all(row["total_bytes"] == pytest.approx(row["bytes_per_image"] * 4) for row in rows)
    assert all(row["images_per_second"] > 0 for row in rows)
    assert report["recommended"] in rows
    assert main.run(main.parse(["irv2data", "convert", str(tmp_path / "source"), "--advise", "--sample=2"])) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split()[:2] == ["short", "side"]
    assert text.count("<- recommended") == 1


@pytest.mark.parametrize(("flag", "message"), [("--sample=0", "sample must be"), ("--wanted_rate=-1", "wanted_rate")])
def test_wrong_flags(tmp_path, capsys, flag, message):
    assert main.run(main.parse(["irv2data", "convert", str(tmp_path), "--advise", flag])) == 2
    assert message in capsys.readouterr().err
