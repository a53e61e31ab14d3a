"""How fast, how large and how soon a conversion is: `python -m benchmarks.conversion [speed|memory|listing ...]`.

`speed`: whole conversions of baseline JPEGs, from process start to commit, beside libjpeg-turbo's full accurate decode
of the same files with two threads, in turn. Files lie in the page cache. `memory`: the largest memory of the whole
process tree in a conversion with very large images. `listing`: what a million files cost in time and memory until the
first shard begins; paths and digests are generated. Each prints its figures as JSON lines, and fails above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.circumstances import circumstances, tell, versions

LEAST_RATIO = {0: 1.4, 400: 0.7}  # by max_short_side: of the conversion's images/s to those of the full decode
MOST_MIB = 1.5e9 / (1 << 20)
MOST_BYTES_PER_FILE = 200
_DECODE_THREADS = 2
_SAMPLE_SECONDS = 0.02


def speed(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rates of conversions and of the full decode, in paired rounds."""
    from benchmarks.photos import sources, write_photographs

    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        folder = Path(place, "photographs")
        size = write_photographs(
            folder, sources(options.images), files=options.files, copies=options.copies, median=options.long_side
        )
        files = options.files * options.copies
        # Once each, so that no round pays for cold files; the decode also says how far its threads run in parallel.
        child("decode", str(folder), "1")
        rounds: list[dict[str, dict[str, float]]] = []
        for number in range(options.rounds + 1):
            measured = {"decode": child("decode", str(folder), str(_DECODE_THREADS))}
            for short in LEAST_RATIO:
                measured[f"convert_{short}"] = child("convert", str(folder), str(Path(place, "out")), str(short))
            if number:  # the first one warms up
                rounds.append(measured)
                print(json.dumps({name: round(files / each["wall"], 1) for name, each in measured.items()}), flush=True)
    for short, least in LEAST_RATIO.items():
        name = f"convert_{short}"
        ratio = [each["decode"]["wall"] / each[name]["wall"] for each in rounds]
        yield {
            "benchmark": "conversion speed",
            "max_short_side": short,
            "files": files,
            "mean_bytes": round(size / files),
            "median_long_side": options.long_side,
            "rounds": len(rounds),
            "convert_images_per_second": spread(files / each[name]["wall"] for each in rounds),
            "decode_images_per_second": spread(files / each["decode"]["wall"] for each in rounds),
            "ratio": spread(ratio, 3),
            "ratio_of_processor_time": spread((each["decode"]["cpu"] / each[name]["cpu"] for each in rounds), 3),
            "decode_parallelism": spread((each["decode"]["cpu"] / each["decode"]["wall"] for each in rounds), 2),
            "least": least,
            "met": statistics.median(ratio) >= least,
        }


def child_decode(folder: str, threads: str) -> dict[str, float]:
    """Reads and decodes all files; start-up is left out."""
    import simplejpeg

    paths = sorted(Path(folder).rglob("*.jpg"))

    def decode(path: Path) -> None:
        with open(path, "rb") as file:
            simplejpeg.decode_jpeg(file.read(), "RGB", fastdct=False, fastupsample=False)

    with ThreadPoolExecutor(int(threads)) as pool:
        started, cpu = time.perf_counter(), time.process_time()
        for _ in pool.map(decode, paths):
            pass
        return {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}


def child_convert(folder: str, out: str, max_short_side: str) -> dict[str, float]:
    """Converts all files; the parent adds what the start of this process takes."""
    from irv2data.convert import ConvertConfig, convert

    report = convert(folder, out, ConvertConfig(max_short_side=int(max_short_side)))
    if report.rejected:
        raise SystemExit(f"{report.rejected} of the photographs were rejected: {report.rejects}")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"cpu": sum(each.ru_utime + each.ru_stime for each in used)}


def memory(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Largest memory of a conversion's processes, with and without shrinking."""
    from benchmarks.photos import sources, write_large, write_photographs

    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        folder = Path(place, "photographs")
        paths = sources(options.images)
        write_photographs(folder, paths, files=min(options.files, 200))
        large = write_large(folder / "class-0", paths)
        for short in LEAST_RATIO:
            with Peak() as peak:
                child("convert", str(folder), str(Path(place, "out")), str(short), watch=peak.watch)
            yield {
                "benchmark": "conversion memory",
                "max_short_side": short,
                "large": large,
                "peak_mib": round(peak.largest / (1 << 20), 1),
                "samples": peak.samples,
                "most": round(MOST_MIB, 1),
                "met": peak.largest / (1 << 20) <= MOST_MIB,
            }


class Peak:
    """The largest memory of a process and its descendants: the sum of their proportional set sizes, sampled."""

    def __init__(self) -> None:
        self.largest = 0
        self.samples = 0
        self._root = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def watch(self, pid: int) -> None:
        self._root = pid

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            if self._root:
                self.largest = max(self.largest, sum(map(proportional_set_size, family(self._root))))
                self.samples += 1


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for number in found:
        with suppress(OSError):  # it has just ended
            for path in Path(f"/proc/{number}/task").glob("*/children"):
                found += [int(word) for word in path.read_text().split()]
    return found


def proportional_set_size(pid: int) -> int:
    """Bytes of memory of a process, each shared page divided among those that share it; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def listing(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time until the first shard could begin, and growth of memory with the number of files."""
    few, many = options.counts
    rounds = [{count: child("listing", str(count)) for count in (few, many)} for _ in range(options.rounds)]
    grown = [(each[many]["peak"] - each[few]["peak"]) / (many - few) for each in rounds]
    yield {
        "benchmark": "conversion listing",
        "files": [few, many],
        "rounds": len(rounds),
        "seconds_to_first_shard": spread((each[many]["wall"] for each in rounds), 2),
        "seconds": {
            name: spread((each[many][name] for each in rounds), 2) for name in ("listing", "hashing", "layout", "shard")
        },
        "peak_mib": spread((each[many]["peak"] / (1 << 20) for each in rounds), 1),
        "bytes_per_file": spread(grown, 1),
        "most": MOST_BYTES_PER_FILE,
        # A million names take memory: no growth at all is a measurement that went wrong.
        "met": 0 < statistics.median(grown) <= MOST_BYTES_PER_FILE,
    }


def peak() -> int:
    """The most memory of this process so far, in bytes; not getrusage's, which begins with that of the parent."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) << 10


def child_listing(count: str) -> dict[str, float]:
    """A conversion of generated paths and digests, up to the moment when its first shard would go to a worker."""
    import numpy as np

    from irv2data.convert import ConvertConfig, convert
    from irv2data.convert.sources import listing_of_paths
    from irv2data.packed import Packed

    rng = np.random.default_rng(0)
    marks = {"began": 0.0}

    class FirstTaskError(Exception):
        """Not a failure: the end of what is measured."""

    def paths() -> Iterator[bytes]:
        for number in range(int(count)):
            yield b"class-%04d/photograph-%09d.jpg" % (number * 1000 // int(count), number)

    def listed(source: str, config: ConvertConfig, *, progress: Callable[[int], None]) -> Any:
        made = listing_of_paths(source, Packed.of(paths()), config)  # packed twice, as `list_folder` does
        marks["listing"] = time.perf_counter()
        return made

    def hashed(function: object, tasks: Iterable[Any], *, finished: Callable[..., None], **options: object) -> None:
        for number, (_, names, _) in enumerate(tasks):
            n = len(names)
            sizes = rng.integers(20_000, 180_000, n).tolist()
            finished(number, (rng.bytes(32 * n), rng.integers(2**32, size=n).tolist(), sizes, []))
        marks["hashing"] = time.perf_counter()

    def first(function: object, tasks: Iterable[Any], **options: object) -> None:
        marks["layout"] = time.perf_counter()
        next(iter(tasks))
        marks["shard"] = time.perf_counter()
        raise FirstTaskError

    with (
        tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place,
        mock.patch("irv2data.convert.survey.list_sources", listed),
        mock.patch("irv2data.convert.hashing.run_local", hashed),
        mock.patch("irv2data.convert.run.run_local", first),
    ):
        marks["began"] = time.perf_counter()
        with suppress(FirstTaskError):
            convert(os.path.join(place, "source"), os.path.join(place, "out"))
    times = list(marks.values())
    most = peak()
    parts = {name: end - start for name, start, end in zip(list(marks)[1:], times, times[1:], strict=False)}
    return {"wall": times[-1] - times[0], "peak": most, **parts}


def child(name: str, *arguments: str, watch: Callable[[int], None] = lambda pid: None) -> dict[str, float]:
    """Runs one of the `child_` functions in a process of its own; `wall` includes that process unless it says so."""
    if name == "convert":
        shutil.rmtree(arguments[1], ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.conversion", "--child", name, *arguments]
    # As installed packages are: compiled once, not in each process.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        watch(process.pid)
        printed, _ = process.communicate()
    wall = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(process.returncode)
    return {"wall": wall, **json.loads(printed)}


def spread(values: Iterable[float], digits: int = 1) -> dict[str, float]:
    found = sorted(values)
    return {
        "median": round(statistics.median(found), digits),
        "min": round(min(found), digits),
        "max": round(max(found), digits),
    }


_CHILDREN = {"decode": child_decode, "convert": child_convert, "listing": child_listing}
_BENCHMARKS = {"speed": speed, "memory": memory, "listing": listing}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_CHILDREN[sys.argv[2]](*sys.argv[3:])))
        return 0
    from benchmarks.photos import MEDIAN

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(_BENCHMARKS)}; all if none")
    parser.add_argument("--images", help="folder of photographs to cut from, instead of those that pip has")
    parser.add_argument("--files", type=int, default=1000, help="photographs to encode (default: %(default)s)")
    parser.add_argument("--copies", type=int, default=12, help="of each, with another comment (default: %(default)s)")
    parser.add_argument("--long_side", type=int, default=MEDIAN, help="their median, in pixels (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measured (default: %(default)s)")
    parser.add_argument("--counts", type=int, nargs=2, default=(100_000, 1_000_000), help="files of `listing`")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    unknown = set(options.benchmarks) - set(_BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(_BENCHMARKS)}")
    installed = versions("numpy", "pillow", "simplejpeg", "google-crc32c", "protobuf")
    figures = (
        {**each, **circumstances("conversion"), "versions": installed}
        for name in options.benchmarks or _BENCHMARKS
        for each in _BENCHMARKS[name](options)
    )
    return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
