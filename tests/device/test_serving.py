"""A saved model that takes the bytes of files: the pixels of the evaluation pipeline, arithmetic equal to NumPy's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import irv2data
from irv2data.convert import ConvertConfig, convert
from irv2data.device import preprocess
from irv2data.device.serving import FromBytes, decode_window_of, evaluation_box, export, output_size
from irv2data.errors import UsageError
from irv2data.pipeline import fits
from irv2data.pipeline.config import PipelineConfig
from irv2data.pipeline.geometry import decode_windows

FITS = [
    {"fit": "center_crop"},
    {"fit": "center_crop", "crop_fraction": 1.0, "image_size": (20, 33)},
    {"fit": "center_crop", "crop_pixels": (40, 30)},
    {"fit": "resize"},
    {"fit": "letterbox", "pad_value": 100.0},
]


def evaluation(dataset, split="validation", **options):
    given = {"image_size": (24, 24), "batch_size": 20, "shuffle": None, "drop_remainder": False, **options}
    return irv2data.Pipeline(dataset, split=split, **given)


def from_bytes(pipeline):
    return FromBytes(pipeline.config, pipeline.plan.canvases[-1])


def images_of(pipeline):
    """(record, image) of a whole epoch."""
    for batch in pipeline.batches():
        pixels = preprocess(batch, pipeline.output).numpy()
        yield from ((int(record), image) for record, image in zip(batch["record"], pixels, strict=True) if record >= 0)


@pytest.mark.parametrize("options", FITS)
def test_the_bytes_of_records_give_the_pixels_of_the_pipeline(dataset, options):
    pipeline = evaluation(dataset, **options)
    found = dict(images_of(pipeline))
    assert sorted(found) == list(range(60))
    encoded = tf.constant([pipeline.plan.split.read(record).encoded for record in range(60)])
    served = tf.function(from_bytes(pipeline))(encoded).numpy()
    for record in range(60):
        np.testing.assert_allclose(served[record], found[record], atol=1e-4)
        assert np.abs(served[record] - found[(record + 1) % 60]).max() > 0.1


def test_png_and_large_images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number, (height, width) in enumerate([(70, 90), (300, 20), (640, 801), (16, 500)]):
        noise = rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
        image.save(tmp_path / "in" / "a" / f"{number}.png")
        image.save(tmp_path / "in" / "a" / f"{number}.jpg", quality=95)
    config = ConvertConfig(splits=(("validation", 1.0),), png="keep")
    convert(tmp_path / "in", tmp_path / "out", config, workers=1)
    for options in FITS:
        pipeline = evaluation(irv2data.Dataset(tmp_path / "out"), batch_size=4, **options)
        found = dict(images_of(pipeline))
        encoded = [pipeline.plan.split.read(record).encoded for record in range(8)]
        assert sum(each[1:4] == b"PNG" for each in encoded) == 4
        served = from_bytes(pipeline)(tf.constant(encoded)).numpy()
        for record in range(8):
            np.testing.assert_allclose(served[record], found[record], atol=1e-4, err_msg=f"{record} {options}")


def test_images_larger_than_those_of_the_dataset_stay_sharp():
    # A pipeline of images of 24x24 has a canvas of 32x32; noise averaged onto that, and then enlarged, would be flat.
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    encoded = tf.io.encode_png(noise)[None]
    config = PipelineConfig(fit="resize", image_size=(50, 50))
    small, large = (FromBytes(config, largest)(encoded).numpy() for largest in ((32, 32), (400, 400)))
    np.testing.assert_array_equal(small, large)
    assert large.std() > 0.3


@pytest.mark.parametrize("options", FITS)
def test_the_arithmetic_is_that_of_the_plan(options):
    config = PipelineConfig(**{"image_size": (24, 24), **options})
    rng = np.random.default_rng(1)
    sizes = np.concatenate([rng.integers(1, 60, (150, 2)), np.exp(rng.uniform(0, 9, (150, 2))).astype(int)])
    scalable = rng.random(len(sizes)) < 0.7
    largest = (2 * config.image_size[0] + 2, 3 * config.image_size[1])
    boxes = fits.source_boxes(sizes[:, 0], sizes[:, 1], np.zeros((len(sizes), 0)), config)
    outputs = fits.output_sizes(sizes[:, 0], sizes[:, 1], config, largest)
    expected = decode_windows(boxes, sizes, scalable, outputs, largest)

    @tf.function(input_signature=[tf.TensorSpec([2], tf.int64), tf.TensorSpec([], tf.bool)])
    def found(size, scales):
        box, output = evaluation_box(size, config), output_size(size, config)
        return box, output, *decode_window_of(box, size, scales, output, largest)

    for row, size in enumerate(sizes):
        box, output, scale, crop, reduce, inside = (each.numpy() for each in found(size, scalable[row]))
        wanted = (boxes, outputs, expected.scale, expected.crop, expected.reduce, expected.box)
        for mine, theirs in zip((box, output, scale, crop, reduce, inside), wanted, strict=True):
            np.testing.assert_array_equal(mine, theirs[row], err_msg=str(size))


def test_a_saved_model_takes_bytes(dataset, tmp_path):
    pipeline = evaluation(dataset)
    inputs = keras.Input((24, 24, 3))
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(inputs)))
    export(model, pipeline, tmp_path / "served")
    encoded = [pipeline.plan.split.read(record).encoded for record in range(7)]
    images = np.stack([image for _, image in sorted(images_of(pipeline), key=lambda pair: pair[0])[:7]])
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    found = loaded.signatures["serving_default"](encoded=tf.constant(encoded))["outputs"].numpy()
    np.testing.assert_allclose(found, model(images).numpy(), atol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError):
        loaded.signatures["serving_default"](encoded=tf.constant([b"no image"]))


def test_what_cannot_be_served(dataset, tmp_path):
    for options in ({"fit": "random_resized_crop"}, {"fit": "native"}, {"fit": "resize", "flip": True}):
        with pytest.raises(UsageError, match="serving needs one picture of one size an image"):
            from_bytes(evaluation(dataset, **options))
    model = keras.Sequential([keras.Input((30, 30, 3)), keras.layers.Flatten()])
    with pytest.raises(UsageError, match="the model takes images of 30x30, the pipeline gives 24x24"):
        export(model, evaluation(dataset), tmp_path / "a")
    with pytest.raises(UsageError, match=r"leave device.Preprocess out of it"):
        export(keras.Sequential([keras.Input((7,)), keras.layers.Dense(1)]), evaluation(dataset), tmp_path / "b")
    assert not list(tmp_path.iterdir())
