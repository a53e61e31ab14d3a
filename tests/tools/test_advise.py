"""`irv2data convert --advise`: what it recommends, and what it measures."""

from __future__ import annotations

import json

import numpy as np
import photographs
import pytest
from PIL import Image

from irv2data.tools import main
from irv2data.tools.advise import Row, psnr, recommend, spread_evenly, ways


def row(side, rate, low, size):
    """A row whose mean PSNR says nothing: what counts without a wanted rate is the worst tenth."""
    return Row(
        max_short_side=side,
        quality=92,
        bytes_per_image=size,
        total_bytes=size,
        images_per_second=rate,
        psnr=low + 20,
        psnr_low=low,
    )


ROWS = [row(0, 100, 99, 900), row(600, 300, 45, 500), row(400, 500, 41, 300), row(320, 700, 36, 200)]


@pytest.mark.parametrize(
    ("wanted", "side", "words"),
    [
        (0, 400, "the smallest on disk of those with 38 dB or more in nine tenths of the images"),
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


def test_what_is_tried_makes_half_of_the_images_smaller():
    assert ways([900, 700, 350], 95) == [(0, 95), (600, 92), (600, 80), (400, 92), (400, 80), (320, 92), (320, 80)]
    assert ways([320, 100], 92) == [(0, 92)]


def test_a_sample_is_spread_evenly():
    assert spread_evenly(np.arange(10, 20), 4).tolist() == [10, 13, 16, 19]
    assert spread_evenly(np.arange(3), 9).tolist() == [0, 1, 2]


def test_psnr():
    black = np.zeros((4, 4, 3), np.float32)
    assert psnr(black, black) == 99
    assert psnr(black + 255, black) == pytest.approx(0)
    assert psnr(black + 2.55, black) == pytest.approx(40)
    assert psnr(black + 1e-6, black) == 99


def test_the_table_of_a_folder(tmp_path, capsys, monkeypatch, serial):
    monkeypatch.setattr("irv2data.tools.advise._ROUND_SECONDS", 0.01)
    monkeypatch.setattr("irv2data.tools.advise._ROUNDS", 1)
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
    # Three of four could be converted.
    assert all(row["total_bytes"] == pytest.approx(row["bytes_per_image"] * 3) for row in rows)
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
