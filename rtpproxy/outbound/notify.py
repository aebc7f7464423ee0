"""Notifications: lines to the sockets of controllers, as of sessions that timed out (protocol.md 10)."""

import logging
from asyncio import AbstractEventLoop

from rtpproxy.addr import Endpoint, is_ipv6
from rtpproxy.config import NotifyTarget
from rtpproxy.outbound.backlog import Backlog
from rtpproxy.outbound.channel import Address, Channel
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

MAX_QUEUED = 20_000
"""Messages per target: more than the sessions that the ports of one address have room for, all ending at once."""
MAX_QUEUED_BYTES = 2 << 20
MAX_CHANNELS = 128
"""Open connections: all targets, and room for the hosts behind wildcards."""
_SELF = "127.0.0.1"
"""Host of a wildcard target when the command came over a Unix socket or standard input, or over IPv6."""


class Notifier:
    """The connections to controllers that want to be told. All calls from the event loop's thread."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._channels: dict[tuple[Address, Address | None], Channel] = {}
        """By the address to send to, and the other one to try. Least recently used first."""
        self._crowded_out = 0

    def notify(self, target: NotifyTarget, controller_host: str, text: bytes, *, is_minor: bool = False) -> None:
        """Send `text` and LF, soon. Never blocks, never raises. What is minor cannot displace what is not.

        `controller_host` is the numeric address that the session's command came from, empty for this host; only
        wildcard targets need it.
        """
        addresses = _addresses(target, controller_host)
        channel = self._channels.pop(addresses, None) or self._open(*addresses)
        if channel is None:
            self._crowded_out += 1
            if is_worth_a_line(self._crowded_out):
                log.error(
                    "notification target %s: %d others are busy; %d messages dropped so far",
                    target,
                    MAX_CHANNELS,
                    self._crowded_out,
                )
            return
        self._channels[addresses] = channel
        channel.push(text + b"\n", is_minor=is_minor)

    def close(self) -> None:
        """Close all connections at once. What waits to be sent is dropped, which is logged."""
        dropped = sum(channel.waiting for channel in self._channels.values())
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        if dropped:
            log.error("%d notifications were not sent before the end", dropped)

    def _open(self, address: Address, otherwise: Address | None) -> Channel | None:
        """Open a channel, in place of an idle one if there are too many; None if all are busy."""
        if len(self._channels) >= MAX_CHANNELS:
            idle = next((other for other, channel in self._channels.items() if not channel.waiting), None)
            if idle is None:
                return None
            self._channels.pop(idle).close()
        kind = "unix" if isinstance(address, str) else "tcp"
        name = f"notification target {kind}:{address}" + (f" or {kind}:{otherwise}" if otherwise else "")
        return Channel(self._loop, address, name, Backlog(MAX_QUEUED, MAX_QUEUED_BYTES), otherwise)


def _addresses(target: NotifyTarget, controller_host: str) -> tuple[Address, Address | None]:
    """Where to send to, and where else if nobody answers there.

    For a controller on IPv6, the C RTPproxy takes a wildcard for 127.0.0.1 (protocol.md 10.1). One on another host is
    not there, so its own address comes second.
    """
    if not target.is_wildcard:
        return target.path or Endpoint(target.host, target.port), None
    if is_ipv6(controller_host):
        return Endpoint(_SELF, target.port), Endpoint(controller_host, target.port)
    return Endpoint(controller_host or _SELF, target.port), None
