"""What the input costs a training loop, counted beside it: rate, waiting, bytes, canvases, caches, damage, memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from irv2data.machine import resident_memory
from irv2data.pipeline.build import Pipeline

# Each figure, for people; TensorBoard shows it beside the curve.
ABOUT = {
    "images_per_second": "images a second over all replicas, filler too",
    "input_wait": "share of the time in which the loop had no batch to hand to the devices",
    "mib_per_step": "MiB that a step sends from this host to its devices",
    "canvas_share": "share of the steps whose batch had this canvas",
    "cache_filled": "share of the records whose decoded image is kept by now",
    "made_here": "share of the chunks so far that no worker of the service gave in time",
    "bad_records": "damaged records met so far",
    "resident_mib": "memory of this process, in MiB",
}
_PIXELS = ("canvas", "image")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a meter shows at a moment; the difference of two is what happened between them.

    Attributes:
        seconds: Of its clock.
        waited: Seconds in which the loop asked for a batch and had none.
        steps: Batches handed out.
        images: Rows of these over all replicas, filler too.
        sent: Bytes of these that went from the host to its devices.
        canvases: Height and width of the pixels to the number of batches that had them.
    """

    seconds: float
    waited: float = 0.0
    steps: int = 0
    images: int = 0
    sent: int = 0
    canvases: Mapping[tuple[int, int], int] = field(default_factory=dict)


class Meter:
    """Counts batches on their way to a loop. It looks at their shapes alone: nothing waits for a device.

    In a loop::

        meter = Meter(pipeline)
        for batch in meter(pipeline.distribute(strategy)):
            step(batch)
            ...
        meter.figures(), or meter.figures(since=reading) with an earlier reading = meter.reading()

    A step's result is a future: while the loop waits for a batch, the devices may still be at work on the step before.
    So waiting is the most that the input can cost, and none of it costs nothing.

    Args:
        pipeline: Whose batches they are.
        replicas: How many there are, where other hosts have some of them; None for those that a batch shows.
        clock: Seconds, from wherever.
    """

    def __init__(self, pipeline: Pipeline, replicas: int | None = None, clock: Callable[[], float] = time.perf_counter):
        self._pipeline = pipeline
        self._replicas = replicas
        self._clock = clock
        self._sizes: dict[tuple[int, ...], tuple[int, int]] = {}
        self._waited, self._steps, self._images, self._sent = 0.0, 0, 0, 0
        self._canvases: Counter[tuple[int, int]] = Counter()
        self._start = self.reading()

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches: dicts as `Pipeline.distribute` and `batches` give them, or what `for_fit` makes of them."""
        iterator = iter(batches)
        while True:
            asked = self._clock()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - asked
            self._count(batch)
            yield batch

    def reading(self) -> Reading:
        """What it shows now."""
        return Reading(
            seconds=self._clock(),
            waited=self._waited,
            steps=self._steps,
            images=self._images,
            sent=self._sent,
            canvases=dict(self._canvases),
        )

    def figures(self, since: Reading | None = None) -> dict[str, Any]:
        """What happened since an earlier reading, or since the meter was made.

        Returns:
            `steps`; `images_per_second`; `input_wait`, the share of the time that the loop waited for batches;
            `mib_per_step`, that went to this host's devices; `canvases`, as `HEIGHTxWIDTH` to steps; all of these None
            or empty where there was no step. And as it is now: `cache_filled`, the share of the records whose decoded
            image is kept; `made_here`, the share of its chunks so far that a client of the service made itself (both
            None where there is no such thing); `bad_records`, damaged ones met so far; `resident_mib`, memory of this
            process (None where the system does not say).
        """
        before, now = since or self._start, self.reading()
        steps, seconds = now.steps - before.steps, now.seconds - before.seconds
        some = steps > 0 and seconds > 0
        canvases = {size: number - before.canvases.get(size, 0) for size, number in now.canvases.items()}
        memory = resident_memory()
        return {
            "steps": steps,
            "images_per_second": (now.images - before.images) / seconds if some else None,
            "input_wait": (now.waited - before.waited) / seconds if some else None,
            "mib_per_step": (now.sent - before.sent) / steps / (1 << 20) if some else None,
            "canvases": {f"{height}x{width}": number for (height, width), number in sorted(canvases.items()) if number},
            "cache_filled": self._pipeline.kept,
            "made_here": self._pipeline.made_here,
            "bad_records": len(self._pipeline.bad_records),
            "resident_mib": None if memory is None else memory / (1 << 20),
        }

    def _count(self, batch: Any) -> None:
        fields = batch[0] if isinstance(batch, tuple) else batch
        pixels = next(fields[name] for name in _PIXELS if name in fields)
        # Not flattened in every step: that would take TensorFlow longer than all the rest.
        parts = getattr(pixels, "values", (pixels,))
        shape = tuple(parts[0].shape)
        if shape not in self._sizes:  # all else in a batch has as many rows
            whole = tf.nest.flatten(batch, expand_composites=True)
            self._sizes[shape] = shape[0] * (self._replicas or len(parts)), sum(map(_bytes, whole))
        images, sent = self._sizes[shape]
        self._steps += 1
        self._images += images
        self._sent += 0 if self._pipeline.on_devices else sent
        self._canvases[shape[1], shape[2]] += 1


def _bytes(value: tf.Tensor) -> int:
    return 0 if value.dtype == tf.string else value.shape.num_elements() * value.dtype.size  # strings stay here
