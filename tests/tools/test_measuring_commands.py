"""The commands bench and doctor: real measurements in little time, and what they print of given ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from irv2data.tools import bench, doctor
from irv2data.tools.options import parse_options
from tests.tools.calls import call

QUICK = ("--image_size=32", "--batch_size=24", "--rounds=1", "--seconds=0.01")


def test_bench_measures_all_that_it_is_asked_for(capsys, dataset, tmp_path):
    rows, plot = tmp_path / "rows.jsonl", tmp_path / "plot.png"
    rows.write_text('{"earlier": 1}\n')
    code, out, _ = call(
        capsys,
        "bench",
        str(dataset.folder),
        "--json",
        *QUICK,
        "--stages",
        "--cores",
        "--compare=buckets=2,seed=3",
        f"--record={rows}",
        f"--plot={plot}",
    )
    report = json.loads(out)
    assert code == 0
    for name in ("images_per_second", "finished_images_per_second"):
        assert 0 < report[name]["low"] <= report[name]["median"] <= report[name]["high"]
    assert report["rounds"] == 1
    assert report["peak_rss_mib"] > 50
    assert 0 <= report["padding_waste"] < 1
    assert report["config"]["batch_size"] == 24
    assert report["config"]["image_size"] == [32, 32]
    assert report["config"]["records"] == 120
    assert [each["name"] for each in report["stages"]] == ["plan", "read", "parse", "decode", "batch"]
    assert sum(each["share"] for each in report["stages"]) >= 0.99
    assert report["cores"][-1]["cores"] == report["config"]["cores"]
    assert (report["compare"]["config"]["buckets"], report["compare"]["config"]["seed"]) == (2, 3)
    assert report["compare"]["host"]["verdict"] == "alike"  # one round can say nothing
    seconds = [second for second, _ in report["memory"]]
    assert seconds == sorted(seconds)
    earlier, *written = [json.loads(line) for line in rows.read_text().splitlines()]
    assert earlier == {"earlier": 1}
    assert [row["what"] for row in written] == [
        *("host", "finished"),
        *["stage"] * 5,
        *["cores"] * len(report["cores"]),
        *["compare"] * 2,
    ]
    assert written[0]["median"] == report["images_per_second"]["median"]
    assert all(row["config"] == report["config"] for row in written)
    with Image.open(plot).convert("RGB") as picture:
        assert picture.width == 1350
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 20


def test_bench_of_kept_and_augmented_images(capsys, dataset, tmp_path):
    flags = (*QUICK, "--cache=disk", f"--cache_dir={tmp_path}", "--cache_short_side=40")
    code, out, _ = call(capsys, "bench", str(dataset.folder), "--json", *flags, "--augment=rotate=20,mixup=0.2")
    report = json.loads(out)
    assert code == 0
    assert (report["config"]["cache"], report["config"]["cache_short_side"]) == ("disk", 40)
    assert all(width % 64 == 0 for _, width in report["config"]["canvases"])
    assert report["config"]["augment"]["rotate"] == 20
    assert report["finished_images_per_second"]["median"] > 0
    assert list(tmp_path.glob("*.pixels"))


def rate(median: float) -> dict:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


BENCH = {
    "images_per_second": rate(1000.0),
    "finished_images_per_second": rate(800.0),
    "cpu_ms": 1.9,
    "rounds": 7,
    "seconds": 2.0,
    "peak_rss_mib": 1234.5,
    "memory": [(0.0, 900.0), (1.0, 1234.5)],
    "memory_growth": 0.012,
    "padding_waste": 0.25,
    "stages": [
        {"name": "read", "about": "bytes", "images_per_second": rate(9000.0), "cpu_ms": 0.2, "share": 0.11},
        {"name": "decode", "about": "pixels", "images_per_second": rate(1010.0), "cpu_ms": 1.8, "share": 0.89},
    ],
    "cores": [{"cores": 1, "images_per_second": rate(510.0)}, {"cores": 2, "images_per_second": rate(1000.0)}],
    "compare": {
        "host": {
            "other": rate(1200.0),
            "ratio": {"median": 1.2, "low": 1.1, "high": 1.3},
            "confidence": 0.984,
            "verdict": "faster",
        },
        "finished": {
            "other": rate(810.0),
            "ratio": {"median": 1.01, "low": 0.98, "high": 1.05},
            "confidence": 0.984,
            "verdict": "alike",
        },
        "config": {},
    },
    "config": {
        "fit": "resize",
        "image_size": (32, 48),
        "batch_size": 8,
        "cores": 2,
        "canvases": [(64, 64), (64, 128)],
    },
}


def test_bench_for_people():
    lines = bench._text(BENCH, "buckets=12").splitlines()
    assert lines[0] == "resize to 32x48, batch 8, 2 cores, 7 rounds of 2 seconds"
    assert lines[2].split() == ["batches", "1,000.0", "900.0", "1,100.0"]
    decode = next(line for line in lines if line.startswith("decode"))
    assert decode.split() == ["decode", "1,010", "909-1,111", "1.80", "89%", "##################", "pixels"]
    assert "canvases 64x64, 64x128; 25.0% of their pixels is padding" in lines
    assert (
        "1.90 ms of processor time an image; peak memory 1,234 MiB, +1.2% from the middle of the time to its end"
        in lines
    )
    assert lines[-2:] == [
        "batches: buckets=12 is faster: 1.20 times as fast (1.10 to 1.30, 98% sure; 1,200.0 images/s)",
        "finished images: buckets=12: no difference can be told: 1.01 times as fast (0.98 to 1.05, 98% sure; "
        "810.0 images/s)",
    ]


DOCTOR = {
    "stages": [
        {"name": "batch", "about": "a", "where": "host", "ceiling": rate(800.0), "cpu_ms": 2.5, "share": 1.0},
        {"name": "step", "about": "b", "where": "devices", "ceiling": rate(2000.0), "cpu_ms": None, "share": 0.98},
    ],
    "cores": [{"cores": 1, "images_per_second": 450.0}, {"cores": 2, "images_per_second": 800.0}],
    "host": 800.0,
    "devices": 1960.0,
    "copy": None,
    "fed": 800.0,
    "wait": 0.5918,
    "shared": False,
    "replicas": 2,
    "cores_per_replica": 3,
    "step_batch_size": 64,
    "changes": [
        {"name": "cache", "what": "keep them", "host": 6000.0, "fed": 1960.0, "gain": 1.45, "basis": "measured"},
        {"name": "buckets", "what": "more", "host": 810.0, "fed": 810.0, "gain": 0.0125, "basis": "the plan"},
    ],
    "reasons": {"shrink": "images are small"},
    "recommended": "cache",
}


def test_doctor_for_people():
    text = doctor.text(DOCTOR)
    assert (
        "The host feeds 800 images/s, the devices take 1,960: the job does 800, and a step waits 59% of its time "
        "for images.\nTo keep each accelerator busy takes 3 cores of this kind; there are 2." in text
    )
    assert "What would help most: keep them.\n  predicted: 1,960 images/s instead of 800 (+145%); measured" in text
    assert "not smaller images: images are small" in text
    step = {**DOCTOR["stages"][1], "ceiling": {"median": 1.73, "low": 1.7, "high": 99.96}}
    slowly = doctor.text({**DOCTOR, "stages": [DOCTOR["stages"][0], step]}).splitlines()
    assert next(line for line in slowly if line.startswith("step")).split()[:3] == ["step", "1.7", "1.7-100.0"]
    content = {"recommended": None, "shared": True, "wait": 0.1, "fed": 568.0, "cores_per_replica": None}
    nothing = doctor.text({**DOCTOR, **content})
    assert "a step loses 10% of its time to the host, which needs the same processor." in nothing
    assert "\nWhere the devices will be others than this processor, say what they take: --wanted_rate=2400." in nothing
    assert "--wanted_rate" not in text
    assert "Nothing that could be changed here would help by 5 % or more." in nothing
    unknown = doctor.text({**DOCTOR, "devices": None, "wait": None})
    assert "The host feeds 800 images/s. What devices take is not known (--model, --wanted_rate)." in unknown
    slow = doctor.text({**DOCTOR, "copy": 500.0, "cores_per_replica": None})
    assert "The copy to the devices is the limit: 500 images/s." in slow
    assert "No number of cores of this kind would keep the devices busy." in slow


def test_doctor_looks_at_a_real_pipeline(capsys, dataset):
    code, out, _ = call(capsys, "doctor", str(dataset.folder), "--json", *QUICK, "--wanted_rate=5", "--fit=resize")
    report = json.loads(out)
    assert code == 0
    assert report["fed"] == 5.0
    assert report["wait"] == 0
    assert report["recommended"] is None
    assert report["config"]["resize_on"] == "device"
    assert [each["name"] for each in report["stages"]] == ["plan", "read", "parse", "decode", "batch", "device stage"]
    assert all(each["fed"] == 5.0 for each in report["changes"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bench {0} --compare=buckets", "compare is OPTION=VALUE,... of fit, image_size, "),
        ("bench {0} --compare=colour=3", "got 'colour=3'"),
        ("bench {0} --compare=buckets=many", "compare: buckets cannot be 'many'"),
        ("bench {0} --compare=antialias=no", "compare: antialias cannot be 'no'"),
        ("bench {0} --compare=buckets=40", "buckets must be between 1 and 32, got 40"),
        ("bench {0} --plot=picture.gif", "plot: picture.gif must end in one of .svg, .png, .pdf"),
        ("bench {0} --plot=/no/such/picture.svg", "plot: /no/such is no folder"),
        ("bench {0} --stages --cache=host --image_size=32 --batch_size=8", "stages: once images are kept"),
        ("doctor", "give a DATASET to look at its pipeline, or --distribution"),
        ("doctor {0} --distribution", "--distribution needs no DATASET: it compares on images of its own"),
        ("doctor {0} --sync_bn", "sync_bn goes with --distribution"),
        ("doctor {0} --wanted_rate=-3", "wanted_rate must be 0 or more, got -3"),
        ("doctor {0} --model=none.keras --image_size=32 --batch_size=8", "model: none.keras cannot be loaded"),
    ],
)
def test_wrong_uses_end_in_one_line(capsys, dataset, command, message):
    code, out, err = call(capsys, *command.format(dataset.folder).split())
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_options_to_compare_are_read_as_what_they_are():
    text = "fit=letterbox,image_size=32x48,shuffle=none,antialias=false,crop_fraction=0.5,cache=host"
    assert parse_options("compare", text) == {
        "fit": "letterbox",
        "image_size": (32, 48),
        "shuffle": None,
        "antialias": False,
        "crop_fraction": 0.5,
        "cache": "host",
    }
