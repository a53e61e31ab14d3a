"""What a search for near duplicates found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Member:
    """A record that looks like another one.

    Attributes:
        split: Name of its split.
        row: Its row in the split's index, as `Split.read` takes it.
        source: Path of the file it was made of; undecodable bytes as surrogate escapes.
        label: Class name, a tuple of class names, a number, or None, by the dataset's kind of label.
        sha256: Hexadecimal SHA-256 of the stored image.
    """

    split: str
    row: int
    source: str
    label: str | tuple[str, ...] | float | None
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """Two or more records that look alike.

    Attributes:
        members: In the order of the dataset's splits and rows.
        largest_distance: Bits between the two most different of them; more than the distance asked for where they are
            linked through others.
    """

    members: tuple[Member, ...]
    largest_distance: int

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits it spans; more than one is a leak."""
        return tuple(dict.fromkeys(member.split for member in self.members))

    @property
    def leak(self) -> bool:
        """Whether it spans several splits: what is tested on was trained on."""
        return len(self.splits) > 1

    @property
    def conflict(self) -> bool:
        """Whether its members have different labels."""
        return any(member.label != self.members[0].label for member in self.members)

    @property
    def contents(self) -> int:
        """Number of different stored images; 1 where all are byte for byte the same."""
        return len({member.sha256 for member in self.members})

    @property
    def exact(self) -> bool:
        """Whether all members are byte for byte the same, not merely similar."""
        return self.contents == 1


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A record that could not be looked at: its split, its row, the file it was made of, and why."""

    split: str
    row: int
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """What looks alike in a dataset.

    Attributes:
        fingerprint: Of the dataset.
        distance: Bits that two hashes may differ in, as asked for.
        records: Records that were looked at, damaged ones among them.
        groups: In the order of their first members.
        flat: Records with hardly any contrast: only bytes tell whether one equals another, and such are groups too.
        damaged: Records that could not be read or decoded; they are in no group.
    """

    fingerprint: str
    distance: int
    records: int
    groups: tuple[Group, ...]
    flat: tuple[Member, ...]
    damaged: tuple[Damaged, ...]

    @cached_property
    def leaks(self) -> tuple[Group, ...]:
        """The groups that span several splits."""
        return tuple(group for group in self.groups if group.leak)

    @cached_property
    def conflicts(self) -> tuple[Group, ...]:
        """The groups whose members have different labels."""
        return tuple(group for group in self.groups if group.conflict)

    def summary(self) -> dict[str, int]:
        """Counts: of `records`, `groups`, `members` of groups, groups that are `exact`, `leaks`, `conflicts`, ..."""
        return {
            "distance": self.distance,
            "records": self.records,
            "groups": len(self.groups),
            "members": sum(len(group.members) for group in self.groups),
            "exact": sum(group.exact for group in self.groups),
            "leaks": len(self.leaks),
            "conflicts": len(self.conflicts),
            "flat": len(self.flat),
            "damaged": len(self.damaged),
        }

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-able; equal results give equal dicts."""
        return {
            "fingerprint": self.fingerprint,
            "hash": "pHash, 64 bits (ImageHash)",
            "counts": self.summary(),
            "groups": [
                {
                    "largest_distance": group.largest_distance,
                    "contents": group.contents,
                    "leak": group.leak,
                    "conflict": group.conflict,
                    "members": [asdict(member) for member in group.members],
                }
                for group in self.groups
            ],
            "flat": [asdict(member) for member in self.flat],
            "damaged": [asdict(record) for record in self.damaged],
        }
