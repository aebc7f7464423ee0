"""Control connections: one command each, or one command a line (protocol.md 1.2, 1.3).

Everything is non-blocking and driven by the event loop's readiness callbacks, so that no client can delay another.
The reader and writer objects of asyncio are not used: a `unix` client opens a connection for each command, thousands a
second, and most of them are answered here within the one callback that accepts them.

A callback accepts one connection, or executes one command, and returns to the event loop, even if more is waiting: so
media wait for one command, not for a burst of them. This costs no more than reading on until nothing is left, which
Python reports by an exception (one command after another: 9.5 us each instead of 13.1; sixteen at once: 8.9 us instead
of 8.2, without the work of the command itself).
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import select
import socket
from collections.abc import Callable
from typing import Protocol

from rtpproxy.addr import without_mapping
from rtpproxy.control.execute import MAX_COMMAND_BYTES, Execute
from rtpproxy.control.lines import LineClient, Rota

log = logging.getLogger(__name__)

MAX_CLIENTS = 1024
"""Limit of open connections, for each control socket."""
CLIENTS_SHARE = 8
"""Divides the limit of open files: a control socket may use that part for connections; media need the rest."""
ACCEPT_PAUSE_S = 0.1
"""Pause before the next accept when one failed for lack of descriptors or memory."""
COMMAND_GRACE_S = 1.0
"""A `unix` client is about to send its command for so long after it was accepted; a relay that stops waits for it."""


class _Client(Protocol):
    def close(self) -> None: ...
    def finish(self) -> None: ...


class _SpareDescriptor:
    """A descriptor held back: when media have all others, one client can still be accepted, and may end calls."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.refill()

    def give(self) -> bool:
        """Free the descriptor for another use; False if it was freed already."""
        if self._descriptor is None:
            return False
        os.close(self._descriptor)
        self._descriptor = None
        return True

    def refill(self) -> None:
        """Hold a descriptor again, if one is free."""
        if self._descriptor is None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY)


class ConnectionListener:
    """Accepts the connections to one control socket, and knows those that are open."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        serve: Callable[["ConnectionListener", socket.socket, str], None],
        execute: Execute,
        *,
        admits: Callable[[str], bool],
    ) -> None:
        """`serve` takes each accepted connection with the host it comes from: `serve_one_shot` or `serve_lines`.

        `admits` takes the host first, which is empty on Unix sockets; where it says no, the connection is closed.
        """
        self.loop = loop
        self.execute = execute
        self.rota = Rota(loop)
        self.clients: dict[_Client, None] = {}
        """In order of arrival."""
        self.max_clients = min(MAX_CLIENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // CLIENTS_SHARE)
        self.spare = _SpareDescriptor()
        """Clients refill it when they close their connection."""
        self._listening = listening
        self._serve = serve
        self._admits = admits
        self._pause: asyncio.TimerHandle | None = None
        self._is_short = False
        loop.add_reader(listening, self._on_readable)

    def stop(self) -> None:
        """Accept no more, and drop every client once the commands that it sent are answered."""
        if self._pause is not None:
            self._pause.cancel()
        self.loop.remove_reader(self._listening)
        for client in list(self.clients):
            client.finish()

    def close(self) -> None:
        """Stop, and close the listening socket."""
        self.stop()
        self._listening.close()
        self.spare.give()

    def _on_readable(self) -> None:
        try:
            connection, address = self._accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._rest(error)
            return
        self._is_short = False
        host = _host(address)
        try:
            if self._admits(host):
                self._serve(self, connection, host)
            else:
                connection.close()
        finally:
            self.spare.refill()

    def _accept(self) -> tuple[socket.socket, object]:
        try:
            return self._listening.accept()
        except OSError as error:
            if error.errno != errno.EMFILE or not self.spare.give():
                raise
        return self._listening.accept()

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a moment: without a free descriptor accept would fail in an endless loop."""
        if not self._is_short:
            self._is_short = True
            log.error("cannot accept a control connection, and keep trying: %s", error.strerror)
        self.loop.remove_reader(self._listening)
        self._pause = self.loop.call_later(ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.loop.add_reader(self._listening, self._on_readable)


def _host(address: object) -> str:
    """The client's numeric host, IPv4 as such even on an IPv6 socket; empty on Unix sockets."""
    return without_mapping(str(address[0])) if isinstance(address, tuple) else ""


# One command a connection


def serve_one_shot(listener: ConnectionListener, connection: socket.socket, host: str) -> None:
    """Serve a `unix` client: at once if its command has arrived with the connection, as it nearly always has."""
    if _answer_one_shot(connection, host, listener.execute):
        return
    if len(listener.clients) >= listener.max_clients:
        # The oldest client has had more time than all others to send its command.
        next(iter(listener.clients)).close()
    _SilentClient(listener, connection, host)


def _answer_one_shot(connection: socket.socket, host: str, execute: Execute) -> bool:
    """Execute the command if it has arrived, and close the connection; False if nothing has arrived yet."""
    try:
        command = connection.recv(MAX_COMMAND_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        connection.close()
        return True
    try:
        if command:
            _send_whole(connection, execute(command, host))
    finally:
        connection.close()
    return True


def _send_whole(connection: socket.socket, reply: bytes) -> None:
    try:
        sent = connection.send(reply, socket.MSG_DONTWAIT)
    except OSError as error:
        log.debug("control client went away before its reply: %s", error.strerror)
        return
    if sent < len(reply):
        log.warning("control client dropped: it does not take its reply")


class _SilentClient:
    """A `unix` client that has connected, but not sent its command yet."""

    def __init__(self, listener: ConnectionListener, connection: socket.socket, host: str) -> None:
        self._listener = listener
        self._connection = connection
        self._host = host
        self._due = listener.loop.time() + COMMAND_GRACE_S
        listener.clients[self] = None
        listener.loop.add_reader(connection, self._on_readable)

    def close(self) -> None:
        """Drop the client."""
        self._forget()
        self._connection.close()
        self._listener.spare.refill()

    def finish(self) -> None:
        """Answer the command if it comes within the time that a client needs to send it, and drop the client.

        Most have only just connected, since clients send at once. The relay's successor cannot have their connections.
        """
        self._forget()
        command = select.poll()
        command.register(self._connection, select.POLLIN)
        command.poll(max(0.0, self._due - self._listener.loop.time()) * 1000)
        _answer_one_shot(self._connection, self._host, self._listener.execute)
        self._connection.close()
        self._listener.spare.refill()

    def _forget(self) -> None:
        self._listener.loop.remove_reader(self._connection)
        del self._listener.clients[self]

    def _on_readable(self) -> None:
        self._forget()
        try:
            is_done = _answer_one_shot(self._connection, self._host, self._listener.execute)
        finally:
            self._listener.spare.refill()
        if not is_done:
            _SilentClient(self._listener, self._connection, self._host)  # spurious wake-up


# One command a line


def serve_lines(listener: ConnectionListener, connection: socket.socket, host: str) -> None:
    """Serve a `cunix` or `tcp` client. If there are too many it is refused: the others may be in use."""
    if len(listener.clients) >= listener.max_clients:
        log.error("control connection refused: %d are open", listener.max_clients)
        connection.close()
        return
    connection.setblocking(False)
    descriptor = connection.fileno()

    def on_closed(closed: LineClient) -> None:
        del listener.clients[closed]
        listener.spare.refill()

    client = LineClient(
        listener.loop,
        listener.rota,
        connection,
        (descriptor, descriptor),
        lambda line: listener.execute(line, host),
        on_closed,
    )
    listener.clients[client] = None
