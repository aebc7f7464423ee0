"""How codecs cut sound into frames: what a payload of a static payload type lasts, and where it can be divided.

Times are in timestamp units: 8 a millisecond for every codec here (RFC 3551 4.5; for G.722 by the mistake that 4.5.2
keeps). Source: protocol.md 6.4, RFC 3551.
"""

from typing import NamedTuple

UNITS_PER_MS = 8

_G723_UNITS, _G723_BYTES = 240, (24, 20, 4, 0)
"""Of a G.723.1 frame, by the two low bits of its first byte; 0 for one that is never sent (RFC 3551 4.5.3)."""


class Framing(NamedTuple):
    """Frames of one codec. All have the same length, but for the last one where `has_short_end`."""

    units: int
    """Of one frame."""
    size: int
    """Of one frame, in bytes."""
    step_units: int
    """What the length of a packet is made a multiple of (protocol.md 6.4)."""
    has_short_end: bool = False
    """A packet's last frame may be shorter, as G.729's for comfort noise, which nothing may follow (RFC 3551 4.5.6)."""

    def measure(self, payload: bytes) -> int:
        """Return the units that a payload lasts; 0 if it is not made of frames of this codec."""
        frames, rest = divmod(len(payload), self.size)
        if rest:
            if not self.has_short_end:
                return 0
            frames += 1
        return frames * self.units

    def is_end(self, payload: bytes) -> bool:
        """Tell if nothing may follow a payload in the same packet."""
        return len(payload) % self.size != 0

    def head_size(self, payload: bytes, units: int) -> int:
        """Return the bytes of the first frames of a payload, which last `units`: a whole number of frames."""
        return units // self.units * self.size


class VariableFraming(Framing):
    """Frames of G.723.1, each of which says how long it is. `size` is that of the longest."""

    __slots__ = ()

    def measure(self, payload: bytes) -> int:
        """Return the units that a payload lasts; 0 if it is not made of frames."""
        position = units = 0
        while position < len(payload):
            size = _G723_BYTES[payload[position] & 3]
            if not size:
                return 0
            position += size
            units += self.units
        return units if position == len(payload) else 0

    def is_end(self, payload: bytes) -> bool:
        """Nothing has to be the last."""
        return False

    def head_size(self, payload: bytes, units: int) -> int:
        """Return the bytes of the first frames of a payload that has them."""
        position = 0
        for _ in range(units // self.units):
            position += _G723_BYTES[payload[position] & 3]
        return position


_SAMPLES = Framing(1, 1, 80)
FRAMINGS: dict[int, Framing] = {
    0: _SAMPLES,  # PCMU
    3: Framing(160, 33, 160),  # GSM
    4: VariableFraming(_G723_UNITS, _G723_BYTES[0], _G723_UNITS),
    8: _SAMPLES,  # PCMA
    9: _SAMPLES,  # G.722
    18: Framing(80, 10, 80, has_short_end=True),  # G.729
}
"""By payload type."""
