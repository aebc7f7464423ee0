"""Timeout notifications: one line to the controller's socket for each session that ended idle (protocol.md 10).

Whoever notifies never waits. A message joins its target's queue, and the event loop's readiness callbacks connect,
write, and connect again. What cannot be delivered is dropped, counted and logged; a target that is slow, silent or
gone costs its own messages and nothing else.

On TCP a message counts as delivered once the target's host acknowledged it. One that was written into a connection
which the target had closed is still unacknowledged when that shows, and is written again into the next.
"""

import errno
import fcntl
import logging
import os
import socket
import sys
import termios
from asyncio import AbstractEventLoop, Handle, TimerHandle
from collections import deque

from rtpproxy.addr import Endpoint
from rtpproxy.config import NotifyTarget

_LOG = logging.getLogger(__name__)

RETRIES = 3
"""Connections tried again after one that broke before it took anything (protocol.md 10.2)."""
CONNECT_TIMEOUT_S = 3.0
BACKLOG_PAUSE_S = 0.05
"""Wait before a Unix socket whose queue of connections is full is tried again."""
SILENCE_TIMEOUT_S = 30
"""A TCP target whose host acknowledges nothing for so long is given up, and connected to anew."""
MAX_QUEUED = 20_000
"""Messages per target: more than the sessions that the ports of one address have room for, all ending at once."""
MAX_QUEUED_BYTES = 2 << 20
MAX_CHANNELS = 128
"""Open connections: all targets, and room for the hosts behind wildcards."""
SEND_BUFFER_BYTES = 1 << 16
_BATCH_BYTES = 1 << 16
_READ_BYTES = 4096
_SELF = "127.0.0.1"
"""Where a wildcard leads when the command came over a Unix socket or standard input."""

_Key = tuple[str, int]
"""Path and 0, or host and port."""


class Notifier:
    """Every connection to a controller that wants to know of timeouts. All calls from the event loop's thread."""

    def __init__(self) -> None:
        self._loop: AbstractEventLoop
        self._channels: dict[_Key, _Channel] = {}
        """Least recently used first."""
        self._crowded_out = 0

    def start(self, loop: AbstractEventLoop) -> None:
        """To be called before the first `notify`."""
        self._loop = loop

    def notify(self, target: NotifyTarget, controller_host: str, tag: bytes) -> None:
        """Send `tag` and LF, soon. Never blocks, never raises.

        `controller_host` is the numeric address that the session's command came from, empty for this host; only
        wildcard targets need it.
        """
        key = (target.path, 0) if target.path else (target.host or controller_host or _SELF, target.port)
        channel = self._channels.pop(key, None) or self._open(key)
        if channel is None:
            self._crowded_out += 1
            if _is_power_of_two(self._crowded_out):
                _LOG.error(
                    "notification target %s: %d others are busy; %d messages dropped so far",
                    target,
                    MAX_CHANNELS,
                    self._crowded_out,
                )
            return
        self._channels[key] = channel
        channel.push(tag + b"\n")

    def close(self) -> None:
        """Close all connections at once. What waits to be sent is dropped, which is logged."""
        dropped = sum(channel.waiting for channel in self._channels.values())
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        if dropped:
            _LOG.error("%d timeout notifications were not sent before the end", dropped)

    def _open(self, key: _Key) -> "_Channel | None":
        if len(self._channels) >= MAX_CHANNELS:
            idle = next((other for other, channel in self._channels.items() if not channel.waiting), None)
            if idle is None:
                return None
            self._channels.pop(idle).close()
        return _Channel(self._loop, *key)


class _Channel:
    """The queue for one target and, once there was a message, the connection to it."""

    def __init__(self, loop: AbstractEventLoop, where: str, port: int) -> None:
        self._loop = loop
        self._where = where
        self._port = port
        self._name = f"tcp:{Endpoint(where, port)}" if port else f"unix:{where}"
        self._socket: socket.socket | None = None
        self._is_connected = False
        self._soon: Handle | None = None
        """The next try to get rid of the queue."""
        self._deadline: TimerHandle | None = None
        """When connecting is given up; set while it goes on."""
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._sent_bytes = 0
        """Of the first message in the queue."""
        self._unconfirmed: deque[bytes] = deque()
        """Written, but not acknowledged when last looked; on Unix sockets always empty."""
        self._unconfirmed_bytes = 0
        self._failures = 0
        """Connections that broke since one took a message."""
        self._refused = 0
        """Messages for which the queue had no room."""

    @property
    def waiting(self) -> int:
        """Messages that are not wholly written yet."""
        return len(self._queue)

    def push(self, message: bytes) -> None:
        """Append to the queue, if it has room."""
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes + len(message) > MAX_QUEUED_BYTES:
            self._refused += 1
            if _is_power_of_two(self._refused):
                _LOG.error(
                    "notification target %s: it does not take what waits for it; %d messages dropped so far",
                    self._name,
                    self._refused,
                )
            return
        self._queue.append(message)
        self._queued_bytes += len(message)
        # Not here and now: the sessions that end in one tick share a connection attempt, a write, a line in the log.
        self._proceed_soon()

    def close(self) -> None:
        """Close the connection and forget the queue."""
        self._hang_up()
        self._queue.clear()

    def _proceed_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_soon(self._proceed)

    def _proceed(self) -> None:
        self._soon = None
        if not self._queue or self._deadline is not None:
            return
        if self._is_connected:
            self._read()
            self._write()
        else:
            self._deadline = self._loop.call_later(CONNECT_TIMEOUT_S, self._on_deadline)
            self._connect()

    # Connecting

    def _connect(self) -> None:
        try:
            opened, address = self._make_socket()
            self._socket = opened
            refused = opened.connect_ex(address)
        except OSError as error:
            self._give_up(_reason(error))
            return
        if refused == 0:
            self._on_connected()
        elif refused == errno.EINPROGRESS:
            self._loop.add_writer(opened, self._on_answer)
        elif refused == errno.EAGAIN and not self._port:
            self._socket = None
            opened.close()
            self._soon = self._loop.call_later(BACKLOG_PAUSE_S, self._connect_again)
        else:
            self._give_up(os.strerror(refused))

    def _connect_again(self) -> None:
        self._soon = None
        self._connect()

    def _make_socket(self) -> tuple[socket.socket, str | tuple[object, ...]]:
        """A socket and what it is to be connected to. Raises OSError, for a host that is no number as well."""
        if not self._port:
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.setblocking(False)
            return opened, self._where
        # Numeric only: a name would be looked up here, and the loop would stand still meanwhile.
        found = socket.getaddrinfo(self._where, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        family, _, _, _, address = found[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_TIMEOUT_S * 1000)
        return opened, address

    def _on_answer(self) -> None:
        assert self._socket is not None
        refused = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refused == errno.ECONNRESET:
            # It was accepted, and closed before we looked.
            self._lose(os.strerror(refused))
        elif refused:
            self._give_up(os.strerror(refused))
        else:
            self._loop.remove_writer(self._socket)
            self._on_connected()

    def _on_connected(self) -> None:
        assert self._socket is not None
        assert self._deadline is not None
        self._deadline.cancel()
        self._deadline = None
        self._is_connected = True
        self._loop.add_reader(self._socket, self._read)
        self._write()

    def _on_deadline(self) -> None:
        self._give_up(f"no answer within {CONNECT_TIMEOUT_S:.0f} s")

    def _give_up(self, reason: str) -> None:
        self._hang_up()
        self._drop(f"cannot connect: {reason}")

    # Connected

    def _read(self) -> None:
        """Nothing that a target says means anything, but that it closed the connection."""
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(_reason(error))
            return
        if not data:
            self._lose("closed by the target")

    def _write(self) -> None:
        while self._socket is not None and self._queue:
            try:
                sent = self._socket.send(self._batch())
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._write)
                return
            except OSError as error:
                self._lose(_reason(error))
                return
            self._account(sent)
        if self._socket is not None:
            self._loop.remove_writer(self._socket)

    def _batch(self) -> bytes:
        parts = []
        size = -self._sent_bytes
        for message in self._queue:
            parts.append(message)
            size += len(message)
            if size >= _BATCH_BYTES:
                break
        return b"".join(parts)[self._sent_bytes :]

    def _account(self, sent: int) -> None:
        sent += self._sent_bytes
        while self._queue and sent >= len(self._queue[0]):
            message = self._queue.popleft()
            sent -= len(message)
            self._queued_bytes -= len(message)
            self._unconfirmed.append(message)
            self._unconfirmed_bytes += len(message)
        self._sent_bytes = sent
        self._confirm()

    def _confirm(self) -> None:
        """Forget what the target's host acknowledged since the last time."""
        outstanding = self._unacknowledged()
        while self._unconfirmed:
            rest = self._unconfirmed_bytes - len(self._unconfirmed[0])
            if rest + self._sent_bytes < outstanding:
                return
            self._unconfirmed.popleft()
            self._unconfirmed_bytes = rest
            self._failures = 0

    def _unacknowledged(self) -> int:
        """Bytes written that the other host did not acknowledge. A Unix socket holds the data when it was written."""
        if not self._port or self._socket is None:
            return 0
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def _lose(self, reason: str) -> None:
        """The connection broke. What it did not deliver goes to the next one."""
        self._confirm()
        self._hang_up()
        while self._unconfirmed:
            message = self._unconfirmed.pop()
            self._queue.appendleft(message)
            self._queued_bytes += len(message)
        self._unconfirmed_bytes = self._sent_bytes = 0
        _LOG.debug("notification target %s: %s", self._name, reason)
        if not self._queue:
            return
        self._failures += 1
        if self._failures > RETRIES:
            self._drop(f"{self._failures} connections broke, the last one: {reason}")
        else:
            self._proceed_soon()

    def _drop(self, reason: str) -> None:
        _LOG.error("notification target %s: %s; messages dropped: %d", self._name, reason, len(self._queue))
        self._queue.clear()
        self._queued_bytes = 0
        self._failures = 0

    def _hang_up(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._is_connected = False
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
