"""Clients of control sockets: one command, one reply, and a deadline (docs/protocol.md, section 1)."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol

from generator.addresses import ControlAddress

SENDS = 5
"""Of a command by UDP until its answer comes; with the default deadline a second apart, as Kamailio does it."""
_MORE_LINES_S = 0.1
_REPLY_BYTES = 65536


class NoAnswerError(Exception):
    """A relay did not answer a command, or could not be asked."""


class Client(Protocol):
    """Sends commands to one relay. It can be used by one thread at a time."""

    def ask(self, command: str) -> str:
        """Send a command; the reply without its last line feed. Raises NoAnswerError."""

    def close(self) -> None:
        """Close what is open."""


def connect(address: ControlAddress, deadline_s: float) -> Client:
    """Make a client that waits so long for each answer. Whether anybody listens shows with the first command."""
    if address.kind == "udp":
        return _Datagrams(address, deadline_s)
    if address.is_line_stream:
        return _Lines(address, deadline_s)
    return _OneCommand(address, deadline_s)


@contextlib.contextmanager
def _telling(address: ControlAddress, command: str, deadline_s: float) -> Iterator[None]:
    """Turn errors of a socket into one that says which relay did not answer what."""
    try:
        yield
    except TimeoutError:
        raise NoAnswerError(f"{address}: no answer to {command!r} within {deadline_s:g} s") from None
    except OSError as error:
        raise NoAnswerError(f"{address}: {command!r} could not be sent: {error.strerror or error}") from error


def _open(address: ControlAddress, deadline_s: float) -> socket.socket:
    if address.kind == "unix":
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(deadline_s)
        try:
            opened.connect(address.path)
        except OSError:
            opened.close()
            raise
        return opened
    return socket.create_connection((address.host, address.port), deadline_s)


class _OneCommand:
    """`unix:`: a connection for each command, without a line feed; the relay closes it."""

    def __init__(self, address: ControlAddress, deadline_s: float) -> None:
        self._address = address
        self._deadline_s = deadline_s

    def ask(self, command: str) -> str:
        reply = b""
        with _telling(self._address, command, self._deadline_s), _open(self._address, self._deadline_s) as connection:
            connection.sendall(command.encode())
            while part := connection.recv(_REPLY_BYTES):
                reply += part
        if not reply:
            raise NoAnswerError(f"{self._address}: the connection was closed without an answer to {command!r}")
        return reply.decode(errors="replace").removesuffix("\n")

    def close(self) -> None:
        """Nothing stays open."""


class _Lines:
    """`cunix:` and `tcp:`: one connection, a line for each command.

    The answer to `It` has many lines; it ends when no more come.
    """

    def __init__(self, address: ControlAddress, deadline_s: float) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._connection: socket.socket | None = None

    def ask(self, command: str) -> str:
        reply = b""
        with _telling(self._address, command, self._deadline_s):
            if self._connection is None:
                self._connection = _open(self._address, self._deadline_s)
            connection = self._connection
            connection.settimeout(self._deadline_s)
            connection.sendall(command.encode() + b"\n")
            while not reply.endswith(b"\n"):
                reply += self._part(connection, command)
            if command == "It" and not reply.startswith(b"E"):
                connection.settimeout(_MORE_LINES_S)
                with contextlib.suppress(TimeoutError):
                    while True:
                        reply += self._part(connection, command)
        return reply.decode(errors="replace").removesuffix("\n")

    def _part(self, connection: socket.socket, command: str) -> bytes:
        part = connection.recv(_REPLY_BYTES)
        if not part:
            self.close()
            raise NoAnswerError(f"{self._address}: the connection was closed instead of an answer to {command!r}")
        return part

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Datagrams:
    """`udp:`: a cookie for each command, sent again until it comes back."""

    def __init__(self, address: ControlAddress, deadline_s: float) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._socket: socket.socket | None = None
        self._prefix = os.urandom(6).hex()
        self._number = 0

    def ask(self, command: str) -> str:
        self._number += 1
        cookie = f"{self._prefix}_{self._number}"
        with _telling(self._address, command, self._deadline_s):
            if self._socket is None:
                self._socket = self._connect()
            for _ in range(SENDS):
                self._socket.send(f"{cookie} {command}".encode())
                reply = self._reply(self._socket, cookie.encode())
                if reply is not None:
                    return reply.decode(errors="replace").removesuffix("\n")
            raise TimeoutError

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        family, kind, _, _, place = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_DGRAM)[
            0
        ]
        opened = socket.socket(family, kind)
        try:
            opened.connect(place)
        except OSError:
            opened.close()
            raise
        return opened

    def _reply(self, asked: socket.socket, cookie: bytes) -> bytes | None:
        """Wait for the reply with this cookie; those of earlier commands are passed over. None if it does not come."""
        end = time.monotonic() + self._deadline_s / SENDS
        while (left := end - time.monotonic()) > 0:
            asked.settimeout(left)
            try:
                given, _, reply = asked.recv(_REPLY_BYTES).partition(b" ")
            except TimeoutError:
                return None
            if given == cookie:
                return reply
        return None


class Clients:
    """One client for each relay of a set, closed together."""

    def __init__(self, addresses: Sequence[ControlAddress], deadline_s: float) -> None:
        self.addresses = addresses
        self._clients = [connect(address, deadline_s) for address in addresses]

    def __enter__(self) -> "Clients":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()

    def __len__(self) -> int:
        return len(self._clients)

    def of_call(self, call: int) -> Client:
        """The relay of a call: they take turns."""
        return self._clients[call % len(self._clients)]

    def __getitem__(self, number: int) -> Client:
        return self._clients[number]
