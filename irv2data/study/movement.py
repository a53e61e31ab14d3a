"""How far an image's features move from one way of showing it to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from irv2data.pipeline.config import RESIZE
from irv2data.study.config import RESIZERS, StudyConfig
from irv2data.study.images import AllFeatures, Images
from irv2data.study.statistics import cosines

_IMAGES = 256  # that resizers are compared on: enough for a mean, few enough for a CPU


def fits_moved(config: StudyConfig, features: AllFeatures) -> dict[str, Any]:
    """Between ways of fitting, over the images that accuracy was measured on; see `moved`."""
    first = [arms[0] for arms in config.evaluations]
    return moved({arm.name: features(config.validation_split, arm.evaluation).values for arm in first})


def resizers_moved(config: StudyConfig, images: Images, features: AllFeatures) -> dict[str, Any]:
    """Between ways of resizing the whole image; see `moved`."""
    number = len(images.rows(config.validation_split))
    rows = np.sort(np.random.default_rng(config.seed).permutation(number)[:_IMAGES])
    return moved(
        {
            name: features(config.validation_split, {"fit": RESIZE, **options}, rows=rows).values
            for name, options in RESIZERS.items()
        }
    )


def moved(shown: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Cosines between an image's features shown in two ways.

    Args:
        shown: From the name of a way to float32 [N, F], the same images in the same order.

    Returns:
        JSON-able: `names`; `mean` and `low`, lists of lists over names twice: the mean over the images and the 5 % of
        them that move furthest; `images`.
    """
    names = list(shown)
    found = np.array([[cosines(shown[one], shown[other]) for other in names] for one in names])
    return {
        "names": names,
        "mean": found.mean(axis=-1).tolist(),
        "low": np.percentile(found, 5, axis=-1).tolist(),
        "images": int(found.shape[-1]),
    }
