"""WebP and AVIF records in a pipeline: the pixels that conversion would have stored, or one line when it is made."""

from __future__ import annotations

import importlib.util
import io
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import irv2data
from irv2data.convert import adopt, pixels
from irv2data.errors import UsageError
from irv2data.pipeline import tensorflow_io
from tests.convert.test_adopt import write

WITH_IO = importlib.util.find_spec("tensorflow_io") is not None
WEBP = pytest.mark.skipif(
    not (hasattr(tf.io, "decode_webp") or WITH_IO), reason="this TensorFlow decodes no WebP: make test-io"
)
AVIF = pytest.mark.skipif(not WITH_IO, reason="tensorflow-io is not installed: make test-io")


def smooth(number, channels):
    """An image that lossy codecs keep nearly as it is; alpha has all values."""
    y, x = np.mgrid[: 60 + number, : 80 + 2 * number]
    planes = [2 * y + number, x, (x + y) // 2, 3 * x + 7 * y]
    return Image.fromarray((np.stack(planes[:channels], axis=-1) % 256).astype(np.uint8))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


KINDS = {
    "jpeg": lambda number: saved(smooth(number, 3), "JPEG", quality=95),
    "png": lambda number: saved(smooth(number, 3), "PNG"),
    "webp": lambda number: saved(smooth(number, 3), "WEBP", lossless=number % 2 == 0, quality=90),
    "webp_alpha": lambda number: saved(smooth(number, 4), "WEBP", lossless=True),
    "avif": lambda number: saved(smooth(number, 3), "AVIF", quality=95),
    "grey_avif": lambda number: saved(smooth(number, 3).convert("L"), "AVIF", quality=95),
}


def adopted(folder, kinds, records=12):
    """A dataset of images of some kinds, one after another; and each as conversion would store it."""
    encoded = [KINDS[kinds[number % len(kinds)]](number) for number in range(records)]
    path = write(folder / "x.tfrecord", *({"image": image, "label": 0} for image in encoded))
    adopt([path], folder / "adopted", workers=1)
    stored = [
        pixels.to_rgb_or_grey(Image.open(io.BytesIO(image)), None, (255, 255, 255))[0].convert("RGB")
        for image in encoded
    ]
    return irv2data.Dataset(folder / "adopted"), [np.asarray(image) for image in stored]


def shown(dataset, **options):
    """The images of an epoch of whole canvases, by record."""
    given = {"fit": "resize", "image_size": (90, 110), "shuffle": None, "batch_size": 4, **options}
    found = {}
    for batch in irv2data.Pipeline(dataset, **given).batches().as_numpy_iterator():
        for record, canvas, (height, width) in zip(batch["record"], batch["canvas"], batch["size"], strict=True):
            found[int(record)] = canvas[:height, :width]
    return found


@WEBP
@pytest.mark.parametrize("cache", ["none", "host"])
def test_webp_is_decoded_to_what_conversion_stores(serial, tmp_path, cache):
    dataset, stored = adopted(tmp_path, ["webp", "jpeg", "webp_alpha", "png"])
    found = shown(dataset, cache=cache)
    assert sorted(found) == list(range(12))
    for record, wanted in enumerate(stored):
        if record % 4 != 1:  # a JPEG is Pillow's own to decode
            np.testing.assert_array_equal(found[record], wanted, err_msg=str(record))
    kept = np.asarray(Image.open(io.BytesIO(KINDS["webp_alpha"](2))))
    assert {0, 255} < set(np.unique(kept[..., 3]).tolist())


@AVIF
def test_avif_is_decoded_to_nearly_what_conversion_stores(serial, tmp_path):
    dataset, stored = adopted(tmp_path, ["avif", "png", "grey_avif", "webp"])
    found = shown(dataset)
    for record, wanted in enumerate(stored):
        assert found[record].shape == wanted.shape
        difference = np.abs(found[record].astype(int) - wanted)
        # Another libavif, with another way from YUV to RGB.
        assert difference.mean() < (2 if record % 2 == 0 else 1e-9), record


@WEBP
def test_windows_are_cut_and_averaged_as_those_of_a_png(serial, tmp_path):
    options = {"fit": "random_resized_crop", "image_size": (16, 16), "max_canvas_pixels": 40 * 40, "batch_size": 6}
    same = [saved(smooth(number, 3), kind, **how) for number in range(12) for kind, how in [("PNG", {})]]
    also = [saved(smooth(number, 3), "WEBP", lossless=True) for number in range(12)]
    batches = []
    for name, images in (("png", same), ("webp", also)):
        path = write(tmp_path / name / "x.tfrecord", *({"image": image, "label": 0} for image in images))
        adopt([path], tmp_path / name / "adopted", workers=1)
        pipeline = irv2data.Pipeline(tmp_path / name / "adopted", **options)
        batches.append(list(pipeline.batches().as_numpy_iterator()))
    assert len(batches[0]) == 2
    for one, other in zip(*batches, strict=True):
        assert one["box"].max() > 1
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@WEBP
def test_a_webp_that_is_damaged_after_its_adoption_is_named(serial, tmp_path):
    dataset, _ = adopted(tmp_path, ["webp"])
    wrong = [KINDS["webp"](number) for number in range(12)]
    wrong[5] = wrong[5][:20] + b"\xff" * (len(wrong[5]) - 20)
    write(tmp_path / "x.tfrecord", *({"image": image, "label": 0} for image in wrong))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"x\.tfrecord, record 5 .*: cannot be read or decoded"):
        shown(dataset)


def test_without_a_decoder_one_line_says_so_when_the_pipeline_is_made(serial, tmp_path, monkeypatch):
    dataset, _ = adopted(tmp_path, ["avif", "png", "webp"])
    monkeypatch.setattr(tensorflow_io, "_imported", lambda: (True, "No module named 'tensorflow_io'"))
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    monkeypatch.setitem(sys.modules, "tensorflow_io.python.ops", None)
    monkeypatch.delattr(tf.io, "decode_webp", raising=False)
    with pytest.raises(UsageError) as refused:
        irv2data.Pipeline(dataset, batch_size=4)
    assert str(refused.value) == (
        f"{dataset.folder}: split 'train' has 4 WebP images, and decoding them needs tensorflow-io, which is not "
        "installed: pip install 'irv2data[io]' (TensorFlow 2.16, Python 3.10 to 3.12), or convert the images again"
    )


@WEBP
def test_workers_of_a_service_do_not_decode_them(serial, tmp_path):
    dataset, _ = adopted(tmp_path, ["webp"])
    with pytest.raises(UsageError, match=r"^service: its workers have no tensorflow-io; convert the images"):
        irv2data.Pipeline(dataset, batch_size=4, service="127.0.0.1:5000")
