"""The events of rtnetlink: read from their sockets, and handed by kind to those who follow them.

A host may change thousands of them a second, so an event loop reads only so many at a time (`Events`). Of routes and
rules it matters only that they changed: their events are thrown away unread (`RoutingChanges`).
"""

import errno
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rtpproxy.buffers import force_receive_buffer
from rtpproxy.network.messages import Neighbour, interface_of_filter, read_neighbour, split
from rtpproxy.network.netlink import RECEIVE_BYTES
from rtpproxy.network.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELQDISC,
    RTM_DELTCLASS,
    RTM_DELTFILTER,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWQDISC,
    RTM_NEWTCLASS,
    RTM_NEWTFILTER,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
    RTMGRP_TC,
)

READ_AT_ONCE = 64
"""Events that are read before packets and commands get their turn; each takes some 10 µs, what it causes included."""
_THROWN_AT_ONCE = 2048
"""The same for events that are thrown away, which takes under a microsecond."""
_BUFFER_BYTES = 1 << 24
"""Room for the events of some 40,000 neighbours that all change at once; used only while they wait."""
_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_TC | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_TRAFFIC_CONTROL = {
    *(RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTCLASS, RTM_DELTCLASS, RTM_NEWTFILTER, RTM_DELTFILTER),
}


class Event(NamedTuple):
    """A message of the kernel: what kind it is (RTM_ of linux/rtnetlink.h), and its bytes."""

    kind: int
    message: bytes


@dataclass(frozen=True, slots=True)
class EventHandlers:
    """What is called for each kind of event, in the order in which the events came."""

    on_link: Callable[[bytes, bool], None]
    """A link came, changed or went: the message, and whether it went."""
    on_neighbour: Callable[[Neighbour, bool], None]
    """A neighbour came, changed or went: what it is, and whether it went."""
    on_address: Callable[[], None]
    """An address of this host came, changed or went."""
    on_filter: Callable[[int], None]
    """A queueing discipline, class or filter of traffic control came, changed or went: the index of its interface."""
    on_end: Callable[[], None]
    """All events that were read at once were handed out."""
    on_lost: Callable[[], None]
    """Events were lost, and none is handed out: everything must be asked for again."""


class Events:
    """A socket that gets the events of links, neighbours, addresses and traffic control."""

    def __init__(self) -> None:
        self._socket = _socket(_GROUPS)
        force_receive_buffer(self._socket, _BUFFER_BYTES)
        self._is_lost = False

    def fileno(self) -> int:
        """The descriptor, for the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def hand_out(self, handlers: EventHandlers) -> None:
        """Read pending events and hand them out; the others come when this is called again."""
        hand_out(self.read(), handlers)

    def read(self) -> list[Event] | None:
        """Read up to `READ_AT_ONCE` pending events; None when some were lost, so that everything must be asked again.

        What is pending then is older than the loss, and thrown away before this is told.
        """
        if not self._is_lost:
            events: list[Event] = []
            try:
                for _ in range(READ_AT_ONCE):
                    data = self._socket.recv(RECEIVE_BYTES)
                    events.extend(Event(kind, message) for kind, _, _, message in split(data))
            except BlockingIOError:
                return events
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._is_lost = True
            else:
                return events
        if not _throw_away(self._socket):
            return []
        self._is_lost = False
        return None


def hand_out(events: Sequence[Event] | None, handlers: EventHandlers) -> None:
    """Call the handlers for what `Events.read` returned. If one fails, the events after its own count as lost."""
    if events is None:
        handlers.on_lost()
        return
    is_complete = False
    try:
        for kind, message in events:
            _hand_out_one(kind, message, handlers)
        is_complete = True
    finally:
        if not is_complete:
            handlers.on_lost()
    handlers.on_end()


def _hand_out_one(kind: int, message: bytes, handlers: EventHandlers) -> None:
    if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        handlers.on_neighbour(read_neighbour(message), kind == RTM_DELNEIGH)
    elif kind in (RTM_NEWLINK, RTM_DELLINK):
        handlers.on_link(message, kind == RTM_DELLINK)
    elif kind in _TRAFFIC_CONTROL:
        handlers.on_filter(interface_of_filter(message))
    elif kind in (RTM_NEWADDR, RTM_DELADDR):
        handlers.on_address()


class RoutingChanges:
    """Tells that something of some kinds changed, not what: events are counted for nothing, and none is decoded.

    While nobody listens they wait in a small buffer; that most are lost when routes come by the thousand is no harm.
    """

    def __init__(self, loop: AbstractEventLoop, groups: int, on_change: Callable[[], None]) -> None:
        """`groups` are those of the kinds (RTMGRP_ of linux/rtnetlink.h). Nothing is told before `listen`."""
        self._loop = loop
        self._on_change = on_change
        self._socket = _socket(groups)
        self._pending: TimerHandle | None = None
        self._not_before = 0.0

    def listen(self, pause_s: float = 0.0) -> None:
        """Call `on_change` once: at the next change, or soon if there was one since `forget`; not within the pause."""
        self._not_before = self._loop.time() + pause_s
        self._loop.add_reader(self._socket, self._on_event)

    def forget(self) -> None:
        """Forget the changes up to now, because everything is about to be asked for."""
        # What is left of very many only makes that everything is asked for once more.
        _throw_away(self._socket)

    def close(self) -> None:
        """Stop listening, and close the socket."""
        if self._pending is not None:
            self._pending.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _on_event(self) -> None:
        self._loop.remove_reader(self._socket)
        self._pending = self._loop.call_at(max(self._loop.time(), self._not_before), self._tell)

    def _tell(self) -> None:
        self._pending = None
        self._on_change()


def _socket(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    opened.bind((0, groups))
    opened.setblocking(False)
    return opened


def _throw_away(opened: socket.socket) -> bool:
    """Throw pending events away, but not too many at once. True when none is left."""
    for _ in range(_THROWN_AT_ONCE):
        try:
            opened.recv(1)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
    return False
