"""Routes and neighbours: where frames for a peer go, kept true by the kernel's events.

A route is asked of the kernel once for each pair of peer and local address. The neighbour it leads to is one row of
the kernel tier's next hop table, shared by everything that leaves through it. A neighbour that is gone or a link that
is down make the row unusable: its packets go up to userspace, where sending resolves the neighbour again, and the event
that follows makes the row usable. Where XDP cannot send by an interface, TC does.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2.netlink.rtnl import RTM_GETNEIGH, RTM_GETROUTE, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rtpproxy.addr import is_ipv6
from rtpproxy.errors import OffloadError
from rtpproxy.network.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Message, Rtnetlink, attribute
from rtpproxy.offload.attach import Interfaces, Report
from rtpproxy.offload.entry import NextHop, Tier

log = logging.getLogger(__name__)

_AF_INET, _AF_INET6 = 2, 10
_UNICAST, _LOCAL = 1, 2
_USE = 0x1  # NTF_USE: as if a packet were sent, so that the kernel asks whether the neighbour is still there
_REACHABLE, _STALE, _DELAY, _PROBE, _PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80
CONFIRM_INTERVAL_S = 20
"""Every neighbour in use is confirmed, and every route in use asked again, this often."""
_USUAL_TTL = 64
_ANY_MTU = 65535
"""Of a route that sets none: the link's counts."""
_VALID = _REACHABLE | _STALE | _DELAY | _PROBE | _PERMANENT
_DEFAULT_TTL = Path("/proc/sys/net/ipv4/ip_default_ttl")
_IPV6_SETTINGS = Path("/proc/sys/net/ipv6/conf")


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a peer: number of the next hop row, and the address of ours that packets leave from."""

    number: int
    from_host: str
    description: str
    """For the log: `via 192.0.2.1 dev eth0`."""
    ttl: int
    """Or hop limit, of what leaves."""
    tier: Tier
    """Who forwards what arrives by the same way."""
    is_by_xdp: bool
    """XDP can send this way; else TC does."""


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Why the kernel tier cannot reach a peer."""

    reason: str
    no_way_in: str = field(default="", compare=False)
    """Why nothing that arrives by the same way is forwarded either; empty when it may be. Told by the reason, too."""


@dataclass(slots=True)
class _Row:
    """A row of the next hop table: its number, and how many routes use it."""

    number: int
    routes: int = 0
    is_usable: bool = False


_Neighbour = tuple[int, str]
"""Interface number and neighbour address."""
_Hop = tuple[_Neighbour, int]
"""What a row is for: a neighbour, and the MTU of the routes through it, in bytes."""
_Target = tuple[str, str]
"""Peer address and local address (empty: the route decides)."""


class NextHops:
    """Routes to peers and the next hop rows that they use."""

    def __init__(
        self,
        netlink: Rtnetlink,
        interfaces: Interfaces,
        write: Callable[[int, NextHop | None], None],
        capacity: int,
    ) -> None:
        """`write` changes a row of the next hop table, which has `capacity` rows."""
        self._netlink = netlink
        self._interfaces = interfaces
        self._write = write
        self._default_ttl = _number(_DEFAULT_TTL, _USUAL_TTL)
        self._free = list(range(capacity - 1, -1, -1))
        self._retired: list[int] = []
        """Rows that entries may still name, until the caller has placed them anew."""
        self._routes: dict[_Target, tuple[Route | NoRoute, _Hop | None]] = {}
        self._users: dict[_Target, int] = {}
        self._rows: dict[_Neighbour, dict[int, _Row]] = {}
        """Of each neighbour in use, by MTU."""
        self._macs: dict[_Neighbour, tuple[str, int]] = {}
        """Address and state of every neighbour that the kernel knows."""
        self._unchecked: list[_Target] = []
        self._unconfirmed: list[_Neighbour] = []
        self._share = 0
        self._unasked: list[_Target] = []
        self._unasked_share = 0
        self._is_ours: dict[str, bool] = {}
        """Whether an address is one of this host's, as far as it was asked since routes changed."""
        self._load_macs()

    def acquire(self, to_host: str, from_host: str) -> Route | NoRoute:
        """The route to a peer, kept until `release`."""
        self._recycle()
        target = to_host, from_host
        self._users[target] = self._users.get(target, 0) + 1
        known = self._routes.get(target)
        if known is None:
            known = self._routes[target] = self._resolve(target)
        return known[0]

    def release(self, to_host: str, from_host: str) -> None:
        """One user of a route less."""
        target = to_host, from_host
        self._users[target] -= 1
        if not self._users[target]:
            del self._users[target]
            self._drop(self._routes.pop(target)[1])

    def current(self, to_host: str, from_host: str) -> Route | NoRoute:
        """What `acquire` would answer now, without acquiring."""
        return self._routes[to_host, from_host][0]

    def start_reroute(self) -> None:
        """Routes may have changed: let `reroute` go over all of them."""
        # What was not asked since the last time comes first, or events that go on would starve it.
        self._unchecked = list(dict.fromkeys([*self._unchecked, *self._routes]))
        self._is_ours.clear()

    def reroute(self, most: int) -> list[_Target]:
        """Ask the kernel again for up to `most` routes; the peers whose route is another now.

        Their entries must be placed anew before the next call of `acquire` or `reroute`.
        """
        self._recycle()
        changed = []
        batch, self._unchecked = self._unchecked[:most], self._unchecked[most:]
        for target in batch:
            if target not in self._routes:
                continue
            old, old_hop = self._routes[target]
            self._routes[target] = new = self._resolve(target)
            self._drop(old_hop)
            if new[0] != old:
                changed.append(target)
        return changed

    def recheck_some(self) -> None:
        """Let `reroute` go over a share of the routes: no event tells that a path's MTU was learned, or forgotten.

        To be called every second. While all of them are asked anyway it does nothing.
        """
        if self._unchecked:
            return
        if not self._unasked:
            self._unasked = list(self._routes)
            self._unasked_share = -(-len(self._unasked) // CONFIRM_INTERVAL_S)
        share = self._unasked_share
        self._unchecked, self._unasked = self._unasked[:share], self._unasked[share:]

    @property
    def is_rerouted(self) -> bool:
        """Whether `reroute` has gone over all routes."""
        return not self._unchecked

    def reload(self) -> None:
        """Events were lost: ask for all neighbours again. `reroute` must follow."""
        self._load_macs()
        for neighbour in self._rows:
            self._update(neighbour)

    def on_neighbour(self, message: Message) -> None:
        """Take in a neighbour event."""
        if message["family"] not in (_AF_INET, _AF_INET6):
            return
        key = message["ifindex"], attribute(message, "NDA_DST")
        mac, state = attribute(message, "NDA_LLADDR"), message["state"]
        if message["event"] == "RTM_DELNEIGH" or not state & _VALID or not mac:
            self._macs.pop(key, None)
        else:
            self._macs[key] = mac, state
        if key in self._rows:
            self._update(key)
            if message["event"] != "RTM_DELNEIGH" and state == _STALE:
                self._confirm(key)

    def confirm_some(self) -> None:
        """Confirm a share of the neighbours. To be called every second."""
        if not self._unconfirmed:
            self._unconfirmed = list(self._rows)
            self._share = -(-len(self._unconfirmed) // CONFIRM_INTERVAL_S)
        batch, self._unconfirmed = self._unconfirmed[: self._share], self._unconfirmed[self._share :]
        for key in batch:
            if key in self._rows and self._macs.get(key, ("", 0))[1] != _PERMANENT:
                self._confirm(key)

    def on_link(self, index: int) -> None:
        """The link with that number changed, came or went."""
        for neighbour in self._rows:
            if self._leads_over(neighbour[0], index):
                self._update(neighbour)

    def _leads_over(self, index: int, lower: int) -> bool:
        """Whether frames for one interface go by another, or it is the same."""
        link = self._interfaces.links.get(index)
        return index == lower or (link is not None and self._interfaces.links.lower(link)[0].index == lower)

    def _resolve(self, target: _Target) -> tuple[Route | NoRoute, _Hop | None]:
        to_host, from_host = target
        if from_host and not self._is_of_host(from_host):
            reason = f"{from_host} is not an address of this host now"
            return NoRoute(reason, reason), None
        try:
            answer = self._ask(to_host, from_host)
        except OffloadError as error:
            return NoRoute(f"no route to {to_host}: {error}"), None
        return self._accept(answer, to_host, from_host)

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
        """Whether packets to an address are for this host: IPv6 routes do not tell when the source is not ours."""
        known = self._is_ours.get(host)
        if known is None:
            try:
                known = self._ask(host)["type"] == _LOCAL
            except OffloadError:
                known = False
            self._is_ours[host] = known
        return known

    def _accept(self, answer: Message, to_host: str, from_host: str) -> tuple[Route | NoRoute, _Hop | None]:
        index, source = attribute(answer, "RTA_OIF"), from_host or attribute(answer, "RTA_PREFSRC")
        link = self._interfaces.links.get(index) if index else None
        if answer["type"] == _LOCAL:
            return NoRoute(
                f"{to_host} is an address of this host", _no_way_in(self._interfaces.attach(index or 0))
            ), None
        if answer["type"] != _UNICAST or link is None or not source:
            return NoRoute(f"{to_host} is not reached by an ordinary route"), None
        if attribute(answer, "RTA_ENCAP"):
            return NoRoute(f"the route to {to_host} wraps the packet"), None
        report = self._interfaces.attach(index)
        no_way_in = _no_way_in(report)
        if not link.is_ethernet:
            return NoRoute(f"{link.name} is not an Ethernet interface", no_way_in), None
        xdp_way = self._interfaces.xdp_way(link)
        if xdp_way is None and not self._interfaces.back_up_xdp():
            return NoRoute(f"its way out cannot send redirected frames: {report}", no_way_in), None
        via = attribute(answer, "RTA_VIA")
        neighbour_host = attribute(answer, "RTA_GATEWAY") or (via["addr"] if via else to_host)
        metrics = attribute(answer, "RTA_METRICS")
        ttl, mtu = (metrics.get_attr(name) if metrics else None for name in ("RTAX_HOPLIMIT", "RTAX_MTU"))
        default_ttl, default_mtu = _ipv6_settings(link.name) if is_ipv6(to_host) else (self._default_ttl, _ANY_MTU)
        hop = (index, neighbour_host), min(mtu or _ANY_MTU, default_mtu)
        number = self._take(hop)
        if number is None:
            return NoRoute("the table of next hops is full"), None
        description = f"via {neighbour_host} dev {link.name}"
        return Route(number, source, description, ttl or default_ttl, report.tier, xdp_way is not None), hop

    def _take(self, hop: _Hop) -> int | None:
        """The row for a hop, one user more; None when the table is full."""
        neighbour, mtu = hop
        rows = self._rows.get(neighbour, {})
        row = rows.get(mtu)
        if row is None:
            if not self._free:
                return None
            row = self._rows.setdefault(neighbour, rows)[mtu] = _Row(self._free.pop())
            self._update(neighbour)
            if self._macs.get(neighbour, ("", 0))[1] in (0, _STALE):
                self._confirm(neighbour)
        row.routes += 1
        return row.number

    def _drop(self, hop: _Hop | None) -> None:
        """One user of a row less."""
        if hop is None:
            return
        neighbour, mtu = hop
        rows = self._rows[neighbour]
        row = rows[mtu]
        row.routes -= 1
        if not row.routes:
            del rows[mtu]
            if not rows:
                del self._rows[neighbour]
            self._write(row.number, None)
            self._retired.append(row.number)

    def _recycle(self) -> None:
        self._free += self._retired
        self._retired.clear()

    def _update(self, neighbour: _Neighbour) -> None:
        """Write the neighbour's rows as things stand."""
        index, host = neighbour
        link = self._interfaces.links.get(index)
        mac = self._macs.get(neighbour, ("", 0))[0]
        is_usable = bool(mac and link and link.is_up)
        xdp_way = self._interfaces.xdp_way(link) if link else None
        for mtu, row in self._rows[neighbour].items():
            hop = None
            if is_usable and link:
                hop = NextHop(index, mac, link.mac, min(mtu, self._interfaces.mtu(link)), xdp_way)
            self._write(row.number, hop)
            if is_usable != row.is_usable:
                row.is_usable = is_usable
                what = f"is {mac}: its streams are forwarded by the kernel"
                if not is_usable:
                    what = "is not usable: its streams are relayed by userspace"
                log.info("next hop %s on %s %s", host, link.name if link else f"interface {index}", what)

    def _confirm(self, key: _Neighbour) -> None:
        """As if a packet were sent to the neighbour: forwarded frames are no news to the kernel.

        It resolves an unknown neighbour, and asks one that it has not heard from whether it is still there.
        """
        message = ndmsg()
        family = _AF_INET6 if is_ipv6(key[1]) else _AF_INET
        message["family"], message["ifindex"], message["flags"] = family, key[0], _USE
        message["attrs"] = [("NDA_DST", key[1])]
        try:
            self._netlink.request(message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)
        except OffloadError as error:
            log.debug("cannot confirm neighbour %s: %s", key[1], error)

    def _load_macs(self) -> None:
        self._macs = {}
        for answer in self._netlink.request(ndmsg(), RTM_GETNEIGH, NLM_F_DUMP):
            mac, state = attribute(answer, "NDA_LLADDR"), answer["state"]
            if answer["family"] in (_AF_INET, _AF_INET6) and mac and state & _VALID:
                self._macs[answer["ifindex"], attribute(answer, "NDA_DST")] = mac, state


def _no_way_in(report: Report) -> str:
    """The interface, and why nothing that arrives there is forwarded, where that is so."""
    return str(report) if report.tier is Tier.USERSPACE else ""


def _ipv6_settings(name: str) -> tuple[int, int]:
    """Hop limit of what leaves by an interface, and its MTU for IPv6, in bytes: a router on the link may set both."""
    settings = _IPV6_SETTINGS / name
    return _number(settings / "hop_limit", _USUAL_TTL), _number(settings / "mtu", _ANY_MTU)


def _number(path: Path, default: int) -> int:
    """What a setting of the kernel is, `default` where it went with its interface."""
    try:
        return int(path.read_text())
    except OSError:
        return default
