"""Addresses, ports, MACs, VLAN tags and checksums as the maps hold them: network order."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence

from rtpproxy.network.vlan import VlanTag


def address4(words: list[int]) -> int:
    """An IPv4 address, given as its two 16-bit words; 0 for the eight words of IPv6."""
    return socket.htonl(words[0] << 16 | words[1]) if len(words) == 2 else 0


def address6(words: list[int]) -> bytes:
    """An IPv6 address, given as its eight 16-bit words; empty for the two words of IPv4."""
    if len(words) != 8:
        return b""
    number = 0
    for word in words:
        number = number << 16 | word
    return number.to_bytes(16, "big")


def mapped_address(host: str) -> bytes:
    """The 16 bytes of a numeric address; one of IPv4 becomes ::ffff:a.b.c.d."""
    address = ipaddress.ip_address(host)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def port_bytes(ports: Iterable[int]) -> bytes:
    """Ports, two bytes each."""
    return b"".join([port.to_bytes(2, "big") for port in ports])


def mac_bytes(text: str) -> bytes:
    """The six bytes of a MAC address."""
    return bytes.fromhex(text.replace(":", ""))


def tag_bytes(tags: Sequence[VlanTag]) -> bytes:
    """VLAN tags, outer first: protocol and VLAN id of each, four bytes together."""
    return b"".join(number.to_bytes(2, "big") for tag in tags for number in tag)


def ones_sum(words: list[int]) -> int:
    """One's complement sum of 16-bit words (RFC 1071), not inverted."""
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
