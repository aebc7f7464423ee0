"""Sends packets to a collector by UDP or TCP, in the process that reads the ring, which is never held up by that.

The owner calls `work` again and again; there and in `send` everything happens, without waiting. What cannot be sent is
lost, and counted.

- UDP: each packet is one datagram. One that the kernel does not take is lost; so is the one before if it was refused by
  the other host (ECONNREFUSED). While the address is looked up, packets wait.
- TCP: packets wait in a bounded backlog. What the other host did not acknowledge when a connection breaks goes to the
  next one, as whole packets. Waits between connections grow.

A name is looked up for each new connection. All its addresses are tried, by UDP the next one where packets are refused.
"""

import errno
import fcntl
import os
import select
import socket
import sys
import termios

from rtpproxy.outbound.backlog import Backlog
from rtpproxy.recording.resolving import Found, Lookup

FIRST_WAIT_NS, LONGEST_WAIT_NS = 500_000_000, 30_000_000_000
"""Time between two attempts to connect; each is twice as long as the one before."""
CONNECT_TIMEOUT_NS = 3_000_000_000
TURN_NS = 10_000_000
"""Time until the next look at what is under way."""
MOST_PACKETS, MOST_BYTES = 10_000, 4 << 20
"""Packets that wait for a collector at most: some three seconds of 7,500 calls."""
SEND_BUFFER_BYTES = 256 << 10
SILENCE_TIMEOUT_MS = 30_000
"""A TCP connection is given up when the other host takes nothing for this long."""
LAST_TURNS, LAST_TURN_MS = 100, 10
"""Turns that a collector gets for what waits, when the relay ends, and the longest wait in each."""
_READ_BYTES = 4096


class Collector:
    """One collector. Times are CLOCK_MONOTONIC, in nanoseconds.

    | state      | `_lookup` | `_socket` | `_is_connected` | left when                                      |
    | ---------- | --------- | --------- | --------------- | ---------------------------------------------- |
    | waiting    | None      | None      | False           | `_until_ns` is over: looking up                |
    | looking up | set       | None      | False           | found: connecting; not found: waiting          |
    | connecting | None      | opened    | False           | connected; refused or too late at all: waiting |
    | connected  | None      | opened    | True            | the connection breaks: waiting                 |
    """

    def __init__(self, host: str, port: int, *, is_tcp: bool) -> None:
        """`host` is an address or a name. Nothing is opened before the first `work`."""
        self._host = host
        self._port = port
        self._kind = socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM
        self.sent = 0
        """Packets that the kernel took, as far as is known not in vain."""
        self.lost = 0
        self.why = ""
        """Why the latest packets were lost, in words."""
        self.trouble = "it is not connected yet"
        """Why it is not connected, in words; empty while it is."""
        self._backlog = Backlog(MOST_PACKETS, MOST_BYTES)
        self._early: list[bytes] = []
        """UDP: packets that wait for the first address."""
        self._lookup: Lookup | None = None
        self._addresses: list[Found] = []
        """Those that were not tried yet."""
        self._socket: socket.socket | None = None
        self._is_connected = False
        self._until_ns = 0
        """When to look up again, or to give up connecting."""
        self._wait_ns = 0
        self._is_refused = False
        """UDP: packets were refused where they go now."""

    @property
    def is_tcp(self) -> bool:
        """True if packets wait until they are acknowledged."""
        return self._kind is socket.SOCK_STREAM

    def send(self, packet: bytes) -> None:
        """Send a packet now (UDP), or in the next `work` (TCP)."""
        if self.is_tcp:
            if not self._backlog.append(packet):
                self._lose(1)
        elif self._is_connected:
            self._send_datagram(packet)
        elif self._is_pausing or len(self._early) == MOST_PACKETS:
            self._lose(1)
        else:
            self._early.append(packet)

    def work(self, now_ns: int) -> None:
        """Go on with what is under way."""
        if self._is_connected:
            if self.is_tcp:
                self._write(now_ns)
            elif self._is_refused and now_ns >= self._until_ns:
                self._go_elsewhere(now_ns)
        elif self._socket is not None:
            self._check(now_ns)
        elif self._lookup is None:
            if now_ns >= self._until_ns:
                self._look_up(now_ns)
        else:
            self._check_lookup(now_ns)

    @property
    def _is_pausing(self) -> bool:
        """True between a failure and the next attempt."""
        return self._lookup is None and self._socket is None and self._until_ns > 0

    def due_ns(self, now_ns: int) -> int | None:
        """Return the time until `work` has something to do; None if nothing is under way."""
        if self._is_connected:
            if self._backlog:
                return TURN_NS
            return max(0, self._until_ns - now_ns) if self._is_refused else None
        if self._lookup is not None or self._socket is not None:
            return TURN_NS
        return max(0, self._until_ns - now_ns)

    def close(self, now_ns: int) -> None:
        """Send what waits, for a second at most if the collector does not take it, and close the connection."""
        for _ in range(LAST_TURNS):
            if not (self._is_connected and self._backlog and self._socket is not None):
                break
            self._write(now_ns)
            if self._backlog and self._socket is not None:
                writable = select.poll()
                writable.register(self._socket, select.POLLOUT)
                writable.poll(LAST_TURN_MS)
        self._lose(self._backlog.clear())
        self._lose_early()
        self._hang_up()

    def _lose(self, packets: int) -> None:
        """Count packets that cannot wait, or no longer."""
        if packets:
            self.lost += packets
            self.why = self.trouble or "it does not take what waits for it"

    # Finding and connecting

    def _go_elsewhere(self, now_ns: int) -> None:
        """Send packets by UDP to another address of the collector, or to the same if that is all it has."""
        self._is_refused = False
        self._hang_up()
        if self._addresses:
            self._connect_next("", now_ns)
        else:
            self._look_up(now_ns)

    def _look_up(self, now_ns: int) -> None:
        self._lookup = Lookup(self._host, self._port, self._kind)
        self._check_lookup(now_ns)

    def _check_lookup(self, now_ns: int) -> None:
        if self._lookup is None or not self._lookup.is_done:
            return
        self._addresses, why = self._lookup.result()
        self._lookup = None
        if why:
            self._fail(f"its address cannot be found: {why}", now_ns)
        else:
            self._connect_next("no address", now_ns)

    def _connect_next(self, why: str, now_ns: int) -> None:
        """Connect to the next address, or wait if there is none."""
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                self._socket = opened = _make_socket(family, self._kind)
                result = opened.connect_ex(address)
            except OSError as error:
                result = error.errno or errno.EIO
            if result == 0:
                self._on_connected(now_ns)
                return
            if result == errno.EINPROGRESS:
                self._until_ns = now_ns + CONNECT_TIMEOUT_NS
                return
            why = os.strerror(result)
            self._hang_up()
        self._fail(f"cannot connect: {why}", now_ns)

    def _check(self, now_ns: int) -> None:
        """Find out whether the connection is there."""
        assert self._socket is not None
        refused = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refused:
            self._hang_up()
            self._connect_next(os.strerror(refused), now_ns)
            return
        try:
            self._socket.getpeername()
        except OSError:
            if now_ns >= self._until_ns:
                self._hang_up()
                self._connect_next("no answer", now_ns)
            return
        self._on_connected(now_ns)

    def _on_connected(self, now_ns: int) -> None:
        self._is_connected = True
        self.trouble = ""
        if self.is_tcp:
            self._addresses.clear()
            self._write(now_ns)
        else:
            # Packets may be refused at once: then there is no hurry to look up again.
            self._until_ns = now_ns + self._next_wait_ns()
            early, self._early = self._early, []
            for packet in early:
                self._send_datagram(packet)

    def _fail(self, why: str, now_ns: int) -> None:
        self._hang_up()
        self.trouble = why
        self._lose_early()
        self._until_ns = now_ns + self._next_wait_ns()

    def _lose_early(self) -> None:
        self._lose(len(self._early))
        self._early.clear()

    def _next_wait_ns(self) -> int:
        self._wait_ns = min(max(FIRST_WAIT_NS, 2 * self._wait_ns), LONGEST_WAIT_NS)
        return self._wait_ns

    def _hang_up(self) -> None:
        self._is_connected = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # UDP

    def _send_datagram(self, packet: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.send(packet)
        except ConnectionRefusedError:
            # It tells of one that went before; this one was not sent.
            self.why = os.strerror(errno.ECONNREFUSED)
            self._is_refused = True
            self.sent -= 1
            self.lost += 1
            try:
                self._socket.send(packet)
            except OSError as error:
                self._refuse(error)
                return
        except OSError as error:
            self._refuse(error)
            return
        self.sent += 1

    def _refuse(self, error: OSError) -> None:
        """Count a packet that the kernel does not take."""
        self.lost += 1
        self.why = _reason(error)
        # Without memory it would be the same again; else the route or our own address may be another one now.
        self._is_refused |= error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)

    # TCP

    def _write(self, now_ns: int) -> None:
        """Send what waits, as far as the other end takes it, and notice when that has closed."""
        assert self._socket is not None
        try:
            # What a collector says does not matter, but must not fill the buffer.
            if not self._socket.recv(_READ_BYTES):
                self._break("closed by the collector", now_ns)
                return
        except BlockingIOError:
            self._confirm()
        except OSError as error:
            self._break(_reason(error), now_ns)
            return
        try:
            while batch := self._backlog.batch():
                waiting = len(self._backlog)
                self._backlog.written(self._socket.send(batch))
                self.sent += waiting - len(self._backlog)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(_reason(error), now_ns)

    def _confirm(self) -> None:
        assert self._socket is not None
        outstanding = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        if self._backlog.confirm(int.from_bytes(outstanding, sys.byteorder)):
            self._wait_ns = 0

    def _break(self, why: str, now_ns: int) -> None:
        """Keep what the broken connection did not deliver for the next one."""
        self._confirm()
        before = len(self._backlog)
        self._backlog.take_back()
        self.sent -= len(self._backlog) - before
        self._fail(why, now_ns)


def _make_socket(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Make a socket that does not block. Raises OSError."""
    opened = socket.socket(family, kind)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if kind is socket.SOCK_STREAM:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_TIMEOUT_MS)
    return opened


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
