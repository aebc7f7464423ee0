"""Follows which addresses belong to this host, whole prefixes and broadcast addresses included.

Addresses of interfaces are not all: the kernel delivers here whatever a route of its local table says, and that may be
a prefix (`ip route add local 192.0.2.0/24 dev lo`).
"""

import errno
import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network

from rtpproxy.config import Network
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.network.background import Runner
from rtpproxy.network.events import RoutingChanges
from rtpproxy.network.messages import ALL_ADDRESSES, read_address, read_destination, routes_of_table
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.network.rtnl import (
    RTM_GETADDR,
    RTM_GETROUTE,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
)

log = logging.getLogger(__name__)

PAUSE_S = 0.2
"""Route events come in bursts: the kernel is asked at the first, and then not again for this long."""
_PAUSE_SHARE = 9
"""Nor for so many times as long as the answer took: until somebody adds a rule of routing, the kernel keeps the local
table's routes among all others, and looks through 200,000 in 10 ms."""
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
    for address in map(read_address, netlink.dump(RTM_GETADDR, ALL_ADDRESSES)):
        if address.host:
            local.add(ip_network(address.host))
        if address.broadcast:
            broadcast.add(ip_network(address.broadcast))
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind, network in _local_routes(netlink, family):
            if kind == _BROADCAST:
                broadcast.add(network)
            elif kind in (_LOCAL, _ANYCAST):
                local.add(network)
    return HostNetworks(frozenset(local), frozenset(broadcast))


def _local_routes(netlink: Rtnetlink, family: int) -> list[tuple[int, Network]]:
    """List type and destination of the routes in the local table."""
    try:
        answers = netlink.dump(RTM_GETROUTE, routes_of_table(family, _LOCAL_TABLE))
    except OffloadError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_TABLE:
            return []
        raise
    routes = map(read_destination, answers)
    return [(one.kind, ip_network((one.host, one.bits))) for one in routes if one.table == _LOCAL_TABLE]


class HostNetworksFollower:
    """Tells what belongs to this host whenever addresses or routes change."""

    def __init__(self, loop: AbstractEventLoop, runner: Runner, on_change: Callable[[HostNetworks], None]) -> None:
        """Nothing is followed before `start`; `runner` asks from then on, because the kernel may take its time.

        `on_change` may also be called when nothing changed.
        """
        self._loop = loop
        self._runner = runner
        self._on_change = on_change
        self._netlink = Rtnetlink(is_strict=True)
        self._changes = RoutingChanges(loop, _GROUPS, self._ask)
        self._asked_at = 0.0

    def start(self) -> None:
        """Tell what is so now, and follow. Raises StartError."""
        self._changes.listen()
        try:
            self._on_change(networks_of_host(self._netlink))
        except OffloadError as error:
            raise StartError(f"cannot ask for this host's addresses, to keep media from them: {error}") from error

    def close(self) -> None:
        """Stop following. To be called after the runner was closed, which may be asking."""
        self._changes.close()
        self._netlink.close()

    def _ask(self) -> None:
        # What changes from here on is asked for once more.
        self._changes.forget()
        self._asked_at = self._loop.time()
        self._runner.run(lambda: networks_of_host(self._netlink), self._tell)

    def _tell(self, answer: Callable[[], HostNetworks]) -> None:
        self._changes.listen(max(PAUSE_S, _PAUSE_SHARE * (self._loop.time() - self._asked_at)))
        try:
            self._on_change(answer())
        except OffloadError as error:
            log.error("cannot ask for this host's addresses, so media may be sent to services at new ones: %s", error)
