"""Finished pixels of every fit, on the host and on the device, against stock operations on the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.device import preprocess, valid
from irv2data.index import PNG
from irv2data.pipeline.config import FITS

SIZE = (96, 128)


def finished(pipeline, epoch=0):
    """Record -> (its row of the batch, its finished image in [0, 255], its plan)."""
    found = {}
    for step, batch in enumerate(pipeline.batches(epoch)):
        images = (preprocess(batch, pipeline.output).numpy().astype(np.float64) + 1) * 127.5
        plan = pipeline.plan.batch(epoch, step).arrays()
        for row, record in enumerate(batch["record"].numpy().tolist()):
            if record >= 0:
                facts = {name: value[0, row] for name, value in plan.items() if name not in ("canvas", "rows")}
                found[record] = ({name: value[row].numpy() for name, value in batch.items()}, images[row], facts)
    return found


def window(dataset, record, plan):
    """The planned window of an image, decoded by stock operations: uint8 [h, w, 3]."""
    encoded = dataset.split("train").read(record).encoded
    y, x, height, width = plan["crop"]
    if plan["format"] == PNG:
        return tf.io.decode_png(encoded, 3)[y : y + height, x : x + width]
    # Not the whole image cut: libjpeg smooths colour over the edge of what it decodes differently.
    return tf.io.decode_and_crop_jpeg(encoded, plan["crop"], 3, ratio=int(plan["scale"]), dct_method="INTEGER_ACCURATE")


def make(dataset, fit, **options):
    return irv2data.Pipeline(dataset, **{"fit": fit, "image_size": SIZE, "batch_size": 8, "seed": 3, **options})


@pytest.mark.parametrize("resize_on", ["device", "host"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("fit", [fit for fit in FITS if fit != "native"])
def test_pixels_are_those_of_the_box_cut_out_and_resized(dataset, fit, antialias, resize_on):
    pipeline = make(dataset, fit, antialias=antialias, resize_on=resize_on, pad_value=200)
    compared = 0
    for record, (row, image, plan) in finished(pipeline).items():
        y, x, height, width = plan["box"]
        if (plan["box"] % 1).any() or (plan["reduce"] > 1).any():
            continue  # compared below: no stock operation takes a box of parts of pixels
        pixels = window(dataset, record, plan)[int(y) : int(y + height), int(x) : int(x + width)]
        if plan["flip"]:
            pixels = tf.reverse(pixels, [1])
        wanted = tf.image.resize(pixels, plan["output"], antialias=antialias).numpy()
        if fit == "letterbox":
            top, left = (np.array(SIZE) - plan["output"]) // 2
            assert row["fitted"].tolist() == [top, left, *plan["output"]]
            padded = np.full((*SIZE, 3), 200.0)
            padded[top : top + plan["output"][0], left : left + plan["output"][1]] = wanted
            wanted = padded
        assert np.abs(image - wanted).max() < 0.05
        compared += 1
        if compared == 1:  # and the comparison can fail
            assert np.abs(image[:, ::-1] - wanted).max() > 5
    assert compared > 25


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("fit", FITS)
def test_host_and_device_make_the_same_pixels(dataset, fit, antialias):
    options = {"antialias": antialias, "flip": True, "pad_value": 90, "max_pixels": 2000 if fit == "native" else None}
    device = finished(make(dataset, fit, **options))
    host = finished(make(dataset, fit, **options, resize_on="host"))
    assert device.keys() == host.keys()
    worst, means = 0.0, []
    for record, (row, image, plan) in device.items():
        other, other_image, _ = host[record]
        assert other.keys() == (row.keys() - {"canvas", "box"}) | {"image"}
        for name in row.keys() - {"canvas", "box", "size"}:
            np.testing.assert_array_equal(row[name], other[name])
        off = np.abs(image - other_image)
        if (plan["box"] % 1).any():
            means.append(off.mean())
        else:
            worst = max(worst, off.max())
    assert worst < 0.05
    # Of a box that ends inside a pixel, the host gives that pixel its whole weight: it differs at the edges.
    assert max(means, default=0) < 1.5
    assert np.median(means) < 0.4 if means else fit == "native"


@pytest.mark.parametrize("flip", [False, True])
def test_native_images_are_as_they_are(dataset, flip):
    pipeline = make(dataset, "native", image_size=(200, 200), max_canvas_pixels=1200 * 1200, flip=flip)
    sizes = np.stack([pipeline.plan.split.array(name) for name in ("height", "width")], axis=1)
    shrunk = 0
    for record, (row, image, plan) in finished(pipeline).items():
        height, width = row["size"]
        assert row["box"].tolist() == [0, 0, height, width]
        assert (row["canvas"][height:] == 0).all()
        assert (row["canvas"][:, width:] == 0).all()
        assert (image[height:] == 127.5).all()  # 0 in [-1, 1]
        assert (image[:, width:] == 127.5).all()
        pixels = window(dataset, record, plan)
        if sizes[record].prod() <= 4 * 200 * 200:
            assert (height, width) == tuple(sizes[record])
        else:
            shrunk += 1
            assert height * width <= 4 * 200 * 200
            assert height * width > 0.98 * 4 * 200 * 200
            assert height / width == pytest.approx(sizes[record][0] / sizes[record][1], rel=0.02)
            if (plan["box"] % 1).any():
                continue
            pixels = np.round(tf.image.resize(pixels, (height, width), antialias=True).numpy())
        pixels = np.asarray(pixels)[:, ::-1] if plan["flip"] else np.asarray(pixels)
        assert np.abs(row["canvas"][:height, :width].astype(int) - pixels).max() <= (1 if shrunk else 0)
    assert 0 < shrunk < 60


def test_a_decoded_box_is_never_smaller_than_the_output_unless_its_source_is(dataset):
    for fit in FITS:
        pipeline = make(dataset, fit, image_size=(24, 24), max_pixels=900 if fit == "native" else None)
        scales = set()
        for record, (_, _, plan) in finished(pipeline, epoch=1).items():
            source = plan["box"][2:] * plan["scale"] * plan["reduce"]
            assert (plan["box"][2:] >= np.minimum(plan["output"], source) - 1e-4).all()
            scales.add(int(plan["scale"]))
            if plan["format"] == PNG:
                assert plan["scale"] == 1
            else:
                # The next scale would fall below.
                twice = plan["box"][2:] * plan["scale"] / min(8, 2 * plan["scale"])
                assert plan["scale"] == 8 or (twice < plan["output"]).any()
            assert record >= 0
        assert len(scales) > 1


def test_letterbox_by_hand():
    from irv2data.pipeline.config import PipelineConfig
    from irv2data.pipeline.fits import output_sizes

    config = PipelineConfig(fit="letterbox", image_size=(100, 200))
    sizes = [(100, 200), (10, 20), (400, 200), (50, 400), (1, 1), (3000, 1), (1, 3000), (333, 500)]
    outputs = [(100, 200), (100, 200), (100, 50), (25, 200), (100, 100), (100, 1), (1, 200), (100, 150)]
    height, width = np.array(sizes).T
    assert output_sizes(height, width, config, (999, 999)).tolist() == [list(size) for size in outputs]


def test_native_sizes_by_hand():
    from irv2data.pipeline.config import PipelineConfig
    from irv2data.pipeline.fits import output_sizes

    config = PipelineConfig(fit="native", image_size=(10, 10), max_pixels=10_000)
    sizes = [(100, 100), (100, 101), (200, 200), (1, 10_000), (20, 500), (1000, 2), (7, 9)]
    # The largest canvas is 400 high and 300 wide; floors, so that no bound is passed.
    outputs = [(100, 100), (99, 100), (100, 100), (1, 300), (12, 300), (400, 1), (7, 9)]
    height, width = np.array(sizes).T
    assert output_sizes(height, width, config, (400, 300)).tolist() == [list(size) for size in outputs]


def test_valid():
    mask = valid(tf.constant([[2, 3], [0, 1]]), tf.constant([2, 4, 5, 3]), tf.constant([[1, 0], [0, 4]])).numpy()
    assert mask.shape == (2, 4, 5, 1)
    assert mask[0, :, :, 0].tolist() == [[0] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0] * 5]
    assert mask[1].sum() == 0
