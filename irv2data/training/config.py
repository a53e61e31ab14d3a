"""The options of a training run; frozen, keyword-only, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from irv2data.errors import UsageError
from irv2data.pipeline.augmentation import Augment
from irv2data.pipeline.config import (
    CENTER_CROP,
    FITS,
    NATIVE,
    NO_CACHE,
    PLACE_OPTIONS,
    RANDOM_RESIZED_CROP,
    PipelineConfig,
    require_size,
)

SMALLEST_IMAGE = 75  # pixels: below it Inception-ResNet-v2's last stages have nothing left to look at
AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
PRECISIONS = (AUTO, FLOAT32, BFLOAT16)
COSINE, CONSTANT = "cosine", "constant"
SCHEDULES = (COSINE, CONSTANT)
BALANCED = "balanced"
# Those of `PipelineConfig` that a run's pipelines get as they are; caches are for training alone.
FITTING = ("crop_fraction", "crop_pixels", "max_pixels", "buckets", "max_bad_records")
# The one fit that some of them belong to.
OF_FIT = {"crop_fraction": CENTER_CROP, "crop_pixels": CENTER_CROP, "max_pixels": NATIVE}
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
        weights: `imagenet`, `none` (random), or the path of a weights file, which may end in its digest:
            `FILE#sha256=HEX`.
        head_epochs: Epochs in which the new head learns alone, the network frozen.
        fine_epochs: Epochs of each fine phase after these, in which top blocks learn too.
        unfreeze: How many blocks, counted from the top, learn in each fine phase: `(2, 44)` for two phases.
        head_learning_rate: Of the head phase (Adam).
        fine_learning_rate: Of the fine phases: the head's and the topmost block's.
        block_decay: A block's learning rate in a fine phase is so many times that of the block above it.
        schedule: Of the learning rates over a phase's steps: `cosine`, down to nothing, or `constant`.
        warmup_steps: First steps of each phase, in which learning rates rise evenly to their height.
        weight_decay: Share of each kernel that a step takes away, times the learning rate (AdamW); of no bias and no
            normalisation.
        label_smoothing: Share of each label that is spread evenly over all classes.
        class_weights: What an image's loss weighs by its class: None for 1, `balanced` for the mean number of images
            a class over its own, or a weight for each class.
        ema: Momentum of the exponential moving average of the learning weights, which is evaluated and saved in their
            place, as 0.999; 0 for none. It begins anew with each phase.
        patience: The run ends after so many epochs without a smaller validation loss, and the weights of the best
            epoch are saved; 0 for never.
        accumulate: Parts that each replica's share of a batch is worked off in, one after another: the same step in
            less memory.
        precision: `float32`, `bfloat16` (activations; weights stay float32), or `auto`: bfloat16 on GPUs that are made
            for it.
        sync_bn: Batch normalisation of blocks that learn uses and learns the statistics of the global batch, whatever
            the number of replicas; otherwise it stays in inference mode.
        progressive: Sizes of the input in the first epochs, from small to large; the epochs are divided evenly among
            them and `image_size`.
        max_steps: Steps an epoch at most; 0 for all.
        seed: Of the pipeline and of new weights.
        split: Split to train on.
        validation_split: Split to evaluate on; None for no evaluation.
        augment: Random changes of training images, as in `PipelineConfig`.
        checkpoint_steps: Checkpoints are written at the end of every epoch, and every so many steps; 0 for not.
        keep_checkpoints: How many checkpoints are kept.
        tensorboard: Whether events for TensorBoard are written.
        figures_steps: Events say what the input costs every so many steps, and at the end of each epoch; 0 for that
            alone.
        profile_steps: The first and the last step that TensorFlow's profiler records, counted from 1 at each start of
            the run; None for none.
        crop_fraction: As in `PipelineConfig`.
        crop_pixels: As in `PipelineConfig`.
        max_pixels: As in `PipelineConfig`.
        buckets: As in `PipelineConfig`.
        max_bad_records: As in `PipelineConfig`.
        cache: Where decoded training images are kept, as in `PipelineConfig`.
        cache_short_side: As in `PipelineConfig`.
        cache_mib: As in `PipelineConfig`.
        cache_device_mib: As in `PipelineConfig`.
        cache_dir: As in `PipelineConfig`.
        service: Of training batches, as in `PipelineConfig`.

    Raises:
        UsageError: A value is out of its range; the message names option, rule and value.
    """

    fit: str = "random_resized_crop"
    image_size: tuple[int, int] = (299, 299)
    batch_size: int = 32
    weights: str = "imagenet"
    head_epochs: int = 1
    fine_epochs: int = 0
    unfreeze: tuple[int, ...] = ()
    head_learning_rate: float = 1e-3
    fine_learning_rate: float = 1e-5
    block_decay: float = 1.0
    schedule: str = COSINE
    warmup_steps: int = 0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str | tuple[float, ...] | None = None
    ema: float = 0.0
    patience: int = 0
    accumulate: int = 1
    precision: str = AUTO
    sync_bn: bool = False
    progressive: tuple[tuple[int, int], ...] = ()
    max_steps: int = 0
    seed: int = 0
    split: str = "train"
    validation_split: str | None = "validation"
    augment: Augment | None = None
    checkpoint_steps: int = 0
    keep_checkpoints: int = 2
    tensorboard: bool = True
    figures_steps: int = 50
    profile_steps: tuple[int, int] | None = None
    crop_fraction: float = PipelineConfig.crop_fraction
    crop_pixels: tuple[int, int] | None = None
    max_pixels: int | None = None
    buckets: int = PipelineConfig.buckets
    max_bad_records: int = 0
    cache: str = NO_CACHE
    cache_short_side: int | None = None
    cache_mib: int | None = None
    cache_device_mib: int = 0
    cache_dir: str | None = None
    service: str | None = None

    def __post_init__(self) -> None:
        require_size("image_size", self.image_size)
        for size in self.progressive:
            require_size("progressive", size)
        weights = self.class_weights
        for ok, rule in (
            (self.fit in FITS, f"fit must be one of {', '.join(FITS)}, got {self.fit!r}"),
            (
                min(min(size) for size in (*self.progressive, self.image_size)) >= SMALLEST_IMAGE,
                f"sizes must be at least {SMALLEST_IMAGE} for Inception-ResNet-v2, got "
                f"{', '.join(map(str, (*self.progressive, self.image_size)))}",
            ),
            # Keras seeds NumPy's global generator too, which takes no larger one.
            (0 <= self.seed < 2**32, f"seed must be between 0 and 2**32 - 1, got {self.seed}"),
            (self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}"),
            (self.head_epochs >= 0, f"head_epochs must be 0 or more, got {self.head_epochs}"),
            (self.fine_epochs >= 0, f"fine_epochs must be 0 or more, got {self.fine_epochs}"),
            (self.head_epochs + self.fine_epochs >= 1, "head_epochs and fine_epochs are both 0: nothing to train"),
            (
                isinstance(self.unfreeze, tuple) and all(1 <= top <= NUM_BLOCKS for top in self.unfreeze),
                f"unfreeze must be numbers of blocks between 1 and {NUM_BLOCKS}, got {self.unfreeze}",
            ),
            (
                bool(self.unfreeze) == (self.fine_epochs > 0),
                f"unfreeze and fine_epochs go together, got {self.unfreeze} and {self.fine_epochs}",
            ),
            (self.head_learning_rate > 0, f"head_learning_rate must be positive, got {self.head_learning_rate}"),
            (self.fine_learning_rate > 0, f"fine_learning_rate must be positive, got {self.fine_learning_rate}"),
            (0 < self.block_decay <= 1, f"block_decay must be in (0, 1], got {self.block_decay}"),
            (self.schedule in SCHEDULES, f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}"),
            (self.warmup_steps >= 0, f"warmup_steps must be 0 or more, got {self.warmup_steps}"),
            (0 <= self.weight_decay < 1, f"weight_decay must be in [0, 1), got {self.weight_decay}"),
            (0 <= self.label_smoothing < 1, f"label_smoothing must be in [0, 1), got {self.label_smoothing}"),
            (
                weights in (None, BALANCED)
                or (isinstance(weights, tuple) and all(weight >= 0 for weight in weights) and sum(weights) > 0),
                f"class_weights must be None, 'balanced' or a weight for each class, got {weights!r}",
            ),
            (0 <= self.ema < 1, f"ema must be in [0, 1), got {self.ema}"),
            (self.patience >= 0, f"patience must be 0 or more, got {self.patience}"),
            (
                not self.patience or self.validation_split is not None,
                "patience goes by the validation loss; give a validation_split",
            ),
            (
                self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
                f"accumulate must divide batch_size, got {self.accumulate} and {self.batch_size}",
            ),
            (
                self.precision in PRECISIONS,
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}",
            ),
            (
                not self.sync_bn or self.accumulate == 1,
                "sync_bn needs the whole batch at once; use accumulate=1",
            ),
            (
                not self.sync_bn or self.fit != NATIVE,
                "sync_bn would count the padding of fit='native'; use another fit, or leave sync_bn off",
            ),
            (
                not self.progressive or self.fit != NATIVE,
                "progressive sizes are for fits of one size; for 'native' use max_pixels",
            ),
            (
                not self.progressive or self.cache == NO_CACHE,
                f"progressive sizes need a cache each; use cache='none', got {self.cache!r}",
            ),
            (
                len(self.progressive) < self.head_epochs + self.fine_epochs * len(self.unfreeze),
                f"progressive has {len(self.progressive)} sizes, which needs at least one epoch more than that",
            ),
            (self.checkpoint_steps >= 0, f"checkpoint_steps must be 0 or more, got {self.checkpoint_steps}"),
            (self.keep_checkpoints >= 1, f"keep_checkpoints must be 1 or more, got {self.keep_checkpoints}"),
            (self.figures_steps >= 0, f"figures_steps must be 0 or more, got {self.figures_steps}"),
            (
                self.profile_steps is None
                or (len(self.profile_steps) == 2 and 1 <= self.profile_steps[0] <= self.profile_steps[1]),
                f"profile_steps must be a first step, 1 or more, and a last one, as 20,30, got {self.profile_steps}",
            ),
            (
                self.profile_steps is None or self.tensorboard,
                "profile_steps are recorded for TensorBoard; leave tensorboard on",
            ),
            (self.max_steps >= 0, f"max_steps must be 0 (all) or more, got {self.max_steps}"),
        ):
            if not ok:
                raise UsageError(rule)

    def fitting(self, fit: str) -> dict[str, Any]:
        """Options of every pipeline of the run, of those that belong to one fit only that of this one."""
        return {name: getattr(self, name) for name in FITTING if OF_FIT.get(name, fit) == fit}

    @property
    def placing(self) -> dict[str, Any]:
        """Options of its training pipelines."""
        return {name: getattr(self, name) for name in PLACE_OPTIONS}
