"""Numbers inside rows of bytes: many frames at once, one frame a row, big-endian as on the wire."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint8]
"""Frames of one length, one a row."""
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


def put(rows: Rows, offset: int, width: int, values: Numbers | int) -> None:
    """Write one number into each row; `width` is 2 or 4 bytes."""
    big_endian = np.broadcast_to(np.asarray(values), (len(rows),)).astype(f">u{width}")
    rows[:, offset : offset + width] = big_endian.view(np.uint8).reshape(-1, width)


def get(rows: Rows, offset: int, width: int) -> Numbers:
    """Read one number from each row; `width` is 2 or 4 bytes."""
    part = np.ascontiguousarray(rows[:, offset : offset + width])
    return part.view(f">u{width}")[:, 0].astype(np.int64)


def word_sum(rows: Rows, start: int, end: int) -> Numbers:
    """Add the 16-bit words of each row from `start` to `end`; a zero follows an odd last byte. Not folded."""
    part = rows[:, start:end].astype(np.int64)
    sums: Numbers = (part[:, 0::2].sum(axis=1) << 8) + part[:, 1::2].sum(axis=1)
    return sums


def fold(sums: Numbers) -> Numbers:
    """Bring sums of words to 16 bits, the carry added in (RFC 1071)."""
    for _ in range(3):
        sums = (sums & 0xFFFF) + (sums >> 16)
    return sums


def halves(values: Numbers) -> Numbers:
    """Add the two words of each 32-bit number, as a checksum does."""
    return (values >> 16) + (values & 0xFFFF)
