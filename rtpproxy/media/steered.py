"""Media ports without sockets of their own: `receiving` has a few sockets for all, `sending` sends from any of them.

The port table, which an sk_lookup program (`bpf/relay.c`) reads, holds which ports are open.
"""

import errno
from asyncio import AbstractEventLoop
from collections import defaultdict
from collections.abc import Callable, Sequence

from rtpproxy.errors import PortBusyError
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.receiving import Receivers
from rtpproxy.media.sending import RawSenders
from rtpproxy.media.sockets import OnDatagram, bind_port, check_ours, datagram_socket, family_of
from rtpproxy.session.latch import KnownSource
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Component

_PORTS = 65536


class SteeredMedia:
    """Media ports owned through the port table. Same interface as `bound.BoundMedia`."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        on_datagram: OnDatagram,
        limit: AgeLimit,
        mark: Callable[[int, bool], None],
        expect: Callable[[int, KnownSource | None, Component], None],
        add_local: Callable[[LocalAddress], None],
    ) -> None:
        """`mark(key, is_open)` writes the port table; `expect` tells the programs from whom packets are expected at an
        open port, so that a flood by others does not displace them, and `add_local` about another address.

        `limit` is for the time that datagrams wait. Nothing is opened before `start`.
        """
        self._mark = mark
        self._add_local = add_local
        self._receivers = Receivers(loop, on_datagram, limit)
        self._limit = limit
        self._senders = RawSenders()
        # Bound here, not defined as methods that call these: this saves 20 to 40 ns a packet.
        self.send = self._senders.send
        self.send_failures = self._senders.failures
        self.expect = expect
        self._listened: dict[int, list[LocalAddress]] = defaultdict(list)
        """By slot; addresses that join a wildcard's port space are left out."""
        self._open_ports: dict[int, bytearray] = defaultdict(lambda: bytearray(_PORTS))
        """By slot: 1 for each RTP port whose pair is open, else 0."""

    def start(self, listen: Sequence[LocalAddress], sockets: int, media_ports: range = range(0)) -> list[int]:
        """Open the receiving sockets and return their descriptors, in their order in the kernel's socket map.

        There are `sockets` of each family, as many as the map has room for. They are bound, as the map demands, but
        outside `media_ports` where any other port is free.
        """
        for address in listen:
            self._listened[address.slot].append(address)
        receivers = self._receivers.start(listen, sockets, media_ports)
        self._senders.check_permitted()
        return receivers

    def close_all(self) -> None:
        """Close every socket."""
        self._receivers.close()
        self._senders.close()

    def add_local(self, address: LocalAddress) -> None:
        """Listen on another address. Raises OSError when it is not one of this host's, or cannot be listened on.

        Ports of its port space that are already open take what arrives at it, too, so they must be free on it.
        """
        check_ours(address)
        if address.is_ipv6 and not self._receivers.has_ipv6:
            raise OSError(errno.EAFNOSUPPORT, "this host had no IPv6 when the relay started")
        if self._receivers.covers(address):
            return
        try:
            for rtp_port, is_open in enumerate(self._open_ports[address.slot]):
                if is_open:
                    _probe_pair(address, rtp_port)
        except PortBusyError as error:
            reason = f"calls have ports that another program has on {address.host}: {error}"
            raise OSError(errno.EADDRINUSE, reason) from error
        self._add_local(address)
        self._listened[address.slot].append(address)
        self._receivers.listen(address)

    def open(self, address: LocalAddress, rtp_port: int) -> None:
        """Take a port pair. Raises PortBusyError when another program has one of the two.

        An open port takes the packets to all addresses of its port space, so it must be free on each.
        """
        for one in self._listened[address.slot]:
            _probe_pair(one, rtp_port)
        self._open_ports[address.slot][rtp_port] = 1
        self._mark(address.key(rtp_port), True)
        self._mark(address.key(rtp_port + 1), True)

    def close(self, address: LocalAddress, rtp_port: int) -> None:
        """Give a port pair back."""
        self._open_ports[address.slot][rtp_port] = 0
        self._mark(address.key(rtp_port), False)
        self._mark(address.key(rtp_port + 1), False)

    def take_waiting(self) -> None:
        """Hand on the datagrams that have arrived by now; not all, if there are very many."""
        self._receivers.take_waiting()

    def stamp(self) -> tuple[int, float]:
        """Tell when the datagram arrived that is being handed on, as `ReceiveBuffer.stamp` does."""
        return self._receivers.stamp()

    def waited_too_long(self) -> int:
        """Count the datagrams that were dropped because they waited too long."""
        return self._limit.dropped

    def no_room(self) -> int:
        """Count the datagrams that the kernel dropped because the receive buffer was full."""
        return self._receivers.no_room()

    def routes_changed(self) -> None:
        """Forget which of our addresses the routes choose."""
        self._senders.routes_changed()


def _probe_pair(address: LocalAddress, rtp_port: int) -> None:
    """Raise PortBusyError where another program has one of the two ports."""
    for port in (rtp_port, rtp_port + 1):
        with datagram_socket(family_of(address)) as probe:
            bind_port(probe, address, port)
