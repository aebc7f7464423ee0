"""Receives for all media ports with a few sockets.

An sk_lookup program (`bpf/relay.c`) hands every packet for an open port to one of them; the address and port that it
was sent to come with the packet.
"""

import errno
import logging
import socket
import sys
from asyncio import AbstractEventLoop
from collections.abc import Sequence

from rtpproxy.buffers import force_receive_buffer
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.receive_buffer import ReceiveBuffer
from rtpproxy.media.sockets import MAX_DATAGRAM_BYTES, OnDatagram, datagram_socket, endpoint_of, family_of
from rtpproxy.session.local import LocalAddress, port_key

log = logging.getLogger(__name__)

BATCH = 32
"""Datagrams taken from one socket before others, and the control sockets, get their turn."""
WAITING = 8 * BATCH
"""Datagrams of one socket that are taken at most when all that has arrived is to be taken: some milliseconds."""
MAX_REMEMBERED = 100_000
"""Limit of remembered destinations; beyond it all are forgotten."""
_RECEIVE_BUFFER_BYTES = 8 << 20
_IP_RECVORIGDSTADDR, _IPV6_RECVORIGDSTADDR = 20, 74
_ANCILLARY_BYTES = 64


class Receivers:
    """The receiving sockets, and the port spaces (`session.local`) of the addresses that are listened on."""

    def __init__(self, loop: AbstractEventLoop, on_datagram: OnDatagram, limit: AgeLimit) -> None:
        """`limit` is for the time that datagrams wait. Nothing is opened before `start`."""
        self._loop = loop
        self._on_datagram = on_datagram
        self._limit = limit
        self._clock = limit.clock
        self._receivers: dict[socket.socket, ReceiveBuffer] = {}
        self._slots: dict[str, int] = {}
        """By address: its port space; without wildcards."""
        self._wildcard_slots: dict[int, int] = {}
        """By family: the port space of its wildcard, if that is listened on."""
        self._destinations: dict[bytes, tuple[str, int | None]] = {}
        """By packed address and zone: the host as text, and the key of its port 0, None if it is not listened on."""
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._reading: ReceiveBuffer
        """That of the socket whose turn it is, or was last."""
        self.has_ipv6 = True
        """False on a host that has no IPv6; known from `start` on."""

    def start(self, listen: Sequence[LocalAddress], sockets: int, media_ports: range) -> list[int]:
        """Open the sockets and return their descriptors, in the order that the kernel's socket map expects.

        First `sockets` of IPv4, then, if an IPv6 address is listened on or may be, as many of IPv6. A port always uses
        the same socket, so a flood at one port fills a part of the buffers only. The sockets are bound, as the map
        demands, but outside `media_ports` where any other port is free.
        """
        for address in listen:
            self.listen(address)
        for family in self._families(listen):
            for _ in range(sockets):
                self._open(family, media_ports)
        return [receiver.fileno() for receiver in self._receivers]

    def close(self) -> None:
        """Close every socket."""
        for receiver in self._receivers:
            self._loop.remove_reader(receiver)
            receiver.close()
        self._receivers.clear()

    def take_waiting(self) -> None:
        """Hand on what has arrived by now, up to WAITING datagrams of each socket."""
        for receiver, buffer in self._receivers.items():
            for _ in range(WAITING // BATCH):
                if not self._on_readable(receiver, buffer, receiver.family):
                    break

    def stamp(self) -> tuple[int, float]:
        """Tell when the datagram arrived that is being handed on, as `ReceiveBuffer.stamp` does."""
        return self._reading.stamp()

    def no_room(self) -> int:
        """Count the datagrams that the kernel dropped because the buffer was full."""
        return sum(buffer.no_room() for buffer in self._receivers.values())

    def listen(self, address: LocalAddress) -> None:
        """Hand on, from now on, what arrives at an address."""
        if address.host:
            self._slots[address.host] = address.slot
        else:
            self._wildcard_slots[family_of(address)] = address.slot
        self._destinations.clear()

    def covers(self, address: LocalAddress) -> bool:
        """True if all addresses of its family are listened on."""
        return family_of(address) in self._wildcard_slots

    def _families(self, listen: Sequence[LocalAddress]) -> list[socket.AddressFamily]:
        """List IPv4 always, since the socket map starts with it, and IPv6 where the host has it."""
        if any(address.is_ipv6 for address in listen):
            return [socket.AF_INET, socket.AF_INET6]
        try:
            with datagram_socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            self.has_ipv6 = False
            return [socket.AF_INET]
        return [socket.AF_INET, socket.AF_INET6]

    def _open(self, family: socket.AddressFamily, media_ports: range) -> None:
        receiver = datagram_socket(family)
        try:
            if family == socket.AF_INET6:
                receiver.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
            else:
                receiver.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
            buffer = ReceiveBuffer(receiver, _RECEIVE_BUFFER_BYTES, force_receive_buffer, self._limit)
            _bind_outside(receiver, "::1" if family == socket.AF_INET6 else "127.0.0.1", media_ports)
        except OSError:
            receiver.close()
            raise
        self._receivers[receiver] = buffer
        self._loop.add_reader(receiver, self._on_readable, receiver, buffer, family)

    def _on_readable(self, receiver: socket.socket, buffer: ReceiveBuffer, family: int) -> bool:
        """Hand on datagrams of one socket; True if more may wait there."""
        self._reading, clock = buffer, self._clock
        now = clock()
        if is_watched := now > buffer.watch_from:
            buffer.watch(now)
        buffers, view, destinations = (self._buffer,), self._view, self._destinations
        on_datagram, is_ipv6 = self._on_datagram, family == socket.AF_INET6
        # Offsets of the address in a socket address; that of IPv6 is followed by its zone (ip(7), ipv6(7)).
        start, end = (8, 28) if is_ipv6 else (4, 8)
        for _ in range(BATCH):
            try:
                size, ancillary, _, source = receiver.recvmsg_into(buffers, _ANCILLARY_BYTES)
            except BlockingIOError:
                buffer.emptied(now)
                return False
            except OSError as error:
                log.warning("receiving media: %s", error.strerror)
                return False
            if is_watched and clock() >= buffer.fresh_until and buffer.is_old():
                continue
            if not ancillary:
                continue
            address = ancillary[-1][2]
            host, first_key = destinations.get(address[start:end]) or self._destination(address[start:end], family)
            if first_key is None:
                continue  # sent by a program on this host to a receiving socket's own port
            if is_ipv6:
                source = endpoint_of(source)
            on_datagram(first_key | address[2] << 8 | address[3], bytes(view[:size]), source, host, now)
        return True

    def _destination(self, packed: bytes, family: int) -> tuple[str, int | None]:
        host = socket.inet_ntop(family, packed[:16])
        if zone := int.from_bytes(packed[16:], sys.byteorder):
            host = f"{host}%{zone}"
        slot = self._slots.get(host, self._wildcard_slots.get(family))
        first_key = None if slot is None else port_key(slot, 0)
        if len(self._destinations) >= MAX_REMEMBERED:
            self._destinations.clear()
        found = self._destinations[packed] = host, first_key
        return found


def _bind_outside(receiver: socket.socket, host: str, media_ports: range) -> None:
    for port in (port for port in range(65535, 0, -1) if port not in media_ports):
        try:
            receiver.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
        else:
            return
    receiver.bind((host, 0))
