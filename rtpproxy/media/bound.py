"""Media ports as UDP sockets, one per stream, for hosts where BPF cannot be loaded. Same interface as `steered`."""

import logging
import select
import socket
from asyncio import AbstractEventLoop
from dataclasses import dataclass

from rtpproxy.addr import Endpoint
from rtpproxy.errors import PortBusyError
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.receive_buffer import ReceiveBuffer
from rtpproxy.media.sockets import (
    MAX_DATAGRAM_BYTES,
    OnDatagram,
    SendFailures,
    bind_port,
    check_ours,
    datagram_socket,
    endpoint_of,
    family_of,
    ipv6_address,
    set_dscp,
)
from rtpproxy.session.latch import KnownSource
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Component, Stream

log = logging.getLogger(__name__)

TURNS = 16
"""Sockets that have their turn before the control sockets get theirs; then come those that are still waiting."""
BATCH = 32
"""Datagrams taken from one socket in its turn."""
WAITING = 16 * TURNS
"""Turns of sockets at most when all that has arrived is to be taken: some milliseconds."""
_RECEIVE_BUFFER_BYTES = 256 << 10


@dataclass(slots=True, eq=False)
class _Port:
    key: int
    host: str
    """Our address, empty for all of them."""
    is_ipv6: bool
    opened: socket.socket
    buffer: ReceiveBuffer
    tos: int
    """TOS byte, on IPv6 traffic class, that the socket sends with."""


class BoundMedia:
    """Media ports owned by UDP sockets."""

    def __init__(self, loop: AbstractEventLoop, tos: int, on_datagram: OnDatagram, limit: AgeLimit) -> None:
        """`tos` is the TOS byte that sockets start with; `limit` is for the time that datagrams wait.

        No port is opened before `open`.
        """
        self._loop = loop
        self._ready = select.epoll()
        """All sockets. It tells those that are readable in turn, so that none waits for ever (epoll_wait(2))."""
        self._loop.add_reader(self._ready.fileno(), self._on_readable)
        self._tos = tos
        self._on_datagram = on_datagram
        self._limit = limit
        self._clock = limit.clock
        self._ports: dict[int, _Port] = {}
        """By key."""
        self._by_descriptor: dict[int, _Port] = {}
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._reading: ReceiveBuffer
        """That of the port whose turn it is, or was last."""
        self._no_room_before = 0
        """Datagrams that there was no room for at ports that are closed."""
        self.send_failures = SendFailures()

    def close_all(self) -> None:
        """Close every socket."""
        for key in list(self._ports):
            self._close_port(key)
        if not self._ready.closed:
            self._loop.remove_reader(self._ready.fileno())
            self._ready.close()

    def add_local(self, address: LocalAddress) -> None:
        """Check that an address is one of this host's. Raises OSError when it is not."""
        check_ours(address)

    def open(self, address: LocalAddress, rtp_port: int) -> None:
        """Take a port pair. Raises PortBusyError when another program has one of the two."""
        self._open_port(address, rtp_port)
        try:
            self._open_port(address, rtp_port + 1)
        except (PortBusyError, OSError):
            self._close_port(address.key(rtp_port))
            raise

    def close(self, address: LocalAddress, rtp_port: int) -> None:
        """Give a port pair back."""
        self._close_port(address.key(rtp_port))
        self._close_port(address.key(rtp_port + 1))

    def send(self, stream: Stream, from_host: str, to: Endpoint, data: bytes) -> bool:
        """Send a datagram from a stream's port. `from_host` is ignored: the socket has its own address.

        False when the kernel did not take it, which is counted and logged, or when the families differ.
        """
        port = self._ports[stream.key]
        is_ipv6 = port.is_ipv6
        # `addr.is_ipv6` written out: the call costs 20 to 35 ns a packet.
        if (":" in to[0]) != is_ipv6:
            return False
        try:
            if port.tos != stream.tos:
                self._set_tos(port, stream.tos)
            port.opened.sendto(data, ipv6_address(*to) if is_ipv6 else to)
        except OSError as error:
            self.send_failures.count(to, error)
            return False
        return True

    def expect(self, key: int, source: KnownSource | None, component: Component) -> None:
        """Do nothing: each stream has a socket of its own, whose buffer strangers share with the phone."""

    def take_waiting(self) -> None:
        """Hand on the datagrams that have arrived by now; not all, if there are very many."""
        for _ in range(WAITING // TURNS):
            if not self._on_readable():
                break

    def stamp(self) -> tuple[int, float]:
        """Tell when the datagram arrived that is being handed on, as `ReceiveBuffer.stamp` does."""
        return self._reading.stamp()

    def waited_too_long(self) -> int:
        """Count the datagrams that were dropped because they waited too long."""
        return self._limit.dropped

    def no_room(self) -> int:
        """Count the datagrams that the kernel dropped because the buffer of their port was full."""
        return self._no_room_before + sum(port.buffer.no_room() for port in self._ports.values())

    def routes_changed(self) -> None:
        """Do nothing: the kernel looks routes up for each datagram."""

    def _open_port(self, address: LocalAddress, port: int) -> None:
        opened = datagram_socket(family_of(address))
        try:
            buffer = ReceiveBuffer(opened, _RECEIVE_BUFFER_BYTES, _set_receive_buffer, self._limit)
            bind_port(opened, address, port)
            added = _Port(address.key(port), address.host, address.is_ipv6, opened, buffer, 0)
            self._set_tos(added, self._tos)
            self._ready.register(opened, select.EPOLLIN)
        except (PortBusyError, OSError):
            opened.close()
            raise
        self._ports[added.key] = self._by_descriptor[opened.fileno()] = added

    def _set_tos(self, port: _Port, tos: int) -> None:
        set_dscp(port.opened, port.opened.family, tos)
        port.tos = tos

    def _close_port(self, key: int) -> None:
        port = self._ports.pop(key)
        self._no_room_before += port.buffer.no_room()
        del self._by_descriptor[port.opened.fileno()]
        port.opened.close()

    def _on_readable(self) -> bool:
        """Give sockets their turn; False if none had anything."""
        ready = self._ready.poll(0, TURNS)
        for descriptor, _ in ready:
            # What another one received may have closed it.
            if port := self._by_descriptor.get(descriptor):
                self._read(port)
        return bool(ready)

    def _read(self, port: _Port) -> None:
        opened, clock = port.opened, self._clock
        self._reading = buffer = port.buffer
        now = clock()
        if is_watched := now > buffer.watch_from:
            buffer.watch(now)
        key, host, is_ipv6 = port.key, port.host, port.is_ipv6
        for _ in range(BATCH):
            try:
                size, source = opened.recvfrom_into(self._buffer)
            except BlockingIOError:
                buffer.emptied(now)
                return
            except OSError as error:
                # An ICMP error caused by an earlier send; the next datagram may be fine.
                log.debug("receiving at port %d: %s", key & 0xFFFF, error.strerror)
                continue
            if is_watched and clock() >= buffer.fresh_until and buffer.is_old():
                continue
            if is_ipv6:
                source = endpoint_of(source)
            self._on_datagram(key, bytes(self._view[:size]), source, host, now)
            if opened.fileno() < 0:
                return


def _set_receive_buffer(opened: socket.socket, size_bytes: int) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)
