"""Every way to fit an image is one source box and one output size: what they are, for each fit, in whole pixels."""

from __future__ import annotations

import numpy as np

from irv2data.pipeline.config import CENTER_CROP, LETTERBOX, NATIVE, RANDOM_RESIZED_CROP, PipelineConfig
from irv2data.pipeline.geometry import scale_shift

AREA_RANGE = (0.08, 1.0)
ASPECT_RANGE = (3 / 4, 4 / 3)
SLACK = 1e-9  # pixels, well above the rounding errors of such products and well below what they can differ by
_TRIES = 10
CROP_DRAWS = 2 * _TRIES + 2  # uniform numbers that a random crop uses up


def source_boxes(height: np.ndarray, width: np.ndarray, draws: np.ndarray, config: PipelineConfig) -> np.ndarray:
    """The box each image is cut from.

    Args:
        height: int [N], image heights in pixels.
        width: int [N], image widths in pixels.
        draws: float64 [N, CROP_DRAWS], uniform in [0, 1); used by `random_resized_crop` alone.
        config: The fit and its options.

    Returns:
        int64 [N, 4]: y, x, height, width, in source pixels; always inside the image and at least 1x1.
    """
    height, width = height.astype(np.int64), width.astype(np.int64)
    if config.fit == RANDOM_RESIZED_CROP:
        return _random_boxes(height, width, draws, config.image_size)
    if config.fit == CENTER_CROP:
        wanted = config.crop_pixels or config.image_size
        # How often the wanted window fits into the image along the tighter axis.
        times = np.minimum(height / wanted[0], width / wanted[1])
        times = np.minimum(times, 1) if config.crop_pixels else times * config.crop_fraction
        box_height = np.clip(nearest(times * wanted[0]), 1, height)
        box_width = np.clip(nearest(times * wanted[1]), 1, width)
        return np.stack([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width], axis=1)
    return np.stack([np.zeros_like(height), np.zeros_like(width), height, width], axis=1)


def output_sizes(height: np.ndarray, width: np.ndarray, config: PipelineConfig, largest: tuple[int, int]) -> np.ndarray:
    """The size that each image's box is resampled to; no finished picture is larger than its box for `native`.

    Args:
        height: int [N], image heights in pixels.
        width: int [N], image widths in pixels.
        config: The fit and its options.
        largest: Height and width of the largest canvas, which bounds a `native` image.

    Returns:
        int64 [N, 2]: height and width in pixels. `letterbox`: the largest size of the image's aspect that fits inside
        `image_size`. `native`: the image's own, or the largest of its aspect that is allowed. Else `image_size`.
    """
    size = np.stack([height, width], axis=1).astype(np.int64)
    if config.fit == LETTERBOX:
        times = (np.array(config.image_size) / size).min(axis=1, keepdims=True)
        return np.clip(nearest(times * size), 1, config.image_size)
    if config.fit == NATIVE:
        times = np.minimum((np.array(largest) / size).min(axis=1), np.sqrt(config.most_pixels / size.prod(axis=1)))
        shrunk = np.clip(np.floor(times[:, None] * size + SLACK).astype(np.int64), 1, largest)
        return np.where(times[:, None] < 1, shrunk, size)
    return np.broadcast_to(np.array(config.image_size, np.int64), size.shape)


def nearest(pixels: np.ndarray) -> np.ndarray:
    """The nearest whole numbers, halves up: int64 of float64.

    What is a half but for rounding errors is one: TensorFlow reorders such products (`device.serving`), and both have
    to agree.
    """
    return np.floor(pixels + 0.5 + SLACK).astype(np.int64)


def _random_boxes(height: np.ndarray, width: np.ndarray, draws: np.ndarray, output: tuple[int, int]) -> np.ndarray:
    """The Inception crop: area 8-100 % of the image, aspect 3/4-4/3 (log-uniform), then uniform in place.

    Szegedy et al., "Going Deeper with Convolutions" (2015), section 6; the first of ten tries that fits inside the
    image is taken, else the largest central box within the aspect bounds, as torchvision does. A box that a JPEG is
    decoded for at one half, a quarter or an eighth is rounded down to 2, 4 or 8 pixels: at random as it is, it may as
    well be one of whole decoded pixels, which the host resizes three times faster.
    """
    low, high = np.log(ASPECT_RANGE)
    box_height = np.clip(np.rint(width / ASPECT_RANGE[0]).astype(np.int64), 1, height)
    box_width = np.clip(np.rint(height * ASPECT_RANGE[1]).astype(np.int64), 1, width)
    y, x = (height - box_height) // 2, (width - box_width) // 2
    tried = np.arange(len(height))  # those without a box so far: half of them after the first try
    for number in range(_TRIES):
        share = AREA_RANGE[0] + draws[tried, number] * (AREA_RANGE[1] - AREA_RANGE[0])
        area = height[tried] * width[tried] * share
        aspect = np.exp(low + draws[tried, _TRIES + number] * (high - low))
        tall = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        wide = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        fits = (tall >= 1) & (wide >= 1) & (tall <= height[tried]) & (wide <= width[tried])
        found, tall, wide = tried[fits], tall[fits], wide[fits]
        box_height[found], box_width[found] = tall, wide
        y[found] = draws[found, -2] * (height[found] - tall + 1)
        x[found] = draws[found, -1] * (width[found] - wide + 1)
        tried = tried[~fits]
    boxes = np.stack([y, x, box_height, box_width], axis=1)
    shift = scale_shift(boxes[:, 2:], output)[:, None]
    return boxes >> shift << shift
