"""Routes and neighbours: where frames for a peer go, kept true by the kernel's events.

A route is asked of the kernel once for each pair of peer and local address. The neighbour it leads to is one row of
the kernel tier's next hop table, shared by everything that leaves through it. A neighbour that is gone, a link that
is down or an interface that cannot send redirected frames make the row unusable: its packets go up to userspace,
where sending resolves the neighbour again, and the event that follows makes the row usable.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pyroute2.netlink.rtnl import RTM_GETNEIGH, RTM_GETROUTE, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rtpproxy.errors import OffloadError
from rtpproxy.offload.attach import Interfaces
from rtpproxy.offload.entry import NextHop
from rtpproxy.offload.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Message, Rtnetlink, attribute

log = logging.getLogger(__name__)

_AF_INET = 2
_UNICAST, _LOCAL = 1, 2
_USE = 0x1  # NTF_USE: as if a packet were sent, so that the kernel asks whether the neighbour is still there
_REACHABLE, _STALE, _DELAY, _PROBE, _PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80
_CANNOT_SEND = "the far end of a veth must run XDP or have GRO on"
CONFIRM_INTERVAL_S = 20
"""Every neighbour in use is confirmed, and every route in use asked again, this often."""
_ANY_MTU = 65535
"""Of a route that sets none: the link's counts."""
_VALID = _REACHABLE | _STALE | _DELAY | _PROBE | _PERMANENT


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a peer: number of the next hop row, and the address of ours that packets leave from."""

    number: int
    from_host: str
    description: str
    """For the log: `via 192.0.2.1 dev eth0`."""


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Why the kernel tier cannot reach a peer."""

    reason: str
    without_program: str = field(default="", compare=False)
    """The interface that the route leads to, and why our program is not on it; empty when that is not the reason."""


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
        """Routes may have changed: let `reroute` go over all of them, from the first."""
        self._unchecked = list(self._routes)

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
        if message["family"] != _AF_INET:
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
            if neighbour[0] == index:
                self._update(neighbour)

    def _resolve(self, target: _Target) -> tuple[Route | NoRoute, _Hop | None]:
        to_host, from_host = target
        message = rtmsg()
        message["family"], message["dst_len"] = _AF_INET, 32
        message["attrs"] = [("RTA_DST", to_host)]
        if from_host:
            message["src_len"] = 32
            message["attrs"].append(("RTA_SRC", from_host))
        try:
            (answer,) = self._netlink.request(message, RTM_GETROUTE)
        except OffloadError as error:
            return NoRoute(f"no route to {to_host}: {error}"), None
        return self._accept(answer, to_host, from_host)

    def _accept(self, answer: Message, to_host: str, from_host: str) -> tuple[Route | NoRoute, _Hop | None]:
        index, source = attribute(answer, "RTA_OIF"), from_host or attribute(answer, "RTA_PREFSRC")
        link = self._interfaces.link(index) if index else None
        if answer["type"] == _LOCAL:
            return NoRoute(f"{to_host} is an address of this host", self._without_program(index or 0)), None
        if answer["type"] != _UNICAST or link is None or not source:
            return NoRoute(f"{to_host} is not reached by an ordinary route"), None
        if attribute(answer, "RTA_VIA") or attribute(answer, "RTA_ENCAP"):
            return NoRoute(f"the route to {to_host} changes the packet's family or wraps it"), None
        if without_program := self._without_program(index):
            return NoRoute(f"its way out has no native XDP: {without_program}", without_program), None
        if not self._interfaces.can_send(index):
            return NoRoute(f"{link.name} cannot send redirected frames; {_CANNOT_SEND}"), None
        metrics = attribute(answer, "RTA_METRICS")
        mtu = (metrics.get_attr("RTAX_MTU") if metrics else None) or _ANY_MTU
        neighbour_host = attribute(answer, "RTA_GATEWAY") or to_host
        hop = (index, neighbour_host), mtu
        number = self._take(hop)
        if number is None:
            return NoRoute("the table of next hops is full"), None
        return Route(number, source, f"via {neighbour_host} dev {link.name}"), hop

    def _without_program(self, index: int) -> str:
        """The interface, and why our program is not on it, where that is so."""
        report = self._interfaces.attach(index)
        return "" if self._interfaces.is_attached(index) else str(report)

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
        link = self._interfaces.link(index)
        mac = self._macs.get(neighbour, ("", 0))[0]
        is_usable = bool(mac and link and link.is_up and self._interfaces.can_send(index))
        for mtu, row in self._rows[neighbour].items():
            hop = NextHop(index, mac, link.mac, min(mtu, link.mtu)) if is_usable and link else None
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
        message["family"], message["ifindex"], message["flags"] = _AF_INET, key[0], _USE
        message["attrs"] = [("NDA_DST", key[1])]
        try:
            self._netlink.request(message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)
        except OffloadError as error:
            log.debug("cannot confirm neighbour %s: %s", key[1], error)

    def _load_macs(self) -> None:
        message = ndmsg()
        message["family"] = _AF_INET
        self._macs = {}
        for answer in self._netlink.request(message, RTM_GETNEIGH, NLM_F_DUMP):
            mac, state = attribute(answer, "NDA_LLADDR"), answer["state"]
            if mac and state & _VALID:
                self._macs[answer["ifindex"], attribute(answer, "NDA_DST")] = mac, state
