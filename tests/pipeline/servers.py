"""Real servers of a tf.data service, in processes of their own, started as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "irv2data.tools.main", "serve"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Servers:
    """A dispatcher and its workers.

    Args:
        folder: For what the dispatcher writes.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.port = free_port()
        self.address = f"grpc://127.0.0.1:{self.port}"
        self.dispatcher: subprocess.Popen[str] | None = None
        self.workers: list[subprocess.Popen[str]] = []

    def start_dispatcher(self, *, remembers: bool = True) -> None:
        folder = [f"--work_dir={self._folder}"] if remembers else []
        self.dispatcher = self._start("dispatcher", f"--port={self.port}", *folder)

    def start_worker(self) -> None:
        self.workers.append(self._start("worker", f"--dispatcher=127.0.0.1:{self.port}"))

    def kill_dispatcher(self) -> None:
        _kill(self.dispatcher)
        self.dispatcher = None

    def kill_worker(self) -> None:
        _kill(self.workers.pop(0))

    def close(self) -> None:
        for process in (*self.workers, self.dispatcher):
            if process is not None:
                _kill(process)

    def _start(self, role: str, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        process = subprocess.Popen(
            [*COMMAND, role, "--json", *arguments], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert role in json.loads(process.stdout.readline())  # it serves now
        return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
