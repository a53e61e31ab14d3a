"""The options of a study, and the ways of fitting images that it sets beside each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from irv2data.errors import UsageError
from irv2data.pipeline.config import (
    AREA,
    BILINEAR,
    CENTER_CROP,
    LANCZOS3,
    LETTERBOX,
    NATIVE,
    RANDOM_RESIZED_CROP,
    RESIZE,
    require_size,
)
from irv2data.training.config import SMALLEST_IMAGE


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of fitting images.

    Attributes:
        name: As flags and tables have it.
        about: What it does, in a few words.
        training: Options of the pipeline that trains.
        evaluation: Options of the one that evaluates.
    """

    name: str
    about: str
    training: dict[str, Any]
    evaluation: dict[str, Any]

    @property
    def masked(self) -> bool:
        """Whether it needs the variable-size network."""
        return bool(self.training["fit"] == NATIVE)

    @property
    def pictures(self) -> dict[str, Any]:
        """The part of `training` that decides an image's pixels, and not which others it comes with."""
        return {name: value for name, value in self.training.items() if name != "buckets"}

    @property
    def random(self) -> bool:
        """Whether an image differs from epoch to epoch."""
        return bool(self.training["fit"] == RANDOM_RESIZED_CROP)


_ALL = ("resize", "center_crop", "native_crop", "random_resized_crop", "letterbox", "native", "unbucketed")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What a study does.

    Attributes:
        fits: Names of the arms, in the order of the page.
        image_size: Height and width of the network's input in pixels.
        weights: Of the network, as in `TrainConfig`.
        epochs: In which a head learns.
        views: Random crops of each image; head epochs take them in turn.
        repeats: Heads trained for each arm, which differ in their first weights and in the order of the images.
        batch_size: Images a step.
        learning_rate: Highest of a head (Adam, cosine).
        max_images: Of each split, at most so many are used, drawn at random.
        seed: Of that draw, of crops and of new weights.
        split: Split to train on.
        validation_split: Split that accuracy is measured on.
        max_pixels: `native`: larger images are shrunk to so many, as in `PipelineConfig`.
        rounds: Of the speed measurement.
        seconds: Of each round of each arm, about; 0 for no measurement.

    Raises:
        UsageError: A value is out of its range; the message names option, rule and value.
    """

    fits: tuple[str, ...] = _ALL
    image_size: tuple[int, int] = (299, 299)
    weights: str = "imagenet"
    epochs: int = 20
    views: int = 3
    repeats: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    max_images: int = 2000
    seed: int = 0
    split: str = "train"
    validation_split: str = "validation"
    max_pixels: int | None = None
    rounds: int = 5
    seconds: float = 2.0
    arms: tuple[Arm, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_size("image_size", self.image_size)
        known = _arms(self.image_size, self.max_pixels)
        for ok, rule in (
            (
                len(self.fits) >= 2 and len(set(self.fits)) == len(self.fits) and set(self.fits) <= known.keys(),
                f"fits must be two or more of {', '.join(known)}, got {', '.join(self.fits)}",
            ),
            (
                min(self.image_size) >= SMALLEST_IMAGE,
                f"image_size must be at least {SMALLEST_IMAGE} for Inception-ResNet-v2, got {self.image_size}",
            ),
            (self.epochs >= 1, f"epochs must be 1 or more, got {self.epochs}"),
            (self.views >= 1, f"views must be 1 or more, got {self.views}"),
            (self.repeats >= 2, f"repeats must be 2 or more, to see a spread, got {self.repeats}"),
            (self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}"),
            (self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}"),
            (
                self.max_images >= self.batch_size,
                f"max_images must be at least a batch, {self.batch_size}, got {self.max_images}",
            ),
            (0 <= self.seed < 2**31, f"seed must be between 0 and 2**31 - 1, got {self.seed}"),
            (self.split != self.validation_split, f"split and validation_split are both {self.split!r}"),
            (self.rounds >= 1, f"rounds must be 1 or more, got {self.rounds}"),
            (self.seconds >= 0, f"seconds must be 0 or more, got {self.seconds}"),
        ):
            if not ok:
                raise UsageError(rule)
        object.__setattr__(self, "arms", tuple(known[name] for name in self.fits))

    @property
    def evaluations(self) -> list[list[Arm]]:
        """The arms, those together that evaluate alike."""
        found: list[list[Arm]] = []
        for arm in self.arms:
            alike = next((arms for arms in found if arms[0].evaluation == arm.evaluation), None)
            if alike is None:
                found.append([arm])
            else:
                alike.append(arm)
        return found


# Ways of resizing a whole image; the first is the one that all arms use.
RESIZERS: dict[str, dict[str, Any]] = {
    "bilinear, antialiased": {"method": BILINEAR},
    "bilinear": {"method": BILINEAR, "antialias": False},
    "lanczos3": {"method": LANCZOS3},
    "area": {"method": AREA},
}


def _arms(size: tuple[int, int], max_pixels: int | None) -> dict[str, Arm]:
    def alike(name: str, about: str, **options: Any) -> Arm:
        return Arm(name=name, about=about, training=options, evaluation=options)

    center = {"fit": CENTER_CROP}
    random = {"fit": RANDOM_RESIZED_CROP}
    arms = (
        alike("resize", "the whole image, stretched to the input", fit=RESIZE),
        alike("center_crop", "the central 87.5 % of the shorter side, scaled to the input", **center),
        alike("native_crop", "a central window of the input's size, at native scale", **center, crop_pixels=size),
        Arm(
            name="random_resized_crop",
            about="random windows while training, the central one for evaluation",
            training=random,
            evaluation=center,
        ),
        alike("letterbox", "the whole image inside the input, its aspect kept, the rest padded", fit=LETTERBOX),
        alike(
            "native", "the whole image at its own size, the network's padding masked", fit=NATIVE, max_pixels=max_pixels
        ),
        Arm(
            name="unbucketed",
            about="as random_resized_crop, with batches that no size selects",
            training={**random, "buckets": 1},
            evaluation=center,
        ),
    )
    return {arm.name: arm for arm in arms}
