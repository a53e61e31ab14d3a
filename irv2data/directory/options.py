"""What `image_dataset_from_directory` makes of its images and labels; checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Any

from irv2data.directory.listing import BOTH, TRAINING, VALIDATION
from irv2data.errors import UsageError
from irv2data.pipeline.config import BILINEAR, CENTER_CROP, HOST, LANCZOS3, LETTERBOX, NO_CACHE, RESIZE

INT, CATEGORICAL, BINARY = "int", "categorical", "binary"
RGB, GRAYSCALE = "rgb", "grayscale"
CHANNELS_LAST, CHANNELS_FIRST = "channels_last", "channels_first"
_METHODS = (BILINEAR, LANCZOS3)
_CACHES = (NO_CACHE, HOST)
_UNBATCHED = 32  # images that are decoded together where they are wanted one by one
# More than any image has: lossless files are decoded whole anyway, and need no canvas where the host resizes them.
_ANY_CANVAS = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keras' arguments by their names, and `cache`; see `image_dataset_from_directory`.

    Raises:
        UsageError: A value is out of its range or not offered here; the message names argument, rule and value.
    """

    label_mode: str | None
    color_mode: str
    batch_size: int | None
    image_size: tuple[int, int]
    shuffle: bool
    seed: int | None
    validation_split: float | None
    subset: str | None
    interpolation: str
    crop_to_aspect_ratio: bool
    pad_to_aspect_ratio: bool
    data_format: str
    format: str
    cache: str

    def __post_init__(self) -> None:
        method, split, subset = self.interpolation, self.validation_split, self.subset
        for ok, rule in (
            (
                self.label_mode in (INT, CATEGORICAL, BINARY, None),
                f"label_mode must be 'int', 'categorical', 'binary' or None, got {self.label_mode!r}",
            ),
            (
                self.color_mode in (RGB, GRAYSCALE),
                f"color_mode must be 'rgb' or 'grayscale', got {self.color_mode!r}; conversion lays transparent pixels "
                "on white, so there is no alpha to give",
            ),
            (
                self.batch_size is None or (isinstance(self.batch_size, int) and self.batch_size >= 1),
                f"batch_size must be 1 or more, or None for single images, got {self.batch_size!r}",
            ),
            (isinstance(self.shuffle, bool), f"shuffle must be True or False, got {self.shuffle!r}"),
            (
                isinstance(self.seed, (int, NoneType)) and 0 <= (self.seed or 0) < 2**32,
                f"seed must be between 0 and 2**32 - 1, or None, got {self.seed!r}",
            ),
            (
                (split is None) == (subset is None),
                f"validation_split and subset go together, got validation_split={split} and subset={subset!r}",
            ),
            (split is None or 0 < split < 1, f"validation_split must be between 0 and 1, got {split}"),
            (
                subset in (TRAINING, VALIDATION, BOTH, None),
                f"subset must be 'training', 'validation' or 'both', got {subset!r}",
            ),
            (
                split is None or not self.shuffle or self.seed is not None,
                "validation_split with shuffle needs a seed, or the two subsets would overlap",
            ),
            (
                method in _METHODS,
                f"interpolation must be one of {', '.join(_METHODS)}, got {method!r}; "
                "keras.utils.image_dataset_from_directory has the others",
            ),
            (
                not (self.crop_to_aspect_ratio and self.pad_to_aspect_ratio),
                "crop_to_aspect_ratio and pad_to_aspect_ratio exclude each other; give one of them",
            ),
            (
                self.data_format in (CHANNELS_LAST, CHANNELS_FIRST),
                f"data_format must be 'channels_last' or 'channels_first', got {self.data_format!r}",
            ),
            (
                self.format == "tf",
                f"format must be 'tf', a tf.data.Dataset, got {self.format!r}; "
                "keras.utils.image_dataset_from_directory has the others",
            ),
            (self.cache in _CACHES, f"cache must be one of {', '.join(_CACHES)}, got {self.cache!r}"),
        ):
            if not ok:
                raise UsageError(rule)

    @property
    def channels(self) -> int:
        """Of an image."""
        return 1 if self.color_mode == GRAYSCALE else 3

    @property
    def keeps(self) -> bool:
        """Whether finished images are kept in memory."""
        return self.cache == HOST

    def pipeline(self, *, shuffle: bool) -> dict[str, Any]:
        """The options of `irv2data.Pipeline` that give these images, finished.

        Args:
            shuffle: In another order every epoch; otherwise in that of the records.
        """
        crops = {"fit": CENTER_CROP, "crop_fraction": 1.0} if self.crop_to_aspect_ratio else {"fit": RESIZE}
        return {
            **({"fit": LETTERBOX} if self.pad_to_aspect_ratio else crops),
            "image_size": self.image_size,
            "batch_size": self.batch_size or _UNBATCHED,
            "shuffle": "full" if shuffle else None,
            "seed": self.seed or 0,
            "drop_remainder": False,
            "buckets": 1,  # keeps the order of the records
            "max_canvas_pixels": _ANY_CANVAS,
            "method": self.interpolation,
            "antialias": False,  # as Keras
            "resize_on": HOST,
        }
