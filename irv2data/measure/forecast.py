"""From measured ceilings to what a job would do, and what each change to it would bring: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WORTH = 0.05  # a smaller gain is within what a machine drifts in a minute
_AS_GOOD = 0.98

CACHE, BUCKETS, CORES, SHRINK, SERVICE = "cache", "buckets", "cores", "shrink", "service"
# By what they ask of a user, who decides first by gain: the first two are an option, the others need machines or a
# conversion that takes detail away.
EFFORT = (CACHE, BUCKETS, CORES, SHRINK, SERVICE)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was measured of a training job; all rates in images per second.

    Attributes:
        host: What the host delivers, to the batch.
        devices: What the devices take: device stage and step, or a wanted rate; None where nobody said.
        copy: To the devices; None where nothing is copied.
        shared: The devices are the processor that the host's stages need, too.
    """

    host: float
    devices: float | None
    copy: float | None = None
    shared: bool = False

    @property
    def fed(self) -> float:
        """Images per second that the whole job gets through.

        Host, copy and devices work at the same time, so that the slowest decides; on the same processor they share it.
        """
        limits = [rate for rate in (self.host, self.copy) if rate is not None]
        if self.devices is None:
            return min(limits)
        if self.shared:
            return 1 / (1 / min(limits) + 1 / self.devices)
        return min(*limits, self.devices)

    @property
    def wait(self) -> float | None:
        """Share of a step's time in which the devices have nothing to do, or share their processor; None if unknown."""
        return None if self.devices is None else 1 - self.fed / self.devices


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something to change, and what that would bring.

    Attributes:
        name: One of `EFFORT`.
        what: What to do, for people.
        host: Images per second of the host afterwards.
        fed: Of the whole job.
        gain: `fed` over what it is now, less 1; 0.25 is a quarter more.
        basis: Where the prediction comes from, for people.
    """

    name: str
    what: str
    host: float
    fed: float
    gain: float
    basis: str


def change(job: Job, after: Job, *, name: str, what: str, basis: str) -> Change:
    """The change from one job to another."""
    return Change(name=name, what=what, host=after.host, fed=after.fed, gain=after.fed / job.fed - 1, basis=basis)


def best(changes: Sequence[Change]) -> Change | None:
    """The one to make: the largest gain, or of those as good the one with the least effort; None if none helps."""
    helpful = [each for each in changes if each.gain > WORTH]
    if not helpful:
        return None
    most = max(each.fed for each in helpful)
    return min((each for each in helpful if each.fed >= _AS_GOOD * most), key=lambda each: EFFORT.index(each.name))


def at_cores(measured: Mapping[int, float], cores: int) -> float:
    """Images per second of the host at a number of cores, from what was measured at some.

    Between and beyond the measured ones by Amdahl's law through the smallest and the largest of these ("Validity of the
    single processor approach", 1967): time = serial + parallel / cores. One measurement alone is taken as wholly
    parallel.

    Args:
        measured: By number of cores.
        cores: 1 or more.
    """
    if cores in measured:
        return measured[cores]
    few, many = min(measured), max(measured)
    if few == many:
        return measured[many] * cores / many
    parallel = max(0.0, (1 / measured[few] - 1 / measured[many]) / (1 / few - 1 / many))
    serial = max(0.0, 1 / measured[many] - parallel / many)
    return 1 / (serial + parallel / cores)


def cores_for(measured: Mapping[int, float], wanted: float, most: int = 4096) -> int | None:
    """The fewest cores at which the host delivers a wanted rate; None where `most` would not do."""
    if at_cores(measured, most) < wanted:
        return None
    low, high = 1, most  # more cores are never slower by this law
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at_cores(measured, middle) >= wanted else (middle + 1, high)
    return low


def shares(ceilings: Mapping[str, float]) -> dict[str, float]:
    """Of cumulative ceilings, in order: the share of the time that each stage adds to those before it; their sum is 1.

    A stage that was measured faster than one before it, which the machine's drift can do, has none.
    """
    whole = 1 / min(ceilings.values())
    found, before = {}, 0.0
    for name, rate in ceilings.items():
        found[name] = max(0.0, 1 / rate - before) / whole
        before = max(before, 1 / rate)
    return found


def workers_for(job: Job, worker: float, client: float) -> tuple[int, float]:
    """How many workers of a service to start, and what the host then delivers.

    Args:
        job: The job without.
        worker: Images per second of one worker.
        client: Of this host when it only receives.
    """
    wanted = min(client, job.devices or math.inf, job.copy or math.inf)
    count = max(1, math.ceil(wanted / worker))
    return count, min(client, count * worker)
