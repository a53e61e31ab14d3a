"""`image_dataset_from_directory`: Keras' signature and semantics, on converted images and the pipeline."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.directory.kept import SPLIT, keep
from irv2data.directory.listing import BOTH, INFERRED, TRAINING, VALIDATION, Listing, list_images, subset_rows
from irv2data.directory.options import BINARY, CATEGORICAL, CHANNELS_FIRST, GRAYSCALE, Options
from irv2data.errors import DatasetError, UsageError
from irv2data.index import FILENAME
from irv2data.manifest import REJECTS, Dataset
from irv2data.pipeline.build import Pipeline
from irv2data.selection import select

_LOG = logging.getLogger(__name__)
_NAMED = 5  # damaged files that a warning names


def image_dataset_from_directory(
    directory: str | os.PathLike[str],
    labels: str | Sequence[Any] | None = INFERRED,
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    color_mode: str = "rgb",
    batch_size: int | None = 32,
    image_size: int | tuple[int, int] = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    interpolation: str = "bilinear",
    follow_links: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    data_format: str | None = None,
    format: str = "tf",
    verbose: bool = True,
    *,
    cache: str = "none",
    cache_dir: str | os.PathLike[str] | None = None,
) -> Any:
    """Batches of a directory's images, as `keras.utils.image_dataset_from_directory` gives them.

    On first use the images are converted into a folder below `cache_dir`; as long as no file is added, removed or
    changed, later calls start at once, whatever their other arguments are. Files that cannot be converted (Keras
    would fail in the middle of an epoch) are left out, and named in a warning.

    Args:
        directory: A local directory, with one sub-directory a class if labels are `inferred`.
        labels: `inferred` from the sub-directories; None; or one label an image, in the order of Keras' listing.
        label_mode: `int`; `categorical`, one-hot; `binary`, 0 or 1; or None for images alone.
        class_names: Sub-directories that are classes, in their order; None for all, sorted.
        color_mode: `rgb` or `grayscale`.
        batch_size: Images a batch, the last one having what is left; None for single images.
        image_size: Height and width of the images in pixels, or both in one number.
        shuffle: In another order each time the dataset is iterated; otherwise in the order of paths.
        seed: Of the split and the orders. None draws one from NumPy's global generator, as Keras does.
        validation_split: Share of the images, in (0, 1), that is the subset `validation`.
        subset: `training`, `validation` (the same files as Keras' for the same seed), or `both`.
        interpolation: `bilinear` or `lanczos3`; not antialiased, as Keras' is not.
        follow_links: Go into directories that are symbolic links.
        crop_to_aspect_ratio: Crop the centre to the aspect of `image_size` instead of stretching.
        pad_to_aspect_ratio: Pad with black to that aspect instead of stretching.
        data_format: `channels_last` or `channels_first`; None for Keras' own setting.
        format: `tf` only.
        verbose: Print how many files there are, and what is converted.
        cache: `none` decodes images for each epoch; `host` keeps finished ones in memory from the first epoch on,
            rounded to uint8, and then shuffles as Keras does: once as a whole, and each epoch within 8 batches.
        cache_dir: Folder for converted images; None for `irv2data` in the user's cache folder.

    Returns:
        A `tf.data.Dataset`, or a list of two for `both`, with the attributes `class_names` and `file_paths`. Its
        elements are `(images, labels)`, or images where there are no labels: float32 [B, height, width, channels] in
        [0, 255] (or [B, channels, height, width]), and labels of `int` int32 [B] (of other types as they were given),
        `categorical` float32 [B, classes], `binary` float32 [B, 1]. Without batches the dimension B is not there.

    Raises:
        UsageError: An argument is out of its range, not offered, or does not fit the directory. It is a `ValueError`,
            which is what Keras raises.
        SourceError: There is no such directory, or it holds no images.
        DatasetError: The images cannot be converted, or a subset has none that could be.
    """
    if labels is None or label_mode is None:
        labels, label_mode = None, None
    elif not (isinstance(labels, (list, tuple)) or (isinstance(labels, str) and labels == INFERRED)):
        raise UsageError(f"labels must be 'inferred', None, or a list with a label for each image, got {labels!r}")
    if class_names is not None and not isinstance(labels, str):
        raise UsageError("class_names names sub-directories, and goes with labels='inferred'")
    options = Options(
        label_mode=label_mode,
        color_mode=color_mode,
        batch_size=batch_size,
        image_size=_pair(image_size),
        shuffle=shuffle,
        # From the global generator, so that keras.utils.set_random_seed decides it as it does for Keras.
        seed=int(np.random.randint(1_000_000)) if seed is None and validation_split is None else seed,
        validation_split=validation_split,
        subset=subset,
        interpolation=str(interpolation).lower(),
        crop_to_aspect_ratio=crop_to_aspect_ratio,
        pad_to_aspect_ratio=pad_to_aspect_ratio,
        data_format=data_format or keras.config.image_data_format(),
        format=format,
        cache=cache,
    )
    listing = list_images(directory, labels, class_names, follow_links=follow_links)
    if label_mode == BINARY and len(listing.class_names or ()) != 2:
        raise UsageError(f"label_mode='binary' needs exactly two classes, got {listing.class_names}")
    say = print if verbose else _LOG.info
    of_classes = "" if listing.class_names is None else f" belonging to {len(listing.class_names)} classes"
    say(f"Found {len(listing.names)} files{of_classes}.")
    kept = keep(listing, cache_dir, say)
    _warn_of_rejects(kept)

    def serve(part: str | None, shuffle: bool) -> tf.data.Dataset:
        rows = subset_rows(
            len(listing.names),
            shuffle=options.shuffle,
            seed=options.seed or 0,
            validation_split=validation_split,
            subset=part,
        )
        if part is not None:
            say(f"Using {len(rows)} files for {part}.")
        return _served(kept, listing, rows, options, shuffle=shuffle)

    if subset == BOTH:
        return [serve(TRAINING, options.shuffle), serve(VALIDATION, False)]  # only the training half, as Keras
    return serve(subset, options.shuffle)


def _pair(image_size: Any) -> tuple[int, int]:
    if isinstance(image_size, int):
        return image_size, image_size
    if not isinstance(image_size, (list, tuple)) or len(image_size) != 2:
        raise UsageError(f"image_size must be a height and a width in pixels, got {image_size!r}")
    return image_size[0], image_size[1]


def _warn_of_rejects(kept: Dataset) -> None:
    path = kept.folder / REJECTS
    rejects = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if rejects:
        named = ", ".join(f"{reject['path']} ({reject['code']})" for reject in rejects[:_NAMED])
        _LOG.warning(
            "%d files cannot be used and are left out: %s%s; all of them, and why: %s",
            len(rejects), named, ", ..." if len(rejects) > _NAMED else "", path,
        )  # fmt: skip


def _served(kept: Dataset, listing: Listing, rows: np.ndarray, options: Options, *, shuffle: bool) -> tf.data.Dataset:
    """The dataset of some rows of a listing, int64 [M]."""
    record_of = {name: record for record, name in enumerate(kept.split(SPLIT).packed(FILENAME).paths())}
    rows = np.array([row for row in rows.tolist() if listing.names[row] in record_of], np.int64)
    if not len(rows):
        raise DatasetError(f"{listing.directory}: no image could be converted; {kept.folder / REJECTS} says why")
    records = np.array([record_of[listing.names[row]] for row in rows.tolist()], np.int64)
    planned = shuffle and not options.keeps
    pipeline = Pipeline(select(kept, SPLIT, records), split=SPLIT, **options.pipeline(shuffle=planned))
    batches = pipeline.epoch_by_epoch() if planned else pipeline.batches()
    # Keras' own types: what it makes of a list of labels, TensorFlow decides.
    labels = None if listing.labels is None else tf.constant([listing.labels[row] for row in rows.tolist()])
    served = batches.map(_finish(options, labels, len(listing.class_names or ())), num_parallel_calls=tf.data.AUTOTUNE)
    if options.keeps:
        served = _kept_in_memory(served, options, shuffle=shuffle)
    elif options.batch_size is None:
        served = served.unbatch()
    length = len(rows) if options.batch_size is None else pipeline.steps_per_epoch()
    served = served.apply(tf.data.experimental.assert_cardinality(length)).prefetch(tf.data.AUTOTUNE)
    served.class_names = listing.class_names
    served.file_paths = listing.paths(rows)
    return served


def _finish(options: Options, labels: tf.Tensor | None, classes: int) -> Callable[[dict[str, tf.Tensor]], Any]:
    """From a batch of the pipeline to Keras' element; `labels` [M] by record."""

    def finish(batch: dict[str, tf.Tensor]) -> Any:
        real = tf.math.count_nonzero(batch["record"] >= 0, dtype=tf.int32)  # filler stands behind them
        images = (batch["image"][:real] + 1.0) * 127.5
        if options.color_mode == GRAYSCALE:
            images = tf.image.rgb_to_grayscale(images)
        if options.data_format == CHANNELS_FIRST:
            images = tf.transpose(images, [0, 3, 1, 2])
        if labels is None:
            return images
        found = tf.gather(labels, batch["record"][:real])
        if options.label_mode == CATEGORICAL:
            return images, tf.one_hot(found, classes)
        return images, tf.cast(found, tf.float32)[:, None] if options.label_mode == BINARY else found

    return finish


def _kept_in_memory(batches: tf.data.Dataset, options: Options, *, shuffle: bool) -> tf.data.Dataset:
    """The same elements, decoded by the first iteration and kept, uint8 a pixel, for all that follow."""

    def rounded(images: tf.Tensor, *labels: tf.Tensor) -> Any:
        return (tf.cast(tf.round(images), tf.uint8), *labels)

    def floats(images: tf.Tensor, *labels: tf.Tensor) -> Any:
        images = tf.cast(images, tf.float32)
        return (images, *labels) if labels else images

    kept = batches.map(rounded).unbatch().cache()
    if shuffle:
        kept = kept.shuffle(8 * options.batch_size if options.batch_size else 1024, options.seed)
    if options.batch_size is not None:
        kept = kept.batch(options.batch_size)
    return kept.map(floats, num_parallel_calls=tf.data.AUTOTUNE)
