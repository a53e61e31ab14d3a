"""The options of a training run; frozen, keyword-only, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from irv2data.errors import UsageError
from irv2data.pipeline.augmentation import Augment
from irv2data.pipeline.config import CENTER_CROP, FITS, NATIVE, NO_CACHE, RANDOM_RESIZED_CROP, require_size

SMALLEST_IMAGE = 75  # pixels: below it Inception-ResNet-v2's last stages have nothing left to look at
NUM_BLOCKS = 44  # stem and mixed_5b as one, 10 block35, mixed_6a, 20 block17, mixed_7a, 10 block8, conv_7b


def evaluation_fit(fit: str) -> str:
    """The fit that evaluates what was trained with another."""
    return CENTER_CROP if fit == RANDOM_RESIZED_CROP else fit


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a fine-tuning run does.

    Attributes:
        fit: How training images are fitted; validation uses `center_crop` where training crops at random.
        image_size: Height and width of the network's input in pixels.
        batch_size: Images a step over all replicas together.
        weights: `imagenet`, `none` (random), or the path of a weights file.
        head_epochs: Epochs in which the new head learns alone, the network frozen.
        fine_epochs: Epochs after these in which the top blocks learn too.
        unfreeze: How many blocks, counted from the top, learn in the fine epochs.
        head_learning_rate: Of the head epochs (Adam).
        fine_learning_rate: Of the fine epochs (Adam).
        max_steps: Steps an epoch at most; 0 for all.
        seed: Of the pipeline and of new weights.
        split: Split to train on.
        validation_split: Split to evaluate on; None for no evaluation.
        augment: Random changes of training images, as in `PipelineConfig`.
        checkpoint_steps: Checkpoints are written at the end of every epoch, and every so many steps; 0 for not.
        keep_checkpoints: How many checkpoints are kept.
        cache: Where decoded training images are kept, as in `PipelineConfig`.
        cache_short_side: As in `PipelineConfig`.
        cache_mib: As in `PipelineConfig`.
        cache_device_mib: As in `PipelineConfig`.
        cache_dir: As in `PipelineConfig`.

    Raises:
        UsageError: A value is out of its range; the message names option, rule and value.
    """

    fit: str = "random_resized_crop"
    image_size: tuple[int, int] = (299, 299)
    batch_size: int = 32
    weights: str = "imagenet"
    head_epochs: int = 1
    fine_epochs: int = 0
    unfreeze: int = 0
    head_learning_rate: float = 1e-3
    fine_learning_rate: float = 1e-5
    max_steps: int = 0
    seed: int = 0
    split: str = "train"
    validation_split: str | None = "validation"
    augment: Augment | None = None
    checkpoint_steps: int = 0
    keep_checkpoints: int = 2
    cache: str = NO_CACHE
    cache_short_side: int | None = None
    cache_mib: int | None = None
    cache_device_mib: int = 0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        require_size("image_size", self.image_size)
        for ok, rule in (
            (self.fit in FITS, f"fit must be one of {', '.join(FITS)}, got {self.fit!r}"),
            (
                self.fit != NATIVE,
                "fit 'native' needs a model that masks its padding, which `train` does not have yet; use another fit",
            ),
            (
                min(self.image_size) >= SMALLEST_IMAGE,
                f"image_size must be at least {SMALLEST_IMAGE} for Inception-ResNet-v2, got {self.image_size}",
            ),
            # Keras seeds NumPy's global generator too, which takes no larger one.
            (0 <= self.seed < 2**32, f"seed must be between 0 and 2**32 - 1, got {self.seed}"),
            (self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}"),
            (self.head_epochs >= 0, f"head_epochs must be 0 or more, got {self.head_epochs}"),
            (self.fine_epochs >= 0, f"fine_epochs must be 0 or more, got {self.fine_epochs}"),
            (self.head_epochs + self.fine_epochs >= 1, "head_epochs and fine_epochs are both 0: nothing to train"),
            (0 <= self.unfreeze <= NUM_BLOCKS, f"unfreeze must be between 0 and {NUM_BLOCKS}, got {self.unfreeze}"),
            (
                (self.unfreeze > 0) == (self.fine_epochs > 0),
                f"unfreeze and fine_epochs go together, got {self.unfreeze} and {self.fine_epochs}",
            ),
            (self.head_learning_rate > 0, f"head_learning_rate must be positive, got {self.head_learning_rate}"),
            (self.fine_learning_rate > 0, f"fine_learning_rate must be positive, got {self.fine_learning_rate}"),
            (self.checkpoint_steps >= 0, f"checkpoint_steps must be 0 or more, got {self.checkpoint_steps}"),
            (self.keep_checkpoints >= 1, f"keep_checkpoints must be 1 or more, got {self.keep_checkpoints}"),
            (self.max_steps >= 0, f"max_steps must be 0 (all) or more, got {self.max_steps}"),
        ):
            if not ok:
                raise UsageError(rule)
