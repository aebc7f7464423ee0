"""Asks the kernel if an interface can send redirected frames, through the `netdev` netlink family (Linux 6.3).

A frame that is redirected to an interface that cannot send it is lost without a trace. A veth can if its far end runs
an XDP program or has GRO on, which can change at any time; other drivers can once they have an XDP program
themselves.
"""

import socket
import struct
from collections.abc import Iterator

_NETLINK_GENERIC, _CONTROLLER = 16, 16
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2
_GET_DEVICE, _DEVICE_INDEX, _DEVICE_XDP_FEATURES = 1, 1, 3
_REQUEST = 1
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")
_XDP_TRANSMIT = 4
_RECEIVE_BYTES = 1 << 16


class XdpFeatures:
    """Asks the kernel, which answers before `send` returns."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
        self._socket.bind((0, 0))
        found = self._ask(_CONTROLLER, _GET_FAMILY, _FAMILY_NAME, b"netdev\0")
        self._family = struct.unpack("=H", found[_FAMILY_ID])[0] if _FAMILY_ID in found else None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def can_transmit(self, index: int) -> bool | None:
        """True if frames may be redirected to the interface with that index; None when this kernel cannot tell."""
        if self._family is None:
            return None
        found = self._ask(self._family, _GET_DEVICE, _DEVICE_INDEX, struct.pack("=I", index))
        features = found.get(_DEVICE_XDP_FEATURES)
        return features is not None and bool(struct.unpack("=Q", features)[0] & _XDP_TRANSMIT)

    def _ask(self, family: int, command: int, attribute: int, value: bytes) -> dict[int, bytes]:
        """Return the attributes of the answer; none when the kernel answers with an error."""
        body = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), attribute) + value + bytes(-len(value) % 4)
        header = _HEADER.pack(_HEADER.size + len(body), family, _REQUEST, 1, 0, command, 1, 0)
        self._socket.send(header + body)
        answer = self._socket.recv(_RECEIVE_BYTES)
        kind = _HEADER.unpack_from(answer)[1]
        return {} if kind == _NLMSG_ERROR else dict(_attributes(answer[_HEADER.size :]))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        yield kind & 0x3FFF, data[position + _ATTRIBUTE.size : position + length]
        position += max(length + 3 & ~3, _ATTRIBUTE.size)
