"""How the plan scales: `python -m benchmarks.plan [--records N ...] [--record FILE]`.

For each number of records a generated index (sizes as of photographs) is written and memory-mapped, as a dataset's is.
Then, in a process of its own: the time until the pipeline's first batch is planned, the time for every window of an
epoch (of at most 2 million records), and the largest resident memory, with the share that NumPy alone takes before.
Limits: an epoch of 1.28 million records in 2 s; the first batch of 100 million in 10 s, in less than 2 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import circumstances, tell
from benchmarks.conversion import peak, spread

EPOCH_RECORDS, EPOCH_SECONDS = 1_280_000, 2.0
FIRST_SECONDS, MOST_BYTES = 10.0, 2e9
_WHOLE_EPOCH = 2_000_000
_SHARDS = 1000
_PART = 1 << 22


def write_index(folder: Path, records: int) -> None:
    """The arrays of an index that the plan reads, written part by part."""
    from irv2data.index import PLACE_COLUMNS

    home = folder / "index" / "train"
    home.mkdir(parents=True)
    rng = np.random.default_rng(0)
    dtypes = {**PLACE_COLUMNS, "label": np.dtype(np.int32)}
    columns = {
        name: np.lib.format.open_memmap(home / f"{name}.npy", "w+", dtype, (records,)) for name, dtype in dtypes.items()
    }
    for start in range(0, records, _PART):
        part = slice(start, min(start + _PART, records))
        count = part.stop - part.start
        long = np.clip(np.exp(rng.normal(np.log(680), 0.64, count)), 180, 3000)
        aspect = np.exp(rng.uniform(-np.log(1.8), np.log(1.8), count))
        columns["shard"][part] = np.arange(part.start, part.stop) * _SHARDS // records
        columns["offset"][part] = np.arange(part.start, part.stop) % (records // _SHARDS) * 100_000
        columns["length"][part] = 100_000
        columns["height"][part] = long * np.minimum(1, aspect)
        columns["width"][part] = long * np.minimum(1, 1 / aspect)
        columns["format"][part] = 0
        columns["label"][part] = rng.integers(0, 1000, count)


def child(folder: str, records: str) -> dict[str, Any]:
    """Times in seconds, memory in bytes."""
    before = peak()
    from irv2data.pipeline.config import PipelineConfig
    from irv2data.pipeline.plan import Plan
    from irv2data.split import Contents, Shard, Split

    count = int(records)
    bounds = [-(-count * shard // _SHARDS) for shard in range(_SHARDS + 1)]
    split = Split(
        name="train",
        folder=Path(folder),
        shards=tuple(
            Shard(file=f"{shard}", records=bounds[shard + 1] - bounds[shard], bytes=0, sha256="")
            for shard in range(_SHARDS)
        ),
        index={},
        contents=Contents(classes=tuple(map(str, range(1000)))),
    )
    began = time.perf_counter()
    plan = Plan(split, PipelineConfig(fit="random_resized_crop"))
    made = time.perf_counter()
    plan.batch(0, 0)
    first = time.perf_counter()
    found = {"plan_seconds": made - began, "first_batch_seconds": first - began}
    if count <= _WHOLE_EPOCH:
        for window in range(plan.windows_per_epoch()):
            plan.window(0, window)
        found["epoch_seconds"] = time.perf_counter() - first
    # A late step costs no more than the first one.
    late = time.perf_counter()
    plan.batch(7, plan.steps_per_epoch(7) - 1)
    return {**found, "late_step_seconds": time.perf_counter() - late, "peak": peak(), "before": before}


def measure(records: int, rounds: int) -> dict[str, Any]:
    """All figures for one number of records."""
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        write_index(Path(place), records)
        command = [sys.executable, "-m", "benchmarks.plan", "--child", place, str(records)]
        each = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
    seconds = {name: spread((one[name] for one in each), 3) for name in each[0] if name.endswith("_seconds")}
    resident = spread((one["peak"] / (1 << 20) for one in each), 1)
    met = seconds["first_batch_seconds"]["median"] <= FIRST_SECONDS and resident["max"] * (1 << 20) < MOST_BYTES
    if records == EPOCH_RECORDS:
        met = met and seconds["epoch_seconds"]["median"] <= EPOCH_SECONDS
    return {"benchmark": "plan", "records": records, "rounds": rounds, **seconds, "peak_mib": resident, "met": met}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[EPOCH_RECORDS, 100_000_000])
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    figures = ({**measure(records, options.rounds), **circumstances("plan")} for records in options.records)
    return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
