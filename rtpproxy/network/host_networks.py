"""Follows which addresses belong to this host, whole prefixes and broadcast addresses included.

Addresses of interfaces are not all: the kernel delivers here whatever a route of its local table says, and that may be
a prefix (`ip route add local 192.0.2.0/24 dev lo`).
"""

import errno
import logging
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network

from rtpproxy.config import Network
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.network.netlink import NLM_F_DUMP, Rtnetlink, attribute
from rtpproxy.network.rtnl import (
    RTM_GETADDR,
    RTM_GETROUTE,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    ifaddrmsg,
    rtmsg,
)

log = logging.getLogger(__name__)

PAUSE_S = 0.2
"""Route events come in bursts: the kernel is asked at the first, and then not again for this long."""
_GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
_LOCAL_TABLE = 255
_LOCAL, _BROADCAST, _ANYCAST = 2, 3, 4
"""Types of routes (linux/rtnetlink.h); packets for anycast addresses are delivered here, too."""
_NO_TABLE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class HostNetworks:
    """Networks whose every address is this host, or a broadcast address of its; most hold a single address."""

    local: frozenset[Network] = frozenset()
    broadcast: frozenset[Network] = frozenset()


def networks_of_host(netlink: Rtnetlink) -> HostNetworks:
    """Ask the kernel. Raises OffloadError."""
    local: set[Network] = set()
    broadcast: set[Network] = set()
    for answer in netlink.request(ifaddrmsg(), RTM_GETADDR, NLM_F_DUMP):
        local.add(ip_network(attribute(answer, "IFA_LOCAL") or attribute(answer, "IFA_ADDRESS")))
        if attribute(answer, "IFA_BROADCAST"):
            broadcast.add(ip_network(attribute(answer, "IFA_BROADCAST")))
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind, network in _local_routes(netlink, family):
            if kind == _BROADCAST:
                broadcast.add(network)
            elif kind in (_LOCAL, _ANYCAST):
                local.add(network)
    return HostNetworks(frozenset(local), frozenset(broadcast))


def _local_routes(netlink: Rtnetlink, family: int) -> list[tuple[int, Network]]:
    """List type and destination of the routes in the local table."""
    request = rtmsg()
    request["family"], request["table"] = family, _LOCAL_TABLE
    try:
        answers = netlink.request(request, RTM_GETROUTE, NLM_F_DUMP)
    except OffloadError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_TABLE:
            return []
        raise
    default = "::" if family == socket.AF_INET6 else "0.0.0.0"
    return [
        (answer["type"], ip_network((attribute(answer, "RTA_DST") or default, answer["dst_len"])))
        for answer in answers
        if attribute(answer, "RTA_TABLE") == _LOCAL_TABLE
    ]


class HostNetworksFollower:
    """Tells what belongs to this host whenever addresses or routes change."""

    def __init__(self, loop: AbstractEventLoop, on_change: Callable[[HostNetworks], None]) -> None:
        """Nothing is followed before `start`. `on_change` may also be called when nothing changed."""
        self._loop = loop
        self._on_change = on_change
        self._netlink = Rtnetlink(is_strict=True)
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._events.bind((0, _GROUPS))
        self._events.setblocking(False)
        self._pending: TimerHandle | None = None
        self._asked_at = 0.0

    def start(self) -> None:
        """Tell what is so now, and follow. Raises StartError."""
        try:
            self._tell()
        except OffloadError as error:
            raise StartError(f"cannot ask for this host's addresses, to keep media from them: {error}") from error

    def close(self) -> None:
        """Stop following."""
        if self._pending is not None:
            self._pending.cancel()
        self._loop.remove_reader(self._events)
        self._events.close()
        self._netlink.close()

    def _on_event(self) -> None:
        # What happened does not matter, so nothing is read until it is time to ask.
        self._loop.remove_reader(self._events)
        self._pending = self._loop.call_at(max(self._loop.time(), self._asked_at + PAUSE_S), self._ask)

    def _ask(self) -> None:
        self._pending = None
        try:
            self._tell()
        except OffloadError as error:
            log.error("cannot ask for this host's addresses, so media may be sent to services at new ones: %s", error)

    def _tell(self) -> None:
        self._drain()
        self._loop.add_reader(self._events, self._on_event)
        self._asked_at = self._loop.time()
        self._on_change(networks_of_host(self._netlink))

    def _drain(self) -> None:
        """Throw the events away before asking; it does not matter if some were lost."""
        while True:
            try:
                self._events.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
