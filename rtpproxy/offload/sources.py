"""Tells the programs from whom packets are expected at a port, so that a flood of others displaces none of them."""

import socket
from functools import lru_cache

from rtpproxy.addr import is_ipv6
from rtpproxy.offload.layout import ByPort
from rtpproxy.offload.maps import MappedArray
from rtpproxy.offload.network_order import port_bytes
from rtpproxy.session.latch import KnownSource

_MAPPED = bytes(10) + b"\xff\xff"
"""Precedes an IPv4 address."""


class SourceTable(ByPort):
    """The known sources of all ports, whose only writer is here. Ports come as keys.

    Mapped, because each call changes eight of them. A program that reads one meanwhile may count one packet elsewhere.
    """

    def __init__(self, sources: MappedArray, first_port: int, last_port: int) -> None:
        super().__init__(first_port, last_port)
        self._sources = sources
        self._struct = sources.layout.packer(
            *("host", "other_hosts", "ssrc", "port", "other_ports", "most", "is_known", "is_locked", "is_contested")
        )
        self._memory, self._row_bytes = sources.memory, sources.layout.size
        self._nobody = bytes(self._struct.size)

    def close(self) -> None:
        """Unmap them."""
        self._sources.close()

    def expect(self, key: int, source: KnownSource | None, most: int) -> None:
        """Let up to `most` packets a second of `source` go to userspace; None where it may be anybody."""
        start = self.row(key) * self._row_bytes
        row = slice(start, start + self._struct.size)
        if source is None:
            self._memory[row] = self._nobody
            return
        host, port, is_locked, ssrc, others, is_contested = source
        other_hosts, other_ports = _packed_all(others) if others else (b"", b"")
        wanted = self._struct.pack(
            *(_packed(host), other_hosts, ssrc or 0, socket.htons(port), other_ports, most, 1, is_locked, is_contested)
        )
        # Packets of a source that stays must not meet a row that is being written.
        if self._memory[row] != wanted:
            self._memory[row] = wanted


@lru_cache(maxsize=256)
def _packed_all(sources: tuple[tuple[str, int], ...]) -> tuple[bytes, bytes]:
    """Pack hosts and ports of several sources."""
    return b"".join([_packed(host) for host, _ in sources]), port_bytes(port for _, port in sources)


@lru_cache(maxsize=256)  # RTP and RTCP of a phone come from one address
def _packed(host: str) -> bytes:
    if not host:
        return bytes(16)
    if is_ipv6(host):
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return _MAPPED + socket.inet_pton(socket.AF_INET, host)
