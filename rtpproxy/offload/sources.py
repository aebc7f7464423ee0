"""Tells the programs from whom packets are expected at a port, so that a flood of others displaces none of them."""

import socket

from rtpproxy.addr import is_ipv6
from rtpproxy.offload.layout import ByPort
from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.maps import CalledMap
from rtpproxy.session.latch import KnownSource


class SourceTable(ByPort):
    """The known sources of all ports, whose only writer is here. Ports come as keys."""

    def __init__(self, loaded: Loaded, first_port: int, last_port: int) -> None:
        super().__init__(first_port, last_port)
        self._sources = CalledMap(loaded.map_fds["port_sources"], loaded.layouts["port_sources"])
        layout = self._sources.layout.value
        self._struct = layout.packer("host", "ssrc", "port", "most", "is_known", "is_locked")
        self._rest = bytes(layout.size - self._struct.size)

    def expect(self, key: int, source: KnownSource | None, most: int) -> None:
        """Let up to `most` packets a second of `source` go to userspace; None where it may be anybody.

        Raises OSError.
        """
        if source is None:
            self._sources.write(self.row(key), {})
            return
        host = source.host.partition("%")[0]
        address = socket.inet_pton(socket.AF_INET6, host if is_ipv6(host) else f"::ffff:{host}")
        packed = self._struct.pack(address, source.ssrc or 0, socket.htons(source.port), most, 1, source.is_locked)
        self._sources.write(self.row(key), packed + self._rest)
