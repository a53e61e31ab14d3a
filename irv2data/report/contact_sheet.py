"""A picture of what the network sees: the first images of a pipeline's epoch, after the device stage."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from irv2data.device.stage import preprocess, to_uint8
from irv2data.labels import CLASSES, NONE, NUMBER
from irv2data.pipeline.build import Pipeline

_GAP = 6  # pixels between images
_CAPTION = 16  # pixels for the line below each


def contact_sheet(
    pipeline: Pipeline, path: str | os.PathLike[str], *, columns: int = 8, rows: int = 4, epoch: int = 0
) -> None:
    """Writes a PNG with `columns * rows` images (fewer if the epoch has fewer), each with its label below.

    Args:
        pipeline: Where the images come from, in the order of its epoch.
        path: File to write.
        columns: Images side by side.
        rows: Images one above the other.
        epoch: Epoch to show.
    """
    wanted = columns * rows
    images: list[np.ndarray] = []
    labels: list[Any] = []
    for batch in pipeline.batches(epoch):
        finished = np.asarray(preprocess(batch, pipeline.output))
        real = np.asarray(batch["weight"]) > 0
        images += list(to_uint8(finished[real]))
        labels += np.asarray(batch["label"])[real].tolist()
        if len(images) >= wanted:
            break
    images, labels = images[:wanted], labels[:wanted]
    height, width = pipeline.config.image_size
    cell = (width + _GAP, height + _CAPTION + _GAP)
    lines = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, lines * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        x = _GAP + number % columns * cell[0]
        y = _GAP + number // columns * cell[1]
        sheet.paste(Image.fromarray(image), (x, y))
        draw.text((x, y + height + 2), _fitting(_caption(label, pipeline), font, width), fill="black", font=font)
    sheet.save(path, "PNG")


def _caption(label: Any, pipeline: Pipeline) -> str:
    kind, classes = pipeline.dataset.contents.labels, pipeline.dataset.classes
    if kind == CLASSES:
        return ", ".join(classes[number] for number, has in enumerate(label) if has)
    return "" if kind == NONE else f"{label:g}" if kind == NUMBER else classes[label]


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """As much of the text as fits into `width` pixels; what cannot be printed becomes a question mark."""
    text = "".join(c if c.isprintable() else "?" for c in text).encode("utf-8", "replace").decode()
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
