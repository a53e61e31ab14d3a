"""The options of a preview; frozen, keyword-only, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from irv2data.errors import UsageError
from irv2data.pipeline.augmentation import Augment
from irv2data.pipeline.config import FITS, RANDOM_RESIZED_CROP, PipelineConfig


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """What a preview shows.

    Attributes:
        image_size: Height and width of the network's input in pixels.
        batch_size: Images a step, over all replicas, for the figures of buckets.
        buckets: Canvas shapes at most.
        fit: The fit whose canvases the charts show; the tables have all of them.
        split: What buckets and contact sheets are about; empty: `train`, else the first split that has records.
        samples: Records that are read to estimate JPEG quality, at most.
        images: Images of the contact sheets, at most.
        augment: What the contact sheets show beside the plain images; None for nothing.
        near_duplicates: Read every record once and look for images that look alike.
        seed: Of what is drawn at random.

    Raises:
        UsageError: A value is out of its range.
    """

    image_size: tuple[int, int] = (299, 299)
    batch_size: int = 64
    buckets: int = 4
    fit: str = RANDOM_RESIZED_CROP
    split: str = ""
    samples: int = 2000
    images: int = 8
    augment: Augment | None = None
    near_duplicates: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for ok, rule in (
            (self.fit in FITS, f"fit must be one of {', '.join(FITS)}, got {self.fit!r}"),
            (self.samples >= 1, f"samples must be 1 or more, got {self.samples}"),
            (1 <= self.images <= 64, f"images must be between 1 and 64, got {self.images}"),
        ):
            if not ok:
                raise UsageError(rule)
        for fit in FITS:  # the pipeline's own rules, before anything is read
            self.pipeline(fit)

    def pipeline(self, fit: str, *, records: int | None = None) -> PipelineConfig:
        """The options of the pipeline that a fit is told of; a split of fewer `records` than a batch is one batch."""
        batch = self.batch_size if records is None else min(self.batch_size, records)
        return PipelineConfig(
            fit=fit, image_size=self.image_size, batch_size=batch, buckets=self.buckets, seed=self.seed
        )
