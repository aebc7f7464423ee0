"""The control sockets: bytes of commands in, bytes of replies out (protocol.md 1.1 to 1.4).

Everything is non-blocking and driven by the event loop's readiness callbacks, so that no client can delay another.
Streams of the loop are not used: a `unix` client opens a connection for each command, thousands a second, and most
of them are answered here within the one callback that accepts them.
"""

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Protocol

from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control.cookies import ReplyCache
from rtpproxy.errors import StartError

_LOG = logging.getLogger(__name__)

MAX_COMMAND_BYTES = 8191
"""What one read or datagram may hold; more is cut off."""
LINE_BUFFER_BYTES = 8192
"""A line with its LF must fit; a client that fills the buffer without one is dropped."""
MAX_COOKIE_BYTES = 999
BACKLOG = 1024
"""Connections that wait to be accepted. The reference has 32, which a burst of calls overflows."""
MAX_CLIENTS = 1024
"""Open connections per stream socket."""
RECEIVE_BUFFER_BYTES = 1 << 20
"""Asked for datagram sockets; the kernel may grant less (`net.core.rmem_max`)."""
TURNS = 64
"""Connections or datagrams handled before the event loop gets its turn."""
ACCEPT_PAUSE_S = 0.1
"""Wait after accept failed for want of descriptors or memory."""
MAX_PATH_BYTES = 107

_COOKIE = re.compile(rb"[ \t\r\n]*([^ \t\r\n]+)")
_MALFORMED_REPLY = b"E5\n"

OnCommand = Callable[[bytes, float], bytes]
"""Takes a command and the time, gives the reply with its LF."""
Clock = Callable[[], float]
"""Monotonic time in seconds."""


class _Listener(Protocol):
    def close(self) -> None: ...


class ControlServer:
    """All control sockets of the relay. Commands are executed one at a time, in order of arrival."""

    def __init__(self, addresses: Sequence[ControlAddress], on_command: OnCommand, clock: Clock) -> None:
        self._addresses = addresses
        self._on_command = on_command
        self._clock = clock
        # One for all datagram sockets: a client may repeat its command on another of them.
        self._cache = ReplyCache()
        self._listeners: list[_Listener] = []
        self._files: list[_SocketFile] = []

    async def start(self) -> None:
        """Open every socket and serve it. Raises StartError, with all sockets closed again, if one cannot be had."""
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            for address in self._addresses:
                await self._open(address)
            on_failure.pop_all()

    def close(self) -> None:
        """Close sockets and connections; remove the socket files that `start` made. May be called again."""
        for listener in self._listeners:
            listener.close()
        for file in self._files:
            file.remove()
        self._listeners.clear()
        self._files.clear()

    async def _open(self, address: ControlAddress) -> None:
        loop = asyncio.get_running_loop()
        if address.kind is ControlKind.UDP:
            datagrams = await _bind_udp(loop, address)
            self._listeners.append(_DatagramListener(loop, datagrams, self._execute, self._cache, self._clock))
            return
        listening, file = _bind_unix(address)
        self._files.append(file)
        serve = _serve_line_client if address.kind is ControlKind.CUNIX else _serve_one_shot
        self._listeners.append(_StreamListener(loop, listening, serve, self._execute))

    def _execute(self, command: bytes) -> bytes:
        return self._on_command(command, self._clock())


Execute = Callable[[bytes], bytes]


# Opening. Every failure becomes one clear line.


def _refusal(address: ControlAddress, error: OSError) -> StartError:
    reasons = {
        errno.ENOENT: "the directory does not exist",
        errno.ENOTDIR: "part of the path is not a directory",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EADDRNOTAVAIL: "the address is not one of this host",
        errno.EADDRINUSE: "the port is in use",
    }
    reason = reasons.get(error.errno or 0) or error.strerror or str(error)
    return StartError(f"control socket {address}: {reason}")


async def _bind_udp(loop: asyncio.AbstractEventLoop, address: ControlAddress) -> socket.socket:
    host = address.host or "0.0.0.0"
    try:
        found = await loop.getaddrinfo(host, address.port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        raise StartError(f"control socket {address}: the host cannot be resolved to an IPv4 address") from error
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        opened.bind(found[0][4])
    except OSError as error:
        opened.close()
        raise _refusal(address, error) from error
    return opened


class _SocketFile:
    """A socket file that we made, told by its inode from whatever may stand in its place later."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = _identity(os.lstat(path))

    def remove(self) -> None:
        """Unlink the file, if it is still ours."""
        try:
            if _identity(os.lstat(self._path)) == self._identity:
                os.unlink(self._path)
        except OSError as error:
            _LOG.warning("cannot remove the control socket %s: %s", self._path, error.strerror)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _bind_unix(address: ControlAddress) -> tuple[socket.socket, _SocketFile]:
    if len(os.fsencode(address.path)) > MAX_PATH_BYTES:
        raise StartError(f"control socket {address}: the path is longer than {MAX_PATH_BYTES} bytes")
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        _bind_path(opened, address)
        file = _SocketFile(address.path)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise _refusal(address, error) from error
    except StartError:
        opened.close()
        raise
    return opened, file


def _bind_path(opened: socket.socket, address: ControlAddress) -> None:
    try:
        opened.bind(address.path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    else:
        return
    _remove_stale(address)
    try:
        opened.bind(address.path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise StartError(f"control socket {address}: another process has just taken the path") from error


def _remove_stale(address: ControlAddress) -> None:
    """Remove a socket file that nobody listens on; what is not a socket, or is in use, is not touched."""
    if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise StartError(f"control socket {address}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(address.path)
    if refused in (errno.EACCES, errno.EPERM):
        raise StartError(f"control socket {address}: permission denied")
    if refused not in (errno.ECONNREFUSED, errno.ENOENT):
        raise StartError(f"control socket {address}: in use by another process")
    if refused == errno.ECONNREFUSED:
        os.unlink(address.path)


# Streams


class _Client(Protocol):
    def close(self) -> None: ...


class _StreamListener:
    """Accepts connections and keeps those that are open."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        serve: Callable[["_StreamListener", socket.socket], None],
        execute: Execute,
    ) -> None:
        self.loop = loop
        self.execute = execute
        self.clients: dict[_Client, None] = {}
        """In order of arrival."""
        self._listening = listening
        self._serve = serve
        self._pause: asyncio.TimerHandle | None = None
        loop.add_reader(listening, self._on_readable)

    def close(self) -> None:
        """Stop listening and drop every client."""
        if self._pause is not None:
            self._pause.cancel()
        self.loop.remove_reader(self._listening)
        self._listening.close()
        for client in list(self.clients):
            client.close()

    def _on_readable(self) -> None:
        for _ in range(TURNS):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            self._serve(self, connection)

    def _rest(self, error: OSError) -> None:
        """Leave the queue alone for a moment: out of descriptors, accept would fail in an endless loop."""
        _LOG.error("cannot accept a control connection: %s", error.strerror)
        self.loop.remove_reader(self._listening)
        self._pause = self.loop.call_later(ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self.loop.add_reader(self._listening, self._on_readable)


def _serve_one_shot(listener: _StreamListener, connection: socket.socket) -> None:
    """`unix`: answer at once if the command is there already, as it is nearly always."""
    if _answer_one_shot(connection, listener.execute):
        return
    if len(listener.clients) >= MAX_CLIENTS:
        # The oldest one had all the time it needs to send a command.
        next(iter(listener.clients)).close()
    _SilentClient(listener, connection)


def _answer_one_shot(connection: socket.socket, execute: Execute) -> bool:
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
            _send_whole(connection, execute(command))
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

    def __init__(self, listener: _StreamListener, connection: socket.socket) -> None:
        self._listener = listener
        self._connection = connection
        listener.clients[self] = None
        listener.loop.add_reader(connection, self._on_readable)

    def close(self) -> None:
        """Drop the client."""
        self._forget()
        self._connection.close()

    def _forget(self) -> None:
        self._listener.loop.remove_reader(self._connection)
        del self._listener.clients[self]

    def _on_readable(self) -> None:
        self._forget()
        if not _answer_one_shot(self._connection, self._listener.execute):
            _SilentClient(self._listener, self._connection)  # woken for nothing


def _serve_line_client(listener: _StreamListener, connection: socket.socket) -> None:
    """`cunix`: the connection stays; when there are too many, the new one goes, not one that is in use."""
    if len(listener.clients) >= MAX_CLIENTS:
        _LOG.error("control connection refused: %d are open", MAX_CLIENTS)
        connection.close()
        return
    connection.setblocking(False)
    _LineClient(listener, connection)


class _LineClient:
    """A `cunix` connection: one command a line, replies in order.

    While replies wait for a slow reader no further command is read, so what is kept for a client is bounded by the
    replies to the commands of one read.
    """

    def __init__(self, listener: _StreamListener, connection: socket.socket) -> None:
        self._listener = listener
        self._connection = connection
        self._is_open = True
        self._received = b""
        """The beginning of a line."""
        self._unsent = b""
        listener.clients[self] = None
        listener.loop.add_reader(connection, self._on_readable)

    def close(self) -> None:
        """Drop the client."""
        if not self._is_open:
            return
        self._is_open = False
        self._listener.loop.remove_reader(self._connection)
        self._listener.loop.remove_writer(self._connection)
        self._connection.close()
        del self._listener.clients[self]

    def _on_readable(self) -> None:
        try:
            data = self._connection.recv(LINE_BUFFER_BYTES - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        if lines:
            self._send(b"".join([self._listener.execute(line) for line in lines]))
        if len(self._received) >= LINE_BUFFER_BYTES:
            self.close()

    def _send(self, replies: bytes) -> None:
        try:
            sent = self._connection.send(replies)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = replies[sent:]
        if self._unsent:
            self._listener.loop.remove_reader(self._connection)
            self._listener.loop.add_writer(self._connection, self._on_writable)

    def _on_writable(self) -> None:
        self._listener.loop.remove_writer(self._connection)
        self._send(self._unsent)
        if self._is_open and not self._unsent:
            self._listener.loop.add_reader(self._connection, self._on_readable)


# Datagrams


class _DatagramListener:
    """A `udp` socket: each datagram is a cookie and a command, each reply repeats the cookie."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        opened: socket.socket,
        execute: Execute,
        cache: ReplyCache,
        clock: Clock,
    ) -> None:
        self._loop = loop
        self._socket = opened
        self._execute = execute
        self._cache = cache
        self._clock = clock
        loop.add_reader(opened, self._on_readable)

    def close(self) -> None:
        """Stop serving."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _on_readable(self) -> None:
        for _ in range(TURNS):
            try:
                datagram, sender = self._socket.recvfrom(MAX_COMMAND_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                _LOG.warning("cannot read a control datagram: %s", error.strerror)
                return
            reply = self._reply(datagram)
            try:
                self._socket.sendto(reply, sender)
            except OSError as error:
                _LOG.warning("cannot send a reply to %s:%d: %s", *sender, error.strerror)

    def _reply(self, datagram: bytes) -> bytes:
        found = _COOKIE.match(datagram)
        if found is None:
            return _MALFORMED_REPLY
        cookie = found[1]
        if len(cookie) > MAX_COOKIE_BYTES or b"\0" in cookie:
            return _MALFORMED_REPLY
        now = self._clock()
        reply = self._cache.find(cookie, now)
        if reply is None:
            reply = self._execute(datagram[found.end() :])
            self._cache.store(cookie, reply, now)
        return b"%s %s" % (cookie, reply)
