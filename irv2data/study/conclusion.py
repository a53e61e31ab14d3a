"""A study in plain words, which claim no more than the figures allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from irv2data.study.statistics import Interval, Verdict

NOT_PRETRAINED = (
    "The network had random weights. What follows says how fast each way is, and how well random features of its "
    "images can be told apart; it does not speak of transfer learning. Give pretrained weights for that."
)


def conclusion(found: Verdict, arms: Sequence[Mapping[str, Any]], *, chance: float, images: int) -> list[str]:
    """Sentences.

    Args:
        found: Who is ahead.
        arms: Of a report: `name`, `accuracy` with `mean`, `images_per_second` with `low` and `high` or None.
        chance: Accuracy of always naming the most frequent class.
        images: On which accuracy was measured.
    """
    by_name = {arm["name"]: arm for arm in arms}
    best = by_name[found.best]["accuracy"]["mean"]
    sentences = []
    if best <= chance:
        sentences.append(
            f"No way of fitting does better than always naming the most frequent class ({chance:.1%}): accuracy "
            "decides nothing here."
        )
    elif found.ahead:
        closest = min(found.over, key=lambda name: found.over[name].mean)
        sentences.append(
            f"{found.best} is the most accurate on these images, {best:.1%}: {_gap(found.over[closest])} above "
            f"{closest}, the next one, and more above each of the others."
        )
    else:
        level = [name for name, interval in found.over.items() if not interval.low > 0]
        behind = [name for name in found.over if name not in level]
        sentences.append(
            f"No winner: {found.best} has the highest accuracy, {best:.1%}, but the difference to {_list(level)} is "
            f"within what {images:,} images and the repeats scatter."
        )
        if behind:
            sentences.append(f"{_list(behind)} {'is' if len(behind) == 1 else 'are'} less accurate than {found.best}.")
    sentences += _speed(arms)
    return sentences


def _speed(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    timed = [arm for arm in arms if arm["images_per_second"]]
    if len(timed) < 2:
        return []
    fastest, *rest = sorted(timed, key=lambda arm: -arm["images_per_second"]["median"])
    slowest = rest[-1]
    if all(arm["images_per_second"]["high"] < fastest["images_per_second"]["low"] for arm in rest):
        text = f"{fastest['name']} feeds fastest, {fastest['images_per_second']['median']:,.0f} images/s"
    else:
        near = [arm["name"] for arm in rest if arm["images_per_second"]["high"] >= fastest["images_per_second"]["low"]]
        text = (
            f"{fastest['name']} feeds {fastest['images_per_second']['median']:,.0f} images/s; "
            f"{_list(near)} cannot be told from it"
        )
    ratio = fastest["images_per_second"]["median"] / slowest["images_per_second"]["median"]
    return [f"{text}. The slowest, {slowest['name']}, takes {ratio:.1f} times as long an image."]


def _gap(interval: Interval) -> str:
    return (
        f"{100 * interval.mean:.1f} points ({100 * interval.low:.1f} to {100 * interval.high:.1f}, 95 % over all "
        "comparisons)"
    )


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
