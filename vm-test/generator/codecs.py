"""Codecs by what they look like on the wire: payload type, clock, packet rate and size. Nothing is encoded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Codec:
    """Packets of a codec: `rate` a second, `size` bytes of payload, timestamps by a `clock` in Hz."""

    name: str
    payload_type: int
    clock: int = 8000
    rate: float = 50
    size: int = 160


CODECS = {
    codec.name.lower(): codec
    for codec in (
        Codec("PCMU", 0),
        Codec("PCMA", 8),
        Codec("G722", 9),
        Codec("GSM", 3, size=33),
        Codec("G729", 18, size=20),
        Codec("G723", 4, rate=100 / 3, size=24),
        Codec("iLBC", 97, size=38),
        Codec("AMR-WB", 98, clock=16000, size=61),
        Codec("opus", 111, clock=48000, size=80),
        Codec("H264", 96, clock=90000, rate=100, size=1200),
    )
}
"""By name in lower case. Payload types from 96 on are those that phones often choose."""
