"""Why a source is not converted: the whole, documented set of reasons."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping

REJECT_CODES = {
    "unreadable": "the file could not be opened or read, or is not there",
    "changed_while_reading": "the file's content changed during the conversion",
    "outside": "the name reaches outside the folder it belongs to",
    "no_label": "nothing says which class (or number) the image has: no class folder, no row, an empty field",
    "bad_label": "the label is not of the kind that was asked for",
    "not_an_image": "the content is no image, whatever the name says",
    "unsupported": "an image, but of a format or variant that is not converted",
    "too_large": "more pixels than --max_megapixels",
    "truncated": "the image data ends too early",
    "corrupt": "the image data cannot be decoded without an error",
    "timed_out": "decoding took longer than --decode_seconds, twice",
    "out_of_memory": "decoding needed more memory than a worker may use",
    "decoder_crashed": "the decoder took its process down, twice",
    "lost_in_storage": "was converted, and its record was lost when a damaged shard was repaired",
}


class RejectError(Exception):
    """This source is not converted; `code` is one of `REJECT_CODES`."""

    def __init__(self, code: str, detail: str):
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def reject_line(path: str, code: str, detail: str) -> dict[str, str]:
    """A line of `rejects.jsonl`."""
    return {"path": path, "code": code, "detail": detail}


def in_order(lines: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The lines by the bytes of their paths, whoever found them in whatever order."""
    return sorted(lines, key=lambda line: (os.fsencode(line["path"]), line["code"], line["detail"]))


def by_code(lines: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Reject code to the number of lines."""
    return dict(sorted(Counter(line["code"] for line in lines).items()))
