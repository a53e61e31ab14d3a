"""Loaders of `benchmarks.loaders` without TensorFlow: the yardstick, torchvision, WebDataset, DALI, Grain and FFCV.

Each imports what it needs when it is called, for they live in several environments. Their settings are the fastest of
those tried on two cores; what else was tried stands beside each.
"""

# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import glob
import os
import random
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.feeds import AREA, ASPECT, BATCH, SIDE, Data, Feed, in_order
from benchmarks.peers import FFCV

_ENDLESS = 10**9


def paths_of(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(folder, "*", "*.jpg")))


def libjpeg_turbo(data: Data) -> Iterator[Any]:
    """No loader but the yardstick: each file read and decoded whole and accurately, a thread a core, nothing kept."""
    import simplejpeg

    def decode(path: str) -> int:
        with open(path, "rb") as file:
            return int(simplejpeg.decode_jpeg(file.read(), "RGB", fastdct=False, fastupsample=False).shape[2])

    paths = paths_of(data.folder)
    endless = (path for _ in repeat(None) for path in paths)
    decoded = in_order(decode, endless, threads=data.cores, ahead=BATCH)
    while True:
        yield [next(decoded) for _ in range(BATCH)]


def _torchvision_transform() -> Any:
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Its wheel for CUDA beside a PyTorch for the CPU: its compiled operators, none of which is used here, do not
        # load, and the absence of these two fails the import.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE, scale=AREA, ratio=ASPECT),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )


def torchvision(data: Data) -> Iterator[Any]:
    """ImageFolder and the usual transforms, Pillow decoding, a worker process a core.

    Three workers, or four batches ahead of each instead of two, gave the same within the noise.
    """
    transform = _torchvision_transform()
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder

    images = ImageFolder(data.folder, transform)
    # Drawn with replacement, so that workers never wait for the end of an epoch.
    sampler = RandomSampler(images, replacement=True, num_samples=_ENDLESS)
    for batch, _ in DataLoader(images, BATCH, sampler=sampler, num_workers=data.cores, prefetch_factor=2):
        yield batch


def webdataset(data: Data) -> Iterator[Any]:
    """The same transforms over tar files."""
    import webdataset as wds

    shards = sorted(glob.glob(os.path.join(data.archives, "*.tar")))
    transform = _torchvision_transform()
    samples = wds.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(200).decode("pil")
    batches = samples.to_tuple("jpg", "cls").map_tuple(transform, int).batched(BATCH, partial=False)
    for images, _ in wds.WebLoader(batches, batch_size=None, num_workers=data.cores, prefetch_factor=2):
        yield images


def dali(data: Data, *, antialias: bool) -> Iterator[Any]:
    """DALI on the CPU: the decoder crops at random by itself.

    Three threads, `fn.experimental.decoders` and `dont_use_mmap=True` gave the same within the noise;
    `use_fast_idct=True` gave a tenth more, for pixels less accurate than those of the others.
    """
    import numpy as np
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=data.cores, device_id=None, seed=0, prefetch_queue_depth=2)
    def pipeline() -> Any:
        encoded, _ = fn.readers.file(file_root=data.folder, random_shuffle=True)
        crops = fn.decoders.image_random_crop(
            encoded, device="cpu", output_type=types.RGB, random_area=AREA, random_aspect_ratio=ASPECT
        )
        images = fn.resize(crops, size=(SIDE, SIDE), interp_type=types.INTERP_LINEAR, antialias=antialias)
        mirror = fn.random.coin_flip()
        return fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="HWC", mirror=mirror)

    built = pipeline()
    built.build()
    while True:
        (images,) = built.run()
        yield np.asarray(images.as_tensor())


def grain(data: Data) -> Iterator[Any]:
    """Grain's threads, OpenCV in each of them. 4 and 16 threads (its default) gave the same within the noise."""
    import cv2
    import grain as library
    import numpy as np

    cv2.setNumThreads(1)  # the threads are Grain's

    def finish(path: str, rng: np.random.Generator) -> np.ndarray:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
        top, left, height, width = crop_box(image.shape[:2], rng)
        resized = cv2.resize(image[top : top + height, left : left + width], (SIDE, SIDE))
        return (resized[:, ::-1] if rng.random() < 0.5 else resized).astype(np.float32)

    images = library.MapDataset.source(paths_of(data.folder)).seed(0).shuffle().repeat().random_map(finish)
    threads = library.ReadOptions(num_threads=data.cores, prefetch_buffer_size=2 * BATCH)
    yield from images.to_iter_dataset(threads).batch(BATCH)


def crop_box(size: tuple[int, int], rng: Any) -> tuple[int, int, int, int]:
    """A random crop's top, left, height and width, as the others draw theirs."""
    for _ in range(10):
        area = size[0] * size[1] * rng.uniform(*AREA)
        aspect = rng.uniform(*ASPECT)
        height, width = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < height <= size[0] and 0 < width <= size[1]:
            return int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1)), height, width
    side = min(size)
    return (size[0] - side) // 2, (size[1] - side) // 2, side, side


def write_beton(data: Data) -> None:
    """FFCV's own file. It stores pixels that it encoded again: at a quality that gives files of about the same size."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Folder:
        paths = paths_of(data.folder)

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, number: int) -> tuple[Any, int]:
            path = Path(self.paths[number])
            return Image.open(path).convert("RGB"), int(path.parent.name.rpartition("-")[2])

    made = f"{data.beton}.{random.random()}"
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=75), "label": IntField()}
    DatasetWriter(made, fields, num_workers=data.cores).from_indexed_dataset(Folder())
    os.replace(made, data.beton)


def ffcv(data: Data) -> Iterator[Any]:
    """FFCV's fused decoder and crop, a thread a core, NumPy batches of floats."""
    import numpy as np
    from ffcv.fields.decoders import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip

    if not os.path.exists(data.beton):
        write_beton(data)
    images = [
        RandomResizedCropRGBImageDecoder((SIDE, SIDE), scale=AREA, ratio=ASPECT),
        RandomHorizontalFlip(),
        # FFCV's way to floats: a look-up table.
        NormalizeImage(np.zeros(3), np.full(3, 255.0), np.float32),
    ]
    pipelines = {"image": images, "label": [IntDecoder()]}
    loader = Loader(
        data.beton,
        BATCH,
        num_workers=data.cores,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines=pipelines,
    )
    while True:
        for batch, _ in loader:
            yield batch


FEEDS = {
    "libjpeg_turbo": Feed(libjpeg_turbo, "libjpeg-turbo: full decode alone, threads", ("simplejpeg",), home=""),
    "torchvision": Feed(torchvision, "torchvision", ("torch", "torchvision", "pillow")),
    "webdataset": Feed(webdataset, "WebDataset + torchvision", ("webdataset", "torch", "torchvision", "pillow")),
    "dali": Feed(partial(dali, antialias=True), "NVIDIA DALI on the CPU", ("nvidia-dali-cuda120",)),
    "dali_bilinear": Feed(
        partial(dali, antialias=False), "NVIDIA DALI on the CPU, without antialiasing", ("nvidia-dali-cuda120",)
    ),
    "grain": Feed(grain, "Grain + OpenCV, threads", ("grain", "opencv-python-headless", "numpy")),
    "ffcv": Feed(ffcv, "FFCV", ("ffcv", "numba", "torch", "opencv-python"), home=FFCV),
}
