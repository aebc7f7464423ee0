"""Ports without sockets: a few sockets receive for all ports, raw sockets send from any of them.

An sk_lookup program (`bpf/relay.c`) hands every packet for an open port to one of the receiving sockets; the original
destination comes with the packet. Packets leave through raw sockets, one per address of ours: the kernel writes the
IPv4 header and fragments where needed, we write the UDP header and so choose the port.
"""

import ctypes
import errno
import logging
import socket
import struct
from asyncio import AbstractEventLoop
from collections.abc import Callable

from rtpproxy.addr import Endpoint, ipv4_number
from rtpproxy.errors import PortBusyError

log = logging.getLogger(__name__)

OnDatagram = Callable[[int, bytes, tuple[str, int], str, float], None]
"""Local port, payload, source, address of ours that it was sent to (may be empty), seconds monotonic."""

SOCKETS = 8
"""Receiving sockets; a port always uses the same one, so a flood at one port fills an eighth of the buffers."""
BATCH = 64
"""Datagrams taken from one socket before others, and the control sockets, get their turn."""
MAX_DATAGRAM_BYTES = 65535
_RECEIVE_BUFFER_BYTES = 8 << 20
_SEND_BUFFER_BYTES = 4 << 20
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_ATTACH_FILTER = 33, 32, 26
_IP_RECVORIGDSTADDR = 20
_ANCILLARY_BYTES = 64
_UDP = 17
_UDP_HEADER = struct.Struct("!HHHH")
# One classic BPF instruction, "return 0": the kernel hands a raw socket a copy of every UDP packet of the host.
_DROP_ALL = struct.pack("=HBBI", 6, 0, 0, 0)


class SteeredMedia:
    """Media ports owned through the port table. Same interface as `bound.BoundMedia`."""

    def __init__(
        self,
        listen_host: str,
        tos: int,
        on_datagram: OnDatagram,
        clock: Callable[[], float],
        mark: Callable[[int, bool], None],
    ) -> None:
        """`mark(port, is_open)` writes the port table. Nothing is opened before `start`."""
        self._listen_host = listen_host
        self._tos = tos
        self._on_datagram = on_datagram
        self._clock = clock
        self._mark = mark
        self._receivers: list[socket.socket] = []
        self._senders: dict[str, socket.socket] = {}
        self._sources: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._hosts: dict[bytes, str] = {}
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._loop: AbstractEventLoop | None = None
        self.send_failures = 0
        """Datagrams that the kernel did not take."""

    def start(self, loop: AbstractEventLoop, media_ports: range = range(0)) -> list[int]:
        """Open the receiving sockets; their descriptors, to be put into the kernel's socket map in this order.

        They are bound, as the map demands, but not to one of `media_ports` where any other is free.
        """
        self._loop = loop
        for _ in range(SOCKETS):
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._receivers.append(receiver)
            receiver.setblocking(False)
            receiver.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
            force_buffer(receiver, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            _bind_outside(receiver, media_ports)
            loop.add_reader(receiver, self._on_readable, receiver)
        if self._listen_host:
            self._sender(self._listen_host)
        return [receiver.fileno() for receiver in self._receivers]

    def close_all(self) -> None:
        """Close every socket."""
        for receiver in self._receivers:
            if self._loop is not None:
                self._loop.remove_reader(receiver)
            receiver.close()
        for sender in self._senders.values():
            sender.close()
        self._receivers.clear()
        self._senders.clear()

    def open(self, rtp_port: int) -> None:
        """Take a port pair. Raises PortBusyError when another program has one of the two."""
        for port in (rtp_port, rtp_port + 1):
            _check_free(self._listen_host, port)
        self._mark(rtp_port, True)
        self._mark(rtp_port + 1, True)

    def close(self, rtp_port: int) -> None:
        """Give a port pair back."""
        self._mark(rtp_port, False)
        self._mark(rtp_port + 1, False)

    def send(self, from_port: int, from_host: str, to: Endpoint, data: bytes) -> bool:
        """Send a datagram from a port of ours; from the address that the route says when `from_host` is empty.

        False when the kernel did not take it; that is counted and logged.
        """
        to_host, to_port = to
        try:
            from_host = from_host or self._sources.get(to_host) or self._route_source(to_host)
            sender = self._senders.get(from_host) or self._sender(from_host)
            length = 8 + len(data)
            number = int.from_bytes(data, "big")
            if length & 1:
                number <<= 8
            numbers = self._numbers
            # The small numbers first: adding to the payload's long number copies it.
            total = number + (
                (numbers.get(from_host) or self._number(from_host))
                + (numbers.get(to_host) or self._number(to_host))
                + (_UDP + 2 * length + from_port + to_port)
            )
            # A one's complement sum is the remainder by 65535; the complement of 0 is sent as 65535 (RFC 768).
            header = _UDP_HEADER.pack(from_port, to_port, length, 65535 - total % 65535)
            sender.sendto(header + data, (to_host, 0))
        except OSError as error:
            self._count_failure(to, error)
            return False
        return True

    def routes_changed(self) -> None:
        """Forget which address the routes choose for each peer."""
        self._sources.clear()

    def _count_failure(self, to: Endpoint, error: OSError) -> None:
        self.send_failures += 1
        if self.send_failures & (self.send_failures - 1) == 0:
            log.warning("cannot send to %s: %s (%d failures so far)", to, error.strerror, self.send_failures)

    def _number(self, host: str) -> int:
        if len(self._numbers) > 100_000:
            self._numbers.clear()
        number = self._numbers[host] = ipv4_number(host)
        return number

    def _sender(self, from_host: str) -> socket.socket:
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
        try:
            drop_everything(sender)
            sender.setblocking(False)
            force_buffer(sender, _SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._tos)
            sender.bind((from_host, 0))
        except OSError:
            sender.close()
            raise
        self._senders[from_host] = sender
        return sender

    def _route_source(self, to_host: str) -> str:
        """The address of ours that the kernel would send from: what connect(2) binds to.

        Of a raw socket, which needs no ephemeral port, and with this protocol receives nothing.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as probe:
            probe.connect((to_host, 9))
            source: str = probe.getsockname()[0]
        self._sources[to_host] = source
        return source

    def _on_readable(self, receiver: socket.socket) -> None:
        now = self._clock()
        buffers, view, hosts = (self._buffer,), self._view, self._hosts
        on_datagram, listen_host = self._on_datagram, self._listen_host
        for _ in range(BATCH):
            try:
                size, ancillary, _, source = receiver.recvmsg_into(buffers, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("receiving media: %s", error.strerror)
                return
            if not ancillary:
                continue
            address = ancillary[0][2]
            host = hosts.get(address[4:8])
            if host is None:
                host = hosts[address[4:8]] = socket.inet_ntoa(address[4:8])
            if listen_host and host != listen_host:
                continue  # to a receiving socket itself, by a program on this host
            on_datagram(address[2] << 8 | address[3], bytes(view[:size]), source, host, now)


def drop_everything(sender: socket.socket) -> None:
    """Let a raw socket receive nothing. Packets that came before the filter are thrown away."""
    program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    option = struct.pack("@HP", 1, ctypes.addressof(program))
    sender.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    sender.setblocking(False)
    while True:
        try:
            sender.recv(1)
        except BlockingIOError:
            return


def force_buffer(owner: socket.socket, force: int, ordinary: int, size: int) -> None:
    """Set a buffer size over the system's limit where that is permitted, else up to it."""
    try:
        owner.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        owner.setsockopt(socket.SOL_SOCKET, ordinary, size)


def _bind_outside(receiver: socket.socket, media_ports: range) -> None:
    for port in (port for port in range(65535, 0, -1) if port not in media_ports):
        try:
            receiver.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
        else:
            return
    receiver.bind(("127.0.0.1", 0))


def _check_free(listen_host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((listen_host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortBusyError(f"port {port}: {error.strerror}") from error
            raise
