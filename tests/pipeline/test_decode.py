"""Decoded canvases against TensorFlow's own decoders, record by record, and against the photographs themselves."""

from __future__ import annotations

import hashlib
import io
import itertools

import numpy as np
import photographs
import pytest
import tensorflow as tf
from PIL import Image

import irv2data
from irv2data import device, index, manifest, schema, tfrecord
from irv2data.pipeline.decode import decode_window


def stored_images(split):
    """The compressed images of a split in the order of its index, read without the pipeline."""
    images = []
    for path in split.paths:
        with open(path, "rb") as file:
            images += [schema.decode(payload).encoded for _, payload in tfrecord.read_frames(file, path)]
    return images


def area_mean(window, cell):
    """Means over cells, of which those at the edges may be cut off."""
    sums, counts = window.astype(np.float64), np.ones(window.shape[:2])
    for axis in (0, 1):
        starts = np.arange(0, window.shape[axis], cell[axis])
        sums, counts = np.add.reduceat(sums, starts, axis), np.add.reduceat(counts, starts, axis)
    return sums / counts[..., None]


def direct(encoded, format, scale, crop, reduce):
    """The planned window, by one call to TensorFlow's decoder and NumPy."""
    if format == manifest.PNG:
        y, x, height, width = crop
        window = tf.io.decode_png(encoded, channels=3).numpy()[y : y + height, x : x + width]
    else:
        options = {"ratio": int(scale), "channels": 3, "dct_method": "INTEGER_ACCURATE"}
        window = tf.io.decode_and_crop_jpeg(encoded, crop, **options).numpy()
    return window if (reduce == 1).all() else area_mean(window, reduce)


def assert_decoded(batch, planned, images):
    """Every image of a batch is the planned window, and everything around it is zero."""
    assert batch["canvas"].shape == (len(planned["record"]), *planned["canvas"], 3)
    for row, record in enumerate(planned["record"]):
        expected = np.zeros(batch["canvas"].shape[1:])
        height, width = planned["size"][row]
        if record >= 0:
            how = (planned[name][row] for name in ("format", "scale", "crop", "reduce"))
            expected[:height, :width] = direct(images[record], *how)
        tolerance = 0 if (planned["reduce"][row] == 1).all() else 0.5001  # rounding to whole numbers
        difference = np.abs(batch["canvas"][row] - expected)
        assert difference.max() <= tolerance, (row, record)
        assert not batch["canvas"][row, height:].any()
        assert not batch["canvas"][row, :, width:].any()
    for name in ("box", "size", "flip", "draws", "label", "record", "weight"):
        np.testing.assert_array_equal(batch[name], planned[name], err_msg=name)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"fit": "random_resized_crop", "image_size": (40, 40), "batch_size": 12}, 5),
        ({"fit": "center_crop", "image_size": (64, 32), "batch_size": 12, "shuffle": "blocks"}, 3),
        # Images larger than the largest canvas: averaged on the host.
        ({"image_size": (24, 24), "batch_size": 40, "shuffle": None, "max_canvas_pixels": 2500}, 3),
        # More than one chunk a batch, of 50 and of 34 and 33 images; with filler at the end of the epoch.
        ({"image_size": (32, 48), "batch_size": 100, "drop_remainder": False}, 2),
        ({"image_size": (32, 48), "batch_size": 67, "drop_remainder": False, "fit": "random_resized_crop"}, 2),
        ({"image_size": (32, 32), "batch_size": 130, "drop_remainder": False, "buckets": 1}, 1),
    ],
)
def test_batches_hold_the_planned_windows(dataset, options, steps):
    pipeline = irv2data.Pipeline(dataset, **options)
    images = stored_images(dataset.splits["train"])
    seen = {"scale": set(), "reduced": False}
    for step, batch in enumerate(pipeline.batches(epoch=1).take(steps).as_numpy_iterator()):
        planned = {name: array[0] for name, array in pipeline.plan.batch(1, step).arrays().items()}
        assert_decoded(batch, planned, images)
        seen["scale"] |= set(planned["scale"].tolist())
        seen["reduced"] |= bool((planned["reduce"] > 1).any())
    assert step == steps - 1
    assert len(seen["scale"]) > 1
    assert seen["reduced"] or "max_canvas_pixels" not in options


@pytest.mark.parametrize("cell", [(1, 1), (2, 2), (3, 1), (1, 4), (5, 7), (30, 40)])
def test_area_means_with_cells_cut_off_by_the_edge(cell):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 44, 3), np.uint8)
    encoded = tf.io.encode_png(pixels)
    window = decode_window(encoded, *(tf.constant(value) for value in (manifest.PNG, 1, [2, 3, 29, 41], list(cell))))
    expected = area_mean(pixels[2:31, 3:44], cell)
    assert window.dtype == tf.uint8
    assert window.shape == expected.shape == (-(-29 // cell[0]), -(-41 // cell[1]), 3)
    assert np.abs(window.numpy() - expected).max() <= 0.5001


def source_images(split, planned, images):
    """Full decode, crop and antialiased resize by TensorFlow: what every image should look like, in [-1, 1]."""
    for row, record in enumerate(planned["record"]):
        full = tf.io.decode_image(images[record], channels=3, expand_animations=False).numpy()
        if planned["format"][row] != manifest.PNG:
            full = tf.io.decode_jpeg(images[record], channels=3, dct_method="INTEGER_ACCURATE").numpy()
        assert full.shape[:2] == (split.column("height")[record], split.column("width")[record])
        cell = planned["scale"][row] * planned["reduce"][row].astype(float)
        start = (planned["box"][row, :2] + planned["crop"][row, :2] / planned["reduce"][row]) * cell
        y, x, height, width = np.rint([*start, *(planned["box"][row, 2:] * cell)]).astype(int)
        yield full[y : y + height, x : x + width].copy()


def finished(crop, flip, image_size):
    image = tf.image.resize(crop.astype(np.float32), image_size, antialias=True)
    return (tf.image.flip_left_right(image) if flip else image).numpy() / 127.5 - 1


def psnr(a, b):
    return 10 * np.log10(4 / np.maximum(np.mean((a - b) ** 2, axis=(1, 2, 3)), 1e-12))


def test_the_finished_image_is_the_cropped_and_resized_photograph(dataset):
    image_size = (48, 64)
    pipeline = irv2data.Pipeline(dataset, fit="random_resized_crop", image_size=image_size, batch_size=40)
    split, images = dataset.splits["train"], stored_images(dataset.splits["train"])
    at_full_scale = at_reduced_scale = 0
    for step, batch in enumerate(pipeline.batches().as_numpy_iterator()):
        planned = {name: array[0] for name, array in pipeline.plan.batch(0, step).arrays().items()}
        crops = list(source_images(split, planned, images))
        full = (planned["scale"] == 1) & (planned["reduce"] == 1).all(axis=1)
        for row in np.flatnonzero(full):
            decoded = batch["canvas"][row, : planned["size"][row, 0], : planned["size"][row, 1]]
            assert decoded.shape == crops[row].shape
            np.testing.assert_array_equal(decoded[:, 1:-1], crops[row][:, 1:-1])
            # A JPEG's colour has half its width. Widening it looks at both neighbours, of which one is missing at the
            # edges of a cropping decode; that is libjpeg's own difference to cropping afterwards.
            assert np.abs(decoded.astype(int) - crops[row]).max() <= (
                0 if planned["format"][row] == manifest.PNG else 32
            )
            crops[row][:, [0, -1]] = decoded[:, [0, -1]]
        flips = zip(crops, planned["flip"], strict=True)
        expected = np.stack([finished(crop, flip, image_size) for crop, flip in flips])
        reduced = planned["scale"] > 1
        at_full_scale, at_reduced_scale = at_full_scale + full.sum(), at_reduced_scale + reduced.sum()

        found = device.preprocess(batch, pipeline.output).numpy()
        # 0.05 of 255: the same pixels but for the rounding of float32.
        assert np.abs(found - expected)[full].max() < 0.05 / 127.5
        assert psnr(found, expected)[reduced].min() > 30
        assert np.median(psnr(found, expected)[reduced]) > 38

        # The comparison sees a box that is off by one source pixel, and an image that is not mirrored.
        moved = batch["box"] + np.array([0, 1, 0, -1]) / planned["scale"][:, None]
        shifted = device.preprocess({**batch, "box": moved.astype(np.float32)}, pipeline.output).numpy()
        assert (np.abs(shifted - expected)[full].max(axis=(1, 2, 3)) > 0.05 / 127.5).all()
        unflipped = device.preprocess({**batch, "flip": np.zeros(40, bool)}, pipeline.output).numpy()
        assert np.median(psnr(unflipped, expected)[planned["flip"]]) < 20
    assert at_full_scale > 20
    assert at_reduced_scale > 20


def test_scaling_does_not_shift_the_image(dataset):
    # A shift of half a source pixel, as cutting at whole scaled pixels would bring, is further from the truth.
    pipeline = irv2data.Pipeline(dataset, fit="random_resized_crop", image_size=(40, 40), batch_size=120, flip=False)
    batch = next(pipeline.batches().as_numpy_iterator())
    planned = {name: array[0] for name, array in pipeline.plan.batch(0, 0).arrays().items()}
    crops = source_images(dataset.splits["train"], planned, stored_images(dataset.splits["train"]))
    expected = np.stack([finished(crop, False, (40, 40)) for crop in crops])
    scaled = planned["scale"] > 1
    quality = {}
    for shift in itertools.product((-0.5, 0, 0.5), repeat=2):
        box = batch["box"] + np.array([*shift, 0, 0]) / planned["scale"][:, None]
        found = device.resample(batch["canvas"], box, None, (40, 40)).numpy() / 127.5 - 1
        quality[shift] = np.median(psnr(found, expected)[scaled])
    assert max(quality, key=quality.get) == (0, 0)


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A dataset of every kind of image that a record may hold, written by hand."""
    folder = tmp_path_factory.mktemp("mixed")
    with Image.open(photographs.source_path("skimage:astronaut.png")) as photograph:
        photo = photograph.convert("RGB").crop((100, 0, 361, 193))
    grey = photo.convert("L")
    kinds = [
        (jpeg(photo), manifest.BASELINE),
        (jpeg(photo, subsampling=0), manifest.BASELINE),
        (jpeg(photo, progressive=True), manifest.PROGRESSIVE),
        (jpeg(grey), manifest.BASELINE),
        (jpeg(grey, progressive=True), manifest.PROGRESSIVE),
        (png(photo), manifest.PNG),
        (png(grey), manifest.PNG),
        (png(photo.quantize(64)), manifest.PNG),
    ]
    rows, content = [], b""
    for label, (encoded, format) in enumerate(kinds):
        kind = "PNG" if format == manifest.PNG else "JPEG"
        digest = hashlib.sha256(encoded).hexdigest()
        fields = {"encoded": encoded, "format": kind, "height": 193, "width": 261, "label": label, "text": str(label)}
        framed = tfrecord.frame(schema.encode(schema.Record(**fields, filename=b"x", sha256=digest)))
        rows.append((0, len(content), len(framed), 193, 261, format, label))
        content += framed
    file = manifest.shard_name("train", 0, 1)
    (folder / file).write_bytes(content)
    manifest.array_path(folder, "train", "x").parent.mkdir(parents=True)
    dtypes = {**index.PLACE_COLUMNS, "label": np.int32}
    for (name, dtype), values in zip(dtypes.items(), zip(*rows, strict=True), strict=True):
        np.save(manifest.array_path(folder, "train", name), np.array(values, dtype))
    shard = manifest.Shard(file=file, records=8, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    contents = manifest.Contents(classes=tuple("01234567"))
    text = manifest.manifest_text(contents=contents, splits={"train": ([shard], {})}, source={})
    (folder / manifest.MANIFEST).write_text(text)
    return irv2data.Dataset(folder)


@pytest.mark.parametrize("options", [{}, {"fit": "random_resized_crop"}, {"max_canvas_pixels": 82 * 102}])
def test_every_kind_of_image(mixed, options):
    pipeline = irv2data.Pipeline(mixed, image_size=(40, 50), batch_size=8, **options)
    batch = next(pipeline.batches(epoch=2).as_numpy_iterator())
    planned = {name: array[0] for name, array in pipeline.plan.batch(2, 0).arrays().items()}
    assert sorted(batch["record"].tolist()) == list(range(8))
    np.testing.assert_array_equal(batch["label"], batch["record"])
    assert_decoded(batch, planned, stored_images(mixed.splits["train"]))
    is_grey = (batch["canvas"] == batch["canvas"][..., :1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(is_grey, np.isin(batch["record"], (3, 4, 6)))
    if not options:
        # One photograph in eight dresses: its mean brightness is the same in all.
        brightness = device.preprocess(batch, pipeline.output).numpy().mean(axis=(1, 2, 3))
        assert np.ptp(brightness) < 0.1
