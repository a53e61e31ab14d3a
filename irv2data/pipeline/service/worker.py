"""What a worker of the tf.data service does in Python: it plans its clients' steps, and recovers chunks for them.

A graph names a Python function by a token, which TensorFlow looks up in the process that runs the graph. A worker's
process registers these two before anything else, so that their tokens are the ones that every client names.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from irv2data import __version__
from irv2data.errors import DatasetError, Irv2dataError, UsageError
from irv2data.manifest import Dataset
from irv2data.pipeline.batch import PATH
from irv2data.pipeline.build import Pipeline
from irv2data.pipeline.feed import chunked
from irv2data.pipeline.planned import Batches
from irv2data.pipeline.service.parts import pack
from irv2data.pipeline.service.request import TOKENS, Request, Steps, answer_specs, pipeline_options


def register() -> tf.Graph:
    """Registers this process's functions.

    Returns:
        What keeps them alive.

    Raises:
        RuntimeError: Their tokens are not those that clients name: something was registered before, or TensorFlow
            counts in another way.
    """
    graph = tf.Graph()
    with graph.as_default():
        for function in (_planned, _recovered):
            tf.numpy_function(function, [tf.constant(b"")], [])
    found = tuple(node.get_attr("token").decode() for node in graph.get_operations() if node.type.startswith("PyFunc"))
    if found != TOKENS:
        raise RuntimeError(f"TensorFlow {tf.__version__} has tokens {found} for a worker's functions, clients {TOKENS}")
    return graph


class _Client:
    """One client's pipeline, as this worker has it."""

    def __init__(self, request: Request):
        self._pipeline = _pipeline(
            request.version, request.dataset, request.fingerprint, request.split, request.options
        )
        plan = self._pipeline.plan
        self._share, self._steps = request.share, Steps(plan, request.begins)
        self._specs = answer_specs(plan, request.share)
        self._paths = np.array([os.fsencode(path) for path in plan.split.paths], object)
        self._maker = self._pipeline.maker(request.share, None)
        self._recovery = self._pipeline.recovery(self._maker)
        self._before = self._pipeline.ahead()
        self._lock = threading.Lock()
        self._window: tuple[tuple[int, int], Batches] | None = None

    def planned(self, number: np.ndarray) -> list[np.ndarray]:
        """The answer to a client's call for one of its steps."""
        plan = self._pipeline.plan
        epoch, step = self._steps.at(int(number))
        window, place = plan.place(epoch, step)
        with self._lock:  # steps come in order, so those of a window follow one another
            if self._window is None or self._window[0] != (epoch, window):
                if self._before is not None:
                    self._before(epoch, window)
                self._window = ((epoch, window), plan.window(epoch, window))
            batches = self._window[1]
        arrays = chunked(batches[place : place + 1], self._share)
        arrays[PATH] = self._paths[arrays["shard"]]
        return [arrays[name] for name in self._specs]

    def recovered(self, *values: np.ndarray) -> list[np.ndarray]:
        """A chunk that could not be made, from the values of its plan and to those of the chunk, by their names."""
        plan = dict(zip(sorted(self._specs), map(tf.constant, values), strict=True))
        chunk = {name: value.numpy() for name, value in self._recovery.chunk(plan).items()}
        if replace(self._maker, packed=True).packs:
            chunk = pack(chunk)
        return [chunk[name] for name in sorted(chunk)]


@lru_cache(maxsize=32)  # a client has one for each of its iterators
def _client(text: bytes) -> _Client:
    return _Client(Request.decode(text))


@lru_cache(maxsize=8)
def _pipeline(version: str, folder: str, fingerprint: str, split: str, options: str) -> Pipeline:
    if version != __version__:
        raise UsageError(f"has irv2data {__version__}, its client {version}; install the same")
    dataset = Dataset(folder)
    if dataset.fingerprint != fingerprint:
        raise DatasetError(f"{folder}: holds another dataset here than where the client is; mount or copy the same")
    return Pipeline(dataset, split=split, **pipeline_options(options))


def _answers(answer: Callable[..., list[np.ndarray]]) -> Callable[..., list[np.ndarray]]:
    """A function for `register` whose errors say which worker they are of."""

    def function(text: bytes, *values: Any) -> list[np.ndarray]:
        try:
            return answer(_client(text), *values)
        except (Irv2dataError, ValueError) as error:
            raise ValueError(f"worker on {socket.gethostname()}: {error}") from None

    return function


_planned, _recovered = _answers(_Client.planned), _answers(_Client.recovered)
