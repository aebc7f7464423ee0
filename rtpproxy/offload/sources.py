"""Tells the programs from whom packets are expected at a port, so that a flood of others displaces none of them."""

import socket
from functools import lru_cache

from rtpproxy.addr import is_ipv6
from rtpproxy.offload.layout import ByPort
from rtpproxy.offload.maps import MappedArray
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
        self._struct = sources.layout.packer("host", "ssrc", "port", "most", "is_known", "is_locked")
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
        host, port, is_locked, ssrc = source
        wanted = self._struct.pack(_packed(host), ssrc or 0, socket.htons(port), most, 1, is_locked)
        # Packets of a source that stays must not meet a row that is being written.
        if self._memory[row] != wanted:
            self._memory[row] = wanted


@lru_cache(maxsize=256)  # RTP and RTCP of a phone come from one address
def _packed(host: str) -> bytes:
    if is_ipv6(host):
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return _MAPPED + socket.inet_pton(socket.AF_INET, host)
