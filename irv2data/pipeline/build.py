"""The pipeline, top to bottom: `Pipeline` and the one composition that everything it offers is made of."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.errors import UsageError
from irv2data.machine import available_cores
from irv2data.manifest import Dataset
from irv2data.pipeline.ahead import Ahead, Refetching, check_bound
from irv2data.pipeline.batch import Maker
from irv2data.pipeline.cache import Cache, HostCache
from irv2data.pipeline.config import DEVICE, DISK, MAX_CHUNK, OutputSpec, PipelineConfig
from irv2data.pipeline.distribute import Share, distribute, distribute_for_keras, on_host, share_of
from irv2data.pipeline.faults import BadRecords, Recovery, chunk_dataset
from irv2data.pipeline.feed import planned_chunks, record_chunks
from irv2data.pipeline.mixing import mix_labels
from irv2data.pipeline.on_devices import DeviceCache, DeviceEpochs
from irv2data.pipeline.others import other_decoders
from irv2data.pipeline.places import Place, places
from irv2data.pipeline.plan import Plan
from irv2data.pipeline.read import request_bytes
from irv2data.pipeline.service.tally import Chunks
from irv2data.pipeline.state import resume, state
from irv2data.pipeline.summary import describe
from irv2data.pipeline.tensorflow_io import open_scheme


class Pipeline:
    """Batches of a dataset's split, exactly as planned.

    Args:
        dataset: An `irv2data.Dataset`, or the path or URI of its folder.
        split: Name of the split.
        **options: The fields of `irv2data.pipeline.config.PipelineConfig`; sizes may be given as any pair.

    Attributes:
        dataset: The dataset.
        config: The checked options.
        plan: The plan; `plan.batch(epoch, step)` is what a step will hold, before a byte is read.

    Raises:
        UsageError: An option is unknown or out of range, or there is no such split; or the dataset is remote, and its
            cache of shards smaller than what is read at once. Or shards are to be read directly, or images are WebP or
            AVIF, and tensorflow-io is needed for that and not there, or `service` is asked for.
        DatasetError: The dataset is incomplete, or the split too small for one batch.
    """

    def __init__(self, dataset: Dataset | str | os.PathLike[str], *, split: str = "train", **options: Any):
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
        self.config = _config(options)
        self.plan = Plan(self.dataset.split(split), self.config)
        if self.dataset.cache is not None:
            check_bound(self.plan, self.dataset.cache)
        if self.dataset.direct:
            open_scheme(self.plan.split.paths[0])
        self._others = other_decoders(self.plan.split)
        if self.config.service is not None and (self.dataset.direct or self._others):
            remedy = "open the dataset without direct" if self.dataset.direct else "convert the images to JPEG"
            raise UsageError(f"service: its workers have no tensorflow-io; {remedy}, or leave service out")
        self._bad = BadRecords(self.plan.split, self.config.max_bad_records)
        self._chunks = Chunks()
        self._cache: Cache | None = None
        self._on_devices: dict[tf.distribute.Strategy, DeviceCache] = {}

    @property
    def output(self) -> OutputSpec:
        """What `irv2data.device.preprocess` needs to know beside the batch."""
        return self.config.output

    @property
    def cache(self) -> Cache | None:
        """Where decoded images are kept, or are on their way to the devices; None where they are not."""
        if self._cache is None and self.plan.residence is not None:
            if self.plan.cache == DISK:
                from irv2data.pipeline.disk_cache import DiskCache  # needs a system with file locks

                what = {
                    "dataset": self.dataset.fingerprint,
                    "split": self.plan.split.name,
                    "cache_short_side": self.config.kept_side,
                }
                self._cache = DiskCache(self.plan.residence, str(self.config.cache_dir), what)
            else:
                self._cache = HostCache(self.plan.residence)
        return self._cache

    @property
    def bad_records(self) -> tuple[Place, ...]:
        """The damaged records that filler has taken the place of so far, in this process (`max_bad_records`)."""
        return tuple(place for place in places(self.plan.split, self._bad.records) if place is not None)

    @property
    def on_devices(self) -> bool:
        """Whether batches come from the devices' own memory by now (`cache="device"`)."""
        return any(cache.filled for cache in self._on_devices.values())

    @property
    def kept(self) -> float | None:
        """Share of the records whose decoded image is kept by now; None without a cache."""
        if self.plan.residence is None:
            return None
        if self.on_devices:  # which the host's cache has been given up for
            return 1.0
        return 0.0 if self._cache is None else float(self._cache.there.mean())

    @property
    def made_here(self) -> float | None:
        """Share of the chunks so far that no worker of the service gave; None without a service, or any chunk."""
        chunks = self._chunks
        return chunks.here / chunks.total if chunks.total else None

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Exactly how many batches an epoch has: N // B, or ceil(N / B) without `drop_remainder`.

        With `max_pixels_per_batch` it depends on the epoch.
        """
        return self.plan.steps_per_epoch(epoch)

    def describe(self, epoch: int = 0) -> dict[str, Any]:
        """What an epoch will be like, before a byte of an image is read; see `irv2data.pipeline.summary.describe`."""
        return describe(self.plan, epoch)

    def locate(self, epoch: int, step: int) -> list[Place | None]:
        """Where each record of a batch lies, and what it was made of; None for filler.

        Raises:
            UsageError: There is no such step.
        """
        self.plan.check_step(epoch, step, beyond=False)
        return places(self.plan.split, self.plan.batch(epoch, step).record[0].tolist())

    def state(self, epoch: int, step: int) -> dict[str, Any]:
        """A position, as a small JSON-able dict that `resume` of an equal pipeline takes.

        Raises:
            UsageError: There is no such step.
        """
        self.plan.check_step(epoch, step)
        return state(self.dataset, self.plan.split, self.config, epoch, step)

    def resume(self, saved: dict[str, Any]) -> tuple[int, int]:
        """The (epoch, step) of a `state`, if it is of this dataset and of options that give the same batches.

        How many replicas share a batch, and where it is resized, may change.

        Raises:
            UsageError: It is not; the message names what differs.
        """
        epoch, step = resume(saved, self.dataset, self.plan.split, self.config)
        self.plan.check_step(epoch, step)
        return epoch, step

    def batches(self, epoch: int = 0, step: int = 0, *, epochs: int = 1) -> tf.data.Dataset:
        """An epoch's global batches, from `step` on, and those of the epochs after it.

        Args:
            epoch: 0 or more.
            step: In [0, steps_per_epoch(epoch)]; starting late costs nothing, no earlier step is replayed.
            epochs: How many, this one included. A new iterator takes a second or two until its first batch; within one
                an epoch follows the other at once.

        Returns:
            A `tf.data.Dataset` of dicts, B = `batch_size`: `canvas` uint8 [B, H, W, 3], zero outside the image;
            `box` float32 [B, 4], y, x, height, width in canvas pixels; `size` int32 [B, 2], the image's height and
            width on the canvas; `flip` bool [B]; `draws` float32 [B, 8] in [0, 1) (and behind
            them those of `augment`); `label` int64 [B] (-1
            without labels), float32 [B] where labels are numbers, or float32 [B, classes], 1 for each class of a
            record that may have several; `record` int64 [B], the row of the split's index; `weight` float32 [B];
            and the `columns` asked for, int64, float32 or string [B]. Filler has record -1, label 0, weight 0, a
            zero canvas and a valid box. H and W are one of `plan.shapes`.

            `letterbox` adds `fitted` int32 [B, 4], y, x, height, width of the picture within the finished image.
            `native`: the canvas holds the image as the network is to see it, mirrored already, and `size` is its
            valid part. Where images are resized on the host, `image` float32 [B, h, w, 3] in [-1, 1], finished and
            mirrored already (for `native` [B, H, W, 3], 0 outside the image), takes the place of `canvas` and `box`.

            Iterating it raises `tf.errors.InvalidArgumentError` at a damaged record, naming it; `max_bad_records`
            puts filler in its place instead.

        Raises:
            UsageError: There is no such step.
        """
        return self.host_batches(_begins(epoch, step, epochs), Share.whole(max(self.plan.batch_sizes)), None)

    def epoch_by_epoch(self) -> tf.data.Dataset:
        """The batches of epoch 0; each further time that the dataset is iterated, by `repeat` too, of the next epoch.

        For what iterates a dataset once an epoch, as Keras' `fit` does. Elements are those of `batches`.
        """
        epochs = itertools.count()
        return self.host_batches(lambda: next(epochs), Share.whole(max(self.plan.batch_sizes)), None)

    def distribute(
        self, strategy: tf.distribute.Strategy, epoch: int = 0, step: int = 0, *, epochs: int = 1, counted: bool = False
    ) -> Any:
        """The same batches for a strategy: replica r of R gets rows [r B/R, (r+1) B/R) of each.

        All replicas have the same canvas shape in the same step, and the global batches do not depend on R.

        Args:
            strategy: `MirroredStrategy`, `OneDeviceStrategy`, `MultiWorkerMirroredStrategy` or the default strategy.
            epoch: 0 or more.
            step: In [0, steps_per_epoch(epoch)].
            epochs: How many, this one included, as in `batches`.
            counted: The caller counts the batches itself and takes no more than there are, which would be an error.
                That saves looking for the end: some milliseconds a step, and among several hosts a question to all.

        Returns:
            A distributed dataset of dicts as in `batches`, each value split over the replicas. Feed its elements to
            `strategy.run` from Python, one by one: inside a graph loop the shapes of canvases are unknown.

        Raises:
            UsageError: The replicas do not divide `batch_size` (or `batch_multiple`), or there is no such step.
        """
        begins, share = _begins(epoch, step, epochs), share_of(self.plan, strategy.num_replicas_in_sync)
        if self.plan.cache == DEVICE:
            for each in begins:
                self.plan.check_step(*each)
            return DeviceEpochs(self._devices(strategy, share), begins)
        return distribute(
            strategy, lambda context: self.host_batches(begins, share(context), strategy), counted=counted
        )

    def _devices(
        self, strategy: tf.distribute.Strategy, share: Callable[[tf.distribute.InputContext], Share]
    ) -> DeviceCache:
        if strategy not in self._on_devices:
            self._on_devices[strategy] = DeviceCache(
                self.plan,
                strategy,
                through_host=lambda begin, context: self.host_batches([begin], share(context), strategy),
                maker=lambda context: self.maker(share(context), strategy),
                fill=self._fill,
            )
        return self._on_devices[strategy]

    def for_fit(self, strategy: tf.distribute.Strategy, *, epochs: int, start: tuple[int, int] = (0, 0)) -> Any:
        """Several epochs for Keras' `model.fit`, each planned anew.

        Call `model.fit(data, steps_per_epoch=pipeline.steps_per_epoch(), epochs=epochs, shuffle=False)`. Keras counts
        equal epochs, so after a `start` in the middle of one, finish that epoch in a `fit` of its own.

        Args:
            strategy: As in `distribute`.
            epochs: Epochs planned in all; those before `start` are left out.
            start: First (epoch, step).

        Returns:
            A distributed dataset of `(inputs, label, weight)`: `inputs` the batch's dict without these two and with
            `flip` as uint8, and without columns of strings, which Keras cannot feed; for a model that begins with
            `irv2data.device.Preprocess`. With mixup or cutmix, labels are mixed as that layer mixes the images: float32
            [B, classes], for a categorical loss.

        Raises:
            UsageError: As `distribute`; or `start` lies outside the epochs.
        """
        if not 0 <= start[0] < epochs:
            raise UsageError(f"start: epoch must be in [0, {epochs}), got {start[0]}")
        begins = _begins(*start, epochs - start[0])
        return distribute_for_keras(
            strategy, lambda share: self.host_batches(begins, share, strategy).map(self._for_fit), self.plan
        )

    def _for_fit(self, batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        inputs = {
            name: value for name, value in batch.items() if name not in ("label", "weight") and value.dtype != tf.string
        }
        # Keras learns the shapes by averaging the first batch over the replicas, and TensorFlow cannot add booleans.
        inputs["flip"] = tf.cast(inputs["flip"], tf.uint8)
        augment, label = self.config.augment, batch["label"]
        if augment is not None and augment.mixes:
            label = mix_labels(batch, self.output, len(self.dataset.classes))
        return inputs, label, batch["weight"]

    def host_batches(
        self,
        begins: list[tuple[int, int]] | Callable[[], int],
        share: Share,
        strategy: tf.distribute.Strategy | None,
    ) -> tf.data.Dataset:
        """One input process's share of some epochs: its replicas' batches, one after another."""
        maker = self.maker(share, strategy)
        if self.config.service is not None:
            batches = self._from_workers(self.config.service, begins, maker)
        else:
            # The plan comes in windows, one Python call each; from here to the batch everything runs in the graph.
            batches = self._made(planned_chunks(self.plan, begins, share, self.ahead()), maker)
            if share.chunks > 1:
                batches = batches.batch(share.chunks, name="replica").map(maker.join, name="join")
        # Last, so that it overlaps with the step: two batches ready for every replica that this process feeds.
        return batches.prefetch(2 * share.replicas, name="ready")

    def _from_workers(
        self, address: str, begins: list[tuple[int, int]] | Callable[[], int], maker: Maker
    ) -> tf.data.Dataset:
        from irv2data.pipeline.service.client import Service
        from irv2data.pipeline.service.request import Request

        if callable(begins):
            raise UsageError("service: workers must know all epochs beforehand; use batches(epochs=...) or distribute")
        request = Request.of(self.dataset, self.plan, maker.on_host, maker.share, begins)
        return Service(address, request, self.plan, maker, self._bad, self._chunks, self._made).dataset()

    def ahead(self) -> Ahead | None:
        """What has a remote dataset's shards here before they are read; None where they lie in a folder."""
        shards = self.dataset.cache
        return None if shards is None else Ahead(self.plan, shards, self.cache)

    def maker(self, share: Share, strategy: tf.distribute.Strategy | None) -> Maker:
        """What makes an input process's chunks; `strategy` as in `on_host`."""
        split = self.plan.split
        return Maker(
            paths=tf.constant([os.fsencode(path) for path in split.paths]),
            config=self.config,
            on_host=on_host(self.plan, strategy),
            share=share,
            key=split.contents.encoded_key,
            cache=self.cache,
            request=request_bytes(split) if self.dataset.direct else None,
            others=self._others,
        )

    def recovery(self, maker: Maker) -> Recovery:
        """What makes chunks that carry damaged records."""
        tolerated, shards = "max_bad_records tolerates some", self.dataset.cache
        if shards is not None:
            return Refetching(maker, self._bad, tolerated, self.plan, shards)
        if self.dataset.direct:  # `verify` needs the folder itself
            return Recovery(maker, self._bad, tolerated)
        looked = f"`irv2data verify --deep {self.dataset.folder}` looks at all records"
        return Recovery(maker, self._bad, f"{looked}, {tolerated}")

    def _made(self, chunks: tf.data.Dataset, maker: Maker) -> tf.data.Dataset:
        """The chunks of some plans, in their order."""
        recovery, cores = self.recovery(maker), available_cores()
        # One worker a chunk, as many open as there are cores; what interleave prefetches beyond them keeps the cores
        # busy while a finished chunk is taken. Measured on two cores: one chunk more was slower by an eighth and larger
        # by a tenth, two more as fast and larger by a fifth. The order stays that of the plan.
        return chunks.interleave(
            lambda plan: chunk_dataset(plan, recovery),
            cycle_length=cores,
            num_parallel_calls=cores,
            deterministic=True,
            name="chunks",
        )

    def _fill(self) -> HostCache:
        """The host's cache with all images in it, those too that no batch has asked for; then it is given up."""
        cache, whole = self.cache, Share.whole(MAX_CHUNK)
        assert isinstance(cache, HostCache)
        left = np.flatnonzero(~cache.there)
        if len(left):
            for _ in self._made(record_chunks(self.plan, left), self.maker(whole, None)):
                pass
        self._cache = None
        return cache


def _begins(epoch: int, step: int, epochs: int) -> list[tuple[int, int]]:
    """The first (epoch, step) of each of some epochs."""
    if epochs < 1:
        raise UsageError(f"epochs must be 1 or more, got {epochs}")
    return [(epoch, step), *((following, 0) for following in range(epoch + 1, epoch + epochs))]


def _config(options: dict[str, Any]) -> PipelineConfig:
    known = PipelineConfig.__dataclass_fields__
    for name in options:
        if name not in known:
            raise UsageError(f"Pipeline has no option {name!r}; it has {', '.join(known)}")
    return PipelineConfig(**{name: _plain(value) for name, value in options.items()})


def _plain(value: Any) -> Any:
    """Lists and arrays as tuples, NumPy's numbers as Python's, paths as text; the config checks their values."""
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    return tuple(_plain(part) for part in value) if isinstance(value, (list, tuple)) else value
