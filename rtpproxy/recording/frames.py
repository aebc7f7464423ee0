"""Puts recorded payloads into Ethernet frames, as the C RTPproxy does for pcap files (protocol.md 8.5)."""

import struct

from rtpproxy.recording.packet import Packet

_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_PROTOCOL = 17
_TTL, _HOP_LIMIT = 127, 64
_VERSION_4, _VERSION_6 = 0x45, 6 << 28
_MAC_BYTES = 6
_LONGEST = 0xFFFF
_MAX_REMEMBERED = 10_000


class Frames:
    """Makes the frames of one process: all IPv4 headers are numbered in one sequence."""

    def __init__(self) -> None:
        self._identification = 0
        self._macs: dict[bytes, bytes] = {}
        """By address."""

    def frame(self, packet: Packet) -> bytes:
        """Put a payload into UDP, IP and Ethernet. A payload that fits into no IP packet is cut."""
        (source, from_port), (to, to_port) = packet.source, packet.to
        is_ipv6 = len(to) == 16
        payload = packet.payload[: _LONGEST - _UDP.size - (0 if is_ipv6 else _IPV4.size)]
        length = _UDP.size + len(payload)
        # A one's complement sum is the sum modulo 65535; the complement of 0 is sent as 65535 (RFC 768).
        total = _sum(payload) + _sum(source) + _sum(to) + _PROTOCOL + 2 * length + from_port + to_port
        udp = _UDP.pack(from_port, to_port, length, _LONGEST - total % _LONGEST)
        macs = self._mac(to), self._mac(source)
        if is_ipv6:
            ip = _IPV6.pack(_VERSION_6, length, _PROTOCOL, _HOP_LIMIT, source, to)
            return b"".join((_ETHERNET.pack(*macs, _ETHERTYPE_IPV6), ip, udp, payload))
        self._identification = (self._identification + 1) & _LONGEST
        fields = (_VERSION_4, 0, _IPV4.size + length, self._identification, 0, _TTL, _PROTOCOL)
        checksum = _LONGEST - _sum(_IPV4.pack(*fields, 0, source, to)) % _LONGEST
        ip = _IPV4.pack(*fields, checksum, source, to)
        return b"".join((_ETHERNET.pack(*macs, _ETHERTYPE_IPV4), ip, udp, payload))

    def _mac(self, host: bytes) -> bytes:
        found = self._macs.get(host)
        if found is None:
            if len(self._macs) >= _MAX_REMEMBERED:
                self._macs.clear()
            found = self._macs[host] = mac(host)
        return found


def mac(host: bytes) -> bytes:
    """Return the MAC address that stands for an IP address: 00:00 before IPv4; IPv6 is folded into six bytes by XOR."""
    if len(host) != 16:
        return bytes(2) + host
    folded = bytearray(_MAC_BYTES)
    for position, byte in enumerate(host):
        folded[position % _MAC_BYTES] ^= byte
    return bytes(folded)


def _sum(data: bytes) -> int:
    """Add up the 16-bit words of some bytes, by one number that is congruent to the sum modulo 65535."""
    number = int.from_bytes(data, "big")
    return number << 8 if len(data) & 1 else number
