"""`irv2data convert SOURCE --advise`: what shrinking would save, gain and cost, measured on a sample of the source."""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from irv2data import Dataset
from irv2data.convert import ConvertConfig, convert
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources import list_sources
from irv2data.convert.sources.reading import read_source
from irv2data.convert.transcode import transcode
from irv2data.convert.writer import places_of
from irv2data.errors import EXIT_DONE, SourceError, UsageError

from .common import mib, print_json, table
from .console import Bars, paint

SHORT_SIDES = (800, 600, 400, 320)
QUALITIES = (92, 80)
_IMAGE_SIZE = (299, 299)
_BATCH = 64
_ROUNDS = 3
_ROUND_SECONDS = 0.7
# Photographs of 20 megapixels take a while in nine ways; fewer of them say as much.
_SAMPLE_MEGAPIXELS, _LEAST_SAMPLE = 250, 16
_BEST_PSNR = 99.0  # dB, of equal images: the mean over a sample has to stay finite
# Without a wanted rate: the smallest images of which the network still sees what it saw, to the eye.
_GOOD_PSNR = 38.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to convert.

    Attributes:
        max_short_side: In pixels; 0 for the original size.
        quality: JPEG quality of what is encoded again.
        bytes_per_image: Mean size of a stored image.
        total_bytes: The same for the whole source.
        images_per_second: Median rate of the pipeline's batches on this machine.
        psnr: Mean over the sample, in dB, of the 299x299 image that the network sees against the one it would see
            unshrunk; at most 99, which images have that are smaller anyway.
        psnr_low: The same, of which a tenth of the images have less.
    """

    max_short_side: int
    quality: int
    bytes_per_image: float
    total_bytes: float
    images_per_second: float
    psnr: float
    psnr_low: float


def recommend(rows: Sequence[Row], wanted_rate: float) -> tuple[Row, str]:
    """The row to take, and why.

    With a wanted rate: of the rows that reach it the one with the best PSNR, or else the fastest. Without one: the
    smallest on disk of those where nine tenths of the images have a PSNR of at least 38 dB.

    Args:
        rows: At least one; the first is the unshrunk one.
        wanted_rate: Images a second; 0 where none is wanted.
    """
    if wanted_rate:
        fast = [row for row in rows if row.images_per_second >= wanted_rate]
        if not fast:
            best = max(rows, key=lambda row: row.images_per_second)
            return best, f"none reaches {wanted_rate:g} images/s on this machine; this is the fastest"
        return max(fast, key=lambda row: (row.psnr, -row.bytes_per_image)), (
            f"reaches {wanted_rate:g} images/s, and of those that do it changes least of what the network sees"
        )
    # Not the mean: the images that are not shrunk at all would make up for any that are ruined.
    good = [row for row in rows if row.psnr_low >= _GOOD_PSNR] or [rows[0]]
    return min(good, key=lambda row: row.bytes_per_image), (
        f"the smallest on disk of those with {_GOOD_PSNR:g} dB or more in nine tenths of the images"
    )


def spread_evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of some rows, evenly over all of them, the first and the last among them; always the same."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]


def ways(short_sides: Sequence[int], quality: int) -> list[tuple[int, int]]:
    """The (max_short_side, quality) to try: the original size, then what makes half of the images or more smaller.

    Args:
        short_sides: Of the sample, in pixels.
        quality: Of what has to be encoded again at the original size.
    """
    median = statistics.median(short_sides)
    return [(0, quality), *((side, q) for side in SHORT_SIDES if side < median for q in QUALITIES)]


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of images in 0 to 255; at most 99, which is also that of equal ones."""
    error = float(np.mean(np.square(image - reference)))
    return min(_BEST_PSNR, 10 * float(np.log10(255**2 / error))) if error else _BEST_PSNR


def run_advice(arguments: argparse.Namespace, config: ConvertConfig) -> int:
    """Samples the source, converts the sample in every way, measures, and prints the table."""
    if arguments.sample < 1:
        raise UsageError(f"sample must be 1 or more, got {arguments.sample}")
    if arguments.wanted_rate < 0:
        raise UsageError(f"wanted_rate must be 0 or more, got {arguments.wanted_rate:g}")
    bars = Bars("steps")
    try:
        with tempfile.TemporaryDirectory(prefix="irv2data-advise-") as scratch:
            rows, sampled, skipped, sources = _measure(arguments, config, Path(scratch), bars)
    finally:
        bars.close()
    chosen, why = recommend(rows, arguments.wanted_rate)
    if arguments.json:
        print_json(
            {
                "source": arguments.source,
                "sources": sources,
                "sampled": sampled,
                "skipped": skipped,
                "rows": [asdict(row) for row in rows],
                "recommended": asdict(chosen),
                "reason": why,
            }
        )
    else:
        print(_text(rows, chosen, why, sampled, skipped, sources))
    return EXIT_DONE


def _measure(
    arguments: argparse.Namespace, config: ConvertConfig, scratch: Path, bars: Bars
) -> tuple[list[Row], int, int, int]:
    listing = list_sources(arguments.source, config)
    usable = np.array([row for row in range(len(listing)) if row not in listing.rejects])
    if not len(usable):
        raise SourceError(f"{arguments.source}: holds no image to sample")
    rows = spread_evenly(usable, arguments.sample)  # of a sorted listing, and so over its classes
    places = places_of(listing, rows) or itertools.repeat(None)
    sample = scratch / "sample" / "images"
    sample.mkdir(parents=True)
    sizes: dict[str, tuple[int, int]] = {}
    skipped = 0
    for number, (row, place) in enumerate(zip(rows.tolist(), places, strict=False)):
        bars("sampling", number + 1, len(rows))
        try:
            data = read_source(listing.root, listing.names[row], place)
            stored = transcode(data, replace(config, max_short_side=0, shrink_megapixels=0))
        except RejectError:
            skipped += 1
            continue
        name = f"{number:05d}.jpg"  # an image is known by its first bytes, whatever its name
        sizes[name] = stored.height, stored.width
        (sample / name).write_bytes(data)
    if not sizes:
        raise SourceError(f"{arguments.source}: none of {len(rows)} sampled images can be converted; convert says why")
    convertible = 1 - skipped / len(rows)
    share = _SAMPLE_MEGAPIXELS * 1e6 / sum(height * width for height, width in sizes.values())
    names = np.array(list(sizes))
    for name in set(names) - set(spread_evenly(names, max(_LEAST_SAMPLE, int(len(names) * share)))):
        (sample / name).unlink()
        del sizes[name]
    tried = ways([min(size) for size in sizes.values()], config.quality)
    datasets = []
    for number, (side, quality) in enumerate(tried):
        bars("converting the sample", number + 1, len(tried))
        way = replace(
            config,
            splits=(("train", 1.0),), exact_splits=False, labels="none", label_column="", path_column="",
            image_root="", duplicates="keep", max_short_side=side, quality=quality,
        )  # fmt: skip
        folder = scratch / f"{side}-{quality}"
        convert(scratch / "sample", folder, way, workers=arguments.workers)
        datasets.append(Dataset(folder))
    rates = _rates(datasets, bars)
    reference = dict(_seen(datasets[0]))
    measured: list[Row] = []
    for (side, quality), dataset, rate in zip(tried, datasets, rates, strict=True):
        bars("comparing", len(measured) + 1, len(tried))
        train = dataset.split("train")
        mean = train.num_bytes / train.num_records
        found = [psnr(image, reference[name]) for name, image in _seen(dataset)]
        measured.append(
            Row(
                max_short_side=side,
                quality=quality,
                bytes_per_image=mean,
                total_bytes=mean * len(usable) * convertible,
                images_per_second=rate,
                psnr=statistics.mean(found),
                psnr_low=float(np.quantile(found, 0.1, method="lower")),
            )
        )
    return measured, len(sizes), skipped, len(listing)


def _rates(datasets: Sequence[Dataset], bars: Bars) -> list[float]:
    """Images a second of each dataset's pipeline: the median of rounds in which all take turns."""
    from .quiet import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    from irv2data import Pipeline
    from irv2data.measure.stages import batches
    from irv2data.measure.turns import in_turns

    size = min(_BATCH, datasets[0].split("train").num_records)
    subjects = {}
    for number, dataset in enumerate(datasets):
        pipeline = Pipeline(dataset, fit="random_resized_crop", image_size=_IMAGE_SIZE, batch_size=size)
        # Not kept from round to round: each has hundreds of MiB of batches ready.
        subjects[str(number)] = batches(pipeline, tf.distribute.get_strategy(), kept=False)
    turns = in_turns(
        subjects, rounds=_ROUNDS, seconds=_ROUND_SECONDS, progress=lambda done, total: bars("measuring", done, total)
    )
    return [float(np.median(each.images_per_second)) for each in turns.values()]


def _seen(dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """What the network sees of each source: its name, and float32 [299, 299, 3], 0 to 255."""
    from irv2data import Pipeline, device

    pipeline = Pipeline(dataset, fit="resize", image_size=_IMAGE_SIZE, batch_size=8, shuffle=None, drop_remainder=False)
    split = dataset.split("train")
    for batch in pipeline.batches():
        finished = device.preprocess(batch, pipeline.output).numpy()
        for row, image in zip(batch["record"].numpy().tolist(), finished, strict=True):
            if row >= 0:
                yield split.source(row), (image + 1) * 127.5


def _text(rows: Sequence[Row], chosen: Row, why: str, sampled: int, skipped: int, sources: int) -> str:
    head = ("short side", "quality", "KiB an image", "whole source", "images/s", "PSNR dB", "worst tenth", "")
    lines = [
        (
            str(row.max_short_side) if row.max_short_side else "original",
            str(row.quality),
            f"{row.bytes_per_image / 1024:,.1f}",
            mib(row.total_bytes),
            f"{row.images_per_second:,.0f}",
            *(f"{value:.1f}" if value < _BEST_PSNR else "same" for value in (row.psnr, row.psnr_low)),
            paint("<- recommended", "green") if row is chosen else "",
        )
        for row in rows
    ]
    flags: list[Any] = [f"--max_short_side={chosen.max_short_side}", f"--quality={chosen.quality}"]
    notes = [
        f"measured on {sampled:,} of {sources:,} sources"
        + (f"; {skipped:,} more could not be converted" * bool(skipped)),
        "images/s: batches of random crops for 299x299, before the device stage, on this machine, median of "
        f"{_ROUNDS} rounds",
        "PSNR: the 299x299 image that the network sees, against the one from the original size; the mean over the "
        f"sample, where an equal image counts as {_BEST_PSNR:g} dB, and what nine tenths of the images reach",
        f"recommended: {' '.join(flags)}: {why}",
    ]
    return "\n".join([table([head, *lines], right=frozenset(range(7))), *notes])
