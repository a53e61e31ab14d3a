"""Finished images of a pipeline as they are looked at, and any image as part of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from irv2data.device.stage import preprocess, to_uint8
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.config import NATIVE, OutputSpec
from irv2data.pipeline.planned import FILLER

_QUALITY = 90


def seen(pipeline: Pipeline, outputs: Sequence[OutputSpec] = (), *, epoch: int = 0) -> list[dict[int, np.ndarray]]:
    """What the network sees of every record of an epoch.

    Args:
        pipeline: The pipeline.
        outputs: What the device stage is to make of the same batches; none for `pipeline.output` alone.
        epoch: Epoch to show.

    Returns:
        For each output, record to uint8 [h, w, 3]; of `native` the valid part. Damaged records, where the pipeline
        tolerates some, are not there.
    """
    wanted = outputs or (pipeline.output,)
    found: list[dict[int, np.ndarray]] = [{} for _ in wanted]
    for batch in pipeline.batches(epoch):
        records, sizes = batch["record"].numpy().tolist(), np.asarray(batch["size"])
        for output, images in zip(wanted, found, strict=True):
            finished = to_uint8(preprocess(batch, output))
            for image, record, (height, width) in zip(finished, records, sizes, strict=True):
                if record != FILLER:
                    images[record] = image[:height, :width] if output.fit == NATIVE else image
    return found


def data_uri(image: np.ndarray | Image.Image) -> str:
    """A picture (uint8 [h, w, 3], or an image of RGB or grey) as a data URI of a JPEG."""
    data = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    # Colours at full resolution: on small pictures the usual half is seen.
    picture.save(data, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
