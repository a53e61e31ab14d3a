"""`--near_duplicates=report` of `irv2data convert`: which images of the finished dataset look alike."""

from __future__ import annotations

import argparse
import json

from irv2data import storage
from irv2data.convert.folder import NEAR_DUPLICATES
from irv2data.convert.lock import locked
from irv2data.errors import DatasetError, InterruptedRunError, UsageError
from irv2data.manifest import Dataset
from irv2data.near_duplicates import Group, NearDuplicates, near_duplicates, require_imagehash

from .common import printable
from .console import Bars

KEEP, REPORT = "keep", "report"
_SHOWN = 3  # groups that are named in the text


def check(arguments: argparse.Namespace) -> None:
    """Refuses, before any work, what cannot be had beside it.

    Raises:
        UsageError: With `--dry_run`, `--advise` or a remote dataset, or ImageHash is not installed.
    """
    for name in ("dry_run", "advise"):
        if getattr(arguments, name):
            raise UsageError(f"near_duplicates={REPORT} looks at what a conversion wrote; --{name} writes nothing")
    if arguments.dataset is not None and storage.is_remote(arguments.dataset):
        raise UsageError(
            f"{arguments.dataset}: near_duplicates={REPORT} would fetch every shard again; write to a local folder, "
            "or call irv2data.near_duplicates.near_duplicates on the finished dataset"
        )
    require_imagehash()


def look(arguments: argparse.Namespace, bars: Bars) -> NearDuplicates:
    """Looks at every record of the finished dataset and writes `near_duplicates.json` into its folder.

    Raises:
        InterruptedRunError: A signal stopped it; the dataset is finished all the same.
        DatasetError: The file cannot be written.
    """
    folder: str = arguments.dataset
    try:
        with locked(folder):  # an append in between would make it tell of other records
            found = near_duplicates(
                Dataset(folder),
                workers=arguments.workers,
                progress=lambda done, total: bars("comparing", done, total),
            )
            text = json.dumps(found.as_json(), indent=1) + "\n"
            storage.write_bytes(storage.join(folder, NEAR_DUPLICATES), text.encode())
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"interrupted; the dataset is finished, and what looks alike was not written; --append --near_duplicates="
            f"{REPORT} looks again: {folder}"
        ) from None
    except OSError as error:
        raise DatasetError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from error
    return found


def text(folder: str, found: NearDuplicates) -> str:
    """What was found, for people."""
    counts = found.summary()
    where = f"{printable(folder)}/{NEAR_DUPLICATES}"
    lines = [
        f"images that look alike: {counts['members']:,} in {counts['groups']:,} groups, {counts['exact']:,} of them "
        f"byte for byte, {counts['leaks']:,} across splits, {counts['conflicts']:,} with different labels: {where}"
        if found.groups
        else f"images that look alike: none of {counts['records']:,}: {where}"
    ]
    worst = sorted(found.groups, key=lambda group: (-(group.leak + group.conflict), -len(group.members)))
    for group in worst[:_SHOWN]:
        first, second = _two(group)
        more = f" and {len(group.members) - 2:,} more" if len(group.members) > 2 else ""
        lines.append(f"  {group.largest_distance:>2} of 64 bits: {first}, {second}{more}")
    if found.flat:
        lines.append(f"  {counts['flat']:,} images have hardly any contrast and were compared byte for byte only")
    if found.damaged:
        record = found.damaged[0]
        lines.append(f"  {counts['damaged']:,} records could not be read: {printable(record.source)} ({record.reason})")
    return "\n".join(lines)


def _two(group: Group) -> tuple[str, str]:
    """Two members by their splits and files: those of different splits or labels, where there are such."""
    first = group.members[0]
    others = sorted(group.members[1:], key=lambda one: (one.split == first.split) + (one.label == first.label))
    one, other = (f"{printable(member.source)} in {member.split}" for member in (first, others[0]))
    return one, other
