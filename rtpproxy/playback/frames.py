"""Cuts prompts into packets: how many bytes of each codec a packet of so many milliseconds has (protocol.md 9.1, 9.3).

A prompt is made of frames of one length, without headers.
"""

from typing import NamedTuple

from rtpproxy.rtp.framing import FRAMINGS, UNITS_PER_MS

LEAST_MS = 10
"""Duration of packets where nothing else is asked for."""


class Cut(NamedTuple):
    """How a prompt is cut into packets."""

    size: int
    """Payload of a packet, bytes."""
    duration_ms: int


def cut_of(payload_type: int, packet_ms: int) -> Cut | None:
    """Work out the packets of a codec: whole frames of `packet_ms` or a little more, `LEAST_MS` where that is 0.

    None for a codec whose frames are not known.
    """
    framing = FRAMINGS.get(payload_type)
    if framing is None:
        return None
    frames = -(-(packet_ms or LEAST_MS) * UNITS_PER_MS // framing.units)
    return Cut(frames * framing.size, frames * framing.units // UNITS_PER_MS)
