"""Neighbours that routes lead to, and the rows of the next hop table that make the kernel send to them.

A row is shared by everything that leaves by the same neighbour with the same MTU. A neighbour that is gone, or a link
that is down, makes its rows unusable: their packets go to userspace, where sending resolves the neighbour again, and
the event that follows makes the rows usable. Where XDP cannot send by an interface, TC does.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from rtpproxy.addr import is_ipv6
from rtpproxy.errors import OffloadError
from rtpproxy.network.netlink import NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, Message, Rtnetlink, attribute
from rtpproxy.network.rtnl import RTM_GETNEIGH, RTM_NEWNEIGH, ndmsg
from rtpproxy.offload.attach import Interfaces
from rtpproxy.offload.entry import NextHop
from rtpproxy.offload.hop_numbers import HopNumbers

log = logging.getLogger(__name__)

_AF_INET, _AF_INET6 = 2, 10
_USE = 0x1  # NTF_USE: as if a packet were sent, so that the kernel asks whether the neighbour is still there
_REACHABLE, _STALE, _DELAY, _PROBE, _PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80
_VALID = _REACHABLE | _STALE | _DELAY | _PROBE | _PERMANENT
CONFIRM_INTERVAL_S = 20
"""Every neighbour in use is confirmed this often."""

Neighbour = tuple[int, str]
"""Interface index and neighbour address."""
Hop = tuple[Neighbour, int]
"""Identifies a row: a neighbour, and the MTU of the routes through it, in bytes."""


@dataclass(slots=True)
class _Row:
    """A row of the next hop table: its number, and how many routes use it."""

    number: int
    routes: int = 0
    is_usable: bool = False


class Neighbours:
    """The neighbours in use, and the next hop rows of each."""

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
        self.numbers = HopNumbers(capacity)
        self._rows: dict[Neighbour, dict[int, _Row]] = {}
        """The rows of each neighbour in use, by MTU."""
        self._macs: dict[Neighbour, tuple[str, int]] = {}
        """Address and state of every neighbour that the kernel knows."""
        self._unconfirmed: list[Neighbour] = []
        self._share = 0
        self._load_macs()

    def take(self, hop: Hop) -> int | None:
        """Add a user to the row for a hop, and return its number; None when the table is full."""
        neighbour, mtu = hop
        rows = self._rows.get(neighbour, {})
        row = rows.get(mtu)
        if row is None:
            number = self.numbers.take()
            if number is None:
                return None
            row = self._rows.setdefault(neighbour, rows)[mtu] = _Row(number)
            self._update(neighbour)
            if self._macs.get(neighbour, ("", 0))[1] in (0, _STALE):
                self._confirm(neighbour)
        row.routes += 1
        return row.number

    def drop(self, hop: Hop) -> None:
        """Remove a user of a row. A row without users is unusable from now on, and free once no entry names it."""
        neighbour, mtu = hop
        rows = self._rows[neighbour]
        row = rows[mtu]
        row.routes -= 1
        if not row.routes:
            self._write(row.number, None)
            del rows[mtu]
            if not rows:
                del self._rows[neighbour]
            self.numbers.give_back(row.number)

    def reload(self) -> None:
        """Ask for all neighbours again, after events were lost."""
        self._load_macs()
        for neighbour in self._rows:
            self._update(neighbour)

    def on_neighbour(self, message: Message) -> None:
        """Process a neighbour event."""
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
        """Confirm a part of the neighbours. To be called every second."""
        if not self._unconfirmed:
            self._unconfirmed = list(self._rows)
            self._share = -(-len(self._unconfirmed) // CONFIRM_INTERVAL_S)
        batch, self._unconfirmed = self._unconfirmed[: self._share], self._unconfirmed[self._share :]
        for key in batch:
            if key in self._rows and self._macs.get(key, ("", 0))[1] != _PERMANENT:
                self._confirm(key)

    def on_link(self, index: int) -> None:
        """Write the rows that depend on a link that came, changed or went."""
        for neighbour in self._rows:
            if self._leads_over(neighbour[0], index):
                self._update(neighbour)

    def _leads_over(self, index: int, lower: int) -> bool:
        """True if frames of interface `index` go by interface `lower`, or the two are the same."""
        link = self._interfaces.links.get(index)
        return index == lower or (link is not None and self._interfaces.links.lower(link)[0].index == lower)

    def _update(self, neighbour: Neighbour) -> None:
        """Write the neighbour's rows from what is known now."""
        index, host = neighbour
        link = self._interfaces.links.get(index)
        mac = self._macs.get(neighbour, ("", 0))[0]
        is_usable = bool(mac and link and link.is_up)
        xdp_way = self._interfaces.egress.xdp_way(link) if link else None
        for mtu, row in self._rows[neighbour].items():
            hop = None
            if is_usable and link:
                hop = NextHop(index, mac, link.mac, min(mtu, self._interfaces.egress.mtu(link)), xdp_way)
            self._write(row.number, hop)
            if is_usable != row.is_usable:
                row.is_usable = is_usable
                what = f"is {mac}: its streams are forwarded by the kernel"
                if not is_usable:
                    what = "is not usable: its streams are relayed by userspace"
                log.info("next hop %s on %s %s", host, link.name if link else f"interface {index}", what)

    def _confirm(self, key: Neighbour) -> None:
        """Make the kernel resolve an unknown neighbour, and probe one that it has not heard from.

        To the kernel, the request counts as a packet sent to the neighbour; forwarded frames do not.
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
