"""Control connections: one command each, or one command a line (protocol.md 1.2, 1.3).

Everything is non-blocking and driven by the event loop's readiness callbacks, so that no client can delay another.
Streams of the loop are not used: a `unix` client opens a connection for each command, thousands a second, and most
of them are answered here within the one callback that accepts them.

A callback accepts one connection, or executes one command, and returns to the event loop, whatever else waits: then
media wait for one command, not for a burst of them. It costs no more than to go on until nothing is left, since
finding that out is an exception in Python (one command after another: 9.5 us each instead of 13.1; sixteen at once: 8.9
us instead of 8.2, without what the command itself does).
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

_LOG = logging.getLogger(__name__)

MAX_COMMAND_BYTES = 8191
"""What one read, or one datagram, may hold; more is cut off."""
LINE_BUFFER_BYTES = 8192
"""A line with its LF must fit; a client that fills the buffer without one is dropped."""
MAX_CLIENTS = 1024
"""Open connections per stream socket, at most."""
CLIENTS_SHARE = 8
"""One in so many of the files that may be open is for the connections of a stream socket: the rest is for media."""
ACCEPT_PAUSE_S = 0.1
"""Wait after accept failed for want of descriptors or memory."""

Execute = Callable[[bytes, str], bytes]
"""Takes a command and the controller's host, gives the reply with its LF."""


class _Client(Protocol):
    def close(self) -> None: ...


class _Spare:
    """A descriptor for when media have all others: one client can be accepted still, which may end calls."""

    def __init__(self) -> None:
        self._number: int | None = None
        self.refill()

    def give(self) -> bool:
        """Whether there is one descriptor more now."""
        if self._number is None:
            return False
        os.close(self._number)
        self._number = None
        return True

    def refill(self) -> None:
        """Hold a descriptor again, if there is one."""
        if self._number is None:
            with contextlib.suppress(OSError):
                self._number = os.open(os.devnull, os.O_RDONLY)


class StreamListener:
    """Accepts connections and keeps those that are open."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        serve: Callable[["StreamListener", socket.socket, str], None],
        execute: Execute,
    ) -> None:
        self.loop = loop
        self.execute = execute
        self.rota = _Rota(loop)
        self.clients: dict[_Client, None] = {}
        """In order of arrival."""
        self.max_clients = min(MAX_CLIENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // CLIENTS_SHARE)
        self.spare = _Spare()
        """To be refilled when a client goes."""
        self._listening = listening
        self._serve = serve
        self._pause: asyncio.TimerHandle | None = None
        self._is_short = False
        loop.add_reader(listening, self._on_readable)

    def close(self) -> None:
        """Stop listening and drop every client."""
        if self._pause is not None:
            self._pause.cancel()
        self.loop.remove_reader(self._listening)
        self._listening.close()
        for client in list(self.clients):
            client.close()
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
        try:
            self._serve(self, connection, _host(address))
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
        """Leave the queue alone for a moment: out of descriptors, accept would fail in an endless loop."""
        if not self._is_short:
            self._is_short = True
            _LOG.error("cannot accept a control connection, and keep trying: %s", error.strerror)
        self.loop.remove_reader(self._listening)
        self._pause = self.loop.call_later(ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.loop.add_reader(self._listening, self._on_readable)


def _host(address: object) -> str:
    """The numeric host of a peer, IPv4 as IPv4 where it came to an IPv6 socket; empty on Unix sockets."""
    if isinstance(address, tuple):
        return str(address[0]).removeprefix("::ffff:")
    return ""


# One command a connection


def serve_one_shot(listener: StreamListener, connection: socket.socket, host: str) -> None:
    """`unix`: answer at once if the command is there already, as it is nearly always."""
    if _answer_one_shot(connection, host, listener.execute):
        return
    if len(listener.clients) >= listener.max_clients:
        # The oldest one had all the time it needs to send a command.
        next(iter(listener.clients)).close()
    _SilentClient(listener, connection, host)


def _answer_one_shot(connection: socket.socket, host: str, execute: Execute) -> bool:
    """Whether there was anything to read; if so the connection is done with, and closed."""
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
        _LOG.debug("control client left without its reply: %s", error.strerror)
        return
    if sent < len(reply):
        _LOG.warning("control client dropped: it does not take its reply")


class _SilentClient:
    """A `unix` client that has connected and not sent its command yet."""

    def __init__(self, listener: StreamListener, connection: socket.socket, host: str) -> None:
        self._listener = listener
        self._connection = connection
        self._host = host
        listener.clients[self] = None
        listener.loop.add_reader(connection, self._on_readable)

    def close(self) -> None:
        """Drop the client."""
        self._forget()
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
            _SilentClient(self._listener, self._connection, self._host)  # woken for nothing


# One command a line


class _Rota:
    """Line clients that have commands waiting take turns, so that one with thousands delays nobody."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[_LineClient] = deque()
        self._is_due = False

    def add(self, client: "_LineClient") -> None:
        """Serve a command of `client` soon, after those that wait already."""
        self._waiting.append(client)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        try:
            self._waiting.popleft().serve()
        finally:
            self._is_due = bool(self._waiting)
            if self._is_due:
                self._loop.call_soon(self._run)


class _Channel(Protocol):
    """A byte stream that never blocks: BlockingIOError instead."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes, /) -> int: ...
    def close(self) -> None: ...


class _LineClient:
    """A `cunix`, `tcp` or `stdio` client: one command a line, replies in order.

    While a reply waits for a slow reader, or commands for their turn, nothing more is read. So what is kept for a
    client is bounded: one buffer of commands, and one reply.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rota: _Rota,
        channel: _Channel,
        descriptors: tuple[int, int],
        execute: Callable[[bytes], bytes],
        on_closed: Callable[["_LineClient"], None],
    ) -> None:
        """`descriptors` are those to wait on, for input and for output."""
        self._loop = loop
        self._rota = rota
        self._channel = channel
        self._input, self._output = descriptors
        self._execute = execute
        self._on_closed = on_closed
        self._is_open = True
        self._is_listening = False
        self._is_waiting = False
        """For its turn."""
        self._received = b""
        """Lines that wait, and the beginning of one."""
        self._unsent = b""
        self._listen()

    def close(self) -> None:
        """Drop the client."""
        if not self._is_open:
            return
        self._is_open = False
        self._stop_listening()
        if self._unsent:
            self._loop.remove_writer(self._output)
        self._channel.close()
        self._on_closed(self)

    def serve(self) -> None:
        """Execute the first of the commands that wait."""
        self._is_waiting = False
        if not self._is_open:
            return
        line, _, self._received = self._received.partition(b"\n")
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)  # replies would be out of step with commands
            self._send(self._execute(line))
            on_failure.pop_all()

    def _listen(self) -> None:
        if self._is_listening:
            return
        try:
            self._loop.add_reader(self._input, self._on_readable)
        except PermissionError:
            # A regular file cannot be waited for: it is always ready.
            self._loop.call_soon(self._on_readable)
            return
        self._is_listening = True

    def _stop_listening(self) -> None:
        if self._is_listening:
            self._loop.remove_reader(self._input)
            self._is_listening = False

    def _on_readable(self) -> None:
        if not self._is_open:
            return
        if self._is_waiting:
            self._stop_listening()
            return
        try:
            data = self._channel.recv(LINE_BUFFER_BYTES - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._received += data
        self._go_on()

    def _go_on(self) -> None:
        """What is next, once nothing is left to send."""
        if b"\n" in self._received:
            self._is_waiting = True
            self._rota.add(self)
        elif len(self._received) >= LINE_BUFFER_BYTES:
            self.close()
        else:
            self._listen()

    def _send(self, reply: bytes) -> None:
        try:
            sent = self._channel.send(reply)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = reply[sent:]
        if self._unsent:
            self._stop_listening()
            self._loop.add_writer(self._output, self._on_writable)
        else:
            self._go_on()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._output)
        unsent, self._unsent = self._unsent, b""
        self._send(unsent)


def serve_lines(listener: StreamListener, connection: socket.socket, host: str) -> None:
    """`cunix`, `tcp`: the connection stays; when there are too many, the new one goes, not one that is in use."""
    if len(listener.clients) >= listener.max_clients:
        _LOG.error("control connection refused: %d are open", listener.max_clients)
        connection.close()
        return
    connection.setblocking(False)
    number = connection.fileno()

    def on_closed(closed: _LineClient) -> None:
        del listener.clients[closed]
        listener.spare.refill()

    client = _LineClient(
        listener.loop,
        listener.rota,
        connection,
        (number, number),
        lambda line: listener.execute(line, host),
        on_closed,
    )
    listener.clients[client] = None


# Standard input and output


class _Stdio:
    """Standard input and output as one channel. Both are non-blocking while it is open, whoever shares them."""

    INPUT, OUTPUT = 0, 1

    def __init__(self) -> None:
        self._was_blocking = [(number, os.get_blocking(number)) for number in (self.INPUT, self.OUTPUT)]
        for number, _ in self._was_blocking:
            os.set_blocking(number, False)

    def recv(self, size: int) -> bytes:
        return os.read(self.INPUT, size)

    def send(self, data: bytes) -> int:
        return os.write(self.OUTPUT, data)

    def close(self) -> None:
        for number, was_blocking in self._was_blocking:
            os.set_blocking(number, was_blocking)


class StdioListener:
    """`stdio`, `stdioc`: serves standard input, a pipe, a terminal, a socket or a file, until it ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, execute: Execute, on_end: Callable[[], None]) -> None:
        """`on_end` is not called by `close`."""
        self._on_end: Callable[[], None] | None = on_end
        channel = _Stdio()
        descriptors = (channel.INPUT, channel.OUTPUT)
        self._client = _LineClient(
            loop, _Rota(loop), channel, descriptors, lambda line: execute(line, ""), lambda _: self._ended()
        )

    def close(self) -> None:
        """Stop serving; the descriptors stay open."""
        self._on_end = None
        self._client.close()

    def _ended(self) -> None:
        if self._on_end is not None:
            self._on_end()
