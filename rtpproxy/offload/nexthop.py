"""Routes: the next hop by which frames for a peer leave, kept up to date by the kernel's events.

The kernel is asked for a route once for each pair of peer and local address. The neighbour that it leads to is a row of
the next hop table (`neighbours`).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from rtpproxy.addr import is_ipv6
from rtpproxy.errors import OffloadError
from rtpproxy.network.netlink import Message, Rtnetlink, attribute
from rtpproxy.network.rtnl import RTM_GETROUTE, rtmsg
from rtpproxy.offload.attach import Interfaces, Report
from rtpproxy.offload.entry import NO_INGRESS, Ingress, Tier
from rtpproxy.offload.hop_numbers import HopNumbers
from rtpproxy.offload.neighbours import Hop, Neighbours

_AF_INET, _AF_INET6 = 2, 10
_UNICAST, _LOCAL = 1, 2
RECHECK_INTERVAL_S = 20
"""The kernel is asked again for every route in use this often."""
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


class NextHops:
    """Routes to peers, each with the next hop row that it uses."""

    def __init__(self, netlink: Rtnetlink, interfaces: Interfaces, neighbours: Neighbours) -> None:
        self._netlink = netlink
        self._interfaces = interfaces
        self._neighbours = neighbours
        self._default_ttl = _setting(_DEFAULT_TTL, _USUAL_TTL)
        self._routes: dict[_Target, tuple[Route | NoRoute, Hop | None]] = {}
        self._users: dict[_Target, int] = {}
        self._unchecked: list[_Target] = []
        self._changed: list[_Target] = []
        self._unasked: list[_Target] = []
        self._unasked_share = 0
        self._is_ours: dict[str, bool] = {}
        """By host: whether it is an address of this host; emptied when routes change."""

    @property
    def numbers(self) -> HopNumbers:
        """The numbers of the rows, and which ports' rows name them."""
        return self._neighbours.numbers

    def acquire(self, to_host: str, from_host: str) -> Route | NoRoute:
        """The route to a peer, kept until `release`. Nothing is kept where an exception comes."""
        target = to_host, from_host
        known = self._routes.get(target)
        if known is None:
            known = self._routes[target] = self._resolve(target)
        self._users[target] = self._users.get(target, 0) + 1
        return known[0]

    def release(self, to_host: str, from_host: str) -> None:
        """Give up one use of a route; it is forgotten with the last one."""
        target = to_host, from_host
        self._users[target] -= 1
        if not self._users[target]:
            del self._users[target]
            self._drop(self._routes.pop(target)[1])

    def current(self, to_host: str, from_host: str) -> Route | NoRoute:
        """Return what `acquire` would return now, without acquiring."""
        return self._routes[to_host, from_host][0]

    def interface(self, to_host: str, from_host: str) -> int:
        """Return the index of the interface that an acquired route leads to; 0 where there is no route."""
        hop = self._routes[to_host, from_host][1]
        return hop[0][0] if hop else 0

    def start_reroute(self) -> None:
        """Let `reroute` go over all routes, because they may have changed."""
        # Routes that were not checked since the last time come first; otherwise a stream of events would starve them.
        self._unchecked = list(dict.fromkeys([*self._unchecked, *self._routes]))
        self._is_ours.clear()

    def reroute(self, most: int) -> list[_Target]:
        """Ask the kernel again for up to `most` routes. Returns the peers whose route changed.

        Where an exception comes, the next call goes on, and returns also what was found before.
        """
        for _ in range(min(most, len(self._unchecked))):
            target = self._unchecked.pop(0)
            if target not in self._routes:
                continue
            old, old_hop = self._routes[target]
            self._routes[target] = new = self._resolve(target)
            if new[0] != old:
                self._changed.append(target)
            self._drop(old_hop)
        changed, self._changed = self._changed, []
        return changed

    def recheck_some(self) -> None:
        """Let `reroute` go over a part of the routes: no event tells that a path's MTU was learned, or forgotten.

        To be called every second. Does nothing while `reroute` goes over all of them.
        """
        if self._unchecked:
            return
        if not self._unasked:
            self._unasked = list(self._routes)
            self._unasked_share = -(-len(self._unasked) // RECHECK_INTERVAL_S)
        share = self._unasked_share
        self._unchecked, self._unasked = self._unasked[:share], self._unasked[share:]

    @property
    def is_rerouted(self) -> bool:
        """True when `reroute` has gone over all routes."""
        return not self._unchecked

    def _resolve(self, target: _Target) -> tuple[Route | NoRoute, Hop | None]:
        to_host, from_host = target
        if from_host and not self._is_of_host(from_host):
            reason = f"{from_host} is not an address of this host now"
            return NoRoute(reason, reason), None
        try:
            answer = self._ask(to_host, from_host)
        except OffloadError as error:
            return NoRoute(f"no route to {to_host}: {error}"), None
        route, hop = self._accept(answer, to_host, from_host)
        return replace(route, ingress=self._ingress(answer)), hop

    def _ingress(self, answer: Message) -> Ingress:
        """The interface of a route, by which the peer's packets arrive, too, if routing is symmetric."""
        index = attribute(answer, "RTA_OIF")
        link = self._interfaces.links.get(index) if index else None
        if link is None:
            return NO_INGRESS
        return Ingress(link.index, link.mac if link.is_ethernet else "")

    def _ask(self, to_host: str, from_host: str = "") -> Message:
        message = rtmsg()
        family, bits = (_AF_INET6, 128) if is_ipv6(to_host) else (_AF_INET, 32)
        message["family"], message["dst_len"] = family, bits
        message["attrs"] = [("RTA_DST", to_host)]
        if from_host:
            message["src_len"] = bits
            message["attrs"].append(("RTA_SRC", from_host))
        (answer,) = self._netlink.request(message, RTM_GETROUTE)
        return answer

    def _is_of_host(self, host: str) -> bool:
        """True if an address is one of this host's. Must be asked: the kernel gives IPv6 routes for any source."""
        known = self._is_ours.get(host)
        if known is None:
            try:
                known = self._ask(host)["type"] == _LOCAL
            except OffloadError:
                known = False
            self._is_ours[host] = known
        return known

    def _accept(self, answer: Message, to_host: str, from_host: str) -> tuple[Route | NoRoute, Hop | None]:
        index, source = attribute(answer, "RTA_OIF"), from_host or attribute(answer, "RTA_PREFSRC")
        link = self._interfaces.links.get(index) if index else None
        if answer["type"] == _LOCAL:
            return NoRoute(
                f"{to_host} is an address of this host", _no_ingress(self._interfaces.attach(index or 0))
            ), None
        if answer["type"] != _UNICAST or link is None or not source:
            return NoRoute(f"{to_host} is not reached by an ordinary route"), None
        if attribute(answer, "RTA_ENCAP"):
            return NoRoute(f"the route to {to_host} wraps the packet"), None
        report = self._interfaces.attach(index)
        no_ingress = _no_ingress(report)
        if not link.is_ethernet:
            return NoRoute(f"{link.name} is not an Ethernet interface", no_ingress), None
        xdp_way = self._interfaces.egress.xdp_way(link)
        if xdp_way is None and not self._interfaces.back_up_xdp():
            return NoRoute(f"the egress interface cannot send redirected frames: {report}", no_ingress), None
        via = attribute(answer, "RTA_VIA")
        neighbour_host = attribute(answer, "RTA_GATEWAY") or (via["addr"] if via else to_host)
        metrics = attribute(answer, "RTA_METRICS")
        ttl, mtu = (metrics.get_attr(name) if metrics else None for name in ("RTAX_HOPLIMIT", "RTAX_MTU"))
        default_ttl, default_mtu = _ipv6_settings(link.name) if is_ipv6(to_host) else (self._default_ttl, _ANY_MTU)
        hop = (index, neighbour_host), min(mtu or _ANY_MTU, default_mtu)
        number = self._neighbours.take(hop)
        if number is None:
            return NoRoute("the table of next hops is full"), None
        description = f"via {neighbour_host} dev {link.name}"
        return Route(number, source, description, ttl or default_ttl, report.tier, xdp_way is not None), hop

    def _drop(self, hop: Hop | None) -> None:
        if hop is not None:
            self._neighbours.drop(hop)


def _no_ingress(report: Report) -> str:
    """Say why nothing that arrives at an interface is forwarded; empty where it is forwarded."""
    return str(report) if report.tier is Tier.USERSPACE else ""


def _ipv6_settings(name: str) -> tuple[int, int]:
    """IPv6 hop limit and MTU (bytes) of what leaves by an interface: a router on the link may set both."""
    settings = _IPV6_SETTINGS / name
    return _setting(settings / "hop_limit", _USUAL_TTL), _setting(settings / "mtu", _ANY_MTU)


def _setting(path: Path, default: int) -> int:
    """Read a setting of the kernel; `default` where it is gone with its interface."""
    try:
        return int(path.read_text())
    except OSError:
        return default
