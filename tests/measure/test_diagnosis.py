"""The doctor's report from rates that are given, and what each change does to them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from irv2data import Pipeline
from irv2data.errors import UsageError
from irv2data.measure import changes, diagnosis
from irv2data.measure.changes import Measured, possible
from irv2data.measure.diagnosis import Question, diagnose
from irv2data.measure.forecast import Job
from irv2data.measure.turns import Samples

RATES = {
    **{"plan": 50_000.0, "read": 10_000.0, "parse": 8_000.0, "decode": 1_000.0, "batch": 800.0},
    **{"1": 450.0, "2": 800.0},
    **{"device stage": 4_000.0, "copy": 9_000.0, "step": 1_333.0},
    **{"cached": 6_000.0, "now": 750.0, "smaller": 1_500.0, "other": 900.0},
}


@pytest.fixture(autouse=True)
def _given(monkeypatch):
    def in_turns(subjects, *, rounds, seconds, progress=lambda *done: None):
        progress(1, 1)
        return {
            name: Samples(images_per_second=np.full(rounds, RATES[name]), cpu_seconds=np.full(rounds, 2 / RATES[name]))
            for name in subjects
        }

    for module in (diagnosis, changes):
        monkeypatch.setattr(module, "in_turns", in_turns)
    monkeypatch.setattr(diagnosis, "core_counts", lambda: [1, 2])
    monkeypatch.setattr(changes, "available_cores", lambda: 2)
    monkeypatch.setattr(changes, "SHORT_SIDES", (100, 60))


@pytest.fixture(scope="module")
def pipeline(dataset):
    return Pipeline(dataset, fit="random_resized_crop", image_size=(32, 32), batch_size=24, buckets=6)


def test_the_report_for_devices_elsewhere(pipeline, cpu_strategy):
    seen = []
    report = diagnose(pipeline, cpu_strategy(2), Question(wanted_rate=2000), lambda *done: seen.append(done))
    assert (report["host"], report["devices"], report["copy"], report["fed"]) == (800, 2000, None, 800)
    assert report["wait"] == pytest.approx(0.6)
    assert not report["shared"]
    assert report["cores"] == [{"cores": 1, "images_per_second": 450.0}, {"cores": 2, "images_per_second": 800.0}]
    # 1 / 450 = s + p and 1 / 800 = s + p / 2 give p = 1.944 ms, s = 0.278 ms: 1,000 images/s need p / n = 0.722 ms.
    assert report["cores_per_replica"] == 3
    share = {each["name"]: each["share"] for each in report["stages"]}
    assert share["decode"] == pytest.approx((1 / 1000 - 1 / 8000) * 800, abs=1e-4)
    assert share["batch"] == pytest.approx((1 / 800 - 1 / 1000) * 800, abs=1e-4)
    assert share["device stage"] is None  # of a rate that was wanted nobody knows what the stage takes
    assert sum(share[name] for name in ("plan", "read", "parse", "decode", "batch")) == pytest.approx(1, abs=1e-3)
    assert {each["name"]: each["cpu_ms"] for each in report["stages"]}["decode"] == 2.0
    found = {each["name"]: each for each in report["changes"]}
    assert found["cache"]["host"] == pytest.approx(800 * 8)  # eight times as fast as the same thing just before
    assert found["cache"]["fed"] == 2000
    assert found["cache"]["gain"] == pytest.approx(1.5)
    assert found["cores"]["what"] == "9 cores of this kind for the pipeline (now 2)"
    assert found["shrink"]["host"] == pytest.approx(1600)  # twice as fast on the sample
    assert found["service"]["host"] == pytest.approx(800 * 2.3)  # the client is the limit
    assert report["recommended"] == "cache"
    assert seen[-1][0] == "changes"


def test_a_step_on_this_machines_processor_shares_it(pipeline, cpu_strategy, tmp_path):
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(images)))
    model.save(tmp_path / "model.keras")
    report = diagnose(pipeline, cpu_strategy(1), Question(model=str(tmp_path / "model.keras")))
    devices = 1 / (1 / 4000 + 1 / 1333)
    assert report["devices"] == pytest.approx(devices)
    assert report["fed"] == pytest.approx(1 / (1 / 800 + 1 / devices))
    assert report["shared"]
    assert report["step_batch_size"] == 24  # small images: a processor takes the whole batch
    assert report["cores_per_replica"] is None
    assert set(report["reasons"]) == {"cores", "service"}
    share = {each["name"]: each["share"] for each in report["stages"]}
    assert share["step"] + share["device stage"] == pytest.approx(1, abs=1e-3)
    assert share["step"] == pytest.approx((1 / 1333) * devices, abs=1e-3)


def test_a_model_of_other_classes_is_refused(pipeline, cpu_strategy, tmp_path):
    images = keras.Input((32, 32, 3))
    keras.Model(images, keras.layers.Dense(7)(keras.layers.GlobalAveragePooling2D()(images))).save(tmp_path / "m.keras")
    with pytest.raises(UsageError, match=r"model: .*m\.keras has 7 classes, the dataset 5"):
        diagnose(pipeline, cpu_strategy(1), Question(model=str(tmp_path / "m.keras")))
    with pytest.raises(UsageError, match=r"model: .*none\.keras cannot be loaded"):
        diagnose(pipeline, cpu_strategy(1), Question(model=str(tmp_path / "none.keras")))


def of(pipeline, strategy, job, **others):
    given = {"by_cores": {1: 450.0, 2: 800.0}, "stage": 4000.0, "step": None}
    return Measured(pipeline=pipeline, strategy=strategy, job=job, rounds=1, seconds=0.1, **{**given, **others})


def test_canvases_change_what_goes_with_their_pixels(pipeline, dataset, cpu_strategy):
    coarse = Pipeline(dataset, fit="random_resized_crop", image_size=(32, 32), batch_size=24, buckets=1)
    measured = of(coarse, cpu_strategy(1), Job(host=800, devices=5000, copy=3000), step=6000.0)
    found = changes._buckets(measured)
    count = int(found.what.split("--buckets=")[1].split()[0])
    better = Pipeline(dataset, fit="random_resized_crop", image_size=(32, 32), batch_size=24, buckets=count)
    pixels = [
        sum(each["steps"] * each["height"] * each["width"] for each in made.describe()["canvases"])
        for made in (better, coarse)
    ]
    ratio = pixels[0] / pixels[1]
    assert ratio < 0.9
    assert found.host == pytest.approx(800 * 1.2)  # as measured, in turn
    # The device stage and the copy go with the pixels, the step does not.
    stage = 4000 / ratio
    assert found.fed == pytest.approx(min(960, 3000 / ratio, 1 / (1 / stage + 1 / 6000)))
    assert found.what.startswith("more canvas shapes")


@pytest.mark.parametrize(
    ("options", "name", "reason"),
    [
        ({"resize_on": "host"}, "buckets", "images are resized on the host: all of them are of one size"),
        ({"canvases": [(64, 64), (600, 600)]}, "buckets", "the canvases are given, not worked out from"),
        ({"image_size": (299, 299)}, "shrink", "most images have a short side of"),
        ({"fit": "native", "max_pixels": 64 * 64}, "shrink", "native images are seen at their own size"),
        ({"fit": "native", "max_pixels": 64 * 64}, "cache", "cache"),
    ],
)
def test_what_does_not_come_into_question_says_why(dataset, cpu_strategy, options, name, reason):
    pipeline = Pipeline(dataset, **{"image_size": (32, 32), "batch_size": 24, **options})
    with pytest.raises(UsageError, match=reason):
        getattr(changes, f"_{name}")(of(pipeline, cpu_strategy(1), Job(host=800, devices=5000)))


def test_a_cache_that_does_not_fit_is_not_advised(pipeline, cpu_strategy, monkeypatch):
    monkeypatch.setattr("irv2data.pipeline.residence.available_memory", lambda: 1 << 20)
    found, reasons = possible(of(pipeline, cpu_strategy(1), Job(host=800, devices=5000)), lambda *done: None)
    assert "cache" not in [each.name for each in found]
    assert "GiB, more than half of the memory that is free" in reasons["cache"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze": 45}, "unfreeze must be in [0, 44], got 45"),
        ({"wanted_rate": -1}, "wanted_rate must be 0 or more, got -1"),
        ({"rounds": 0}, "rounds and seconds must be positive, got 0 and 1.0"),
        ({"seconds": float("inf")}, "rounds and seconds must be positive, got 3 and inf"),
    ],
)
def test_wrong_questions_are_refused(options, message):
    with pytest.raises(UsageError) as raised:
        Question(**options)
    assert str(raised.value) == message
