"""Held-out photographs are told apart better than by chance, by a head that learns on the real network's features.

The network is random, so that nothing has to be fetched. 600 crops of 15 photographs in five classes; of each class one
photograph is held out whole, so that no validation crop shows what training has seen.
"""

from __future__ import annotations

import keras
import photographs
import pytest
from scipy.stats import binomtest

import irv2data
from irv2data.convert import ConvertConfig, convert
from irv2data.training import TrainConfig, train
from irv2data.training.strategy import make_strategy

CONFIG = TrainConfig(image_size=(75, 75), batch_size=40, weights="none", head_epochs=2, head_learning_rate=0.003)


@pytest.fixture(scope="module")
def crops(tmp_path_factory, in_this_process):
    """400 to learn from, 200 held out."""
    base = tmp_path_factory.mktemp("crops")
    photographs.write_folder(base / "photos", images_per_source=40)
    with in_this_process():
        convert(base / "photos", base / "dataset", ConvertConfig(splits="folders"))
    return irv2data.Dataset(base / "dataset")


def test_held_out_photographs_are_of_no_training_crop(crops):
    def sources(name):
        split = crops.split(name)
        return {split.read(record).filename.rsplit(b"-", 1)[0].split(b"/")[-1] for record in range(split.num_records)}

    assert len(sources("train")) == 10
    assert len(sources("validation")) == 5
    assert not sources("train") & sources("validation")


def test_held_out_accuracy_is_above_chance(crops, tmp_path):
    metrics = train(crops, tmp_path / "run", CONFIG, make_strategy(2))
    first, last = metrics["history"]
    assert metrics["replicas"] == 2
    assert last["loss"] < 0.8 * first["loss"]
    assert first["loss_last_fifth"] < first["loss_first_fifth"]
    after = metrics["validation_after"]
    assert after["records"] == 200

    def probability_of_luck(figures):
        return binomtest(round(figures["accuracy"] * 200), 200, 1 / 5, alternative="greater").pvalue

    assert probability_of_luck(after) < 1e-3  # at least 59 of them
    assert probability_of_luck({"accuracy": 0.29}) > 1e-3
    assert keras.models.load_model(tmp_path / "run" / "model.keras").output_shape == (None, 5)
