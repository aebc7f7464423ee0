"""Tells the programs from whom packets are expected at a port, so that a flood of others displaces none of them."""

import socket

from rtpproxy.addr import is_ipv6
from rtpproxy.offload.layout import ByPort
from rtpproxy.offload.maps import MappedArray
from rtpproxy.session.latch import KnownSource


class SourceTable(ByPort):
    """The known sources of all ports, whose only writer is here. Ports come as keys.

    Mapped, because each call changes eight of them. A program that reads one meanwhile may count one packet elsewhere.
    """

    def __init__(self, sources: MappedArray, first_port: int, last_port: int) -> None:
        super().__init__(first_port, last_port)
        self._sources = sources
        self._struct = sources.layout.packer("host", "ssrc", "port", "most", "is_known", "is_locked")
        self._nobody = bytes(self._struct.size)

    def close(self) -> None:
        """Unmap them."""
        self._sources.close()

    def expect(self, key: int, source: KnownSource | None, most: int) -> None:
        """Let up to `most` packets a second of `source` go to userspace; None where it may be anybody."""
        at, memory = self._sources.offset(self.row(key)), self._sources.memory
        if source is None:
            memory[at : at + self._struct.size] = self._nobody
            return
        host = source.host.partition("%")[0]
        address = socket.inet_pton(socket.AF_INET6, host if is_ipv6(host) else f"::ffff:{host}")
        self._struct.pack_into(
            *(memory, at, address, source.ssrc or 0, socket.htons(source.port), most, 1, source.is_locked)
        )
