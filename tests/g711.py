"""G.711 for tests: 16-bit samples of each code by the formulas of ITU-T G.711, and the nearest code of a sample."""

import bisect
import math
import struct


def _ulaw(code: int) -> int:
    code = ~code & 0xFF
    size = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return -size if code & 0x80 else size


def _alaw(code: int) -> int:
    code ^= 0x55
    segment, size = code >> 4 & 7, ((code & 0x0F) << 4) + 8
    if segment:
        size = size + 0x100 << segment - 1
    return size if code & 0x80 else -size


SAMPLES = {0: [_ulaw(code) for code in range(256)], 8: [_alaw(code) for code in range(256)]}
"""By payload type: the sample of each code."""
COARSEST = 1024
"""The largest distance between two neighbouring samples of a law."""


def decode(payload_type: int, payload: bytes) -> list[int]:
    """The samples of a payload."""
    return [SAMPLES[payload_type][code] for code in payload]


def encode(payload_type: int, samples: list[int]) -> bytes:
    """The nearest code of each sample."""
    codes = sorted((sample, code) for code, sample in enumerate(SAMPLES[payload_type]))
    values = [value for value, _ in codes]
    found = bytearray()
    for sample in samples:
        at = bisect.bisect_left(values, sample)
        near = min(codes[max(0, at - 1) : at + 1], key=lambda pair: abs(pair[0] - sample))
        found.append(near[1])
    return bytes(found)


def sweep(count: int) -> list[int]:
    """A tone that rises from 100 to 3,000 Hz, at 8 kHz, nearly as loud as possible."""
    return [int(30_000 * math.sin(2 * math.pi * (100 + 1450 * n / count) * n / 8000)) for n in range(count)]


def as_pcm(samples: list[int]) -> bytes:
    """As 16-bit little-endian PCM."""
    return struct.pack(f"<{len(samples)}h", *samples)
