"""Sends UDP datagrams from any of our ports, without a socket on that port.

They leave through raw sockets, one for each of our addresses and TOS byte: the kernel writes the IP header and
fragments where needed; the UDP header, and with it the source port, is written here. A process that may not do that
gets an ordinary socket on the port (`plain_sender`).
"""

import ctypes
import errno
import socket
import struct
from collections import defaultdict
from typing import NamedTuple

from rtpproxy.addr import Endpoint, ipv4_number, is_ipv6
from rtpproxy.buffers import force_send_buffer
from rtpproxy.media.sockets import SendFailures, datagram_socket, family_of, ipv6_address, route_source, set_dscp
from rtpproxy.session.session import Stream

MAX_REMEMBERED = 100_000
"""Limit of remembered hosts; beyond it all are forgotten."""
_MAX_SENDERS = 512
"""Limit of raw sockets. This host may have more addresses than that, for instance a whole prefix routed to it."""
_SEND_BUFFER_BYTES = 4 << 20
_SO_ATTACH_FILTER, _IPV6_CHECKSUM = 26, 7
_CHECKSUM_AT = 6
"""Offset in the UDP header at which the kernel writes the checksum of what a raw IPv6 socket sends."""
_UDP = 17
_UDP_HEADER = struct.Struct("!HHHH")
# One classic BPF instruction, "return 0". Without it a raw socket gets a copy of every UDP packet of the host.
_DROP_ALL = struct.pack("=HBBI", 6, 0, 0, 0)


class _Sender(NamedTuple):
    """A raw socket for one of our addresses and one TOS byte."""

    opened: socket.socket
    checksum_part: int
    """Sum of address and protocol for the checksum; unused on IPv6, where the kernel computes the checksum."""


class RawSenders:
    """The raw sockets of a relay, opened as they are needed."""

    def __init__(self) -> None:
        self._senders: dict[int, dict[str, _Sender]] = defaultdict(dict)
        """By TOS byte and address."""
        self._sources: dict[str, str] = {}
        """By remote host: our address that the route to it chooses."""
        self._address_numbers: dict[str, int] = {}
        """By remote IPv4 host."""
        self.failures = SendFailures()

    def check_permitted(self) -> None:
        """Raise OSError where this process may not open raw sockets."""
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close()

    def send(self, stream: Stream, from_host: str, to: Endpoint, data: bytes) -> bool:
        """Send a datagram from a stream's port; if `from_host` is empty, from the address that the route chooses.

        False when the kernel did not take it, which is counted and logged, or when the families differ.
        """
        to_host, to_port = to
        is_to_ipv6 = stream.local.is_ipv6
        # `addr.is_ipv6` written out: the call costs 20 to 35 ns a packet.
        if (":" in to_host) != is_to_ipv6:
            return False
        try:
            from_host = from_host or self._sources.get(to_host) or self._route_source(to_host)
            sender, from_part = self._senders[stream.tos].get(from_host) or self._open(from_host, stream.tos)
            from_port, length = stream.local_port, 8 + len(data)
            if is_to_ipv6:
                header = _UDP_HEADER.pack(from_port, to_port, length, 0)
                sender.sendto(header + data, ipv6_address(to_host, 0))
                return True
            number = int.from_bytes(data, "big")
            if length & 1:
                number <<= 8
            to_number = self._address_numbers.get(to_host) or self._address_number(to_host)
            # The small numbers first: adding to the payload's long number copies it.
            total = number + (from_part + to_number + 2 * length + from_port + to_port)
            # A one's complement sum is the sum modulo 65535; the complement of 0 is sent as 65535 (RFC 768).
            header = _UDP_HEADER.pack(from_port, to_port, length, 65535 - total % 65535)
            sender.sendto(header + data, (to_host, 0))
        except OSError as error:
            self.failures.count(to, error)
            return False
        return True

    def routes_changed(self) -> None:
        """Forget which of our addresses the routes choose."""
        self._sources.clear()

    def close(self) -> None:
        """Close every socket."""
        for of_tos in self._senders.values():
            for sender in of_tos.values():
                sender.opened.close()
        self._senders.clear()

    def _open(self, from_host: str, tos: int) -> _Sender:
        if sum(map(len, self._senders.values())) >= _MAX_SENDERS:
            self.close()
        is_from_ipv6 = is_ipv6(from_host)
        family = socket.AF_INET6 if is_from_ipv6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
        try:
            drop_everything(opened)
            set_dscp(opened, family, tos)
            opened.setblocking(False)
            force_send_buffer(opened, _SEND_BUFFER_BYTES)
            if is_from_ipv6:
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _CHECKSUM_AT)
            opened.bind(ipv6_address(from_host, 0) if is_from_ipv6 else (from_host, 0))
        except OSError:
            opened.close()
            raise
        checksum_part = 0 if is_from_ipv6 else ipv4_number(from_host) + _UDP
        sender = self._senders[tos][from_host] = _Sender(opened, checksum_part)
        return sender

    def _route_source(self, to_host: str) -> str:
        source = route_source(to_host)
        if source is None:
            raise OSError(errno.EHOSTUNREACH, "no route")
        if len(self._sources) >= MAX_REMEMBERED:
            self._sources.clear()
        self._sources[to_host] = source
        return source

    def _address_number(self, host: str) -> int:
        if len(self._address_numbers) >= MAX_REMEMBERED:
            self._address_numbers.clear()
        number = self._address_numbers[host] = ipv4_number(host)
        return number


def plain_sender(stream: Stream) -> socket.socket:
    """Open a UDP socket that sends from a stream's port with its TOS byte, and receives nothing. Raises OSError.

    What comes to the port is steered to our receivers: only a connected socket comes before an sk_lookup program. The
    filter is for when the port is closed, or the program gone. Where there is such a socket already, the stream gets
    another one: the process that had it may be about to end.
    """
    family = family_of(stream.local)
    opened = datagram_socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        drop_everything(opened)
        set_dscp(opened, family, stream.tos)
        force_send_buffer(opened, _SEND_BUFFER_BYTES)
        opened.bind((stream.local.host, stream.local_port))
    except OSError:
        opened.close()
        raise
    return opened


def drop_everything(sender: socket.socket) -> None:
    """Make a socket receive nothing; packets that it received before are discarded."""
    program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    option = struct.pack("@HP", 1, ctypes.addressof(program))
    sender.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    sender.setblocking(False)
    while True:
        try:
            sender.recv(1)
        except BlockingIOError:
            return
