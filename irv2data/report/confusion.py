"""The confusion matrix as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from irv2data.errors import UsageError

_MOST_NAMES = 60  # classes that have room for their names


def confusion_picture(confusion: np.ndarray, classes: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Writes a PNG: rows are the classes that records have, columns those they were taken for, in shares of a row.

    Args:
        confusion: int [classes, classes].
        classes: Their names.
        path: File to write.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("pictures need the 'report' extra: pip install 'irv2data[report]'") from error
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(4.0 + 0.22 * len(classes), 18.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's records")
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if len(classes) <= _MOST_NAMES:
        # Dollar signs would be read as formulas.
        names = [name.replace("$", r"\$") for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    figure.savefig(path, dpi=120)
