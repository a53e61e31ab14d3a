"""Each fault of the usual answers that docs/three-answers.md names is there, in Keras and in NumPy, and not in ours."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import photographs
import pytest
import tensorflow as tf
from PIL import Image

import irv2data
from irv2data.convert import ConvertConfig, convert
from irv2data.training.masked import masked_base

Generator = tf.keras.preprocessing.image.ImageDataGenerator
preprocess_input = keras.applications.inception_resnet_v2.preprocess_input
SIDE = 64
FACTOR = 8


@pytest.fixture(scope="module")
def folder(photos: Path) -> str:
    """CLASS/*: five classes of 24 photographs of every size."""
    return str(photos / "train")


def finished(pipeline: irv2data.Pipeline) -> np.ndarray:
    """The first batch as the network sees it."""
    return irv2data.device.preprocess(next(iter(pipeline.batches())), pipeline.output).numpy()


def converted(folder: Path) -> irv2data.Dataset:
    out = folder.parent / f"{folder.name}-dataset"
    convert(folder, out, ConvertConfig(splits=(("train", 1.0),)))
    return irv2data.Dataset(out)


def values(folder: str, **options: object) -> list[float]:
    """Least and greatest value that Keras' generator feeds to a network."""
    flow = Generator(**options).flow_from_directory(folder, target_size=(SIDE, SIDE), batch_size=40, seed=1)
    images, _ = flow[0]
    return [float(images.min()), float(images.max())]


def test_two_normalisations_leave_a_255th(folder, dataset):
    both = values(folder, preprocessing_function=preprocess_input, rescale=1 / 255)
    assert both == pytest.approx([-1 / 255, 1 / 255], abs=1e-4)
    # Had `rescale` come first, preprocess_input would have made this of it.
    assert both != pytest.approx([-1, 1 / 127.5 - 1], abs=1e-2)
    assert values(folder, preprocessing_function=preprocess_input) == pytest.approx([-1, 1], abs=0.02)
    ours = finished(irv2data.Pipeline(dataset, fit="resize", image_size=(SIDE, SIDE), batch_size=40))
    assert [ours.min(), ours.max()] == pytest.approx([-1, 1], abs=0.1)


def test_validation_images_are_augmented_and_the_first_of_each_class(folder, dataset):
    generator = Generator(rotation_range=40, horizontal_flip=True, validation_split=0.25)
    flow = generator.flow_from_directory(folder, target_size=(SIDE, SIDE), subset="validation", shuffle=False)
    assert np.abs(flow[0][0] - flow[0][0]).mean() > 5
    plain = Generator(validation_split=0.25)
    same = plain.flow_from_directory(folder, target_size=(SIDE, SIDE), subset="validation", shuffle=False)
    assert np.abs(same[0][0] - same[0][0]).max() == 0
    classes = sorted(path for path in Path(folder).iterdir())
    first = [f"{path.name}/{file.name}" for path in classes for file in sorted(path.iterdir())[:6]]
    assert flow.filenames == first
    ours = irv2data.Pipeline(dataset, split="validation", image_size=(SIDE, SIDE), batch_size=30)
    assert np.array_equal(finished(ours), finished(ours))


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(found, float) - truth) ** 2)))


def test_default_resizing_of_keras_aliases(serial, tmp_path):
    folder = tmp_path / "one"
    (folder / "brick").mkdir(parents=True)
    with Image.open(photographs.source_path("skimage:grass.png")) as photograph:
        photograph.convert("RGB").save(folder / "brick" / "grass.png")
        pixels = np.asarray(photograph.convert("RGB"), float)
    size = pixels.shape[0] // FACTOR
    # Of a whole factor, the mean of each block is what a sensor of fewer pixels would have seen.
    truth = pixels.reshape(size, FACTOR, size, FACTOR, 3).mean(axis=(1, 3))
    flow = Generator().flow_from_directory(str(folder), target_size=(size, size), shuffle=False)
    assert flow.interpolation == "nearest"
    directory = keras.utils.image_dataset_from_directory(folder, image_size=(size, size), verbose=False)
    ours = finished(irv2data.Pipeline(converted(folder), image_size=(size, size), batch_size=1, shuffle=None))
    nearest, bilinear = psnr(flow[0][0][0], truth), psnr(next(iter(directory))[0][0].numpy(), truth)
    antialiased = psnr((ours[0] + 1) * 127.5, truth)
    assert nearest < bilinear < 22
    assert antialiased > 30


def test_exif_orientation_is_ignored_by_keras_and_tensorflow(serial, tmp_path):
    file = tmp_path / "turned" / "all" / "one.jpg"
    file.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[:, :60] = 255  # the left half is white, which is above once it is turned clockwise
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    assert keras.utils.load_img(file).size == (120, 80)
    assert tf.io.decode_image(file.read_bytes()).shape == (80, 120, 3)
    dataset = converted(tmp_path / "turned")
    split = dataset.split("train")
    assert (split.array("height")[0], split.array("width")[0]) == (120, 80)
    ours = finished(irv2data.Pipeline(dataset, image_size=(120, 80), batch_size=1))[0]
    assert ours[:55].min() > 0.9
    assert ours[65:].max() < -0.9


def test_predictions_of_a_shuffling_generator_are_not_in_the_order_of_its_classes(folder):
    flow = Generator().flow_from_directory(folder, target_size=(16, 16), seed=1)
    labels = np.concatenate([flow[step][1].argmax(axis=1) for step in range(len(flow))])
    assert sorted(labels) == sorted(flow.classes)
    assert np.mean(labels == flow.classes) < 0.4
    kept = Generator().flow_from_directory(folder, target_size=(16, 16), shuffle=False)
    assert np.array_equal(np.concatenate([kept[step][1].argmax(axis=1) for step in range(len(kept))]), kept.classes)


def test_a_folder_that_lacks_a_class_numbers_its_classes_anew(serial, photos, tmp_path):
    for split, names in (("train", ("portrait", "table", "texture")), ("validation", ("portrait", "texture"))):
        for name in names:
            (tmp_path / "both" / split / name).mkdir(parents=True)
            for file in sorted((photos / split / name).iterdir())[:4]:
                (tmp_path / "both" / split / name / file.name).hardlink_to(file)
    indices = [Generator().flow_from_directory(tmp_path / "both" / s).class_indices for s in ("train", "validation")]
    assert [each["texture"] for each in indices] == [2, 1]
    convert(tmp_path / "both", tmp_path / "out", ConvertConfig(splits="folders"))
    ours = irv2data.Dataset(tmp_path / "out")
    assert ours.classes == ("portrait", "table", "texture")
    assert set(ours.split("validation").array("label").tolist()) == {0, 2}


def test_usual_step_counts_lose_and_repeat_images(dataset):
    batch = 32
    records = dataset.split("validation").num_records
    assert records // batch * batch < records
    repeated = np.concatenate(list(tf.data.Dataset.range(10).repeat().batch(4).take(3).as_numpy_iterator()))
    assert sorted(repeated) == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    ours = irv2data.Pipeline(
        dataset, split="validation", image_size=(SIDE, SIDE), batch_size=batch, shuffle=None, drop_remainder=False
    )
    batches = list(ours.batches().as_numpy_iterator())
    assert len(batches) == ours.steps_per_epoch() == -(-records // batch)
    seen = np.concatenate([each["record"] for each in batches])
    assert sorted(seen[seen >= 0]) == list(range(records))
    # A network that always says class 0: filler has that label, too, and would flatter it.
    said = np.concatenate([each["label"] for each in batches]) == 0
    weight = np.concatenate([each["weight"] for each in batches])
    assert said.mean() == pytest.approx((12 + 4) / 64)
    assert (said * weight).sum() / weight.sum() == pytest.approx(12 / 60)


def centre(image: np.ndarray, side: int = 299) -> np.ndarray:
    """The usual lines."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ((400, 640), (299, 299)),
        ((299, 299), (299, 299)),
        ((298, 500), (1, 299)),
        ((200, 400), (50, 299)),
        ((150, 640), (75, 299)),
        ((200, 250), (50, 25)),
        ((60, 80), (60, 80)),
    ],
)
def test_slices_of_a_centre_crop_shrink_without_a_word(size, found):
    assert centre(np.zeros((*size, 3))).shape[:2] == found


def test_a_margin_of_nothing_leaves_nothing():
    image = np.zeros((299, 299, 3))
    top = (image.shape[0] - 299) // 2
    assert image[top:-top, top:-top].shape == (0, 0, 3)


def test_tensorflow_refuses_crops_beyond_the_image():
    small = tf.zeros((200, 400, 3))
    with pytest.raises(ValueError, match="offset_height must be >= 0"):
        tf.image.crop_to_bounding_box(small, -50, 50, 299, 299)
    with pytest.raises(ValueError, match="height must be >= target"):
        tf.image.crop_to_bounding_box(small, 0, 50, 299, 299)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Need value\.shape >= size"):
        tf.image.random_crop(small, (299, 299, 3))


def test_ours_scales_a_small_image_up_to_the_window(dataset):
    pipeline = irv2data.Pipeline(
        dataset, fit="center_crop", crop_pixels=(299, 299), image_size=(299, 299), batch_size=40, shuffle=None
    )
    window, split = pipeline.plan.window(0, 0), dataset.split("train")
    shorter = np.minimum(split.array("height"), split.array("width"))[window.record]
    assert shorter.min() < 299 < shorter.max()
    source = window.box[..., 2:] * window.scale[..., None] * window.reduce
    assert np.allclose(source, np.minimum(shorter, 299)[..., None], atol=1e-3)
    assert finished(pipeline).shape == (40, 299, 299, 3)


def test_images_of_several_sizes_make_no_batch_and_a_trace_each(folder, dataset):
    files = sorted(Path(folder).rglob("*.jpg"))[:24]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    with pytest.raises(ValueError, match="same shape"):
        np.stack(images)
    decoded = tf.data.Dataset.from_tensor_slices([str(file) for file in files]).map(
        lambda file: tf.io.decode_jpeg(tf.io.read_file(file), channels=3)
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="batch"):
        next(iter(decoded.batch(4)))

    def traces(batches: list[np.ndarray]) -> int:
        step = tf.function(tf.reduce_mean)
        for batch in batches:
            step(tf.constant(batch))
        return int(step.experimental_get_tracing_count())

    assert traces([image[None] for image in images]) == len({image.shape for image in images}) >= 20
    pipeline = irv2data.Pipeline(dataset, fit="native", image_size=(SIDE, SIDE), batch_size=4, buckets=3)
    canvases = [batch["canvas"] for batch in pipeline.batches().as_numpy_iterator()]
    assert len(canvases) == 30
    assert traces(canvases) == len(pipeline.plan.canvases) <= 3


def test_the_network_takes_any_size_and_padding_leaks_unless_masked(folder):
    keras.utils.set_random_seed(0)
    base = keras.applications.InceptionResNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3)
    )
    weights = base.count_params()
    assert weights == 54_336_736  # as many as the network for 299x299 has without its top
    files = [file for file in sorted(Path(folder).rglob("*.jpg")) if min(Image.open(file).size) >= 120][:4]
    pixels = [np.asarray(Image.open(file).convert("RGB"), np.float32)[:100, :120] for file in files]
    pictures = np.stack(pixels) / 127.5 - 1
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    base(pictures, training=True)
    alone = base(pictures).numpy()
    for height, width in ((75, 75), (101, 160)):
        assert base(np.zeros((1, height, width, 3), np.float32)).shape == (1, 1536)
    assert base.count_params() == weights
    canvas = np.pad(pictures, [(0, 0), (0, 60), (0, 40), (0, 0)])
    padded = base(canvas).numpy()
    masked = masked_base(base)([canvas, np.full((4, 2), (100, 120), np.int32)]).numpy()

    def cosines(found: np.ndarray) -> np.ndarray:
        return (found * alone).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(alone, axis=1)

    assert (cosines(padded) < 0.9).all()
    assert np.abs(masked - alone).max() < 1e-4 * np.abs(alone).max()
