"""Puts recorded payloads into Ethernet frames, as the C RTPproxy does for pcap files (protocol.md 8.5)."""

import struct
from typing import NamedTuple

from rtpproxy.recording.packet import Packet, Place

_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!16sHH4sH12sHH")
"""All headers: Ethernet and the first two bytes of IP; length and number; fragment, TTL and protocol; checksum; both
addresses and ports; length and checksum of UDP."""
_IPV6 = struct.Struct("!18sH2s36sHH")
"""The same: Ethernet and the first four bytes of IP; length; next header and hop limit; and so on."""
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_PORTS = struct.Struct("!HH")
_PROTOCOL = 17
_TTL, _HOP_LIMIT = 127, 64
_IPV4_BEGIN, _IPV4_MIDDLE = bytes((0x45, 0)), bytes((0, 0, _TTL, _PROTOCOL))
_IPV6_BEGIN, _IPV6_MIDDLE = bytes((6 << 4, 0, 0, 0)), bytes((_PROTOCOL, _HOP_LIMIT))
_IPV4_BYTES, _UDP_BYTES = 20, 8
_MAC_BYTES = 6
_LONGEST = 0xFFFF
_MAX_REMEMBERED = 10_000


class _Way(NamedTuple):
    """What all packets from one place to another have in common: parts of their headers, and of their checksums."""

    is_ipv6: bool
    begin: bytes
    places: bytes
    ip_sum: int
    udp_sum: int


class Frames:
    """Makes the frames of one process: all IPv4 headers are numbered in one sequence."""

    def __init__(self) -> None:
        self._identification = 0
        self._ways: dict[tuple[Place, Place], _Way] = {}

    def frame(self, packet: Packet) -> bytes:
        """Put a payload into UDP, IP and Ethernet. A payload that fits into no IP packet is cut."""
        _, source, to, payload = packet
        is_ipv6, begin, places, ip_sum, udp_sum = self._ways.get((source, to)) or self._make_way(source, to)
        most = _LONGEST - _UDP_BYTES - (0 if is_ipv6 else _IPV4_BYTES)
        if len(payload) > most:
            payload = payload[:most]
        length = _UDP_BYTES + len(payload)
        # A one's complement sum is the sum modulo 65535; the complement of 0 is sent as 65535 (RFC 768).
        checksum = _LONGEST - (_sum(payload) + udp_sum + 2 * length) % _LONGEST
        if is_ipv6:
            return _IPV6.pack(begin, length, _IPV6_MIDDLE, places, length, checksum) + payload
        ip_length = _IPV4_BYTES + length
        number = self._identification = (self._identification + 1) & _LONGEST
        ip_checksum = _LONGEST - (ip_sum + ip_length + number) % _LONGEST
        return _IPV4.pack(begin, ip_length, number, _IPV4_MIDDLE, ip_checksum, places, length, checksum) + payload

    def _make_way(self, source: Place, to: Place) -> _Way:
        if len(self._ways) >= _MAX_REMEMBERED:
            self._ways.clear()
        is_ipv6 = to.is_ipv6
        ethertype, ip_begin = (_ETHERTYPE_IPV6, _IPV6_BEGIN) if is_ipv6 else (_ETHERTYPE_IPV4, _IPV4_BEGIN)
        hosts = source.host + to.host
        way = _Way(
            is_ipv6=is_ipv6,
            begin=_ETHERNET.pack(mac(to.host), mac(source.host), ethertype) + ip_begin,
            places=hosts + _PORTS.pack(source.port, to.port),
            ip_sum=_sum(_IPV4_BEGIN + _IPV4_MIDDLE + hosts) % _LONGEST,
            udp_sum=(_sum(hosts) + source.port + to.port + _PROTOCOL) % _LONGEST,
        )
        self._ways[source, to] = way
        return way


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
