"""What becomes of a chunk that cannot be made: an error that names shard and record, or filler in the record's place.

The usual path carries none of this: a chunk is made in one go, and only where that fails its rows are tried one by one.
(A catch around every image would cost a tenth of the speed.)
"""

from __future__ import annotations

import logging
import re
import textwrap
import threading
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from irv2data.pipeline.batch import Maker, real_rows
from irv2data.pipeline.feed import shaped
from irv2data.pipeline.leaving import call
from irv2data.pipeline.places import places
from irv2data.split import Split

_LOG = logging.getLogger(__name__)

# What reading and decoding a damaged record raises. Anything else (no memory, no permission, a network that is down) is
# no fault of the record, and nothing that filler should hide.
DAMAGE = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError)

# What a row is where its record is damaged: filler, as in `planned.Batches`.
_FILLER: dict[str, Any] = {
    "record": -1,
    "label": 0,
    "weight": 0,
    "size": 1,
    "output": 1,
    "box": [0, 0, 1, 1],
    "crop": 0,
    "flip": False,
}


class BadRecords:
    """The damaged records that a pipeline has come across in this process, and how many there may be.

    Args:
        split: Their split.
        most: Different records that are tolerated.

    Attributes:
        records: Rows of the split's index, in the order they were found.
    """

    def __init__(self, split: Split, most: int):
        self.records: list[int] = []
        self._split = split
        self._most = most
        self._lock = threading.Lock()

    def describe(self, record: int, error: Exception) -> str:
        """The record's place and what is wrong with it, in one line."""
        return f"{self._split.folder}: {places(self._split, [record])[0]}: cannot be read or decoded: {reason(error)}"

    def add(self, record: int, error: Exception) -> None:
        """Notes a damaged record; one that was noted before, in another epoch for instance, counts once.

        Raises:
            ValueError: They are more than are tolerated.
        """
        with self._lock:
            if record in self.records:
                return
            text = self.describe(record, error)
            if len(self.records) == self._most:  # not noted: met again, it is one too many again
                raise ValueError(f"more than max_bad_records={self._most} damaged records, the last one: {text}")
            self.records.append(record)
            _LOG.warning("%s; filler of weight 0 takes its place", text)


def reason(error: Exception) -> str:
    """What TensorFlow says of an error, without the graph's nodes and the operation that noticed it."""
    # Where in a graph it happened comes first, a line for each call, and would leave no room for what it was.
    noise = (
        r"Graph execution error:.*\n +File [^\n]*\n|\{\{[^}]*\}\}|\[\[.*?\]\]|\[Op:.*"
        r"|Error in user-defined function passed to .*? with iterator: \S+:(?= )"
    )
    text = re.sub(noise, " ", str(error), flags=re.DOTALL)
    if "Dataset was empty" in text:  # no record where one should begin
        return "the shard ends before it"
    return textwrap.shorten(text, 200, placeholder=" ...") or type(error).__name__


class Recovery:
    """Makes chunks that carry damaged records, of one pipeline.

    Args:
        maker: Makes chunks.
        bad: Told of damaged records, where `max_bad_records` tolerates any.
        remedy: What the error ends with.
    """

    def __init__(self, maker: Maker, bad: BadRecords, remedy: str):
        self.maker = maker
        self._bad = bad
        self._remedy = remedy
        # Traced when it is first needed, then used for every row.
        self._row = tf.function(maker.pixels, reduce_retracing=True)

    def in_graph(self, plan: dict[str, tf.Tensor], spec: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
        """`chunk` in a graph, where a chunk has the shapes of `spec`."""

        # In Python, because it is rare: as a graph it would be traced for every pipeline, and triple the time until
        # the first batch.
        @tf.autograph.experimental.do_not_convert  # it would fill the error with lines of its own
        def again(*values: np.ndarray) -> list[Any]:
            with call():
                chunk = self.chunk(dict(zip(plan, map(tf.constant, values), strict=True)))
                return [chunk[name].numpy() for name in spec]

        return shaped(tf.numpy_function(again, list(plan.values()), [each.dtype for each in spec.values()]), spec)

    def chunk(self, plan: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A chunk that could not be made, row by row.

        Args:
            plan: Its plan, eager tensors.

        Raises:
            ValueError: A record is damaged, and not tolerated. (TensorFlow makes an InvalidArgumentError of it.)
        """
        maker = self.maker
        rows, number = real_rows(plan)
        sound = np.ones(len(plan["record"]), bool)
        height, width = maker.height_and_width(plan).numpy()
        pixels = np.zeros((len(sound), height, width, 3), maker.dtype.as_numpy_dtype)
        for row in range(int(number)):
            try:
                whole = ("canvas", "rows")
                one = {name: value if name in whole else value[row : row + 1] for name, value in plan.items()}
                pixels[row] = self._row(one)[0].numpy()
            except tf.errors.OpError as error:
                record = int(rows["record"][row])
                if not maker.config.max_bad_records or not isinstance(error, DAMAGE):
                    raise ValueError(f"{self._bad.describe(record, error)}; {self._remedy}") from None
                self._bad.add(record, error)
                sound[row] = False
        # If all rows are sound now, it was no damage: a disk or a network failed for a moment.
        if not sound.all():
            arrays = {name: value.numpy() for name, value in plan.items()}
            filled = with_filler(arrays, sound, maker.config.columns)
            plan = {name: tf.constant(value, plan[name].dtype) for name, value in filled.items()}
        return maker.finish(plan, tf.constant(pixels))


def with_filler(plan: dict[str, np.ndarray], sound: np.ndarray, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A plan with filler in the places of damaged records.

    Args:
        plan: Fields of `planned.Batches`.
        sound: Which rows are not damaged.
        columns: The further columns among the fields.
    """
    new = dict(plan)
    for name in (*_FILLER, *columns):
        new[name] = plan[name].copy()
        new[name][~sound] = b"" if new[name].dtype == object else _FILLER.get(name, 0)
    return new


class Recovering(Protocol):
    """What `chunk_dataset` asks of a `Recovery`, or of what stands for one on another machine."""

    maker: Maker

    def in_graph(self, plan: dict[str, tf.Tensor], spec: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
        """A chunk that could not be made, of the shapes that it would have had; see `Recovery.chunk`."""


def chunk_dataset(plan: dict[str, tf.Tensor], recovery: Recovering) -> tf.data.Dataset:
    """One chunk as a dataset of one element.

    Args:
        plan: Its plan, as `feed.planned_chunks` gives it.
        recovery: Of the pipeline.

    Returns:
        A dataset of what `Maker.finish` returns. Iterating it raises `tf.errors.InvalidArgumentError` at a damaged
        record, naming it, unless it is tolerated.
    """
    maker = recovery.maker
    once = tf.data.Dataset.from_tensors(maker.cut(plan))
    made = once.map(maker.make, name="make")
    spec = made.element_spec
    # Of a dataset of one element: what is ignored is one error, and the sequence cannot become shorter or endless.
    return made.ignore_errors().concatenate(once.map(lambda plan: recovery.in_graph(plan, spec))).take(1)
