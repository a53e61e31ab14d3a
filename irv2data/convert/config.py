"""The options of a conversion that decide its bytes; checked when they are made."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass

from irv2data.errors import UsageError

FOLDERS = "folders"
SPLIT_NAME = re.compile(r"(?!all$)[A-Za-z][A-Za-z0-9_]*")  # part of file names; `all` is TFDS's word for all of them
DUPLICATES = ("keep", "drop")
ON_ERROR = ("reject", "fail")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What goes into a dataset's bytes; two conversions of equal sources with equal configurations are identical.

    Attributes:
        splits: (name, fraction) pairs whose fractions add up to 1; or `FOLDERS`: the source folder's sub-folders are
            the splits, and the class folders lie in them.
        shard_mib: A shard is closed before it exceeds this size in MiB of source bytes.
        max_short_side: Larger images are scaled down to this short side in pixels; 0 keeps every size.
        quality: JPEG quality, 1 to 100, of images that have to be encoded again.
        seed: Decides which content goes to which split, and the order inside a split.
        duplicates: `keep` or `drop` all but the first file (in path order) of equal content.
        on_error: `reject` a file that cannot be converted and go on, or `fail` at the first one.
        max_bad_fraction: More rejects than this share of the sources is reported as over budget.
        max_megapixels: Larger images are rejected from their header, before any of their pixels is decoded.

    Raises:
        UsageError: A value is out of its range; the message names option, rule and value.
    """

    splits: tuple[tuple[str, float], ...] | str = (("train", 0.9), ("validation", 0.1))
    shard_mib: float = 128
    max_short_side: int = 0
    quality: int = 92
    seed: int = 0
    duplicates: str = "keep"
    on_error: str = "reject"
    max_bad_fraction: float = 0.05
    max_megapixels: float = 100

    def __post_init__(self) -> None:
        for ok, rule in (
            *_split_rules(self.splits),
            (0 < self.shard_mib < math.inf, f"shard_mib must be positive, got {self.shard_mib}"),
            (self.max_short_side >= 0, f"max_short_side must be 0 or more, got {self.max_short_side}"),
            (1 <= self.quality <= 100, f"quality must be between 1 and 100, got {self.quality}"),
            (0 <= self.seed < 2**63, f"seed must be between 0 and 2**63 - 1, got {self.seed}"),
            (self.duplicates in DUPLICATES, f"duplicates must be one of {DUPLICATES}, got {self.duplicates!r}"),
            (self.on_error in ON_ERROR, f"on_error must be one of {ON_ERROR}, got {self.on_error!r}"),
            (0 <= self.max_bad_fraction <= 1, f"max_bad_fraction must be in [0, 1], got {self.max_bad_fraction}"),
            (0 < self.max_megapixels < math.inf, f"max_megapixels must be positive, got {self.max_megapixels}"),
        ):
            if not ok:
                raise UsageError(rule)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the options that decide what a shard holds."""
        options = asdict(self)
        for name in ("on_error", "max_bad_fraction"):  # what happens at a bad file, not what becomes of the good ones
            del options[name]
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def _split_rules(splits: tuple[tuple[str, float], ...] | str) -> tuple[tuple[bool, str], ...]:
    if isinstance(splits, str):
        return ((splits == FOLDERS, f"splits must be {FOLDERS!r} or names with fractions, got {splits!r}"),)
    names = [name for name, _ in splits]
    total = sum(fraction for _, fraction in splits)
    return (
        (len(names) > 0 and len(set(names)) == len(names), f"splits must be named, each once, got {names}"),
        (
            all(SPLIT_NAME.fullmatch(name) for name in names),
            f"splits must be named by letters, digits and '_', and not 'all', got {names}",
        ),
        (
            all(fraction > 0 for _, fraction in splits) and math.isclose(total, 1, abs_tol=1e-6),
            f"split fractions must be positive and add up to 1, got {dict(splits)}",
        ),
    )


def parse_splits(text: str) -> tuple[tuple[str, float], ...] | str:
    """Reads `train=0.9,validation=0.1`, or `folders`.

    Raises:
        UsageError: The text is of neither form.
    """
    if text == FOLDERS:
        return text
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return tuple((name.strip(), float(fraction)) for name, fraction in pairs)
    except ValueError:
        raise UsageError(f"splits must look like train=0.9,validation=0.1, or be {FOLDERS!r}, got {text!r}") from None
