"""Control sockets served on either event loop, and clients that talk to them."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvloop
from hypothesis import strategies as st

from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control.server import ControlServer
from tests.ports import free_port
from tests.waiting import DEADLINE_S

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOP_FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Echo:
    """Answers each command with itself in brackets, or with a reply that a test has set."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.hosts: list[str] = []
        self.reply: bytes | None = None
        self.now = 0.0
        self.duplicates = 0
        self.ended: list[ControlKind] = []

    def on_command(self, text: bytes, now: float, host: str) -> bytes:
        assert now == self.now
        self.commands.append(text)
        self.hosts.append(host)
        return b"[%s]\n" % text if self.reply is None else self.reply

    def on_duplicate(self) -> None:
        self.duplicates += 1


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def serving(
    loop_factory: LoopFactory, echo: Echo, *addresses: ControlAddress, bound: Sequence[int] = (), **options
) -> Iterator[list[str]]:
    """Run a server in a thread of its own, so that clients here may block; yields the lines that it logs.

    At the end nothing may have gone wrong that nobody expected.
    """
    started = threading.Event()
    failures: list[object] = []
    handles: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        server = ControlServer(
            addresses,
            lambda: echo.now,
            **options,
        )
        try:
            await server.open(bound)
            server.serve(echo.on_command, on_duplicate=echo.on_duplicate, on_end=echo.ended.append)
            stop = asyncio.Event()
            handles.append((loop, stop))
            started.set()
            await stop.wait()
        finally:
            server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(serve())

    records = _Records()
    logging.getLogger("rtpproxy.control").addHandler(records)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(DEADLINE_S), "the server did not start"
        loop, stop = handles[0]
        try:
            yield records.lines
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(DEADLINE_S)
    finally:
        logging.getLogger("rtpproxy.control").removeHandler(records)
    assert not thread.is_alive()
    assert failures == []


# Addresses


def unix(path: Path, kind: ControlKind = ControlKind.UNIX) -> ControlAddress:
    return ControlAddress(kind, path=str(path))


def cunix(path: Path) -> ControlAddress:
    return unix(path, ControlKind.CUNIX)


def free(kind: ControlKind) -> ControlAddress:
    """An address of `kind` on loopback whose port is free."""
    host = "::1" if kind.is_ipv6 else "127.0.0.1"
    return ControlAddress(kind, host=host, port=free_port(host, type_of(kind)))


def free_udp() -> ControlAddress:
    return free(ControlKind.UDP)


def family_of(kind: ControlKind) -> socket.AddressFamily:
    if kind.is_unix:
        return socket.AF_UNIX
    return socket.AF_INET6 if kind.is_ipv6 else socket.AF_INET


def type_of(kind: ControlKind) -> socket.SocketKind:
    return socket.SOCK_DGRAM if kind.is_datagram else socket.SOCK_STREAM


LINE_KINDS = [ControlKind.CUNIX, ControlKind.TCP, ControlKind.TCP6]


def address_of(kind: ControlKind, tmp_path: Path) -> ControlAddress:
    return unix(tmp_path / "s", kind) if kind.is_unix else free(kind)


# Clients


def connect_to(address: ControlAddress) -> socket.socket:
    """A connected socket of the kind that `address` takes."""
    client = socket.socket(family_of(address.kind), type_of(address.kind))
    client.settimeout(DEADLINE_S)
    if address.kind.is_unix:
        client.connect(address.path)
    else:
        client.connect(socket.getaddrinfo(address.host, address.port)[0][4])  # understands zones
    return client


def connect(path: Path) -> socket.socket:
    return connect_to(unix(path))


def read_to_end(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def read_lines(client: socket.socket, count: int) -> bytes:
    data = b""
    while data.count(b"\n") < count:
        chunk = client.recv(65536)
        assert chunk, "closed early"
        data += chunk
    return data


def ask_once(path: Path, command: bytes) -> bytes:
    with connect(path) as client:
        client.sendall(command)
        return read_to_end(client)


@contextlib.contextmanager
def datagram_client(address: ControlAddress) -> Iterator[Callable[[bytes], bytes]]:
    with connect_to(address) as client:

        def ask(datagram: bytes) -> bytes:
            client.send(datagram)
            return client.recv(65536)

        yield ask


# Any bytes, in any pieces


CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from([b"V", b"\n", b"\r\n", b"\0", b" ", b"&&"]), max_size=30).map(b"".join),
        st.integers(8100, 8300).map(lambda size: b"x" * size),
    ),
    max_size=6,
)


def answers(data: bytes) -> bytes:
    """The replies to commands in lines; there are none from a line on that is too long."""
    replies = b""
    for line in data.split(b"\n")[:-1]:
        if len(line) >= 8192:
            break
        replies += b"[%s]\n" % line
    return replies


def send_pieces(client: socket.socket, chunks: list[bytes]) -> None:
    """The server may have hung up already."""
    with contextlib.suppress(OSError):
        for chunk in chunks:
            client.sendall(chunk)
        client.shutdown(socket.SHUT_WR)


def read_what_comes(client: socket.socket) -> bytes:
    """A server that hung up on unread data resets the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(65536):
            data += chunk
    return data
