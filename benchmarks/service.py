"""The tf.data service beside the pipeline in the process: `python -m benchmarks.service [--record FILE]`.

One dispatcher and one worker, started as a user does, run throughout. In paired rounds, each in a client process of its
own on the same photographs, uint8 canvases for 299x299, batches of 64: `local` decodes in the client, `service` in the
worker. Images/s, and processor milliseconds an image in client, worker and dispatcher, after a warm-up. All of them
share the machine's cores, so the ratio says what the service costs by itself; on machines of its own a worker has them
to itself. Figures are JSON lines; exit status 1 below the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.circumstances import circumstances, tell, versions
from benchmarks.conversion import spread
from benchmarks.feeds import BATCH, SIDE
from benchmarks.turns import turn

LEAST = 0.5  # of the pipeline in the process
_WARM_SECONDS = 3.0
_EPOCHS = 5_000
_TURN_SECONDS = 120


def child(name: str, dataset: str, address: str, servers: str, seconds: str, options: str) -> dict[str, Any]:
    from irv2data import Pipeline

    given = {"fit": "random_resized_crop", "image_size": (SIDE, SIDE), "batch_size": BATCH, "seed": 0}
    given |= json.loads(options)
    if name == "service":
        given["service"] = address
    pipeline = Pipeline(dataset, **given)
    batches = iter(pipeline.batches(epochs=_EPOCHS))
    next(batches)
    warm = time.perf_counter() + _WARM_SECONDS
    while time.perf_counter() < warm:
        next(batches)
    processes = {"client": os.getpid(), **json.loads(servers)}
    images, wall, size = 0, 0.0, 0
    before, began = {who: cpu_of(pid) for who, pid in processes.items()}, time.perf_counter()
    while wall < float(seconds):
        batch = next(batches)
        images += given["batch_size"]
        size += sum(int(value.shape.num_elements()) * value.dtype.size for value in batch.values() if value.dtype.size)
        wall = time.perf_counter() - began
    spent = {who: 1e3 * (cpu_of(pid) - before[who]) / images for who, pid in processes.items()}
    return {
        "images_per_second": images / wall,
        "bytes_per_image": size / images,
        "cpu_ms_per_image": spent,
        "steps_per_second": images / wall / given["batch_size"],
    }


def cpu_of(pid: int) -> float:
    """Processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def servers(place: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """A dispatcher and a worker of it: its address, and the numbers of both processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "irv2data.tools.main", "serve"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for role, arguments in (
            ("dispatcher", [f"--port={port}", f"--work_dir={place / 'dispatcher'}"]),
            ("worker", [f"--dispatcher=127.0.0.1:{port}"]),
        ):
            process = subprocess.Popen([*command, role, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
            started[role] = process
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit(f"the {role} did not start")
        yield f"grpc://127.0.0.1:{port}", {role: process.pid for role, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def measure(dataset: Path, place: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures, in paired rounds."""
    rounds: list[dict[str, Any]] = []
    with servers(place) as (address, pids):
        for _ in range(options.rounds):
            each = {}
            for name in ("local", "service"):
                running = pids if name == "service" else {}
                each[name] = turn(
                    "service", name, str(dataset), address, json.dumps(running), str(options.seconds), options.options,
                    seconds=_TURN_SECONDS,
                )  # fmt: skip
            rounds.append(each)
            print(json.dumps(each), flush=True)
    ratios = [each["service"]["images_per_second"] / each["local"]["images_per_second"] for each in rounds]
    spent = [each["service"]["cpu_ms_per_image"] for each in rounds]
    yield {
        "benchmark": "service",
        "rounds": len(rounds),
        "seconds": options.seconds,
        "options": json.loads(options.options),
        **{
            f"{name}_images_per_second": spread(each[name]["images_per_second"] for each in rounds)
            for name in ("local", "service")
        },
        "service_over_local": spread(ratios, 2),
        "bytes_per_image": round(rounds[0]["service"]["bytes_per_image"]),
        "local_cpu_ms_per_image": spread((each["local"]["cpu_ms_per_image"]["client"] for each in rounds), 3),
        "service_cpu_ms_per_image": {
            who: spread((each[who] for each in spent), 3) for who in ("client", "worker", "dispatcher")
        },
        "wanted": LEAST,
        "met": statistics.median(ratios) >= LEAST,
    }


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])), flush=True)
        os._exit(0)  # no clean-up of the process is part of this
    from benchmarks.prepared import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn (default: %(default)s)")
    parser.add_argument("--files", type=int, default=1568, help="photographs (default: %(default)s)")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--options", default="{}", help="further options of the pipeline, as a JSON object")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as name:
        place = Path(name)
        data, about = prepare(place, options.files, options.images, cores=len(os.sched_getaffinity(0)))
        about["versions"] = versions("tensorflow", "numpy")
        figures = (
            {**each, **about, **circumstances("service")} for each in measure(Path(data.dataset), place, options)
        )
        return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
