"""What takes elements from the service in a thread, so that nobody has to wait for one that is lost."""

from __future__ import annotations

import logging
import queue
import re
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data.pipeline.faults import reason
from irv2data.pipeline.service.parts import Chunk

_LOG = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds without any element from any worker


class ClosedError(Exception):
    """Nobody wants any more elements."""


class Receiver:
    """Takes elements from the service in a thread of its own, so that nobody has to wait for one that is lost.

    Args:
        dataset: Of (position, planned, batch).
        address: Of the dispatcher.
    """

    def __init__(self, dataset: tf.data.Dataset, address: str):
        self._address = address
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)  # one element waits here, others within TensorFlow
        self._closed = self._quiet = self._ended = False
        # Within TensorFlow it waits for workers, for ever if there are none, and cannot be woken.
        threading.Thread(target=self._receive, args=(dataset,), daemon=True).start()

    def __call__(self) -> tuple[int, tuple[np.ndarray, Chunk]] | None:
        """The next element; None where nothing came for some seconds, or will.

        Raises:
            ValueError: A worker could not make one. (TensorFlow makes an InvalidArgumentError of it.)
            ClosedError: It is closed.
        """
        if self._ended:
            return None
        try:
            # Once nothing has come for so long, whatever comes is taken, but nothing is waited for.
            came = self._queue.get(timeout=0 if self._quiet else PATIENCE)
        except queue.Empty:
            if not self._quiet:
                _LOG.warning("%s: no worker gave a batch for %.0f s; they are made here", self._address, PATIENCE)
            self._quiet = True
            return None
        if self._closed:
            raise ClosedError
        self._room.release()
        if isinstance(came, tf.errors.OpError):
            raise ValueError(_told(self._address, came)) from None
        if isinstance(came, Exception):
            raise came
        if self._quiet:
            _LOG.warning("%s: workers give batches again", self._address)
        self._quiet, self._ended = False, came is None
        return None if came is None else came

    def close(self) -> None:
        """Ends the waiting for elements; the thread ends when it next gets one."""
        self._closed = True
        self._room.release()
        self._queue.put(None)

    def _receive(self, dataset: tf.data.Dataset) -> None:
        try:
            for position, planned, batch in dataset:
                # Views of TensorFlow's memory, not copies.
                arrays = {name: np.asarray(value) for name, value in batch.items()}
                if not self._put((int(position), (np.asarray(planned), arrays))):
                    return
            self._put(None)
        except Exception as error:  # of any kind: in this thread nobody would hear of it
            self._put(error)

    def _put(self, came: Any) -> bool:
        """Hands something on as soon as the one before it is taken; whether anybody takes it."""
        self._room.acquire()
        if not self._closed:
            self._queue.put(came)
        return not self._closed


def _told(address: str, error: tf.errors.OpError) -> str:
    """What a worker said, without what TensorFlow says around it."""
    found = re.search(r"ValueError: (.*?)\n", str(error))
    return f"{address}: {found.group(1) if found else reason(error)}"
