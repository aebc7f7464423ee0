"""The events of rtnetlink: read from their socket, and handed by kind to those who follow them."""

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

from rtpproxy.buffers import force_receive_buffer
from rtpproxy.network.netlink import RECEIVE_BYTES, Message
from rtpproxy.network.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV4_RULE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_IPV6_RULE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
    RTMGRP_TC,
    MarshalRtnl,
)

_BUFFER_BYTES = 1 << 22
_IPV4_GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE
_IPV6_GROUPS = RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE | RTMGRP_IPV6_RULE
_TRAFFIC_CONTROL = {
    *("RTM_NEWQDISC", "RTM_DELQDISC", "RTM_NEWTCLASS", "RTM_DELTCLASS", "RTM_NEWTFILTER", "RTM_DELTFILTER"),
}
_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_TC | _IPV4_GROUPS | _IPV6_GROUPS


@dataclass(frozen=True, slots=True)
class EventHandlers:
    """What is called for each kind of event, in the order in which the events came."""

    on_link: Callable[[Message], None]
    """A link came, changed or went."""
    on_neighbour: Callable[[Message], None]
    """A neighbour came, changed or went."""
    on_routing: Callable[[Message], None]
    """An address, a route or a rule came, changed or went."""
    on_filter: Callable[[Message], None]
    """A queueing discipline, class or filter of traffic control came, changed or went."""
    on_end: Callable[[], None]
    """All pending events were handed out."""
    on_lost: Callable[[], None]
    """Events were lost, and none is handed out: everything must be asked for again."""


class Events:
    """A socket that gets the events of links, neighbours, routes, rules, addresses and traffic control."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        force_receive_buffer(self._socket, _BUFFER_BYTES)
        self._socket.bind((0, _GROUPS))
        self._socket.setblocking(False)
        self._marshal = MarshalRtnl()

    def fileno(self) -> int:
        """The descriptor, for the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def hand_out(self, handlers: EventHandlers) -> None:
        """Read the pending events and hand them out."""
        hand_out(self.read(), handlers)

    def read(self) -> list[Message] | None:
        """The pending events; None when some were lost, so that everything must be asked for again."""
        events: list[Message] = []
        is_complete = True
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return events if is_complete else None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                is_complete = False
                continue
            # pyroute2 gives no name to messages of kinds that it does not know, such as chains of traffic control.
            events.extend(event for event in self._marshal.parse(data, None, None) if event.get("event"))


def hand_out(events: list[Message] | None, handlers: EventHandlers) -> None:
    """Call the handlers for what `Events.read` returned."""
    if events is None:
        handlers.on_lost()
        return
    for event in events:
        match event["event"]:
            case "RTM_NEWLINK" | "RTM_DELLINK":
                handlers.on_link(event)
            case "RTM_NEWNEIGH" | "RTM_DELNEIGH":
                handlers.on_neighbour(event)
            case kind if kind in _TRAFFIC_CONTROL:
                handlers.on_filter(event)
            case _:
                handlers.on_routing(event)
    handlers.on_end()
