"""Ports as sockets, one per stream, for hosts where BPF cannot be loaded. Same interface as `steered`."""

import errno
import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable

from rtpproxy.addr import Endpoint
from rtpproxy.errors import PortBusyError

log = logging.getLogger(__name__)

OnDatagram = Callable[[int, bytes, tuple[str, int], str, float], None]
"""Local port, payload, source, address of ours that it was sent to (may be empty), seconds monotonic."""

BATCH = 32
"""Datagrams taken from one socket before others, and the control sockets, get their turn."""
MAX_DATAGRAM_BYTES = 65535
_RECEIVE_BUFFER_BYTES = 256 << 10


class BoundMedia:
    """Media ports owned by UDP sockets."""

    def __init__(self, listen_host: str, tos: int, on_datagram: OnDatagram, clock: Callable[[], float]) -> None:
        """Nothing is opened before `start`."""
        self._listen_host = listen_host
        self._tos = tos
        self._on_datagram = on_datagram
        self._clock = clock
        self._sockets: dict[int, socket.socket] = {}
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._loop: AbstractEventLoop | None = None
        self.send_failures = 0
        """Datagrams that the kernel did not take."""

    def start(self, loop: AbstractEventLoop) -> None:
        """Use this event loop from now on."""
        self._loop = loop

    def close_all(self) -> None:
        """Close every socket."""
        for port in list(self._sockets):
            self._close_port(port)

    def open(self, rtp_port: int) -> None:
        """Take a port pair. Raises PortBusyError when another program has one of the two."""
        self._open_port(rtp_port)
        try:
            self._open_port(rtp_port + 1)
        except (PortBusyError, OSError):
            self._close_port(rtp_port)
            raise

    def close(self, rtp_port: int) -> None:
        """Give a port pair back."""
        self._close_port(rtp_port)
        self._close_port(rtp_port + 1)

    def send(self, from_port: int, from_host: str, to: Endpoint, data: bytes) -> bool:
        """Send a datagram from a port of ours. `from_host` has no say: the socket's own address is used.

        False when the kernel did not take it; that is counted and logged.
        """
        try:
            self._sockets[from_port].sendto(data, to)
        except OSError as error:
            self.send_failures += 1
            if self.send_failures & (self.send_failures - 1) == 0:
                log.warning("cannot send to %s: %s (%d failures so far)", to, error.strerror, self.send_failures)
            return False
        return True

    def routes_changed(self) -> None:
        """Nothing is remembered of routes."""

    def _open_port(self, port: int) -> None:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._tos)
            opened.bind((self._listen_host, port))
        except OSError as error:
            opened.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortBusyError(f"port {port}: {error.strerror}") from error
            raise
        self._sockets[port] = opened
        assert self._loop is not None
        self._loop.add_reader(opened, self._on_readable, port, opened)

    def _close_port(self, port: int) -> None:
        closed = self._sockets.pop(port)
        assert self._loop is not None
        self._loop.remove_reader(closed)
        closed.close()

    def _on_readable(self, port: int, opened: socket.socket) -> None:
        now = self._clock()
        for _ in range(BATCH):
            try:
                size, source = opened.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as error:
                # An ICMP error of an earlier send; the next datagram may be fine.
                log.debug("receiving at port %d: %s", port, error.strerror)
                continue
            self._on_datagram(port, bytes(self._view[:size]), source, self._listen_host, now)
            if opened.fileno() < 0:
                return
