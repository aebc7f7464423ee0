"""Reads and writes rtnetlink's messages, and of each only what the relay needs.

A host may change thousands of routes and neighbours a second, and a relay with thousands of peers asks for as many
routes. pyroute2 takes 20 to 190 µs for each of these messages, this file 2 to 10. No I/O. Layouts are those of
linux/rtnetlink.h, linux/neighbour.h, linux/if_addr.h and linux/if_link.h. Addresses are text outside this file.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")
"""Length in bytes, kind, flags, sequence number, port of the sender."""
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTE_NUMBER = 0x3FFF
"""The bits of an attribute's kind that are its number; the others are flags."""
_LINK = struct.Struct("=BxHiII")
_NEIGHBOUR = struct.Struct("=B3xiHBB")
_ADDRESS = struct.Struct("=4BI")
_ROUTE = struct.Struct("=8BI")
_ROUTE_KIND = struct.Struct("=B6xB4x")
"""Family and kind in what `_ROUTE` lays out."""
_INDEX = struct.Struct("=4xi")
"""The interface in a message of traffic control (struct tcmsg)."""
_NUMBER = struct.Struct("=I")

_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS, _RTA_TABLE, _RTA_VIA, _RTA_ENCAP = (
    *(1, 2, 4, 5, 7, 8, 15, 18, 22),
)
_RTAX_MTU, _RTAX_HOPLIMIT = 2, 10
_NDA_DST, _NDA_LLADDR = 1, 2
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_LINK_NETNSID, _IFLA_XDP = (
    *(1, 3, 4, 5, 10, 18, 37, 43),
)
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VLAN_ID, _IFLA_VLAN_PROTOCOL = 1, 2, 1, 5
_IFLA_XDP_ATTACHED, _IFLA_XDP_PROG_ID, _IFLA_XDP_DRV_PROG_ID = 2, 4, 5
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_VIA_FAMILY_BYTES = 2
_IP = (socket.AF_INET, socket.AF_INET6)
NTF_USE = 0x1
"""As if a packet were sent to a neighbour, so that the kernel asks whether it is still there."""


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, sequence number and bytes of each message of a datagram."""
    position = 0
    while position + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, position)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, data[position : position + length]
        position += (length + 3) & ~3


def attributes(data: bytes, position: int = 0) -> dict[int, bytes]:
    """Return the attributes that start at a position, by their number."""
    found = {}
    header, unpack, last = _ATTRIBUTE.size, _ATTRIBUTE.unpack_from, len(data) - _ATTRIBUTE.size
    while position <= last:
        length, kind = unpack(data, position)
        if length < header:
            break
        found[kind & _ATTRIBUTE_NUMBER] = data[position + header : position + length]
        position += (length + 3) & ~3
    return found


def _number(value: bytes | None) -> int:
    return int(_NUMBER.unpack_from(value)[0]) if value else 0


def _mac(value: bytes | None) -> str:
    return value.hex(":") if value else ""


def _text(value: bytes | None) -> str:
    return value.partition(b"\0")[0].decode(errors="replace") if value else ""


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _packed(host: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.inet_pton(family, host)


def _host(family: int, value: bytes | None) -> str:
    return socket.inet_ntop(family, value) if value and family in _IP else ""


# Traffic control


def interface_of_filter(message: bytes) -> int:
    """Return the index of the interface that a queueing discipline, class or filter is on."""
    return int(_INDEX.unpack_from(message, HEADER.size)[0])


# Links

ALL_LINKS = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


class LinkMessage(NamedTuple):
    """A link. Numbers and texts are 0 and empty where the kernel does not tell them."""

    hardware: int
    """ARPHRD_ of linux/if_arp.h."""
    ifindex: int
    flags: int
    """IFF_ of linux/if.h."""
    name: str
    mac: str
    mtu: int
    """In bytes of IP packet."""
    parent: int
    """The interface that carries it."""
    is_parent_elsewhere: bool
    """The parent is in another network namespace."""
    master: int
    kind: str
    vlan_protocol: int
    vlan_id: int | None
    """None where it is no VLAN interface."""
    xdp_mode: int
    """XDP_ATTACHED_ of linux/if_link.h."""
    xdp_program: int
    """Its ID, where there is only one."""
    xdp_driver_program: int


def link_request(index: int) -> bytes:
    """Write the question for one link."""
    return _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def family_of_link(message: bytes) -> int:
    """Return the family that tells of a link: 0, or that of bridges where it tells of a port."""
    return message[HEADER.size]


def read_link_message(message: bytes) -> LinkMessage:
    """Read a message about a link."""
    _, hardware, index, flags, _ = _LINK.unpack_from(message, HEADER.size)
    found = attributes(message, HEADER.size + _LINK.size)
    info, xdp = attributes(found.get(_IFLA_LINKINFO, b"")), attributes(found.get(_IFLA_XDP, b""))
    kind = _text(info.get(_IFLA_INFO_KIND))
    vlan = attributes(info.get(_IFLA_INFO_DATA, b"")) if kind == "vlan" else {}
    return LinkMessage(
        hardware=hardware,
        ifindex=index,
        flags=flags,
        name=_text(found.get(_IFLA_IFNAME)),
        mac=_mac(found.get(_IFLA_ADDRESS)),
        mtu=_number(found.get(_IFLA_MTU)),
        parent=_number(found.get(_IFLA_LINK)),
        is_parent_elsewhere=_IFLA_LINK_NETNSID in found,
        master=_number(found.get(_IFLA_MASTER)),
        kind=kind,
        vlan_protocol=int.from_bytes(vlan.get(_IFLA_VLAN_PROTOCOL, b"")[:2], "big"),
        vlan_id=int.from_bytes(vlan[_IFLA_VLAN_ID][:2], sys.byteorder) if _IFLA_VLAN_ID in vlan else None,
        xdp_mode=xdp.get(_IFLA_XDP_ATTACHED, b"\0")[0],
        xdp_program=_number(xdp.get(_IFLA_XDP_PROG_ID)),
        xdp_driver_program=_number(xdp.get(_IFLA_XDP_DRV_PROG_ID)),
    )


# Addresses

ALL_ADDRESSES = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


class Address(NamedTuple):
    """An address of this host."""

    host: str
    """Empty where it is no address of IP."""
    ifindex: int
    """The interface that carries it."""
    broadcast: str
    """Empty where it has none."""


def read_address(message: bytes) -> Address:
    """Read a message about an address of this host."""
    family, _, _, _, index = _ADDRESS.unpack_from(message, HEADER.size)
    found = attributes(message, HEADER.size + _ADDRESS.size)
    # On a point-to-point link IFA_ADDRESS is the far end. IPv6 gives IFA_LOCAL for such links only.
    host = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return Address(_host(family, host), index, _host(family, found.get(_IFA_BROADCAST)))


# Neighbours

ALL_NEIGHBOURS = _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


class Neighbour(NamedTuple):
    """A neighbour as the kernel knows it."""

    ifindex: int
    """The interface that it is reached by."""
    host: str
    """Empty where it is no neighbour of IP."""
    mac: str
    state: int
    """Bits, NUD_ of linux/neighbour.h."""


def read_neighbour(message: bytes) -> Neighbour:
    """Read a message about a neighbour."""
    family, index, state, _, _ = _NEIGHBOUR.unpack_from(message, HEADER.size)
    found = attributes(message, HEADER.size + _NEIGHBOUR.size)
    return Neighbour(index, _host(family, found.get(_NDA_DST)), _mac(found.get(_NDA_LLADDR)), state)


def state_of_neighbour(message: bytes) -> int:
    """Read the state out of a message about a neighbour: bits, NUD_ of linux/neighbour.h."""
    return int(_NEIGHBOUR.unpack_from(message, HEADER.size)[2])


def neighbour_request(ifindex: int, host: str) -> bytes:
    """Write the question for one neighbour."""
    family, packed = _packed(host)
    return _NEIGHBOUR.pack(family, ifindex, 0, 0, 0) + _attribute(_NDA_DST, packed)


def use_of_neighbour(ifindex: int, host: str) -> bytes:
    """Write the request to take a neighbour for used."""
    family, packed = _packed(host)
    return _NEIGHBOUR.pack(family, ifindex, 0, NTF_USE, 0) + _attribute(_NDA_DST, packed)


# Routes


class Answer(NamedTuple):
    """A route that the kernel answers with, its parts as they came: so two are compared quickly."""

    family: int
    kind: int
    """RTN_ of linux/rtnetlink.h: unicast, local, ..."""
    ifindex: int
    """The interface that it leads to; 0 for none."""
    packed_source: bytes
    packed_gateway: bytes
    packed_via: bytes
    """A gateway of the other family."""
    metrics: bytes
    is_wrapped: bool
    """Packets get further headers on this route."""

    @property
    def source(self) -> str:
        """Our address that packets leave from; empty where the kernel names none."""
        return _host(self.family, self.packed_source)

    @property
    def gateway(self) -> str:
        """The neighbour that packets are sent to; empty where that is the peer itself."""
        if self.packed_gateway:
            return _host(self.family, self.packed_gateway)
        if self.packed_via:
            family = socket.AF_INET6 if self.family == socket.AF_INET else socket.AF_INET
            return _host(family, self.packed_via[_VIA_FAMILY_BYTES:])
        return ""

    @property
    def hop_limit(self) -> int:
        """TTL or hop limit that the route sets; 0 where it sets none."""
        return _number(attributes(self.metrics).get(_RTAX_HOPLIMIT))

    @property
    def mtu(self) -> int:
        """MTU that the route sets, or that was learned for the path, in bytes; 0 for none."""
        return _number(attributes(self.metrics).get(_RTAX_MTU))


def route_request(to_host: str, from_host: str = "") -> bytes:
    """Write the question for the route to a host, from one of our addresses or from any."""
    family, packed = _packed(to_host)
    bits = 8 * len(packed)
    header = _ROUTE.pack(family, bits, bits if from_host else 0, 0, 0, 0, 0, 0, 0)
    source = _attribute(_RTA_SRC, _packed(from_host)[1]) if from_host else b""
    return header + _attribute(_RTA_DST, packed) + source


def read_answer(message: bytes) -> Answer:
    """Read the answer to a question for a route."""
    family, kind = _ROUTE_KIND.unpack_from(message, HEADER.size)
    found = attributes(message, HEADER.size + _ROUTE.size)
    get = found.get
    return Answer(
        family,
        kind,
        _number(get(_RTA_OIF)),
        get(_RTA_PREFSRC, b""),
        get(_RTA_GATEWAY, b""),
        get(_RTA_VIA, b""),
        get(_RTA_METRICS, b""),
        _RTA_ENCAP in found,
    )


class Destination(NamedTuple):
    """Where a route of a table leads."""

    kind: int
    """RTN_ of linux/rtnetlink.h: unicast, local, ..."""
    table: int
    host: str
    bits: int


def routes_of_table(family: int, table: int) -> bytes:
    """Write the question for all routes of a table."""
    return _ROUTE.pack(family, 0, 0, 0, table, 0, 0, 0, 0)


def read_destination(message: bytes) -> Destination:
    """Read a route out of a table."""
    family, bits, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(message, HEADER.size)
    found = attributes(message, HEADER.size + _ROUTE.size)
    host = _host(family, found.get(_RTA_DST)) or ("::" if family == socket.AF_INET6 else "0.0.0.0")
    return Destination(kind, _number(found.get(_RTA_TABLE)) or table, host, bits)
