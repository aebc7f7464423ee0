"""Immutable address values and their text forms."""

import ipaddress
import re
import struct
from typing import NamedTuple

_NUMBER = re.compile(r"0[xX]([0-9a-fA-F]{1,8})|(0[0-7]{0,11})|([1-9][0-9]{0,9})", re.ASCII)

_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        # This host, private, carrier-grade NAT, loopback, link-local.
        *("0.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8"),
        *("169.254.0.0/16", "::/128", "::1/128", "fe80::/10", "fec0::/10", "fc00::/7"),
        # Multicast, reserved, broadcast.
        *("224.0.0.0/4", "240.0.0.0/4", "ff00::/8"),
    )
)


_MAPPED_BITS = 96
"""Length of the prefix ::ffff:0:0/96 of IPv4-mapped addresses (RFC 4291 2.5.5.2)."""


class Endpoint(NamedTuple):
    """An IP address in text form and a UDP port in host order. Equal to the tuple that a socket reports."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if is_ipv6(self.host) else f"{self.host}:{self.port}"


def is_ipv6(host: str) -> bool:
    """True for a numeric IPv6 address, with or without zone; False for a numeric IPv4 address."""
    return ":" in host


def without_mapping(host: str) -> str:
    """The IPv4 address that a dual-stack socket reports as IPv4-mapped (`::ffff:192.0.2.1`); others as they are."""
    if not is_ipv6(host):
        return host
    mapped = host.removeprefix("::ffff:")
    return host if is_ipv6(mapped) else mapped


def is_link_local(host: str) -> bool:
    """True for a link-local numeric IPv6 address, with or without zone: one that needs an interface."""
    return host.startswith(("fe8", "fe9", "fea", "feb"))


def packed_words(host: str) -> list[int]:
    """The 16-bit words of a numeric address without zone, first to last: two for IPv4, eight for IPv6."""
    if not is_ipv6(host):
        number = ipv4_number(host)
        return [number >> 16, number & 0xFFFF]
    return list(struct.unpack("!8H", ipaddress.IPv6Address(host).packed))


def parse_ipv4(text: str) -> str | None:
    """The dotted form of a numeric IPv4 address as the C library reads it, or None.

    Accepts one to four parts, each decimal, octal (leading 0) or hexadecimal (0x); the last part fills the
    remaining bytes (`127.0.1` is 127.0.0.1), as inet_aton(3) does. Source: protocol.md 2.3.
    """
    parts = text.split(".")
    if not 1 <= len(parts) <= 4:
        return None
    numbers = [_parse_part(part) for part in parts]
    value = 0
    for number in numbers[:-1]:
        if number is None or number > 255:
            return None
        value = value << 8 | number
    last, last_bits = numbers[-1], 8 * (5 - len(parts))
    if last is None or last >= 1 << last_bits:
        return None
    return str(ipaddress.IPv4Address(value << last_bits | last))


def _parse_part(text: str) -> int | None:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    hexadecimal, octal, decimal = found.groups()
    if hexadecimal:
        return int(hexadecimal, 16)
    return int(octal, 8) if octal else int(decimal, 10)


def parse_ipv6(text: str) -> str | None:
    """The canonical form of a numeric IPv6 address without zone, or None."""
    try:
        return str(ipaddress.IPv6Address(text)) if "%" not in text else None
    except ValueError:
        return None


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network that `ADDRESS` or `ADDRESS/BITS` names; a mapped IPv4 network as IPv4.

    Raises ValueError, also for a zone and for bits beyond the prefix: `10.1.2.3/8` may have been meant to be one host.
    """
    if "%" in text:
        raise ValueError("a zone names an interface, not a network")
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        first = network.network_address.ipv4_mapped
        if first is not None:
            return ipaddress.IPv4Network((first, network.prefixlen - _MAPPED_BITS))
    return network


def is_public(host: str) -> bool:
    """True if a numeric address is public: unicast, and in no private or special range.

    The ranges for documentation count as public: they stand for public addresses.
    """
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not any(address in network for network in _NOT_PUBLIC)


def ipv4_number(host: str) -> int:
    """The 32-bit value of a dotted IPv4 address, host order."""
    a, b, c, d = host.split(".")
    return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
