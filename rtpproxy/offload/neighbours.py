"""Neighbours that routes lead to, and the rows of the next hop table that make the kernel send to them.

A row is shared by everything that leaves by the same neighbour with the same MTU. A neighbour that is gone, or a link
that is down, makes its rows unusable: their packets go to userspace, where sending resolves the neighbour again, and
the event that follows makes the rows usable. Where XDP cannot send by an interface, TC does.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from rtpproxy.errors import OffloadError
from rtpproxy.network.background import Runner
from rtpproxy.network.messages import ALL_NEIGHBOURS, Neighbour, read_neighbour
from rtpproxy.network.netlink import Rtnetlink
from rtpproxy.network.rtnl import RTM_GETNEIGH
from rtpproxy.offload.attach import Interfaces
from rtpproxy.offload.confirmations import Confirmations, NeighbourKey
from rtpproxy.offload.entry import NextHop
from rtpproxy.offload.hop_numbers import HopNumbers

log = logging.getLogger(__name__)

_REACHABLE, _STALE, _DELAY, _PROBE, _PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80
_VALID = _REACHABLE | _STALE | _DELAY | _PROBE | _PERMANENT
_UNKNOWN = ("", 0)
CONFIRM_INTERVAL_S = 20
"""Every neighbour in use is confirmed this often, unless they are too many for that."""
CONFIRMED_PER_SECOND = 500
"""Neighbours that are confirmed each second at most; those that the kernel calls stale are confirmed at once."""

Hop = tuple[NeighbourKey, int]
"""Identifies a row: a neighbour, and the MTU of the routes through it, in bytes."""


@dataclass(slots=True)
class _Row:
    """A row of the next hop table: its number, and how many routes use it."""

    number: int
    routes: int = 0
    is_usable: bool = False


class Neighbours:
    """The neighbours in use, and the next hop rows of each.

    Some of the work is put off, so that others get their turn where there are thousands of rows; `work_off` does it.
    """

    def __init__(
        self,
        interfaces: Interfaces,
        write: Callable[[int, NextHop | None], None],
        capacity: int,
        runner: Runner,
    ) -> None:
        """`write` changes a row of the next hop table, which has `capacity` rows; `runner` confirms neighbours."""
        self._netlink = Rtnetlink()
        """Of our own: nothing else can be asked while a list is read in parts."""
        self._interfaces = interfaces
        self._write = write
        self._confirmations = Confirmations(runner)
        self.numbers = HopNumbers(capacity)
        self._rows: dict[NeighbourKey, dict[int, _Row]] = {}
        """The rows of each neighbour in use, by MTU."""
        self._by_interface: dict[int, dict[NeighbourKey, None]] = {}
        """The neighbours in use of each interface."""
        self._macs: dict[NeighbourKey, tuple[str, int]] = {}
        """Address and state of every neighbour that the kernel knows."""
        self._unconfirmed: list[NeighbourKey] = []
        self._share = 0
        self._unwritten: dict[NeighbourKey, None] = {}
        """Neighbours whose rows must be written anew."""
        self._list: Iterator[list[bytes]] | None = None
        """What is left of the kernel's list, while it is read again."""
        self._unlisted: set[NeighbourKey] = set()
        """Neighbours that were known before, and that neither the list nor an event has named since."""
        self._is_list_old = False
        """Events were lost again while the list was read."""
        for part in self._netlink.dump_parts(RTM_GETNEIGH, ALL_NEIGHBOURS):
            self._take_in(part)

    def close(self) -> None:
        """Close the sockets. To be called after the runner was closed."""
        self._confirmations.close()
        self._netlink.close()

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
            self._by_interface.setdefault(neighbour[0], {})[neighbour] = None
            self._update(neighbour)
            if self._macs.get(neighbour, _UNKNOWN)[1] in (0, _STALE):
                self._confirmations.add([neighbour])
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
                del self._by_interface[neighbour[0]][neighbour]
            self.numbers.give_back(row.number)

    def reload(self) -> None:
        """Let `work_off` ask for all neighbours again, after events were lost."""
        if self._list is not None:
            self._is_list_old = True
            return
        self._unlisted = set(self._macs)
        self._list = self._netlink.dump_parts(RTM_GETNEIGH, ALL_NEIGHBOURS)

    def on_neighbour(self, neighbour: Neighbour, is_gone: bool) -> None:
        """Process a neighbour event."""
        if not neighbour.host:
            return
        key = neighbour.ifindex, neighbour.host
        mac = self._macs.get(key, _UNKNOWN)[0]
        if is_gone or not neighbour.state & _VALID or not neighbour.mac:
            self._macs.pop(key, None)
        else:
            self._macs[key] = neighbour.mac, neighbour.state
        self._unlisted.discard(key)
        if key in self._rows:
            if mac != self._macs.get(key, _UNKNOWN)[0]:
                self._update(key)
            if not is_gone and neighbour.state == _STALE:
                self._confirmations.add([key])

    def confirm_some(self) -> None:
        """Confirm a part of the neighbours. To be called every second."""
        if not self._unconfirmed:
            self._unconfirmed = list(self._rows)
            self._share = min(-(-len(self._unconfirmed) // CONFIRM_INTERVAL_S), CONFIRMED_PER_SECOND)
        batch, self._unconfirmed = self._unconfirmed[: self._share], self._unconfirmed[self._share :]
        self._confirmations.add(
            key for key in batch if key in self._rows and self._macs.get(key, _UNKNOWN)[1] != _PERMANENT
        )

    def on_link(self, index: int) -> None:
        """Let `work_off` write the rows that depend on a link that came, changed or went."""
        for interface, neighbours in self._by_interface.items():
            if self._leads_over(interface, index):
                self._unwritten.update(neighbours)

    def work_off(self, most: int) -> bool:
        """Read a part of the list, and write the rows of up to `most` neighbours. True when more is to be done.

        Raises OffloadError when the list cannot be had; what was known stays.
        """
        for key in list(islice(self._unwritten, most)):
            del self._unwritten[key]
            if key in self._rows:
                self._update(key)
        if self._list is not None:
            self._read_list(self._list)
        return self._list is not None or bool(self._unwritten)

    def _read_list(self, parts: Iterator[list[bytes]]) -> None:
        try:
            part = next(parts, None)
        except OffloadError:
            self._end_list()
            raise
        if part is not None:
            self._take_in(part)
            return
        for key in self._unlisted:
            self._macs.pop(key, None)
        self._unwritten.update(dict.fromkeys(key for key in self._unlisted if key in self._rows))
        self._end_list()

    def _end_list(self) -> None:
        self._list, self._unlisted = None, set()
        if self._is_list_old:
            self._is_list_old = False
            self.reload()

    def _take_in(self, messages: list[bytes]) -> None:
        for message in messages:
            self.on_neighbour(read_neighbour(message), False)

    def _leads_over(self, index: int, lower: int) -> bool:
        """True if frames of interface `index` go by interface `lower`, or the two are the same."""
        link = self._interfaces.links.get(index)
        return index == lower or (link is not None and self._interfaces.links.lower(link)[0].index == lower)

    def _update(self, neighbour: NeighbourKey) -> None:
        """Write the neighbour's rows from what is known now."""
        index, host = neighbour
        link = self._interfaces.links.get(index)
        mac = self._macs.get(neighbour, _UNKNOWN)[0]
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
