"""The images of a study, and their pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from irv2data.errors import UsageError
from irv2data.manifest import Dataset, Split
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import NATIVE
from irv2data.selection import select
from irv2data.study.config import Arm, StudyConfig
from irv2data.study.features import Extractor, Features
from irv2data.training.masked import large_enough


class Images:
    """At most so many images of each split, drawn at random.

    Args:
        dataset: The dataset.
        config: The options.

    Raises:
        UsageError: There are too few images.
        DatasetError: The dataset cannot be read.
    """

    def __init__(self, dataset: Dataset, config: StudyConfig):
        self.dataset = dataset
        self._config = config
        rng = np.random.default_rng(config.seed)
        self._rows = {}
        for name in (config.split, config.validation_split):
            number = dataset.split(name).num_records
            self._rows[name] = np.sort(rng.permutation(number)[: config.max_images])
        # Once: taking rows out of the index is work.
        self._parts = {name: select(dataset, name, rows).split(name) for name, rows in self._rows.items()}
        if len(self._rows[config.split]) < config.batch_size:
            raise UsageError(
                f"batch_size {config.batch_size} is more than the {len(self._rows[config.split])} images of split "
                f"{config.split!r}"
            )

    def rows(self, split: str) -> np.ndarray:
        """Which records of a split were drawn, int64 [N], ascending."""
        return self._rows[split]

    def part(self, split: str) -> Split:
        """These records, as a split."""
        return self._parts[split]

    def column(self, split: str, name: str) -> np.ndarray:
        """`label`, `height` or `width` of the images, int64 [N]."""
        return np.asarray(self.part(split).array(name), np.int64)

    def training(self, arm: Arm, *, seed: int) -> Pipeline:
        """The pipeline that a head would be trained with."""
        return self._pipeline(self._config.split, arm.training, seed=seed)

    def all_of(self, split: str, options: dict[str, Any], *, rows: np.ndarray | None = None) -> Pipeline:
        """The pipeline of every image of a split, or of those in some rows of `rows(split)`, once an epoch."""
        return self._pipeline(split, options, rows=rows, shuffle=None, drop_remainder=False, seed=self._config.seed)

    def _pipeline(
        self, split: str, options: dict[str, Any], *, rows: np.ndarray | None = None, **more: Any
    ) -> Pipeline:
        chosen = self._rows[split] if rows is None else self._rows[split][rows]
        dataset = select(self.dataset, split, chosen)

        def pipeline(**canvases: Any) -> Pipeline:
            return Pipeline(
                dataset,
                split=split,
                image_size=self._config.image_size,
                batch_size=self._config.batch_size,
                **options,
                **more,
                **canvases,
            )

        found = pipeline()
        if options["fit"] != NATIVE:
            return found
        return pipeline(canvases=large_enough(found.plan.canvases))


class AllFeatures:
    """Features of the images under each fit, worked out when first asked for.

    Args:
        images: The images.
        extract: The frozen network.
        progress: Called as `progress(stage, done, total)`.
    """

    def __init__(self, images: Images, extract: Extractor, progress: Callable[[str, int, int], None]):
        self._images = images
        self._extract = extract
        self._progress = progress
        self._known: dict[tuple[Any, ...], Features] = {}

    def __call__(
        self, split: str, options: dict[str, Any], *, epoch: int = 0, rows: np.ndarray | None = None
    ) -> Features:
        """Features of a split's images, or of those in some rows of `Images.rows`, as a fit shows them."""
        asked = None if rows is None else rows.tobytes()
        key = (split, tuple(sorted(options.items())), epoch, asked)
        if key not in self._known:
            pipeline = self._images.all_of(split, options, rows=rows)
            stage = f"features {len(self._known) + 1} ({options['fit']}, {split})"
            total = pipeline.plan.split.num_records
            self._known[key] = self._extract(
                pipeline,
                masked=options["fit"] == NATIVE,
                epoch=epoch,
                progress=lambda done: self._progress(stage, done, total),
            )
        return self._known[key]
