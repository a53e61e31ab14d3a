"""What kind of image a file is, from its first bytes; a name's extension is only ever a hint."""

from __future__ import annotations

import re
import struct

# Enough for the compatible brands in the first box of an AVIF or HEIC file.
SIGNATURE_BYTES = 128

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".avif",
    ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".ico", ".cur", ".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm",
    ".psd", ".psb", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f",
    ".exr", ".hdr", ".dds", ".qoi", ".icns",
))
# fmt: on

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    # Raw formats that begin like a TIFF file come before it.
    (b"IIRO", "Olympus camera raw"),
    (b"IIRS", "Olympus camera raw"),
    (b"MMOR", "Olympus camera raw"),
    (b"IIU\x00", "Panasonic camera raw"),
    (b"II\x1a\x00\x00\x00HEAPCCDR", "Canon camera raw"),
    (b"FUJIFILMCCD-RAW", "Fujifilm camera raw"),
    (b"FOVb", "Sigma camera raw"),
    (b"\x00MRM", "Minolta camera raw"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "PSD"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS \x7c\x00\x00\x00", "DDS"),
    (b"qoif", "QOI"),
    (b"icns", "ICNS"),
)
_PNM = re.compile(rb"P([1-7])\s+[0-9#HWDMT]|P([Ff])\s+[0-9]")
_PNM_NAMES = {b"1": "PBM", b"4": "PBM", b"2": "PGM", b"5": "PGM", b"3": "PPM", b"6": "PPM", b"7": "PAM"}
_AVIF = frozenset((b"avif", b"avis"))
_HEIC = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))


def sniff(head: bytes) -> str | None:
    """The format that a file's first `SIGNATURE_BYTES` bytes announce, or None if it is no image known here."""
    if head[:2] == b"II" and head[8:10] == b"CR":
        return "Canon camera raw"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _sniff_brands(head)
    if (pnm := _PNM.match(head)) is not None:
        return _PNM_NAMES.get(pnm[1], "PFM")
    # Reserved, type, count; then of the first entry: reserved, and at most one colour plane (of a cursor, its point).
    if head[:3] == b"\x00\x00\x01" and head[3:4] == b"\x00" and head[4:6] != b"\x00\x00" and head[9:10] == b"\x00":
        return "ICO" if head[10:12] in (b"\x00\x00", b"\x01\x00") else None
    if head[:4] == b"\x00\x00\x02\x00" and head[4:6] != b"\x00\x00" and head[9:10] == b"\x00" and len(head) >= 22:
        return "CUR"
    if head[:2] == b"BM" and (head[6:10] == b"\x00\x00\x00\x00" or head[14:18] in map(_uint32, _BMP_HEADERS)):
        return "BMP"
    return None


def _sniff_brands(head: bytes) -> str | None:
    """AVIF and HEIC may call themselves by a brand that leaves the coding open, and list their own further down."""
    if head[8:12] == b"crx ":
        return "Canon camera raw"
    end = min(struct.unpack_from(">I", head)[0], len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    if brands[0] in _AVIF:
        return "AVIF"
    if brands[0] in _HEIC:
        return "HEIC"
    if brands[0] not in (b"mif1", b"msf1", b"mif2", b"miaf"):
        return None
    return "AVIF" if _AVIF & set(brands) else "HEIC"


def _uint32(value: int) -> bytes:
    return value.to_bytes(4, "little")
