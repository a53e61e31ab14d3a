"""The options of a conversion; checked when they are made."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields

from irv2data.errors import UsageError
from irv2data.labels import KINDS

AUTO = "auto"
FOLDERS = "folders"
COLUMN = "column:"
DEFAULT_SPLITS = (("train", 0.9), ("validation", 0.1))
# Part of file names; `all` is TFDS's word for all of them, and `_appendN` marks the parts that --append adds.
SPLIT_NAME = re.compile(r"(?!all$)(?!.*_append\d+$)[A-Za-z][A-Za-z0-9_]*")
DUPLICATES = ("keep", "drop")
ON_ERROR = ("reject", "fail")
PNG_RULES = ("keep", "jpeg", "auto")
LABELS = (AUTO, *KINDS)
# No options of a conversion: either gives the same bytes.
ENGINES = LOCAL, BEAM = ("local", "beam")

# Options that do not decide what a shard holds: what happens at a bad file, and how long and large a decoder may grow.
_NOT_IN_BYTES = ("on_error", "max_bad_fraction", "decode_seconds", "worker_mib")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What goes into a dataset; two conversions of equal sources with equal configurations are identical.

    Attributes:
        splits: (name, fraction) pairs whose fractions add up to 1; `folders`: the source folder's sub-folders are the
            splits, and the class folders lie in them; `column:NAME`: a column of the table or metadata file; `auto`:
            `folders` where all sub-folders have names of splits (train, validation, test, ...), else 90 % train and
            10 % validation.
        exact_splits: With fractions, exact counts in each class, at a price: files move between splits when others
            are added.
        labels: `class`, `classes` (several, also none), `number`, `none`; or `auto`, from what the source holds.
        label_depth: How many levels of folders make up a class name (`animals/cat` is two).
        label_column: Name of the column, JSON key or metadata field that holds the label; empty for the usual names.
        path_column: The same for the image's path.
        label_separator: What separates the classes in a CSV field where `labels` is `classes`.
        image_root: Folder that paths in a table are relative to; empty for the table's own.
        follow_links: Follow symbolic links below the source folder.
        shard_mib: A shard is closed before it exceeds this size in MiB of source bytes.
        max_short_side: Larger images are scaled down to this short side in pixels; 0 keeps every size.
        shrink_megapixels: Larger images are scaled down to this many megapixels; 0 keeps every size.
        quality: JPEG quality, 1 to 100, of images that have to be encoded again.
        png: What becomes of lossless images (PNG, GIF, BMP, TIFF, lossless WebP): `keep` them lossless, as PNG; `jpeg`
            encodes all; `auto` encodes those that are photographic.
        background: (red, green, blue), 0 to 255, that transparent pixels are laid on.
        seed: Decides which content goes to which split, and the order inside a split.
        duplicates: `keep` or `drop` all but the first file (in path order) of equal content.
        on_error: `reject` a file that cannot be converted and go on, or `fail` at the first one.
        max_bad_fraction: More rejects than this share of the sources is reported as over budget.
        max_megapixels: Larger images are rejected from their header, before any of their pixels is decoded.
        decode_seconds: A decoder that takes longer for one image is stopped.
        worker_mib: Memory that a worker's decoding may take beyond what the worker needs itself.

    Raises:
        UsageError: A value is out of its range; the message names option, rule and value.
    """

    splits: tuple[tuple[str, float], ...] | str = AUTO
    exact_splits: bool = False
    labels: str = AUTO
    label_depth: int = 1
    label_column: str = ""
    path_column: str = ""
    label_separator: str = ","
    image_root: str = ""
    follow_links: bool = False
    shard_mib: float = 128.0
    max_short_side: int = 0
    shrink_megapixels: float = 0.0
    quality: int = 92
    png: str = "keep"
    background: tuple[int, int, int] = (255, 255, 255)
    seed: int = 0
    duplicates: str = "keep"
    on_error: str = "reject"
    max_bad_fraction: float = 0.05
    max_megapixels: float = 100.0
    decode_seconds: float = 60.0
    worker_mib: int = 2048

    def __post_init__(self) -> None:
        for field in fields(self):
            # 128 and 128.0 are one value, and must have one digest.
            if field.type == "float" and isinstance(getattr(self, field.name), int):
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        for ok, rule in (
            *_split_rules(self.splits),
            (
                not self.exact_splits or self.splits == AUTO or not isinstance(self.splits, str),
                f"exact_splits goes with fractions, got splits={self.splits!r}",
            ),
            (self.labels in LABELS, f"labels must be one of {LABELS}, got {self.labels!r}"),
            (1 <= self.label_depth <= 16, f"label_depth must be between 1 and 16, got {self.label_depth}"),
            (len(self.label_separator) > 0, "label_separator must not be empty"),
            (0 < self.shard_mib < math.inf, f"shard_mib must be positive, got {self.shard_mib}"),
            (self.max_short_side >= 0, f"max_short_side must be 0 or more, got {self.max_short_side}"),
            (
                0 <= self.shrink_megapixels < math.inf,
                f"shrink_megapixels must be 0 or more, got {self.shrink_megapixels}",
            ),
            (1 <= self.quality <= 100, f"quality must be between 1 and 100, got {self.quality}"),
            (self.png in PNG_RULES, f"png must be one of {PNG_RULES}, got {self.png!r}"),
            (
                len(self.background) == 3 and all(0 <= level <= 255 for level in self.background),
                f"background must be three levels between 0 and 255, got {self.background}",
            ),
            (0 <= self.seed < 2**63, f"seed must be between 0 and 2**63 - 1, got {self.seed}"),
            (self.duplicates in DUPLICATES, f"duplicates must be one of {DUPLICATES}, got {self.duplicates!r}"),
            (self.on_error in ON_ERROR, f"on_error must be one of {ON_ERROR}, got {self.on_error!r}"),
            (0 <= self.max_bad_fraction <= 1, f"max_bad_fraction must be in [0, 1], got {self.max_bad_fraction}"),
            (0 < self.max_megapixels < math.inf, f"max_megapixels must be positive, got {self.max_megapixels}"),
            (0 < self.decode_seconds < math.inf, f"decode_seconds must be positive, got {self.decode_seconds}"),
            (self.worker_mib >= 64, f"worker_mib must be 64 or more, got {self.worker_mib}"),
        ):
            if not ok:
                raise UsageError(rule)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the options that decide what a shard holds."""
        options = asdict(self)
        for name in _NOT_IN_BYTES:
            del options[name]
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def _split_rules(splits: tuple[tuple[str, float], ...] | str) -> tuple[tuple[bool, str], ...]:
    if isinstance(splits, str):
        known = splits in (AUTO, FOLDERS) or (splits.startswith(COLUMN) and len(splits) > len(COLUMN))
        forms = f"{AUTO!r}, {FOLDERS!r}, '{COLUMN}NAME' or names with fractions"
        return ((known, f"splits must be {forms}, got {splits!r}"),)
    names = [name for name, _ in splits]
    total = sum(fraction for _, fraction in splits)
    return (
        (len(names) > 0 and len(set(names)) == len(names), f"splits must be named, each once, got {names}"),
        (
            all(SPLIT_NAME.fullmatch(name) for name in names),
            f"splits must be named by letters, digits and '_', and not 'all' or '..._append1', got {names}",
        ),
        (
            all(fraction > 0 for _, fraction in splits) and math.isclose(total, 1, abs_tol=1e-6),
            f"split fractions must be positive and add up to 1, got {dict(splits)}",
        ),
    )


def parse_splits(text: str) -> tuple[tuple[str, float], ...] | str:
    """Reads `train=0.9,validation=0.1`, `folders`, `column:NAME` or `auto`.

    Raises:
        UsageError: The text is of none of these forms.
    """
    if text in (AUTO, FOLDERS) or text.startswith(COLUMN):
        return text
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return tuple((name.strip(), float(fraction)) for name, fraction in pairs)
    except ValueError:
        raise UsageError(
            f"splits must look like train=0.9,validation=0.1, or be {FOLDERS!r}, '{COLUMN}NAME' or {AUTO!r}, "
            f"got {text!r}"
        ) from None
