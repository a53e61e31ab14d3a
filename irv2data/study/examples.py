"""A few images as the network sees them under each fit, for the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from irv2data.report.pictures import data_uri, seen
from irv2data.study.config import StudyConfig
from irv2data.study.images import Images


def examples(images: Images, config: StudyConfig) -> list[dict[str, Any]]:
    """The smallest, the longest and the largest image that accuracy was measured on.

    Returns:
        For each way of evaluating, `name` of the fits that do so, and `pictures`, data URIs of JPEGs in that order (of
        different sizes for `native`).
    """
    height, width = (images.column(config.validation_split, name) for name in ("height", "width"))
    pixels, ratio = height * width, np.maximum(height, width) / np.minimum(height, width)
    chosen = (pixels.argmin(), ratio.argmax(), pixels.argmax())
    return [
        {
            "name": ", ".join(arm.name for arm in arms),
            "pictures": [
                data_uri(seen(images.all_of(config.validation_split, arms[0].evaluation, rows=np.array([row])))[0][0])
                for row in chosen
            ],
        }
        for arms in config.evaluations
    ]
