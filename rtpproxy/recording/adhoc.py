"""RTPproxy's own format of recordings (protocol.md 8.3): no file header, and 30 bytes before each payload."""

import struct

from rtpproxy.recording.packet import Packet, Place

HEADER = struct.Struct("=H2s16sdH")
"""Address family, sender's port (network order), sender's address, arrival in seconds since 1970, payload bytes. All
but the port is in host order, and nothing is aligned."""
_IPV4, _IPV6 = 2, 10
"""Numbers of the address families on Linux."""
_ADDRESS_BYTES = {_IPV4: 4, _IPV6: 16}


class AdHoc:
    """Writes and reads packets of this format."""

    begin = b""
    """There is no file header."""

    def packet(self, packet: Packet, wall_ns: int, dropped: int) -> bytes:
        """Encode a packet that arrived at `wall_ns` since 1970. The format has no place for how many were dropped."""
        host, port = packet.source
        family = _IPV6 if len(host) == 16 else _IPV4
        payload = packet.payload
        return HEADER.pack(family, port.to_bytes(2, "big"), host, wall_ns / 1e9, len(payload)) + payload

    def end(self, packets: int, dropped: int, wall_ns: int) -> bytes:
        """Return nothing: the format has no trailer."""
        return b""


def read(data: bytes | memoryview, at: int) -> tuple[Place, float, int] | None:
    """Read the header of the packet at an offset: its sender, its arrival in seconds since 1970, and where it ends.

    None where no whole packet is.
    """
    if at + HEADER.size > len(data):
        return None
    family, port, host, arrived, length = HEADER.unpack_from(data, at)
    end = at + HEADER.size + length
    if family not in _ADDRESS_BYTES or end > len(data):
        return None
    return Place(host[: _ADDRESS_BYTES[family]], int.from_bytes(port, "big")), arrived, end
