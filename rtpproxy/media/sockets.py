"""What both ways of owning ports need of sockets: families, binding, buffers, and which way a route leads."""

import errno
import socket
from typing import Any

from rtpproxy.errors import PortBusyError
from rtpproxy.session.local import LocalAddress

_DISCARD = 9
"""A port to connect to; nothing is ever sent there."""
_BUSY = (errno.EADDRINUSE, errno.EACCES)
_IP_BIND_ADDRESS_NO_PORT = 24


def family_of(address: LocalAddress) -> socket.AddressFamily:
    """The address family of sockets on one of our addresses."""
    return socket.AF_INET6 if address.is_ipv6 else socket.AF_INET


def datagram_socket(family: socket.AddressFamily) -> socket.socket:
    """A UDP socket that does not block; one of IPv6 takes no IPv4."""
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.setblocking(False)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened


def check_ours(address: LocalAddress) -> None:
    """Raise OSError where no socket of this host can have the address. No port is taken."""
    with datagram_socket(family_of(address)) as probe:
        probe.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        probe.bind((address.host, 0))


def endpoint_of(reported: Any) -> tuple[str, int]:
    """Host and port of a socket address; a link-local host with the zone that it needs (`fe80::1%2`, RFC 4007)."""
    if len(reported) == 2 or not reported[3]:
        host, port = reported[:2]
        return host, port
    return f"{reported[0]}%{reported[3]}", reported[1]


def bind_port(opened: socket.socket, address: LocalAddress, port: int) -> None:
    """Bind to a port of ours. Raises PortBusyError where another program has it, OSError where it cannot be had."""
    try:
        opened.bind((address.host, port))
    except OSError as error:
        if error.errno in _BUSY:
            raise PortBusyError(f"port {port}: {error.strerror}") from error
        raise


def force_buffer(owner: socket.socket, force: int, ordinary: int, size: int) -> None:
    """Set a buffer size over the system's limit where that is permitted, else up to it."""
    try:
        owner.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        owner.setsockopt(socket.SOL_SOCKET, ordinary, size)


def route_source(to_host: str) -> str | None:
    """The address of ours that the kernel would send from, to a numeric one: what connect(2) binds to. None: no route.

    Of a raw socket where that is permitted: it needs no ephemeral port, and with this protocol receives nothing.
    """
    family = socket.AF_INET6 if ":" in to_host else socket.AF_INET
    try:
        probe = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError:
        probe = socket.socket(family, socket.SOCK_DGRAM)
    with probe:
        is_raw_ipv6 = family == socket.AF_INET6 and probe.type == socket.SOCK_RAW
        try:
            # A raw IPv6 socket takes a port for a protocol.
            probe.connect((to_host, 0 if is_raw_ipv6 else _DISCARD))
        except OSError:
            return None
        return endpoint_of(probe.getsockname())[0]
