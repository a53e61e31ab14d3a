"""Why a source is not converted: the whole, documented set of reasons."""

from __future__ import annotations

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
