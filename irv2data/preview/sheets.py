"""Contact sheets: the same images under every fit, as the network sees them, plain and augmented. Needs TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from irv2data.errors import UsageError
from irv2data.manifest import Dataset, Split
from irv2data.near_duplicates import labels_of
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import FITS, NATIVE
from irv2data.preview.config import PreviewConfig
from irv2data.report.pictures import data_uri, seen
from irv2data.selection import select


def chosen_rows(height: np.ndarray, width: np.ndarray, images: int) -> list[tuple[int, str]]:
    """Images that are unlike each other: the extremes, a typical one, and others spread evenly over the sizes.

    Args:
        height: int [N], N >= 1, in pixels.
        width: int [N], in pixels.
        images: How many, at most.

    Returns:
        Row and why it was chosen, each row once, from small to large.
    """
    pixels, aspect = height.astype(np.float64) * width, width / height
    middle = [np.log(values) - np.median(np.log(values)) for values in (pixels, aspect)]
    order = np.argsort(pixels, kind="stable")
    found: dict[int, str] = {}
    for row, why in (
        (pixels.argmin(), "smallest"),
        (pixels.argmax(), "largest"),
        (aspect.argmax(), "widest"),
        (aspect.argmin(), "tallest"),
        (np.hypot(*middle).argmin(), "typical"),
    ):
        found.setdefault(int(row), why)
    # As many shares as there are places left, and one image from the middle of each; the next one where it is taken.
    left = max(0, min(images, len(order)) - len(found))
    for share in (np.arange(left) + 0.5) / max(1, left):
        place = int(share * len(order))
        row = next(row for row in (*order[place:].tolist(), *order[:place].tolist()) if row not in found)
        found[row] = f"larger than {share:.0%}"
    return sorted(list(found.items())[:images], key=lambda chosen: float(pixels[chosen[0]]))


def sheet_facts(
    dataset: Dataset, split: Split, config: PreviewConfig, progress: Callable[[int, int], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Some images of a split, and what the network sees of them.

    Args:
        dataset: The dataset.
        split: A split of it that has records.
        config: The options.
        progress: Called as `progress(done, total)` in fits.

    Returns:
        JSON-able facts: `split`, `augment` (the options that are not their defaults), `images`: of each `record`,
        `source`, `label`, `height`, `width`, `why`; `damaged`, what is wrong with those that cannot be read; `problem`,
        why there are no pictures, else None. And the pictures: for each fit, plain and augmented, `fit`, `augmented`
        and `pictures`, a data URI of each image or None.

    Raises:
        UsageError: The augmentation does not go with the dataset.
    """
    height, width = (np.asarray(split.array(name)) for name in ("height", "width"))
    chosen = chosen_rows(height, width, config.images)
    labels = labels_of(split)
    facts: dict[str, Any] = {
        "split": split.name,
        "augment": {} if config.augment is None else _set(asdict(config.augment)),
        "images": [
            {
                "record": row,
                "source": split.source(row),
                "label": list(label) if isinstance(label := labels(row), tuple) else label,
                "height": int(height[row]),
                "width": int(width[row]),
                "why": why,
            }
            for row, why in chosen
        ],
        "damaged": [],
        "problem": None,
    }
    rows = np.array([row for row, _ in chosen], np.int64)
    places = list(range(len(rows)))  # of those that can be read, as far as is known
    sheets: list[dict[str, Any]] = []
    for done, fit in enumerate(FITS):
        progress(done, len(FITS))
        augment = None if fit == NATIVE else config.augment
        try:
            part = select(dataset, split.name, rows[places])
            pipeline = _pipeline(part, split.name, len(places), config, fit=fit, augment=augment)
        except UsageError as error:
            if not dataset.contents.formats:
                raise
            # WebP and AVIF that others wrote, and nothing here that decodes them.
            return {**facts, "problem": str(error)}, []
        outputs = [replace(pipeline.output, augment=None), *([pipeline.output] if augment else [])]
        sheets += [
            {
                "fit": fit,
                "augmented": output.augment is not None,
                "pictures": _pictures(images, places, len(rows)),
            }
            for output, images in zip(outputs, seen(pipeline, outputs), strict=True)
        ]
        facts["damaged"] += [str(place) for place in pipeline.bad_records]
        bad = {place.record for place in pipeline.bad_records}
        places = [place for number, place in enumerate(places) if number not in bad]
        if not places:
            break
    progress(len(FITS), len(FITS))
    return facts, sheets


def _pictures(images: dict[int, np.ndarray], places: list[int], number: int) -> list[str | None]:
    """Data URIs of images, each at its place among so many."""
    found: list[str | None] = [None] * number
    for record, image in images.items():
        found[places[record]] = data_uri(image)
    return found


def _pipeline(part: Dataset, split: str, images: int, config: PreviewConfig, **options: Any) -> Pipeline:
    return Pipeline(
        part,
        split=split,
        image_size=config.image_size,
        batch_size=images + images % 2,  # even, for images that are mixed
        seed=config.seed,
        shuffle=None,
        drop_remainder=False,
        buckets=1,
        max_bad_records=images,
        **options,
    )


def _set(augment: dict[str, Any]) -> dict[str, Any]:
    """The options that are not their defaults."""
    from irv2data.pipeline.augmentation import Augment

    default = asdict(Augment())
    return {name: value for name, value in augment.items() if value != default[name]}
