"""Sends requests to rtnetlink: those of `messages`, and pyroute2's for what is rare.

pyroute2's own sockets do not work with uvloop, so this socket and that of `events` are plain ones: the kernel
answers a request before `send` returns, and events are read when the loop says so.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rtpproxy.errors import OffloadError
from rtpproxy.network.messages import HEADER, attributes, split
from rtpproxy.network.rtnl import MarshalRtnl

Message = Any
"""A pyroute2 netlink message (the library is untyped)."""

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_DUMP_INTERRUPTED = 0x10
LIST_TRIES = 3
"""How often a list is asked for that changes while the kernel goes through it."""
_ATTRIBUTE_BYTES = 4
"""Length of an attribute before its value."""
_LAST_SEQUENCE = 0xFFFFFFFF
_ERROR_MESSAGE = 1
_ERROR_NUMBER_BYTES = 4
_ACK_WITH_ATTRIBUTES = 0x200
RECEIVE_BYTES = 1 << 17
_ANSWER_BYTES = 1 << 15
"""Room for an answer of one message: far more than the kernel sends."""


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
        header = message["header"]
        header["type"], header["sequence_number"] = kind, self._next()
        header["flags"] = NLM_F_REQUEST | NLM_F_ACK | flags
        message.encode()
        self._send(message.data)
        answers: list[Message] = []
        while not self._take(self._receive(), answers):
            pass
        return answers

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Ask for everything of a kind. Returns the messages. Raises OffloadError.

        A list that changes meanwhile may lack what did not change. It is asked for again, and at last taken as it is.
        """
        parts: list[Part] = []
        for _ in range(LIST_TRIES):
            parts = list(self._parts(kind, body))
            if not any(part.is_interrupted for part in parts):
                break
        return [message for part in parts for message in part.messages]

    def dump_parts(self, kind: int, body: bytes) -> Iterator[list[bytes]]:
        """Ask for everything of a kind. Yields the messages of one datagram after the other, up to 32 KB.

        Nothing else may be asked meanwhile. Raises OffloadError.
        """
        for part in self._parts(kind, body):
            yield part.messages

    def _parts(self, kind: int, body: bytes) -> Iterator["Part"]:
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP
        self._send(HEADER.pack(HEADER.size + len(body), kind, flags, self._next(), 0) + body)
        is_last = False
        while not is_last:
            part = read_part(self._receive(), self._sequence)
            is_last = part.is_last
            yield part

    def ask_each(self, kind: int, bodies: Sequence[bytes], flags: int = 0) -> list[bytes | OffloadError]:
        """Send requests that have one answer each: a message, or an acknowledgement if `flags` ask for it.

        Returns the answers in the order of the requests; for one that failed, the error. The kernel works through all
        of them in one call, so they should be few enough for others to wait. Raises OffloadError if it takes none.
        """
        if not bodies:
            return []
        first = self._next(len(bodies))
        request = b"".join(
            HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, number, 0) + body
            for number, body in enumerate(bodies, first)
        )
        self._send(request)
        answers: dict[int, bytes | OffloadError] = {}
        sequences = range(first, first + len(bodies))
        while len(answers) < len(bodies):
            try:
                data = self._socket.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                # All answers were there when `send` returned; there was no room for one that is not.
                missing = OffloadError("the kernel gave no answer, for lack of room")
                return [answers.get(sequence, missing) for sequence in sequences]
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _failed(error) from error
                continue
            _, answer, _, sequence, _ = HEADER.unpack_from(data)
            if sequence in sequences:
                answers[sequence] = (_error(data) if answer == _NLMSG_ERROR else None) or data
        return [answers[sequence] for sequence in sequences]

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise _failed(error) from error

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            raise _failed(error) from error

    def _next(self, count: int = 1) -> int:
        """Take as many sequence numbers, and return the first of them."""
        first = self._sequence + 1 if self._sequence + count <= _LAST_SEQUENCE else 1
        self._sequence = first + count - 1
        return first

    def _take(self, data: bytes, answers: list[Message]) -> bool:
        """Add the messages of one datagram; True when the answer is complete."""
        part = read_part(data, self._sequence)
        for raw in part.messages:
            answers.extend(self._marshal.parse(raw, None, None))
        return part.is_last


class Part(NamedTuple):
    """What one datagram holds of an answer."""

    messages: list[bytes]
    is_last: bool
    is_interrupted: bool
    """The list changed while the kernel went through it: an entry may be missing, even one that did not change."""


def read_part(data: bytes, sequence: int) -> Part:
    """Read the messages of a datagram that have a sequence number. Raises OffloadError if they tell of an error."""
    messages = []
    is_last = is_interrupted = False
    for kind, flags, number, raw in split(data):
        if number != sequence:
            continue
        is_interrupted |= bool(flags & _DUMP_INTERRUPTED)
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            _raise_error(raw)
            is_last = True
        else:
            messages.append(raw)
    return Part(messages, is_last, is_interrupted)


def attribute(message: Message, name: str) -> Any:  # noqa: ANN401 - pyroute2 is untyped
    """The value of one attribute, None when it is absent."""
    return message.get_attr(name)


def number_of(nested: Message, kind: int) -> int:
    """The number in a nested attribute that pyroute2 does not know by name; 0 when it is absent."""
    for name, value in nested["attrs"]:
        if name == "UNKNOWN" and value["header"]["type"] == kind:
            return int(struct.unpack_from("=I", value.data, value.offset + _ATTRIBUTE_BYTES)[0])
    return 0


def _failed(error: OSError) -> OffloadError:
    return OffloadError(f"netlink: {error.strerror}")


def _raise_error(raw: bytes) -> None:
    error = _error(raw)
    if error is not None:
        raise error


def _error(raw: bytes) -> OffloadError | None:
    """The error that a message tells of, with an OSError as its `__cause__`; None for an acknowledgement.

    The end of a list tells of one, too, where the kernel could not go through all of it.
    """
    (number,) = struct.unpack_from("=i", raw, HEADER.size)
    if number >= 0:
        return None
    error = OffloadError(_kernel_words(raw) or os.strerror(-number))
    error.__cause__ = OSError(-number, os.strerror(-number))
    return error


def _kernel_words(raw: bytes) -> str:
    """The text attribute of an extended acknowledgement, empty when there is none."""
    _, kind, flags, _, _ = HEADER.unpack_from(raw)
    if not flags & _ACK_WITH_ATTRIBUTES:
        return ""
    # An error repeats the header of the request, the end of a list does not.
    words_at = HEADER.size + _ERROR_NUMBER_BYTES + (HEADER.size if kind == _NLMSG_ERROR else 0)
    return attributes(raw, words_at).get(_ERROR_MESSAGE, b"").rstrip(b"\0").decode(errors="replace")
