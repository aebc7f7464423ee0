"""What must become of a frame, worked out in the simplest way that is fast enough for a million of them.

`test_frames_property` has another, which leaves the arithmetic to scapy.
"""

import ipaddress
from typing import NamedTuple

from rtpproxy.offload.entry import ForwardingEntry, NextHop
from tests.conftest import QINQ, RELAY_MAC, TOS, TTL, VLAN

IPV4, IPV6 = 0x0800, 0x86DD
UDP, FRAGMENT = 17, 44
TAG_TYPES = (0x8100, 0x88A8)
MAX_SUMMED = 1472
"""Longest payload whose checksum the programs compute."""
_WALKED = (0, 43, 60)
"""IPv6 extension headers of which the second byte tells the length: hop by hop, routing, destination options."""
_RELAY_MAC = bytes.fromhex(RELAY_MAC.replace(":", ""))


class Datagram(NamedTuple):
    """A plain datagram in a frame for this host."""

    is_ipv6: bool
    source: bytes
    target: bytes
    sport: int
    dport: int
    number: int
    """The identification of IPv4; 0 in IPv6."""
    checksum: int
    payload: bytes
    padding: bytes


def ones_sum(data: bytes) -> int:
    """The sum in one's complement; 0 only for zeros."""
    number = int.from_bytes(data + b"\0" if len(data) % 2 else data)
    return number % 65535 or (0xFFFF if number else 0)


def take_tags(frame: bytes) -> tuple[tuple[tuple[int, int], ...], int, int] | None:
    """The tags that count, the type after them, and where the packet begins; None for more than two tags."""
    kind, at = int.from_bytes(frame[12:14]), 14
    if kind not in TAG_TYPES:
        return (), kind, at
    tags: list[tuple[int, int]] = []
    while kind in TAG_TYPES:
        if at == 22 or len(frame) < at + 4:
            return None
        number = int.from_bytes(frame[at : at + 2]) & 0xFFF
        tags += [(kind, number)] if number else []
        kind, at = int.from_bytes(frame[at + 2 : at + 4]), at + 4
    return tuple(tags), kind, at


def read(frame: bytes) -> Datagram | None:
    """The datagram in a frame; None where the relay must leave the frame alone."""
    found = take_tags(frame)
    if found is None or frame[:6] != _RELAY_MAC:
        return None
    tags, kind, at = found
    if tags not in ((), VLAN, QINQ):
        return None
    if kind == IPV4:
        header = frame[at : at + 20]
        if len(header) < 20 or header[0] != 0x45 or header[9] != UDP or int.from_bytes(header[6:8]) & 0x3FFF:
            return None
        if ones_sum(header) != 0xFFFF:
            return None
        size, length, source, target = 20, int.from_bytes(header[2:4]), header[12:16], header[16:20]
        number = int.from_bytes(header[4:6])
    elif kind == IPV6:
        header = frame[at : at + 40]
        if len(header) < 40 or header[0] >> 4 != 6 or header[6] != UDP:
            return None
        size, length, source, target, number = 40, 40 + int.from_bytes(header[4:6]), header[8:24], header[24:40], 0
    else:
        return None
    udp = frame[at + size : at + size + 8]
    if len(udp) < 8 or not size + 8 <= length <= len(frame) - at or int.from_bytes(udp[4:6]) != length - size:
        return None
    return Datagram(
        *(kind == IPV6, source, target, int.from_bytes(udp[:2]), int.from_bytes(udp[2:4]), number),
        int.from_bytes(udp[6:8]),
        frame[at + size + 8 : at + length],
        frame[at + length :],
    )


class Expected:
    """What an entry makes of frames."""

    def __init__(self, entry: ForwardingEntry, hop: NextHop, *, is_forwarding: bool = True) -> None:
        """`is_forwarding` is false where another hook forwards by this entry."""
        self.port = entry.port
        self.source = ipaddress.ip_address(entry.source.host).packed
        self.local = ipaddress.ip_address(entry.local_host).packed
        self._sport = None if entry.is_any_source_port else entry.source.port
        self._from, self._to = (ipaddress.ip_address(host).packed for host in (entry.from_host, entry.to.host))
        self._from_port, self._to_port = entry.from_port, entry.to.port
        self.is_to_ipv6 = len(self._to) == 16
        self._mtu = hop.mtu
        macs = bytes.fromhex((hop.to_mac + hop.from_mac).replace(":", ""))
        self._ethernet = macs + (IPV6 if self.is_to_ipv6 else IPV4).to_bytes(2)
        self._is_forwarding = is_forwarding

    def frame(self, datagram: Datagram, *, is_xdp: bool) -> bytes | None:
        """The frame that leaves; None where the relay must not forward."""
        got = datagram
        if not self._is_forwarding or (got.source, got.target) != (self.source, self.local):
            return None
        if self._sport is not None and got.sport != self._sport:
            return None
        length = 8 + len(got.payload)
        if length + (40 if self.is_to_ipv6 else 20) > self._mtu or (got.checksum == 0 and got.is_ipv6):
            return None
        pseudo = got.source + got.target + UDP.to_bytes(2) + length.to_bytes(2)
        is_computed = (is_xdp and got.checksum == ones_sum(pseudo)) or (got.checksum == 0 and self.is_to_ipv6)
        if is_computed and len(got.payload) > MAX_SUMMED:
            return None
        ports = self._from_port.to_bytes(2) + self._to_port.to_bytes(2)
        new_pseudo = self._from + self._to + UDP.to_bytes(2) + length.to_bytes(2)
        if is_computed:
            checksum = ones_sum(new_pseudo + ports + length.to_bytes(2) + b"\0\0" + got.payload) ^ 0xFFFF or 0xFFFF
        elif got.checksum:
            before = ones_sum(pseudo + got.sport.to_bytes(2) + got.dport.to_bytes(2))
            checksum = (got.checksum + before - ones_sum(new_pseudo + ports)) % 65535 or 0xFFFF
        else:
            checksum = 0
        udp = ports + length.to_bytes(2) + checksum.to_bytes(2)
        return self._ethernet + self._ip(length, got.number) + udp + got.payload + got.padding

    def _ip(self, length: int, number: int) -> bytes:
        if self.is_to_ipv6:
            first = (6 << 28 | TOS << 20).to_bytes(4)
            return first + length.to_bytes(2) + bytes((UDP, TTL)) + self._from + self._to
        head = bytes((0x45, TOS)) + (20 + length).to_bytes(2) + number.to_bytes(2) + b"\x40\0" + bytes((TTL, UDP))
        addresses = self._from + self._to
        return head + (ones_sum(head + addresses) ^ 0xFFFF).to_bytes(2) + addresses


def may_be_dropped(frame: bytes, open_ports: set[int]) -> bool:
    """True if a frame may be UDP for one of our open ports, however it is wrapped; all others must pass untouched."""
    found = take_tags(frame)
    if found is None:
        return False
    _, kind, at = found
    if kind == IPV4:
        return _may_be_ours(frame, at + 4 * (frame[at] & 0xF), frame[at + 9], open_ports, _is_fragment(frame, at))
    if kind != IPV6:
        return False
    if len(frame) < at + 40:
        return False
    following, at = frame[at + 6], at + 40
    while following in _WALKED and len(frame) >= at + 2:
        following, at = frame[at], at + 8 * (frame[at + 1] + 1)
    return _may_be_ours(frame, at, following, open_ports, following == FRAGMENT)


def _is_fragment(frame: bytes, at: int) -> bool:
    return bool(int.from_bytes(frame[at + 6 : at + 8]) & 0x3FFF)


def _may_be_ours(frame: bytes, at: int, kind: int, open_ports: set[int], is_fragment: bool) -> bool:
    if is_fragment:
        return True
    if kind != UDP:
        return kind in _WALKED  # cut short
    return len(frame) < at + 4 or int.from_bytes(frame[at + 2 : at + 4]) in open_ports
