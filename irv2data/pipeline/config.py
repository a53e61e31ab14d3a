"""The options of a pipeline; frozen, keyword-only, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import NoneType

from irv2data.errors import UsageError
from irv2data.pipeline.augmentation import DRAWS, Augment
from irv2data.pipeline.service.address import split_address

RESIZE, CENTER_CROP, RANDOM_RESIZED_CROP = "resize", "center_crop", "random_resized_crop"
LETTERBOX, NATIVE = "letterbox", "native"
FITS = (RESIZE, CENTER_CROP, RANDOM_RESIZED_CROP, LETTERBOX, NATIVE)
SHUFFLES = ("full", "blocks", None)
AUTO, HOST, DEVICE = "auto", "host", "device"
RESIZE_ON = (AUTO, HOST, DEVICE)
BILINEAR, LANCZOS3, AREA = "bilinear", "lanczos3", "area"
METHODS = (BILINEAR, LANCZOS3, AREA)
DTYPES = ("float32", "float16", "bfloat16")
NO_CACHE = "none"
DISK = "disk"
# Where images are decoded and kept. Of these, one says how large they are kept; the others change no batch.
PLACE_OPTIONS = ("cache", "cache_short_side", "cache_mib", "cache_device_mib", "cache_dir", "service")
FREE_OPTIONS = tuple(name for name in PLACE_OPTIONS if name != "cache_short_side")
CACHES = (NO_CACHE, HOST, DEVICE, DISK, AUTO)
MAX_CHUNK = 64  # images: the unit of decoding, so that memory and parallelism do not follow the batch size


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """What the device stage makes of a batch: the part of the options that `device.preprocess` needs.

    Attributes:
        image_size: Height and width of the finished images in pixels; for `native` they are those of the canvas.
        antialias: Widen the resampling kernel when shrinking, as `tf.image.resize(antialias=True)` does.
        method: Resampling kernel, by the names of `tf.image.resize`: `bilinear`, `lanczos3` or `area`.
        dtype: Floating type of the resampling's products and of the finished images, by its TensorFlow name.
        fit: How images are fitted.
        pad_value: `letterbox`: what surrounds the picture, in [0, 255].
        augment: Random changes of the finished images; None for none.
    """

    image_size: tuple[int, int]
    antialias: bool = True
    method: str = BILINEAR
    dtype: str = "float32"
    fit: str = RESIZE
    pad_value: float = 0.0
    augment: Augment | None = None

    @property
    def num_draws(self) -> int:
        """Uniform numbers that an image carries."""
        return DRAWS if self.augment is None else self.augment.num_draws


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Everything that decides which pixels are in which batch, and where the work is done.

    Attributes:
        fit: `resize`, `center_crop`, `random_resized_crop`, `letterbox` (the whole image inside `image_size`, its
            aspect kept, the rest padded) or `native` (the whole image at its own size, for a model of variable input).
        image_size: Height and width of the finished images in pixels. `native`: only what canvases and `max_pixels`
            are measured by.
        batch_size: Images a step over all replicas together. Without meaning where `max_pixels_per_batch` is given.
        seed: Of all randomness.
        shuffle: `full`; `blocks` (runs of 16 neighbours move together, then mix within a window of 64 batches, for
            slow storage); or None, the order of the records.
        drop_remainder: Leave out the last `N % batch_size` records of an epoch's order; otherwise the last batch is
            completed with filler of weight 0.
        buckets: Number of canvas shapes to choose from the index. 1 gives batches that no size selects.
        canvases: Canvas shapes (height, width) given by hand instead, from small to large; the last holds all others.
        max_pixels: `native`: what is larger is shrunk to at most so many pixels. None stands for 4 times the pixels of
            `image_size`. An image longer than the largest canvas is shrunk onto it.
        max_pixels_per_batch: `native`: batches of so many canvas pixels at most instead of so many images.
        batch_multiple: With `max_pixels_per_batch`: the images of every batch are a multiple of it, so that so many
            replicas (or a divisor of it) can share them.
        max_canvas_pixels: Upper bound of a canvas; what is larger is reduced by whole-number area means while
            decoding. None stands for 64/9 times the pixels of `image_size`.
        crop_fraction: `center_crop`: the box's share of the largest one of the output's aspect that fits.
        crop_pixels: `center_crop`: instead, a window (height, width) at native scale; a smaller image is first scaled
            up to cover it.
        pad_value: See `OutputSpec`.
        antialias: See `OutputSpec`.
        method: See `OutputSpec`; the host resizes `bilinear` and `lanczos3`.
        dtype: See `OutputSpec`.
        flip: Mirror every other image at random; None: only with `random_resized_crop`.
        augment: Further random changes, made on the device by the plan's draws; None for none.
        columns: Further columns of the dataset that batches carry along, under their own names.
        resize_on: `device`: batches carry canvases, and `device.preprocess` crops and resizes them. `host`: batches
            carry finished images. `auto`: `host` where the devices are CPUs or a canvas is more bytes than a finished
            image, else `device`. (Not the default, so that a batch has the same keys on every machine.)
        cache: Where decoded images are kept. `none`; `host`: each is decoded once, whole, and kept in the host's
            memory; `device`: after the first epoch all of them are copied into the memory of every device that
            `distribute` feeds, where later batches are gathered; `disk`: in files in `cache_dir`, which later runs use
            too; `auto`: `device` if all of them fit into `cache_device_mib`, or `host` if they fit into `cache_mib`,
            or `disk` if there is a `cache_dir`, else `none`. Batches have the same records and boxes either way; their
            pixels are those of the kept images.
        cache_short_side: Images are kept with as few pixels as JPEG decoding by halves allows with no side below this
            one. None stands for the longer side of `image_size`.
        cache_mib: The host's memory that `auto` may use, in MiB. None stands for half of what is available.
        cache_device_mib: The memory of each device that `auto` may use, in MiB. With 0 it uses none: what a network
            leaves free is not known before it is trained.
        cache_dir: Folder on a local disk for `disk`.
        service: Dispatcher of a tf.data service whose workers read and decode in this process's place, as
            `grpc://host:port` (`irv2data serve`). Batches and their order are the same. Workers must find the dataset
            under the same path or URI.
        max_bad_records: Different records that may turn out to be damaged; each is replaced by filler of weight 0 in
            its place. With 0 the first one is an error.

    Raises:
        UsageError: A value is out of its range; the message names option, rule and value.
    """

    fit: str = RESIZE
    image_size: tuple[int, int] = (299, 299)
    batch_size: int = 64
    seed: int = 0
    shuffle: str | None = "full"
    drop_remainder: bool = True
    buckets: int = 4
    canvases: tuple[tuple[int, int], ...] | None = None
    max_pixels: int | None = None
    max_pixels_per_batch: int | None = None
    batch_multiple: int = 8
    max_canvas_pixels: int | None = None
    crop_fraction: float = 0.875
    crop_pixels: tuple[int, int] | None = None
    pad_value: float = 0.0
    antialias: bool = True
    method: str = BILINEAR
    dtype: str = "float32"
    flip: bool | None = None
    augment: Augment | None = None
    columns: tuple[str, ...] = ()
    resize_on: str = DEVICE
    cache: str = NO_CACHE
    cache_short_side: int | None = None
    cache_mib: int | None = None
    cache_device_mib: int = 0
    cache_dir: str | None = None
    service: str | None = None
    max_bad_records: int = 0

    def __post_init__(self) -> None:
        require_size("image_size", self.image_size)
        if self.crop_pixels is not None:
            require_size("crop_pixels", self.crop_pixels)
        if self.canvases is not None and not isinstance(self.canvases, tuple):
            raise UsageError(f"canvases must be pairs (height, width), got {self.canvases!r}")
        for canvas in self.canvases or ():
            require_size("canvases", canvas)
        for name, kind, words in (
            ("batch_size", int, "a whole number"),
            ("seed", int, "a whole number"),
            ("buckets", int, "a whole number"),
            ("max_pixels", (int, NoneType), "a whole number or None"),
            ("max_pixels_per_batch", (int, NoneType), "a whole number or None"),
            ("batch_multiple", int, "a whole number"),
            ("max_canvas_pixels", (int, NoneType), "a whole number or None"),
            ("cache_short_side", (int, NoneType), "a whole number or None"),
            ("cache_mib", (int, NoneType), "a whole number or None"),
            ("cache_device_mib", int, "a whole number"),
            ("cache_dir", (str, NoneType), "a path or None"),
            ("service", (str, NoneType), "grpc://host:port or None"),
            ("max_bad_records", int, "a whole number"),
            ("pad_value", (int, float), "a number"),
            ("crop_fraction", (int, float), "a number"),
            ("drop_remainder", bool, "True or False"),
            ("antialias", bool, "True or False"),
            ("flip", (bool, NoneType), "True, False or None"),
            ("augment", (Augment, NoneType), "an irv2data.Augment or None"),
        ):
            value = getattr(self, name)
            # A bool is an int to Python, but never a size.
            if not isinstance(value, kind) or (isinstance(value, bool) and "True" not in words):
                raise UsageError(f"{name} must be {words}, got {value!r}")
        height, width = self.image_size
        least = (2 * height + 2) * (2 * width + 2)
        for ok, rule in (
            (
                isinstance(self.columns, tuple) and all(isinstance(name, str) for name in self.columns),
                f"columns must be a tuple of names, got {self.columns!r}",
            ),
            (self.fit in FITS, f"fit must be one of {', '.join(FITS)}, got {self.fit!r}"),
            (self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}"),
            (0 <= self.seed < 2**63, f"seed must be between 0 and 2**63 - 1, got {self.seed}"),
            (self.shuffle in SHUFFLES, f"shuffle must be 'full', 'blocks' or None, got {self.shuffle!r}"),
            (1 <= self.buckets <= 32, f"buckets must be between 1 and 32, got {self.buckets}"),
            (self.canvases is None or len(self.canvases) > 0, "canvases must name at least one shape"),
            (_ordered(self.canvases or ()), f"canvases must be given from small to large, got {self.canvases}"),
            (
                # Below twice the output, halving a just too large image would leave less than the output.
                self.max_canvas_pixels is None or self.max_canvas_pixels >= least,
                f"max_canvas_pixels must be at least {least} for image_size {height}x{width}, "
                f"got {self.max_canvas_pixels}",
            ),
            (0 < self.crop_fraction <= 1, f"crop_fraction must be in (0, 1], got {self.crop_fraction}"),
            (
                self.crop_pixels is None or self.fit == CENTER_CROP,
                f"crop_pixels goes with fit='center_crop', got fit={self.fit!r}",
            ),
            (
                self.max_pixels is None or self.fit == NATIVE,
                f"max_pixels goes with fit='native', got fit={self.fit!r}",
            ),
            (self.max_pixels is None or self.max_pixels >= 1, f"max_pixels must be 1 or more, got {self.max_pixels}"),
            (
                self.max_pixels_per_batch is None or self.fit == NATIVE,
                f"max_pixels_per_batch goes with fit='native', got fit={self.fit!r}",
            ),
            (
                self.max_pixels_per_batch is None or self.max_pixels_per_batch >= 1,
                f"max_pixels_per_batch must be 1 or more, got {self.max_pixels_per_batch}",
            ),
            (self.batch_multiple >= 1, f"batch_multiple must be 1 or more, got {self.batch_multiple}"),
            (0 <= self.pad_value <= 255, f"pad_value must be in [0, 255], got {self.pad_value}"),
            (self.resize_on in RESIZE_ON, f"resize_on must be one of {', '.join(RESIZE_ON)}, got {self.resize_on!r}"),
            (self.method in METHODS, f"method must be one of {', '.join(METHODS)}, got {self.method!r}"),
            (self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}"),
            (
                self.method != AREA or (self.resize_on != HOST and self.fit != NATIVE),
                "method='area' is the device stage's; use resize_on='device', and another fit than 'native'",
            ),
            (self.cache in CACHES, f"cache must be one of {', '.join(CACHES)}, got {self.cache!r}"),
            (
                self.cache == NO_CACHE or self.resize_on != HOST,
                f"cache={self.cache!r} keeps images for the device to resize; use resize_on='device'",
            ),
            (
                self.cache == NO_CACHE or self.fit != NATIVE,
                f"cache={self.cache!r} keeps images that are cropped and resized later; fit='native' does neither",
            ),
            (
                self.cache_short_side is None or self.cache_short_side >= 1,
                f"cache_short_side must be 1 or more, got {self.cache_short_side}",
            ),
            (self.cache_mib is None or self.cache_mib >= 1, f"cache_mib must be 1 or more, got {self.cache_mib}"),
            (
                self.augment is None or self.fit != NATIVE,
                "augment changes finished images of one size; fit='native' has many: use another fit",
            ),
            (
                self.augment is None or not self.augment.mixes or self.batch_size % 2 == 0,
                f"batch_size must be even for mixup and cutmix, got {self.batch_size}",
            ),
            (
                self.augment is None or not self.augment.rand_layers or min(self.image_size) >= 3,
                f"rand_layers needs images of 3 pixels or more, got image_size {self.image_size}",
            ),
            (self.cache != DISK or bool(self.cache_dir), "cache='disk' needs cache_dir, a folder on a local disk"),
            (
                self.service is None or self.cache == NO_CACHE,
                f"cache={self.cache!r} keeps decoded images on this machine, and a service decodes on others; "
                "use one of the two",
            ),
            (self.cache_device_mib >= 0, f"cache_device_mib must be 0 or more, got {self.cache_device_mib}"),
            (self.max_bad_records >= 0, f"max_bad_records must be 0 or more, got {self.max_bad_records}"),
        ):
            if not ok:
                raise UsageError(rule)
        if self.service is not None:
            split_address(self.service)

    @property
    def flips(self) -> bool:
        """Whether images are mirrored at random."""
        return self.fit == RANDOM_RESIZED_CROP if self.flip is None else self.flip

    @property
    def most_pixels(self) -> int:
        """`native`: pixels of an image at most."""
        return self.max_pixels or 4 * self.image_size[0] * self.image_size[1]

    @property
    def kept_side(self) -> int:
        """The short side that images are kept with, in pixels."""
        return self.cache_short_side or max(self.image_size)

    @property
    def output(self) -> OutputSpec:
        """What the device stage has to make."""
        return OutputSpec(
            image_size=self.image_size,
            antialias=self.antialias,
            method=self.method,
            dtype=self.dtype,
            fit=self.fit,
            pad_value=float(self.pad_value),
            augment=self.augment,
        )


def require_size(name: str, size: object) -> None:
    """Raises a `UsageError` that names the option unless `size` is a pair of positive whole numbers."""
    ok = isinstance(size, tuple) and len(size) == 2 and all(isinstance(side, int) and side >= 1 for side in size)
    if not ok:
        raise UsageError(f"{name} must be a pair (height, width) of positive whole numbers, got {size!r}")


def _ordered(canvases: tuple[tuple[int, int], ...]) -> bool:
    """Whether areas rise and the last one holds all others."""
    areas = [height * width for height, width in canvases]
    rising = all(a < b for a, b in pairwise(areas))
    return rising and all(height <= canvases[-1][0] and width <= canvases[-1][1] for height, width in canvases)
