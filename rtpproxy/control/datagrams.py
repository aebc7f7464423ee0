"""Commands in UDP datagrams: each has a cookie before the command, which its reply repeats (protocol.md 1.4)."""

import asyncio
import logging
import re
import socket
from collections.abc import Callable
from typing import Any

from rtpproxy.addr import without_mapping
from rtpproxy.control.cookies import ReplyCache
from rtpproxy.control.execute import MAX_COMMAND_BYTES, Execute
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

MAX_COOKIE_BYTES = 999
TURNS = 8
"""Datagrams answered before media get their turn. A round of the event loop takes a quarter of a command's time."""

_COOKIE = re.compile(rb"[ \t\r\n]*([^ \t\r\n]+)")

Sender = Any
"""Host and port, on IPv6 also flow label and scope, as the socket module reports them."""


class DatagramListener:
    """Serves a `udp` or `udp6` socket."""

    def __init__(  # noqa: PLR0913 - the socket, and the callbacks of the server
        self,
        loop: asyncio.AbstractEventLoop,
        opened: socket.socket,
        execute: Execute,
        cache: ReplyCache,
        clock: Callable[[], float],
        on_duplicate: Callable[[], None],
        *,
        admits: Callable[[str], bool],
    ) -> None:
        """`admits` takes the host of each datagram; where it says no, the datagram is ignored."""
        self._loop = loop
        self._socket = opened
        self._execute = execute
        self._cache = cache
        self._clock = clock
        self._on_duplicate = on_duplicate
        self._admits = admits
        self._unsent_replies = 0
        loop.add_reader(opened, self._on_readable)

    def stop(self) -> None:
        """Read no more; what comes waits in the socket."""
        self._loop.remove_reader(self._socket)

    def close(self) -> None:
        """Stop, and close the socket."""
        self.stop()
        self._socket.close()

    def _on_readable(self) -> None:
        """Answer a few datagrams, then return to the event loop: media wait for these, not for a burst of them."""
        for _ in range(TURNS):
            try:
                datagram, sender = self._socket.recvfrom(MAX_COMMAND_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("cannot read a control datagram: %s", error.strerror)
                return
            host = without_mapping(sender[0])
            if not self._admits(host):
                continue
            reply = self._reply(datagram, sender, host)
            try:
                self._socket.sendto(reply, sender)
            except OSError as error:
                self._count_unsent(sender, error)

    def _reply(self, datagram: bytes, sender: Sender, host: str) -> bytes:
        found = _COOKIE.match(datagram)
        if found is None:
            return self._execute(b"", host)
        cookie = found[1]
        if len(cookie) > MAX_COOKIE_BYTES or b"\0" in cookie:
            return self._execute(b"", host)  # as if there were no cookie
        now = self._clock()
        reply = self._cache.find(sender, cookie, now)
        if reply is None:
            reply = self._execute(datagram[found.end() :], host)
            self._cache.store(sender, cookie, reply, now)
        else:
            self._on_duplicate()
        return b"%b %b" % (cookie, reply)

    def _count_unsent(self, sender: Sender, error: OSError) -> None:
        """Count an unsent reply, and log some of them. The controller repeats its command and gets the kept reply."""
        self._unsent_replies += 1
        if is_worth_a_line(self._unsent_replies):
            log.warning(
                "replies that could not be sent: %d; the last one, to %s port %d: %s",
                self._unsent_replies,
                sender[0],
                sender[1],
                error.strerror,
            )
