"""Some steps of a run recorded by TensorFlow's profiler, for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf


class Profile:
    """Records where the time of some steps goes: input, host, devices.

    Args:
        folder: Where `plugins/profile/TIME` appears, once the last of the steps is done or the run ends.
        steps: The first and the last step to record, counted from 1; None for none.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        self._folder = folder
        self._first, self._last = steps or (0, 0)
        self._number = 0
        self._recording = False

    @contextmanager
    def step(self, finish: Callable[[], None]) -> Iterator[None]:
        """Around a step of the loop, from asking for its batch on.

        Args:
            finish: Waits for what the devices still work on; called behind the last step that is recorded.
        """
        self._number += 1
        if not self._first <= self._number <= self._last:
            yield
            return
        if not self._recording:
            tf.profiler.experimental.start(os.fspath(self._folder))
            self._recording = True
        # By `_r` TensorBoard knows a step, and divides its time into input, host and device.
        with tf.profiler.experimental.Trace("train", step_num=self._number, _r=1):
            yield
            if self._number == self._last:
                finish()
        if self._number == self._last:
            self.close()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part of a step, which the timeline then shows by name."""
        if not self._recording:
            yield
            return
        with tf.profiler.experimental.Trace(name):
            yield

    def close(self) -> None:
        """Writes what is recorded, of a run that ended before the last of the steps."""
        if self._recording:
            self._recording = False
            tf.profiler.experimental.stop()
