"""Packs reports of RTCP into HEP, version 3, the protocol of Homer's collectors (protocol.md 13.2).

A packet is "HEP3", its length, and chunks; each chunk has a vendor (0 for those that all know), a type, its own length,
and a value. Numbers are in network order.
"""

import re
import struct
from functools import lru_cache

from rtpproxy.recording.packet import Place

MOST_CORRELATION_BYTES = 1024
"""Bytes of a correlation ID; the call-ids of SIP are far shorter."""
_FAMILY, _PROTOCOL, _SOURCE4, _DESTINATION4, _SOURCE6, _DESTINATION6, _SOURCE_PORT, _DESTINATION_PORT = range(1, 9)
_SECONDS, _MICROSECONDS, _PAYLOAD_KIND, _CAPTURE_ID = range(9, 13)
_PAYLOAD, _CORRELATION = 15, 17
_IPV4, _IPV6, _UDP, _RTCP = 2, 10, 17, 5
_CHUNK = struct.Struct(">HHH")
_HEADER = struct.Struct(">4sH")
_TIME = struct.Struct(">HHHIHHHI")
_WORD_CHUNK_BYTES = _CHUNK.size + 4
_US_PER_S = 1_000_000
_MAX_REMEMBERED = 1 << 15
_NOT_IN_CALL_IDS = re.compile(rb"[^!-~]")
"""Anything but the printable characters of ASCII, which RFC 3261 25.1 makes call-ids of."""


class HepPacker:
    """Makes the packets of one capture agent."""

    def __init__(self, capture_id: int) -> None:
        """`capture_id`, of 32 bits, tells Homer which agent it was."""
        self._about = _chunk(_PAYLOAD_KIND, bytes((_RTCP,))) + _chunk(_CAPTURE_ID, capture_id.to_bytes(4))

    def pack(self, source: Place, to: Place, wall_ns: int, correlation: bytes, body: str) -> bytes:
        """Make a packet of a body, for a datagram that arrived from a place at another, `wall_ns` since 1970.

        `correlation` is made by `correlate`. The body must be shorter than 60,000 bytes, of ASCII.
        """
        payload = body.encode("ascii")
        seconds, micros = divmod(wall_ns // 1000, _US_PER_S)
        size = _WORD_CHUNK_BYTES
        when = _TIME.pack(0, _SECONDS, size, seconds & 0xFFFFFFFF, 0, _MICROSECONDS, size, micros)
        head = _CHUNK.pack(0, _PAYLOAD, _CHUNK.size + len(payload))
        chunks = b"".join((_pack_places(source, to), when, self._about, correlation, head, payload))
        return _HEADER.pack(b"HEP3", _HEADER.size + len(chunks)) + chunks


def correlate(call_id: bytes) -> bytes:
    """Make the chunk by which Homer finds the call: the call-id, with `?` for bytes that no call-id of SIP has."""
    return _chunk(_CORRELATION, _NOT_IN_CALL_IDS.sub(b"?", call_id[:MOST_CORRELATION_BYTES]))


def _chunk(kind: int, value: bytes) -> bytes:
    return _CHUNK.pack(0, kind, _CHUNK.size + len(value)) + value


@lru_cache(maxsize=_MAX_REMEMBERED)
def _pack_places(source: Place, to: Place) -> bytes:
    """Pack what all packets of a stream have in common. Both places are of one family."""
    is_ipv6 = to.is_ipv6
    source_kind, to_kind = (_SOURCE6, _DESTINATION6) if is_ipv6 else (_SOURCE4, _DESTINATION4)
    return b"".join(
        (
            _chunk(_FAMILY, bytes((_IPV6 if is_ipv6 else _IPV4,))),
            _chunk(_PROTOCOL, bytes((_UDP,))),
            _chunk(source_kind, source.host),
            _chunk(to_kind, to.host),
            _chunk(_SOURCE_PORT, source.port.to_bytes(2)),
            _chunk(_DESTINATION_PORT, to.port.to_bytes(2)),
        )
    )
