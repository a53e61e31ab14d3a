"""Randomness by name and number: any part of it can be computed by itself, on any machine, in any order.

Two tools. `uniforms` gives the random numbers of one named stream of one window. `permute` maps positions of an
epoch's order to records: a keyed permutation of [0, n) that needs no memory, so that the 90-millionth record of an
epoch is known without shuffling 90 million.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

BLOCK = 16  # records that stay neighbours under a block shuffle: about 1.6 MB of photographs, one sequential read
_ROUNDS = 6


def uniforms(seed: int, epoch: int, window: int, stream: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers in [0, 1), float64, the same for the same arguments for ever.

    Only `SeedSequence` and raw Philox output are used: the parts of `numpy.random` whose values NumPy promises not to
    change between releases (NEP 19).

    Args:
        seed: The pipeline's seed.
        epoch: Epoch number.
        window: Window number within the epoch.
        stream: What the numbers are for. Every use has a stream of its own, so that switching one on or off changes
            no other.
        shape: Of the result.
    """
    raw = np.asarray(_philox(seed, epoch, window, stream).random_raw(math.prod(shape)), np.uint64)
    raw >>= np.uint64(11)
    # Below 2^53 signed and unsigned are the same, and signed numbers are converted twice as fast.
    numbers = raw.view(np.int64).astype(np.float64)
    numbers *= 2.0**-53
    return numbers.reshape(shape)


def permute(index: np.ndarray, n: int, seed: int, epoch: int, stream: str = "order") -> np.ndarray:
    """The images of `index` under a keyed permutation of [0, n).

    A Feistel network over the next power of two, its halves a bit apart where they have to be, walked along its cycles
    until the value is below n (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The round function
    is the finalizer of MurmurHash3.

    Args:
        index: int64 [M], positions in [0, n).
        n: Size of the permuted range.
        seed: The pipeline's seed.
        epoch: Epoch number.
        stream: Name of the permutation.

    Returns:
        int64 [M].
    """
    bits = max(2, (n - 1).bit_length())
    shift = np.uint64(bits // 2)
    high, low = (np.uint64((1 << width) - 1) for width in (bits - bits // 2, bits // 2))
    keys = np.asarray(_philox(seed, epoch, 0, stream).random_raw(_ROUNDS), np.uint64).reshape(-1, 2)

    def encrypt(value: np.ndarray) -> np.ndarray:
        left, right = value >> shift, value & low
        for to_left, to_right in keys:
            left ^= _mix(right ^ to_left) & high
            right ^= _mix(left ^ to_right) & low
        return (left << shift) | right

    value = encrypt(index.astype(np.uint64))
    outside = np.flatnonzero(value >= n)
    while len(outside):
        value[outside] = encrypt(value[outside])
        outside = outside[value[outside] >= n]
    return value.astype(np.int64)


def permute_blocks(index: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Like `permute`, but runs of `BLOCK` neighbouring records keep together.

    The whole blocks are permuted; the shorter rest is put between two of them, at a place of its own.
    """
    blocks, rest = divmod(n, BLOCK)
    place = int(uniforms(seed, epoch, 0, "rest of blocks", (1,))[0] * (blocks + 1)) * BLOCK
    in_rest = (index >= place) & (index < place + rest)
    among_blocks = np.where(index >= place + rest, index - rest, index)
    block, within = np.divmod(np.where(in_rest, 0, among_blocks), BLOCK)
    moved = permute(block, max(blocks, 1), seed, epoch, "blocks") * BLOCK + within
    return np.where(in_rest, blocks * BLOCK + index - place, moved)


def _philox(seed: int, epoch: int, window: int, stream: str) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence([seed, epoch, window, zlib.crc32(stream.encode())]))


def _mix(value: np.ndarray) -> np.ndarray:
    """In place: new arrays cost as much as the arithmetic."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value ^= value >> np.uint64(33)
        value *= np.uint64(factor)
    value ^= value >> np.uint64(33)
    return value
