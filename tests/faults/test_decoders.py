"""A decoder that takes its worker down in a real conversion costs the image that does it, and no other."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from crashing import CRASH, EAT, HANG
from faulty import CONFIG, HERE, PATIENCE, accounted, image, kill, payloads, spawn, tree

from irv2data import schema
from irv2data.convert import convert, verify

BAD = {
    "ant/crash.jpg": (CRASH, "decoder_crashed", "the decoder ended its process by SIGSEGV, twice"),
    "bee/hang.jpg": (HANG, "timed_out", "decoding took longer than 3 s, twice"),
    "bee/crash.jpg": (CRASH, "decoder_crashed", "the decoder ended its process by SIGSEGV, twice"),
    "cow/eat.jpg": (EAT, "out_of_memory", "decoding needed more than --worker_mib=256"),
}


def test_crashes_hangs_and_greed(serial, source, tmp_path):
    mine = Path(shutil.copytree(source, tmp_path / "source"))
    for number, (name, (comment, _, _)) in enumerate(BAD.items()):
        image(900 + number, 30, 30).save(mine / name, comment=comment)
    drivers = {}
    for workers in (1, 2):
        out = tmp_path / str(workers)
        drivers[out] = spawn([sys.executable, str(HERE / "crashing.py"), str(mine), str(out), str(workers)])
    try:
        for driver in drivers.values():
            printed, errors = driver.communicate(timeout=PATIENCE)
            assert (driver.returncode, errors) == (0, "")
            assert json.loads(printed)["rejected"] == 5
    finally:
        for driver in drivers.values():
            kill(driver)
    one, two = drivers
    assert tree(one) == tree(two)
    found = {}
    for line in map(json.loads, (one / "rejects.jsonl").read_text().splitlines()):
        found[line["path"]] = (line["code"], line["detail"])
    assert found.pop("ant/text.jpg")[0] == "not_an_image"
    assert found == {name: (code, detail) for name, (_, code, detail) in BAD.items()}
    assert accounted(one) == (30, 5, 0, 25)
    assert verify(str(one), deep=True) == []
    # Without those four, every record is the same.
    for name in BAD:
        (mine / name).unlink()
    convert(mine, tmp_path / "rest", replace(CONFIG, duplicates="keep"))
    assert {split: sorted(found) for split, found in payloads(one).items()} == {
        split: sorted(found) for split, found in payloads(tmp_path / "rest").items()
    }
    names = {schema.decode(payload).filename.decode() for found in payloads(one).values() for payload in found}
    assert (len(names), names & BAD.keys()) == (25, set())


def test_a_file_larger_than_a_worker_may_hold_costs_that_file(source, tmp_path):
    mine = Path(shutil.copytree(source, tmp_path / "source"))
    with open(mine / "ant" / "huge.jpg", "wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(4 << 30)  # sparse: it takes no room on the disk
    report = convert(mine, tmp_path / "out", replace(CONFIG, worker_mib=128), workers=1)
    assert (report.sources, report.rejects) == (27, {"not_an_image": 1, "out_of_memory": 1})
    assert verify(str(tmp_path / "out"), deep=True) == []
