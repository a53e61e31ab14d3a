"""A few images as the network sees them under each fit, for the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from irv2data.device.stage import preprocess, to_uint8
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import NATIVE
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
                _picture(images.all_of(config.validation_split, arms[0].evaluation, rows=np.array([row])))
                for row in chosen
            ],
        }
        for arms in config.evaluations
    ]


def _picture(pipeline: Pipeline) -> str:
    batch = next(iter(pipeline.batches()))
    image = np.asarray(preprocess(batch, pipeline.output))[0]
    if pipeline.config.fit == NATIVE:
        height, width = np.asarray(batch["size"])[0]
        image = image[:height, :width]
    data = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
