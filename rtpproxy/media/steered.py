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
import sys
from asyncio import AbstractEventLoop
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rtpproxy.addr import Endpoint, ipv4_number
from rtpproxy.errors import PortBusyError
from rtpproxy.media.sockets import (
    bind_port,
    check_ours,
    datagram_socket,
    endpoint_of,
    family_of,
    force_buffer,
    ipv6_address,
    route_source,
    set_dscp,
)
from rtpproxy.session.local import LocalAddress, port_key
from rtpproxy.session.session import Stream

log = logging.getLogger(__name__)

OnDatagram = Callable[[int, bytes, tuple[str, int], str, float], None]
"""Key of the local port, payload, source, address of ours that it was sent to, seconds monotonic."""

SOCKETS = 8
"""Receiving sockets of a family. A port always uses the same one, so a flood at one fills an eighth of the buffers."""
BATCH = 64
"""Datagrams taken from one socket before others, and the control sockets, get their turn."""
MAX_DATAGRAM_BYTES = 65535
_PORTS = 65536
_RECEIVE_BUFFER_BYTES = 8 << 20
_SEND_BUFFER_BYTES = 4 << 20
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_ATTACH_FILTER = 33, 32, 26
_IP_RECVORIGDSTADDR, _IPV6_RECVORIGDSTADDR, _IPV6_CHECKSUM = 20, 74, 7
_CHECKSUM_AT = 6
"""Where in a UDP header the kernel writes the checksum of what a raw IPv6 socket sends."""
_ANCILLARY_BYTES = 64
_MAX_REMEMBERED = 100_000
_MAX_SENDERS = 512
"""A host may have more addresses than it can have sockets, for instance all of a prefix that is routed to it."""
_UDP = 17
_UDP_HEADER = struct.Struct("!HHHH")
# One classic BPF instruction, "return 0": the kernel hands a raw socket a copy of every UDP packet of the host.
_DROP_ALL = struct.pack("=HBBI", 6, 0, 0, 0)


class _Sender(NamedTuple):
    """A raw socket for an address of ours and a TOS byte."""

    opened: socket.socket
    number: int
    """The address for the checksum; 0 on IPv6, where the kernel computes it."""


class SteeredMedia:
    """Media ports owned through the port table. Same interface as `bound.BoundMedia`."""

    def __init__(
        self,
        on_datagram: OnDatagram,
        clock: Callable[[], float],
        mark: Callable[[int, bool], None],
        add_local: Callable[[LocalAddress], None],
    ) -> None:
        """`mark(key, is_open)` writes the port table; `add_local` tells the programs of another address.

        Nothing is opened before `start`.
        """
        self._on_datagram = on_datagram
        self._clock = clock
        self._mark = mark
        self._add_local = add_local
        self._receivers: list[socket.socket] = []
        self._senders: dict[int, dict[str, _Sender]] = defaultdict(dict)
        """By TOS byte and address."""
        self._sources: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._listened: dict[int, list[LocalAddress]] = defaultdict(list)
        """By slot; what comes under a wildcard later is left out."""
        self._open_ports: dict[int, bytearray] = defaultdict(lambda: bytearray(_PORTS))
        """By slot: 1 for each RTP port whose pair is open, else 0."""
        self._slots: dict[str, int] = {}
        """Of each address that is listened on by itself."""
        self._wildcard_slots: dict[socket.AddressFamily, int] = {}
        self._destinations: dict[bytes, tuple[str, int | None]] = {}
        """By packed address and zone: their text, and the key of port 0, None when it is not listened on."""
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._loop: AbstractEventLoop | None = None
        self._has_ipv6 = True
        self.send_failures = 0
        """Datagrams that the kernel did not take."""

    def start(
        self, loop: AbstractEventLoop, listen: Sequence[LocalAddress], media_ports: range = range(0)
    ) -> list[int]:
        """Open the receiving sockets; their descriptors, to be put into the kernel's socket map in this order.

        First those of IPv4, then, if an IPv6 address is listened on or may be, those of IPv6. They are bound, as the
        map demands, but not to one of `media_ports` where any other is free.
        """
        self._loop = loop
        for address in listen:
            self._know(address)
        for family in self._families(listen):
            for _ in range(SOCKETS):
                self._receivers.append(self._open_receiver(loop, family, media_ports))
        # Nothing is sent by it; it shows whether raw sockets are permitted.
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close()
        return [receiver.fileno() for receiver in self._receivers]

    def close_all(self) -> None:
        """Close every socket."""
        for receiver in self._receivers:
            if self._loop is not None:
                self._loop.remove_reader(receiver)
            receiver.close()
        self._receivers.clear()
        self._close_senders()

    def add_local(self, address: LocalAddress) -> None:
        """Listen on another address. Raises OSError when it is not one of this host's, or cannot be listened on.

        The open ports of its port space take what arrives there at once, so they must be free on it.
        """
        check_ours(address)
        if address.is_ipv6 and not self._has_ipv6:
            raise OSError(errno.EAFNOSUPPORT, "this host had no IPv6 when the relay started")
        if family_of(address) not in self._wildcard_slots:
            try:
                for rtp_port, is_open in enumerate(self._open_ports[address.slot]):
                    if is_open:
                        _probe_pair(address, rtp_port)
            except PortBusyError as error:
                reason = f"calls have ports that another program has on {address.host}: {error}"
                raise OSError(errno.EADDRINUSE, reason) from error
            self._add_local(address)
            self._know(address)

    def open(self, address: LocalAddress, rtp_port: int) -> None:
        """Take a port pair. Raises PortBusyError when another program has one of the two.

        An open port takes the packets to all addresses of its port space, so it must be free on each.
        """
        for one in self._listened[address.slot]:
            _probe_pair(one, rtp_port)
        self._open_ports[address.slot][rtp_port] = 1
        self._mark(address.key(rtp_port), True)
        self._mark(address.key(rtp_port + 1), True)

    def close(self, address: LocalAddress, rtp_port: int) -> None:
        """Give a port pair back."""
        self._open_ports[address.slot][rtp_port] = 0
        self._mark(address.key(rtp_port), False)
        self._mark(address.key(rtp_port + 1), False)

    def send(self, stream: Stream, from_host: str, to: Endpoint, data: bytes) -> bool:
        """Send a datagram from a stream's port; from the address that the route says when `from_host` is empty.

        False when the kernel did not take it, which is counted and logged, or when the families differ.
        """
        to_host, to_port = to
        is_ipv6 = stream.local.is_ipv6
        if (":" in to_host) != is_ipv6:
            return False
        try:
            from_host = from_host or self._sources.get(to_host) or self._route_source(to_host)
            sender, from_number = self._senders[stream.tos].get(from_host) or self._sender(from_host, stream.tos)
            from_port, length = stream.local_port, 8 + len(data)
            if is_ipv6:
                header = _UDP_HEADER.pack(from_port, to_port, length, 0)
                sender.sendto(header + data, ipv6_address(to_host, 0))
                return True
            number = int.from_bytes(data, "big")
            if length & 1:
                number <<= 8
            to_number = self._numbers.get(to_host) or self._number(to_host)
            # The small numbers first: adding to the payload's long number copies it.
            total = number + (from_number + to_number + _UDP + 2 * length + from_port + to_port)
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
        if len(self._numbers) >= _MAX_REMEMBERED:
            self._numbers.clear()
        number = self._numbers[host] = ipv4_number(host)
        return number

    def _know(self, address: LocalAddress) -> None:
        """Find the slot of what arrives at an address from now on."""
        if address.host:
            self._slots[address.host] = address.slot
        else:
            self._wildcard_slots[family_of(address)] = address.slot
        self._listened[address.slot].append(address)
        self._destinations.clear()

    def _families(self, listen: Sequence[LocalAddress]) -> list[socket.AddressFamily]:
        """IPv4 always, since the socket map starts with it, and IPv6 where the host has it."""
        if any(address.is_ipv6 for address in listen):
            return [socket.AF_INET, socket.AF_INET6]
        try:
            with datagram_socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            self._has_ipv6 = False
            return [socket.AF_INET]
        return [socket.AF_INET, socket.AF_INET6]

    def _open_receiver(
        self, loop: AbstractEventLoop, family: socket.AddressFamily, media_ports: range
    ) -> socket.socket:
        receiver = datagram_socket(family)
        try:
            if family == socket.AF_INET6:
                receiver.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
            else:
                receiver.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
            force_buffer(receiver, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            _bind_outside(receiver, "::1" if family == socket.AF_INET6 else "127.0.0.1", media_ports)
        except OSError:
            receiver.close()
            raise
        loop.add_reader(receiver, self._on_readable, receiver, family)
        return receiver

    def _sender(self, from_host: str, tos: int) -> _Sender:
        is_ipv6 = ":" in from_host
        if sum(map(len, self._senders.values())) >= _MAX_SENDERS:
            self._close_senders()
        family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
        try:
            drop_everything(opened)
            set_dscp(opened, family, tos)
            opened.setblocking(False)
            force_buffer(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            if is_ipv6:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _CHECKSUM_AT)
            opened.bind(ipv6_address(from_host, 0) if is_ipv6 else (from_host, 0))
        except OSError:
            opened.close()
            raise
        sender = self._senders[tos][from_host] = _Sender(opened, 0 if is_ipv6 else ipv4_number(from_host))
        return sender

    def _close_senders(self) -> None:
        for of_tos in self._senders.values():
            for sender in of_tos.values():
                sender.opened.close()
        self._senders.clear()

    def _route_source(self, to_host: str) -> str:
        source = route_source(to_host)
        if source is None:
            raise OSError(errno.EHOSTUNREACH, "no route")
        if len(self._sources) >= _MAX_REMEMBERED:
            self._sources.clear()
        self._sources[to_host] = source
        return source

    def _on_readable(self, receiver: socket.socket, family: socket.AddressFamily) -> None:
        now = self._clock()
        buffers, view, destinations = (self._buffer,), self._view, self._destinations
        on_datagram, is_ipv6 = self._on_datagram, family == socket.AF_INET6
        # Where the address is in a socket address, of IPv6 followed by its zone (ip(7), ipv6(7)).
        start, end = (8, 28) if is_ipv6 else (4, 8)
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
            host, first_key = destinations.get(address[start:end]) or self._destination(address[start:end], family)
            if first_key is None:
                continue  # to a receiving socket itself, by a program on this host
            if is_ipv6:
                source = endpoint_of(source)
            on_datagram(first_key | address[2] << 8 | address[3], bytes(view[:size]), source, host, now)

    def _destination(self, packed: bytes, family: socket.AddressFamily) -> tuple[str, int | None]:
        host = socket.inet_ntop(family, packed[:16])
        if zone := int.from_bytes(packed[16:], sys.byteorder):
            host = f"{host}%{zone}"
        slot = self._slots.get(host, self._wildcard_slots.get(family))
        first_key = None if slot is None else port_key(slot, 0)
        if len(self._destinations) >= _MAX_REMEMBERED:
            self._destinations.clear()
        found = self._destinations[packed] = host, first_key
        return found


def _probe_pair(address: LocalAddress, rtp_port: int) -> None:
    """Raise PortBusyError where another program has one of the two ports."""
    for port in (rtp_port, rtp_port + 1):
        with datagram_socket(family_of(address)) as probe:
            bind_port(probe, address, port)


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
