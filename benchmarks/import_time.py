"""How long `import irv2data` takes in a fresh process: `python -m benchmarks.import_time`; fails above 0.3 s (median).

An interpreter that imports nothing is timed in turn, and its time taken off, round by round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMIT_SECONDS = 0.3
ROUNDS = 15


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> int:
    seconds("import irv2data")  # once, for the file cache
    times = [seconds("import irv2data; irv2data.Dataset") - seconds("pass") for _ in range(ROUNDS)]
    median = statistics.median(times)
    print(f"import irv2data: median {median:.3f} s, {min(times):.3f} to {max(times):.3f}, {ROUNDS} rounds")
    return 0 if median < LIMIT_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
