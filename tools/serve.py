"""`irv2data serve dispatcher|worker`: input work on other machines, by the tf.data service."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from irv2data.errors import EXIT_DONE, UsageError
from irv2data.machine import available_cores
from irv2data.pipeline.service.address import check_reachable, route_to

from .common import add_json, print_json
from .quiet import load_tensorflow

PORT = 5050

EXAMPLES = (
    ("irv2data serve dispatcher --port=5050", "on one machine, beside the training job or not"),
    ("irv2data serve dispatcher --work_dir=dealt", "one that can be restarted without its jobs noticing"),
    ("irv2data serve worker --dispatcher=decoder-host:5050", "on each machine that shall read and decode"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    roles = parser.add_subparsers(dest="role", required=True, metavar="dispatcher|worker")
    dispatcher = roles.add_parser("dispatcher", help="deals out the steps of training jobs to workers")
    dispatcher.add_argument("--port", type=int, default=PORT, help="0: any free one (default: %(default)s)")
    dispatcher.add_argument(
        "--work_dir", help="folder for what it has dealt out, so that it can be restarted (default: it cannot)"
    )
    worker = roles.add_parser("worker", help="reads and decodes, with all cores that it may use")
    worker.add_argument("--dispatcher", required=True, metavar="HOST:PORT", help="where the dispatcher is")
    worker.add_argument("--port", type=int, default=0, help="0: any free one (default: %(default)s)")
    worker.add_argument("--host", help="name or address that training jobs reach this machine by (default: found out)")
    for role in (dispatcher, worker):
        add_json(role)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command until it is stopped, and returns its exit code."""
    if not 0 <= arguments.port < 1 << 16:
        raise UsageError(f"port must be between 0 and 65535, got {arguments.port}")
    _check_free(arguments.port)
    if arguments.role == "worker":
        check_reachable(arguments.dispatcher)
    load_tensorflow()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # of a machine that trains, too: it is the job's
    start = _dispatcher if arguments.role == "dispatcher" else _worker
    alive, told = start(arguments)
    if arguments.json:
        print_json(told)
    else:
        print(", ".join(f"{name} {value}" for name, value in told.items() if value is not None))
    sys.stdout.flush()
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        # How a server ends. Its own way to stop waits for a dispatcher that may be gone, and has nothing to save: the
        # dispatcher writes before it answers, and clients make what a worker had begun.
        os._exit(EXIT_DONE)
    finally:
        del alive


def _dispatcher(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """What has to stay alive, and what is told of it."""
    from tensorflow.data.experimental import service

    work_dir = None if arguments.work_dir is None else str(Path(arguments.work_dir).absolute())
    if work_dir is not None:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
    config = service.DispatcherConfig(port=arguments.port, work_dir=work_dir, fault_tolerant_mode=work_dir is not None)
    server = service.DispatchServer(config)
    port = int(server.target.rpartition(":")[2])
    return server, {"dispatcher": f"grpc://{socket.gethostname()}:{port}", "work_dir": work_dir}


def _worker(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from tensorflow.data.experimental import service

    from irv2data.pipeline.service.worker import register

    functions = register()  # before anything else registers any
    host = arguments.host or route_to(arguments.dispatcher)
    # TensorFlow fills in the port that it got.
    config = service.WorkerConfig(
        dispatcher_address=arguments.dispatcher, worker_address=f"{host}:%port%", port=arguments.port
    )
    server = service.WorkerServer(config)
    worker = f"{host}:{arguments.port}" if arguments.port else host
    return (server, functions), {"worker": worker, "dispatcher": arguments.dispatcher, "cores": available_cores()}


def _check_free(port: int) -> None:
    """Raises a `UsageError` where another server listens; gRPC would share the port, and each get half of the calls."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of one that has ended it may be taken over
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UsageError(f"port {port}: cannot be used ({error.strerror}); use another one, or 0 for any") from None
