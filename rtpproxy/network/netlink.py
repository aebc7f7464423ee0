"""Sends requests to rtnetlink, as pyroute2's messages.

pyroute2's own sockets do not work with uvloop, so this socket and that of `events` are plain ones: the kernel
answers a request before `send` returns, and events are read when the loop says so.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from rtpproxy.errors import OffloadError
from rtpproxy.network.rtnl import MarshalRtnl

Message = Any
"""A pyroute2 netlink message (the library is untyped)."""

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTE_NUMBER = 0x3FFF
"""The bits of an attribute's kind that are its number; the others are flags."""
_ERROR_MESSAGE = 1
_ACK_WITH_ATTRIBUTES = 0x200
RECEIVE_BYTES = 1 << 17


class Rtnetlink:
    """A socket for requests. Not for use from several threads."""

    def __init__(self, *, is_strict: bool = False) -> None:
        """With `is_strict` the kernel picks what a request for a list asks for; otherwise it gives whole lists.

        Kernels before 4.20 always do.
        """
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        if is_strict:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._marshal = MarshalRtnl()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, message: Message, kind: int, flags: int = 0) -> list[Message]:
        """Send a message of type `kind` and return what the kernel answers.

        Raises OffloadError with the kernel's own words where it gives them; its `__cause__` is the OSError.
        """
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        header = message["header"]
        header["type"], header["sequence_number"] = kind, self._sequence
        header["flags"] = NLM_F_REQUEST | NLM_F_ACK | flags
        message.encode()
        self._socket.send(message.data)
        answers: list[Message] = []
        while not self._take(self._socket.recv(RECEIVE_BYTES), answers):
            pass
        return answers

    def _take(self, data: bytes, answers: list[Message]) -> bool:
        """Add the messages of one datagram; True when the answer is complete."""
        is_complete = False
        for kind, flags, sequence, raw in _split(data):
            if sequence != self._sequence:
                continue
            if kind == _NLMSG_ERROR:
                _raise_error(raw, flags)
                is_complete = True
            elif kind == _NLMSG_DONE:
                is_complete = True
            else:
                answers.extend(self._marshal.parse(raw, None, None))
        return is_complete


def attribute(message: Message, name: str) -> Any:  # noqa: ANN401 - pyroute2 is untyped
    """The value of one attribute, None when it is absent."""
    return message.get_attr(name)


def number_of(nested: Message, kind: int) -> int:
    """The number in a nested attribute that pyroute2 does not know by name; 0 when it is absent."""
    for name, value in nested["attrs"]:
        if name == "UNKNOWN" and value["header"]["type"] == kind:
            return int(struct.unpack_from("=I", value.data, value.offset + _ATTRIBUTE.size)[0])
    return 0


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
        yield kind, flags, sequence, data[position : position + length]
        position += (length + 3) & ~3


def _raise_error(raw: bytes, flags: int) -> None:
    (number,) = struct.unpack_from("=i", raw, _HEADER.size)
    if number == 0:
        return
    cause = OSError(-number, os.strerror(-number))
    raise OffloadError(_kernel_words(raw, flags) or os.strerror(-number)) from cause


def _kernel_words(raw: bytes, flags: int) -> str:
    """The text attribute of an extended acknowledgement, empty when there is none."""
    position = _HEADER.size + 4 + _HEADER.size
    while flags & _ACK_WITH_ATTRIBUTES and position + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, position)
        if length < _ATTRIBUTE.size:
            break
        if kind & _ATTRIBUTE_NUMBER == _ERROR_MESSAGE:
            return raw[position + _ATTRIBUTE.size : position + length].rstrip(b"\0").decode(errors="replace")
        position += (length + 3) & ~3
    return ""
