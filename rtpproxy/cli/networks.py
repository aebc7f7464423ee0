"""Reads networks of options: NET, and NET[:PORTS]."""

import re
from ipaddress import ip_network

from rtpproxy.addr import parse_network
from rtpproxy.config import MediaNetwork, Network
from rtpproxy.errors import ConfigError

_WITH_PORTS = re.compile(
    r"(?P<ipv4>[^:\[\]]+):(?P<ports>[^:]*)|\[(?P<ipv6>[^\[\]]*)\](?P<bits>/[^:]*)?(?::(?P<ports6>.*))?"
)
"""Matches 192.0.2.0/24:PORTS, [2001:db8::/32]:PORTS and [2001:db8::]/32:PORTS."""
_PORTS = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?")
_LAST_PORT = 65535


def read_network(text: str) -> Network:
    """Read an address or `ADDRESS/BITS`, IPv4 or IPv6."""
    try:
        meant = ip_network("" if "%" in text else text, strict=False)
    except ValueError as error:
        message = "not an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
        raise ConfigError(message) from error
    try:
        return parse_network(text)
    except ValueError as error:
        host, _, _ = text.partition("/")
        message = f"the network begins with another address; write {meant} for all of it, or {host} for that host alone"
        raise ConfigError(message) from error


def read_media_network(text: str) -> MediaNetwork:
    """Read an address or network, for all ports or for some: `10.0.0.0/8`, `[2001:db8::/32]:16384-32767`."""
    found = _WITH_PORTS.fullmatch(text)
    if found is None:
        return MediaNetwork(read_network(text))
    network = read_network(found["ipv4"] or found["ipv6"] + (found["bits"] or ""))
    ports = found["ports"] if found["ipv4"] else found["ports6"]
    return MediaNetwork(network) if ports is None else MediaNetwork(network, *_read_ports(ports))


def _read_ports(text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    if found is None:
        raise ConfigError("after the network comes one port, such as :5004, or a range, such as :16384-32767")
    first = int(found["first"])
    last = int(found["last"] or first)
    if not 0 < first <= last <= _LAST_PORT:
        raise ConfigError(f"ports are numbers from 1 to {_LAST_PORT}, the lower one of a range first")
    return first, last
