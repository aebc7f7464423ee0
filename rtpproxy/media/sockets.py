"""Sockets for steered and bound ports: both families, binding, routes, and counting of failures."""

import errno
import logging
import socket
from collections.abc import Callable

from rtpproxy.addr import Endpoint, is_ipv6
from rtpproxy.errors import PortBusyError, StartError
from rtpproxy.seldom import is_worth_a_line
from rtpproxy.session.local import LocalAddress

log = logging.getLogger(__name__)

OnDatagram = Callable[[int, bytes, tuple[str, int], str, float], None]
"""Takes a datagram: key of the local port, payload, source, our address that it was sent to (empty where the port is on
all addresses and the socket does not tell), arrival in seconds, monotonic."""

MAX_DATAGRAM_BYTES = 65535
_DISCARD = 9
"""A UDP port to connect to when asking for a route; nothing is ever sent there."""
_BUSY = (errno.EADDRINUSE, errno.EACCES)
_IP_BIND_ADDRESS_NO_PORT = 24
_IPV6_AUTOFLOWLABEL = 70


class SendFailures:
    """Datagrams that the kernel did not take."""

    def __init__(self) -> None:
        self.total = 0

    def count(self, to: Endpoint, error: OSError) -> None:
        """Count one, and log some of them."""
        self.total += 1
        if is_worth_a_line(self.total):
            log.warning("cannot send to %s: %s (%d failures so far)", to, error.strerror, self.total)


def family_of(address: LocalAddress) -> socket.AddressFamily:
    """The address family of sockets on one of our addresses."""
    return socket.AF_INET6 if address.is_ipv6 else socket.AF_INET


def datagram_socket(family: socket.AddressFamily) -> socket.socket:
    """Make a UDP socket that does not block; an IPv6 socket takes no IPv4."""
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened


def set_dscp(opened: socket.socket, family: socket.AddressFamily, tos: int) -> None:
    """Set the TOS byte or traffic class of what a socket sends; on IPv6 also send no flow label."""
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_AUTOFLOWLABEL, 0)
    else:
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)


WILDCARDS = {False: "*", True: "::"}
"""Written for all addresses of a family, by `is_ipv6`."""


def check_local(address: LocalAddress) -> None:
    """Check that a listen address is one of this host's. Raises StartError if not."""
    try:
        check_ours(address)
    except OSError as error:
        raise StartError(f"listen address {written(address)} cannot be used: {error.strerror}") from error


def written(address: LocalAddress) -> str:
    """Write a local address for people and notes; `*` and `::` are all of a family."""
    return address.host or WILDCARDS[address.is_ipv6]


def check_ours(address: LocalAddress) -> None:
    """Check that sockets of this host can have the address. Raises OSError if not. Takes no port."""
    with datagram_socket(family_of(address)) as probe:
        probe.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        probe.bind((address.host, 0))


def endpoint_of(reported: tuple[str, int, int, int]) -> tuple[str, int]:
    """Host and port of an IPv6 socket address; a link-local host with the number of its zone (`fe80::1%2`)."""
    host, port, _, zone = reported
    return (f"{host}%{zone}", port) if zone else (host, port)


def ipv6_address(host: str, port: int) -> tuple[str, int, int, int]:
    """The socket address of an IPv6 host that may have a zone; the inverse of `endpoint_of`.

    Raises OSError for a link-local host without zone, because some socket calls would choose any link for it.
    """
    host, _, zone = host.partition("%")
    if not zone and host.startswith("fe80:"):
        raise OSError(errno.EINVAL, "a link-local address, and no packet has told of which link")
    return host, port, 0, int(zone or 0)


def bind_port(opened: socket.socket, address: LocalAddress, port: int) -> None:
    """Bind to one of our ports. Raises PortBusyError if another program has it, OSError for other failures."""
    try:
        opened.bind((address.host, port))
    except OSError as error:
        if error.errno in _BUSY:
            raise PortBusyError(f"port {port}: {error.strerror}") from error
        raise


def route_source(to_host: str) -> str | None:
    """Find our address that the kernel would send from to a numeric host: the one that connect(2) binds to.

    None if there is no route, or if asking is impossible: no free descriptor, or a host without that family.
    """
    is_to_ipv6 = is_ipv6(to_host)
    try:
        with _route_probe(socket.AF_INET6 if is_to_ipv6 else socket.AF_INET) as probe:
            # A raw IPv6 socket reads the port as a protocol.
            port = 0 if is_to_ipv6 and probe.type == socket.SOCK_RAW else _DISCARD
            probe.connect(ipv6_address(to_host, port) if is_to_ipv6 else (to_host, port))
            name = probe.getsockname()
    except OSError:
        return None
    source: str = endpoint_of(name)[0] if is_to_ipv6 else name[0]
    return source


def _route_probe(family: socket.AddressFamily) -> socket.socket:
    """Open a raw socket if permitted: it needs no ephemeral port, and with this protocol it receives nothing."""
    try:
        return socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError:
        return socket.socket(family, socket.SOCK_DGRAM)
