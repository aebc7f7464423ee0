"""A connection for sending messages, opened for the first message, and again when it breaks.

The sender never waits. A message joins a bounded queue, and the event loop's readiness callbacks connect, write, and
connect again. What cannot be delivered is dropped, counted and logged; a receiver that is slow, silent or gone costs
its own messages and nothing else.

On TCP a message counts as delivered once the receiver's host acknowledged it. One that was written into a connection
that the receiver had closed is still unacknowledged when the closing is noticed, and is written again into the next.
"""

import errno
import fcntl
import logging
import os
import socket
import sys
import termios
from asyncio import AbstractEventLoop, Handle, TimerHandle

from rtpproxy.addr import Endpoint
from rtpproxy.outbound.backlog import Backlog
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

RETRIES = 3
"""Further connections to try after one that broke before it took anything (protocol.md 10.2)."""
CONNECT_TIMEOUT_S = 3.0
BACKLOG_PAUSE_S = 0.05
"""Wait before a Unix socket whose queue of connections is full is tried again."""
SILENCE_TIMEOUT_S = 30
"""A TCP connection is given up, and a new one opened, when the other host acknowledges nothing for this long."""
SEND_BUFFER_BYTES = 1 << 16
_READ_BYTES = 4096

Address = str | Endpoint
"""The place to connect to: the path of a Unix socket, or a numeric host and TCP port."""


class Channel:
    """Sends messages to one address, or to another where that one does not answer. All calls from the loop's thread.

    Three fields tell which of four states it is in:

    | state      | `_socket` | `_is_connected` | `_deadline` | left when                                     |
    | ---------- | --------- | --------------- | ----------- | --------------------------------------------- |
    | idle       | None      | False           | None        | a message comes: connecting                   |
    | connecting | opened    | False           | set         | connected; refused or too late at all: idle   |
    | pausing    | None      | False           | set         | the pause is over: connecting; too late: idle |
    | connected  | opened    | True            | None        | the connection breaks: idle                   |
    """

    def __init__(
        self, loop: AbstractEventLoop, address: Address, name: str, backlog: Backlog, otherwise: Address | None = None
    ) -> None:
        """`name` is what the log calls the receiver. Nothing is opened before the first `push`.

        Each connection is tried to `address` first, and to `otherwise` if that fails.
        """
        self._loop = loop
        self._addresses = (address,) if otherwise is None else (address, otherwise)
        self._address = address
        """The one of them that is connected, or being connected to."""
        self._name = name
        self._backlog = backlog
        self._socket: socket.socket | None = None
        self._is_connected = False
        self._soon: Handle | None = None
        """The next attempt to send the backlog."""
        self._deadline: TimerHandle | None = None
        """Gives up connecting; set while that goes on."""
        self._failures = 0
        """Connections that broke since one took a message."""
        self._refused = 0
        """Messages for which the backlog had no room."""

    @property
    def waiting(self) -> int:
        """Number of messages that are not wholly written yet."""
        return len(self._backlog)

    def push(self, message: bytes, *, is_minor: bool = False) -> None:
        """Send a message, soon, if there is room for it (`Backlog.append`). Never blocks, never raises."""
        if self._backlog.append(message, is_minor=is_minor):
            # Not here and now: messages of one tick share a connection attempt, a write, a line in the log.
            self._proceed_soon()
            return
        self._refused += 1
        if is_worth_a_line(self._refused):
            log.error(
                "%s: it does not take what waits for it; %d messages dropped so far", *(self._name, self._refused)
            )

    def close(self) -> None:
        """Close the connection and forget what waits."""
        self._hang_up()
        self._backlog.clear()

    def _proceed_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_soon(self._proceed)

    def _proceed(self) -> None:
        self._soon = None
        if not self._backlog or self._deadline is not None:
            return
        if self._is_connected:
            self._read()
            self._write()
        else:
            self._connect_to(self._addresses[0])

    # Connecting

    def _connect_to(self, address: Address) -> None:
        self._address = address
        self._deadline = self._loop.call_later(CONNECT_TIMEOUT_S, self._on_deadline)
        self._connect()

    def _connect(self) -> None:
        try:
            opened, where = _make_socket(self._address)
            self._socket = opened
            refused = opened.connect_ex(where)
        except OSError as error:
            self._give_up(_reason(error))
            return
        if refused == 0:
            self._on_connected()
        elif refused == errno.EINPROGRESS:
            self._loop.add_writer(opened, self._on_answer)
        elif refused == errno.EAGAIN and opened.family == socket.AF_UNIX:
            self._socket = None
            opened.close()
            self._soon = self._loop.call_later(BACKLOG_PAUSE_S, self._connect_again)
        else:
            self._give_up(os.strerror(refused))

    def _connect_again(self) -> None:
        self._soon = None
        self._connect()

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
        if self._address == self._addresses[-1]:
            self._drop(f"cannot connect: {reason}")
        else:
            log.debug("%s: cannot connect to %s: %s", self._name, self._address, reason)
            self._connect_to(self._addresses[-1])

    # Connected

    def _read(self) -> None:
        """Discard what the receiver sends, and notice when it closes the connection."""
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
        while self._socket is not None and self._backlog:
            try:
                sent = self._socket.send(self._backlog.batch())
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._write)
                return
            except OSError as error:
                self._lose(_reason(error))
                return
            self._backlog.written(sent)
            self._confirm()
        if self._socket is not None:
            self._loop.remove_writer(self._socket)

    def _confirm(self) -> None:
        """Forget what the receiver's host acknowledged since the last time."""
        if self._backlog.confirm(_unacknowledged_bytes(self._socket)):
            self._failures = 0

    def _lose(self, reason: str) -> None:
        """Try again after the connection broke. What it did not deliver goes to the next one."""
        self._confirm()
        self._hang_up()
        self._backlog.take_back()
        log.debug("%s: %s", self._name, reason)
        if not self._backlog:
            return
        self._failures += 1
        if self._failures > RETRIES:
            self._drop(f"{self._failures} connections broke, the last one: {reason}")
        else:
            self._proceed_soon()

    def _drop(self, reason: str) -> None:
        log.error("%s: %s; messages dropped: %d", self._name, reason, self._backlog.clear())
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


def _make_socket(address: Address) -> tuple[socket.socket, str | tuple[object, ...]]:
    """Make a socket, and the address as connect(2) takes it. Raises OSError, also for a host that is a name."""
    if isinstance(address, str):
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.setblocking(False)
        return opened, address
    # Numeric only: a name would be looked up here, and the loop would stand still meanwhile.
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, _, _, _, where = found[0]
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_TIMEOUT_S * 1000)
    return opened, where


def _unacknowledged_bytes(opened: socket.socket | None) -> int:
    """Bytes written that the other host did not acknowledge. A Unix socket holds the data when it was written."""
    if opened is None or opened.family == socket.AF_UNIX:
        return 0
    return int.from_bytes(fcntl.ioctl(opened, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
