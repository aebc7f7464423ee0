"""Routes: the next hop by which frames for a peer leave, kept up to date by the kernel's events.

The kernel is asked for a route once for each pair of peer and local address. The neighbour that it leads to is a row of
the next hop table (`neighbours`).
"""

import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rtpproxy.errors import OffloadError
from rtpproxy.network.messages import Answer, read_answer, route_request
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.network.rtnl import RTM_GETROUTE
from rtpproxy.offload.attach import Interfaces, Report
from rtpproxy.offload.entry import NO_INGRESS, Ingress, Tier
from rtpproxy.offload.hop_numbers import HopNumbers
from rtpproxy.offload.neighbours import Hop, Neighbours

_UNICAST, _LOCAL = 1, 2
RECHECK_INTERVAL_S = 20
"""The kernel is asked again for every route in use this often, unless they are too many for that."""
RECHECKED_PER_SECOND = 500
"""Routes that are asked for again each second at most: so it takes no more than a small share of a processor."""
_USUAL_TTL = 64
_ANY_MTU = 65535
"""Stands for a route without an MTU of its own: that of the link applies."""
_DEFAULT_TTL = Path("/proc/sys/net/ipv4/ip_default_ttl")
_IPV6_SETTINGS = Path("/proc/sys/net/ipv6/conf")


@dataclass(frozen=True, slots=True)
class Route:
    """A way to reach a peer: number of the next hop row, and our address that packets leave from."""

    number: int
    from_host: str
    description: str
    """Printed in the log: `via 192.0.2.1 dev eth0`."""
    ttl: int
    """TTL or hop limit of what leaves."""
    tier: Tier
    """The program that forwards what arrives by the interface of this route."""
    is_by_xdp: bool
    """XDP can send by this route; else TC does."""
    ingress: Ingress = NO_INGRESS
    """Where packets from the peer are expected."""


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Says why the kernel tier cannot reach a peer."""

    reason: str
    no_ingress: str = field(default="", compare=False)
    """Why nothing that arrives from the peer is forwarded either; empty when it may be. Part of the reason, too."""
    ingress: Ingress = NO_INGRESS
    """Where packets from the peer are expected, nevertheless."""


_Target = tuple[str, str]
"""Peer address and local address (empty: the route decides)."""


class _Basis(NamedTuple):
    """What a route was made of; it is the same as long as this is."""

    answer: Answer
    settings: tuple[int, int]
    """TTL and MTU where the route itself sets none."""
    age: int
    """Counts changes of interfaces, and of what we know of them."""


class _Known(NamedTuple):
    """A route in use."""

    route: Route | NoRoute
    hop: Hop | None = None
    basis: _Basis | None = None
    """None where there is no route; that is looked into each time."""


class NextHops:
    """Routes to peers, each with the next hop row that it uses."""

    def __init__(self, netlink: Rtnetlink, interfaces: Interfaces, neighbours: Neighbours) -> None:
        self._netlink = netlink
        self._interfaces = interfaces
        self._neighbours = neighbours
        self._default_ttl = _setting(_DEFAULT_TTL, _USUAL_TTL)
        self._routes: dict[_Target, _Known] = {}
        self._users: dict[_Target, int] = {}
        self._unchecked: deque[_Target] = deque()
        self._changed: list[_Target] = []
        self._unasked: list[_Target] = []
        self._unasked_share = 0
        self._age = 0
        self._last_basis: _Basis | None = None
        self._is_ours: dict[str, bool] = {}
        """By host: whether it is an address of this host; emptied when routes change."""
        self._ipv6_settings: dict[int, tuple[int, int]] = {}
        """By interface; emptied every second, because no event tells of a change."""

    @property
    def numbers(self) -> HopNumbers:
        """The numbers of the rows, and which ports' rows name them."""
        return self._neighbours.numbers

    def acquire(self, to_host: str, from_host: str) -> Route | NoRoute:
        """The route to a peer, kept until `release`. Nothing is kept where an exception comes."""
        target = to_host, from_host
        known = self._routes.get(target)
        if known is None:
            known = self._routes[target] = self._known(target, self._ask([target])[target])
        self._users[target] = self._users.get(target, 0) + 1
        return known.route

    def release(self, to_host: str, from_host: str) -> None:
        """Give up one use of a route; it is forgotten with the last one."""
        target = to_host, from_host
        self._users[target] -= 1
        if not self._users[target]:
            del self._users[target]
            self._drop(self._routes.pop(target).hop)

    def current(self, to_host: str, from_host: str) -> Route | NoRoute:
        """Return what `acquire` would return now, without acquiring."""
        return self._routes[to_host, from_host].route

    def interface(self, to_host: str, from_host: str) -> int:
        """Return the index of the interface that an acquired route leads to; 0 where there is no route."""
        hop = self._routes[to_host, from_host].hop
        return hop[0][0] if hop else 0

    def start_reroute(self, *, are_interfaces_same: bool = False) -> None:
        """Let `reroute` go over all routes, because they may have changed.

        If interfaces, and what is known of them, are the same as before, those with the same answer stay as they are.
        """
        if not are_interfaces_same:
            self._age += 1
        # Routes that were not checked since the last time come first; otherwise a stream of events would starve them.
        self._unchecked = deque(dict.fromkeys([*self._unchecked, *self._routes]))
        self._is_ours.clear()

    def reroute(self, most: int) -> list[_Target]:
        """Ask the kernel again for up to `most` routes. Returns the peers whose route changed.

        Where an exception comes, the next call goes on, and returns also what was found before.
        """
        targets = list(islice(self._unchecked, most))
        answers = self._ask([target for target in targets if target in self._routes])
        for target in targets:
            self._unchecked.popleft()
            if target in answers:
                self._check(target, answers[target])
        changed, self._changed = self._changed, []
        return changed

    def _check(self, target: _Target, answer: Answer | OffloadError) -> None:
        """Adapt the route to a peer to the kernel's answer."""
        old = self._routes[target]
        is_same = not isinstance(answer, OffloadError) and old.basis == self._basis(answer)
        if is_same and self._is_from_us(target):
            return
        self._routes[target] = new = self._known(target, answer)
        if new.route != old.route:
            self._changed.append(target)
        self._drop(old.hop)

    def recheck_some(self) -> None:
        """Let `reroute` go over a part of the routes: no event tells that a path's MTU was learned, or forgotten.

        To be called every second. Does nothing while `reroute` goes over all of them.
        """
        self._ipv6_settings.clear()
        if self._unchecked:
            return
        if not self._unasked:
            self._unasked = list(self._routes)
            self._unasked_share = min(-(-len(self._unasked) // RECHECK_INTERVAL_S), RECHECKED_PER_SECOND)
        share = self._unasked_share
        self._unchecked, self._unasked = deque(self._unasked[:share]), self._unasked[share:]

    @property
    def is_rerouted(self) -> bool:
        """True when `reroute` has gone over all routes."""
        return not self._unchecked

    def _ask(self, targets: Sequence[_Target]) -> dict[_Target, Answer | OffloadError]:
        """Ask the kernel for routes, all in one call."""
        requests = [route_request(*target) for target in targets]
        answers = self._netlink.ask_each(RTM_GETROUTE, requests)
        return {
            target: answer if isinstance(answer, OffloadError) else read_answer(answer)
            for target, answer in zip(targets, answers, strict=True)
        }

    def _known(self, target: _Target, answer: Answer | OffloadError) -> _Known:
        to_host, from_host = target
        if not self._is_from_us(target):
            reason = f"{from_host} is not an address of this host now"
            return _Known(NoRoute(reason, reason))
        if isinstance(answer, OffloadError):
            return _Known(NoRoute(f"no route to {to_host}: {answer}"))
        basis = self._basis(answer)
        route, hop = self._accept(basis, to_host, from_host)
        return _Known(replace(route, ingress=self._ingress(answer)), hop, basis if hop is not None else None)

    def _basis(self, answer: Answer) -> _Basis:
        basis = _Basis(answer, self._settings(answer), self._age)
        # Answers do not name the peer, so thousands of peers behind one interface or gateway share one.
        if basis != self._last_basis:
            self._last_basis = basis
        return self._last_basis

    def _settings(self, answer: Answer) -> tuple[int, int]:
        """TTL and MTU (bytes) of what leaves by an interface: in IPv6 a router on the link may set both."""
        if answer.family != socket.AF_INET6:
            return self._default_ttl, _ANY_MTU
        known = self._ipv6_settings.get(answer.ifindex)
        if known is None:
            link = self._interfaces.links.get(answer.ifindex)
            settings = _IPV6_SETTINGS / (link.name if link else "")
            known = _setting(settings / "hop_limit", _USUAL_TTL), _setting(settings / "mtu", _ANY_MTU)
            self._ipv6_settings[answer.ifindex] = known
        return known

    def _ingress(self, answer: Answer) -> Ingress:
        """The interface of a route, by which the peer's packets arrive, too, if routing is symmetric."""
        link = self._interfaces.links.get(answer.ifindex) if answer.ifindex else None
        if link is None:
            return NO_INGRESS
        return Ingress(link.index, link.mac if link.is_ethernet else "")

    def _is_from_us(self, target: _Target) -> bool:
        return not target[1] or self._is_of_host(target[1])

    def _is_of_host(self, host: str) -> bool:
        """True if an address is one of this host's. Must be asked: the kernel gives IPv6 routes for any source."""
        known = self._is_ours.get(host)
        if known is None:
            answer = self._ask([(host, "")])[host, ""]
            known = self._is_ours[host] = not isinstance(answer, OffloadError) and answer.kind == _LOCAL
        return known

    def _accept(self, basis: _Basis, to_host: str, from_host: str) -> tuple[Route | NoRoute, Hop | None]:
        answer = basis.answer
        source = from_host or answer.source
        link = self._interfaces.links.get(answer.ifindex) if answer.ifindex else None
        if answer.kind == _LOCAL:
            return NoRoute(
                f"{to_host} is an address of this host", _no_ingress(self._interfaces.attach(answer.ifindex))
            ), None
        if answer.kind != _UNICAST or link is None or not source:
            return NoRoute(f"{to_host} is not reached by an ordinary route"), None
        if answer.is_wrapped:
            return NoRoute(f"the route to {to_host} wraps the packet"), None
        report = self._interfaces.attach(link.index)
        no_ingress = _no_ingress(report)
        if not link.is_ethernet:
            return NoRoute(f"{link.name} is not an Ethernet interface", no_ingress), None
        if report.is_waiting:
            return NoRoute(str(report), no_ingress), None
        xdp_way = self._interfaces.egress.xdp_way(link)
        if xdp_way is None and not self._interfaces.back_up_xdp():
            return NoRoute(f"the egress interface cannot send redirected frames: {report}", no_ingress), None
        if xdp_way is None and self._interfaces.is_backup_waiting:
            return NoRoute(f"the program that sends by {link.name} is being loaded", no_ingress), None
        neighbour_host = answer.gateway or to_host
        default_ttl, default_mtu = basis.settings
        hop = (link.index, neighbour_host), min(answer.mtu or _ANY_MTU, default_mtu)
        number = self._neighbours.take(hop)
        if number is None:
            return NoRoute("the table of next hops is full"), None
        description = f"via {neighbour_host} dev {link.name}"
        ttl = answer.hop_limit or default_ttl
        return Route(number, source, description, ttl, report.tier, xdp_way is not None), hop

    def _drop(self, hop: Hop | None) -> None:
        if hop is not None:
            self._neighbours.drop(hop)


def _no_ingress(report: Report) -> str:
    """Say why nothing that arrives at an interface is forwarded; empty where it is forwarded."""
    return str(report) if report.tier is Tier.USERSPACE else ""


def _setting(path: Path, default: int) -> int:
    """Read a setting of the kernel; `default` where it is gone with its interface."""
    try:
        return int(path.read_text())
    except OSError:
        return default
