"""Reads addresses of phones, VLAN tags and control sockets from the command line. Raises ValueError."""

import ipaddress
import re
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Tags = tuple[tuple[int, int], ...]
"""Tags of a frame, the outermost first: Ethernet type and VLAN number."""

ETH_8021Q, ETH_8021AD = 0x8100, 0x88A8
DEFAULT_CONTROL_PORT = 22222
_VLAN_MAX = 4094


@dataclass(frozen=True)
class AddressRange:
    """Successive addresses, of phones that take turns in using them."""

    first: Address
    count: int

    def __getitem__(self, number: int) -> Address:
        """Return the address of that number, which may lie behind the range."""
        return self.first + number

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.first.version


def read_range(text: str) -> AddressRange:
    """Read `ADDR`, `ADDR-ADDR` or `ADDR/BITS`; of an IPv4 prefix, the first and the last address are left out."""
    if "/" in text:
        network = ipaddress.ip_network(text, strict=False)
        edge = 1 if network.num_addresses > 2 else 0
        return AddressRange(network[edge], network.num_addresses - 2 * edge)
    first_text, dash, last_text = text.partition("-")
    first = ipaddress.ip_address(first_text)
    last = ipaddress.ip_address(last_text) if dash else first
    if last.version != first.version or int(last) < int(first):
        raise ValueError(f"{text!r} is no range of addresses: the last comes before the first")
    return AddressRange(first, int(last) - int(first) + 1)


def read_tags(text: str) -> Tags:
    """Read `NUMBER` (802.1Q) or `OUTER.INNER` (QinQ: 802.1ad outside, 802.1Q inside)."""
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"{text!r} is no VLAN: give NUMBER, or OUTER.INNER for QinQ")
    numbers = [int(part) for part in text.split(".")]
    if not all(1 <= number <= _VLAN_MAX for number in numbers):
        raise ValueError(f"{text!r} is no VLAN: numbers are 1 to {_VLAN_MAX}")
    types = (ETH_8021Q,) if len(numbers) == 1 else (ETH_8021AD, ETH_8021Q)
    return tuple(zip(types, numbers, strict=True))


@dataclass(frozen=True)
class ControlAddress:
    """Where a relay takes commands: `kind` is unix, udp or tcp; `is_line_stream` if the connection stays open."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""
    is_line_stream: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"{'c' if self.is_line_stream else ''}unix:{self.path}"
        return f"{self.kind}:[{self.host}]:{self.port}" if ":" in self.host else f"{self.kind}:{self.host}:{self.port}"


def read_control(text: str) -> ControlAddress:
    """Read `unix:PATH`, `cunix:PATH`, `udp:HOST:PORT` or `tcp:HOST:PORT`, as the relay's `-s` takes them.

    An IPv6 host stands in brackets, or as it is behind `udp6:` or `tcp6:`. Without a port, it is 22222.
    """
    kind, colon, rest = text.partition(":")
    if kind in ("unix", "cunix") and rest:
        return ControlAddress("unix", path=rest, is_line_stream=kind == "cunix")
    if colon and kind in ("udp", "tcp", "udp6", "tcp6") and rest:
        host, port = _host_and_port(rest, kind.endswith("6"))
        if host and 0 < port < 65536:
            kind = kind.removesuffix("6")
            return ControlAddress(kind, host=host, port=port, is_line_stream=kind == "tcp")
    raise ValueError(f"{text!r} is no control socket: give unix:PATH, udp:HOST:PORT or tcp:HOST:PORT")


def _host_and_port(text: str, is_ipv6: bool) -> tuple[str, int]:
    """Split at the last colon; port 0 for one that is no number."""
    bracketed = re.fullmatch(r"\[([^]]+)\](?::(\d+))?", text)
    if bracketed:
        return bracketed[1], int(bracketed[2] or DEFAULT_CONTROL_PORT)
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, DEFAULT_CONTROL_PORT
    if ":" in host and not is_ipv6:
        return "", 0
    return host, int(port) if port.isdecimal() else 0
