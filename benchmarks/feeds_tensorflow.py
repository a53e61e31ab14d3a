"""Loaders of `benchmarks.loaders` that run on TensorFlow: irv2data itself, Model Garden's recipe, and Keras' two.

Each is a function from `Data` to an endless iterator of batches, and carries no epoch borders: a data set of 1,568
files has one a second, a real one has one an hour. Peers whose recipe leaves normalizing to the network are not made to
do it: what they are timed for is finished crops, and the least work that gives them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.feeds import BATCH, SIDE, Data, Feed, SkipError, in_order

_IMAGES = 2_000_000  # more than any turn reads
_MEAN, _DEVIATION = [[[123.675, 116.28, 103.53]]], [[[58.395, 57.12, 57.375]]]  # of ImageNet's pixels


def irv2data(
    data: Data, *, resize_on: str = "device", antialias: bool = True, shuffle: str = "full", ordered: bool = True
) -> Iterator[Any]:
    """irv2data's random resized crops: uint8 canvases, or with `resize_on="host"` finished ones."""
    import tensorflow as tf

    from irv2data import Pipeline
    from irv2data.pipeline.config import PipelineConfig

    options: dict[str, Any] = {"antialias": antialias, "shuffle": shuffle}
    if "resize_on" in PipelineConfig.__dataclass_fields__:
        options["resize_on"] = resize_on
    elif resize_on != "device":
        raise SkipError(f"this irv2data has no option resize_on={resize_on!r} yet")
    pipeline = Pipeline(
        data.dataset, fit="random_resized_crop", image_size=(SIDE, SIDE), batch_size=BATCH, seed=0, **options
    )
    interleave = tf.data.Dataset.interleave
    # Its order is part of what it promises, so there is no option to give it up: only here, to see what it costs.
    patched = interleave if ordered else lambda *a, **k: interleave(*a, **{**k, "deterministic": False})
    with mock.patch.object(tf.data.Dataset, "interleave", patched):
        batches = pipeline.for_fit(
            tf.distribute.get_strategy(), epochs=-(-_IMAGES // (pipeline.steps_per_epoch() * BATCH))
        )
    for inputs, _, _ in batches:
        yield inputs["image" if resize_on == "host" else "canvas"]


def model_garden(data: Data, *, normalize: bool = False) -> Iterator[Any]:
    """The way of TensorFlow Model Garden's image classification: shards read side by side, a fused decode and crop.

    Mirrored, resized and normalized in the order of official/vision/dataloaders/classification_input.py. Two and three
    parallel calls instead of AUTOTUNE, or a fixed order, gave 3 to 15 % less.
    """
    import tensorflow as tf

    def finish(record: Any) -> tuple[Any, Any]:
        features = {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        }
        parsed = tf.io.parse_single_example(record, features)
        encoded = parsed["image/encoded"]
        start, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=100,
        )
        window = tf.concat([start[:2], size[:2]], 0)
        crop = tf.image.random_flip_left_right(tf.io.decode_and_crop_jpeg(encoded, window, channels=3))
        image = tf.image.resize(crop, (SIDE, SIDE))
        if normalize:
            image = (image - tf.constant(_MEAN)) / tf.constant(_DEVIATION)
        return image, parsed["image/class/label"]

    shards = tf.data.Dataset.list_files(os.path.join(data.dataset, "train-*"), shuffle=True)
    records = shards.interleave(
        tf.data.TFRecordDataset, cycle_length=10, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    finished = records.shuffle(1024).repeat().map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    for images, _ in finished.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE):
        yield images


def keras_dataset(data: Data) -> Iterator[Any]:
    """`keras.utils.image_dataset_from_directory`, which stretches whole images and has no crop."""
    import keras
    import tensorflow as tf

    batches = keras.utils.image_dataset_from_directory(
        data.folder, image_size=(SIDE, SIDE), batch_size=BATCH, shuffle=True, seed=0, verbose=False
    )
    for images, _ in batches.repeat().prefetch(tf.data.AUTOTUNE):
        yield images


def keras_generator(data: Data) -> Iterator[Any]:
    """Keras' `ImageDataGenerator`: whole images stretched, mirrored at random; a thread a core, as `fit` has.

    One thread gave 0 to 25 % less, three the same within the noise.
    """
    import tensorflow as tf

    found = getattr(tf.keras.preprocessing.image, "ImageDataGenerator", None)
    if found is None:
        raise SkipError("this Keras has no ImageDataGenerator any more")
    batches = found(horizontal_flip=True).flow_from_directory(
        data.folder, target_size=(SIDE, SIDE), batch_size=BATCH, class_mode="sparse"
    )
    whole = batches.n // BATCH
    numbers = (number % whole for number in range(_IMAGES // BATCH))
    for images, _ in in_order(batches.__getitem__, numbers, threads=data.cores, ahead=data.cores):
        yield images


_PACKAGES = ("tensorflow", "keras", "numpy")
_LOADERS: dict[str, tuple[Callable[[Data], Iterator[Any]], str]] = {
    "irv2data": (irv2data, "irv2data: uint8 canvases"),
    "irv2data_blocks": (partial(irv2data, shuffle="blocks"), "irv2data: uint8 canvases, shuffled by blocks"),
    "irv2data_unordered": (partial(irv2data, ordered=False), "irv2data: uint8 canvases, in any order"),
    "irv2data_host": (partial(irv2data, resize_on="host"), "irv2data: resized on the host, antialiased"),
    "irv2data_host_bilinear": (
        partial(irv2data, resize_on="host", antialias=False),
        "irv2data: resized on the host, bilinear",
    ),
    "model_garden": (model_garden, "tf.data as Model Garden does it"),
    "model_garden_normalized": (partial(model_garden, normalize=True), "the same with its normalizing"),
    "keras_dataset": (keras_dataset, "Keras image_dataset_from_directory (no crop)"),
    "keras_generator": (keras_generator, "Keras ImageDataGenerator (no crop)"),
}
FEEDS = {name: Feed(batches, title, _PACKAGES, home="") for name, (batches, title) in _LOADERS.items()}
