"""The control sockets, with real clients (protocol.md 1.1 to 1.4). Each test runs on both event loops."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control import server as server_module
from rtpproxy.control.server import ControlServer
from rtpproxy.errors import StartError
from tests.waiting import wait_for

DEADLINE_S = 10.0
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Echo:
    """Answers each command with itself in brackets, and can be told another time."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.reply: bytes | None = None
        self.now = 0.0

    def on_command(self, text: bytes, now: float) -> bytes:
        assert now == self.now
        self.commands.append(text)
        return b"[%s]\n" % text if self.reply is None else self.reply


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    return request.param


@pytest.fixture
def echo() -> Echo:
    return Echo()


@contextlib.contextmanager
def serving(loop_factory: LoopFactory, echo: Echo, *addresses: ControlAddress) -> Iterator[None]:
    """A server in a thread of its own, so that clients here may block."""
    started = threading.Event()
    failures: list[object] = []
    handles: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        server = ControlServer(addresses, echo.on_command, lambda: echo.now)
        await server.start()
        stop = asyncio.Event()
        handles.append((loop, stop))
        started.set()
        await stop.wait()
        server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(DEADLINE_S)
    loop, stop = handles[0]
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert failures == []


def start_refusal(*addresses: ControlAddress) -> str:
    server = ControlServer(addresses, lambda text, now: text, lambda: 0.0)
    with pytest.raises(StartError) as caught:
        asyncio.run(server.start())
    message = str(caught.value)
    assert message.startswith("control socket ")
    assert "\n" not in message
    return message


def unix(path: Path, kind: ControlKind = ControlKind.UNIX) -> ControlAddress:
    return ControlAddress(kind, path=str(path))


def cunix(path: Path) -> ControlAddress:
    return unix(path, ControlKind.CUNIX)


def free_udp() -> ControlAddress:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return ControlAddress(ControlKind.UDP, host="127.0.0.1", port=probe.getsockname()[1])


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(DEADLINE_S)
    client.connect(str(path))
    return client


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
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE_S)
        client.connect((address.host, address.port))

        def ask(datagram: bytes) -> bytes:
            client.send(datagram)
            return client.recv(65536)

        yield ask


# unix


def test_unix_answers_and_closes(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)):
        assert ask_once(path, b"V") == b"[V]\n"
        assert ask_once(path, b"V\nV\n") == b"[V\nV\n]\n"
        assert ask_once(path, b"\n") == b"[\n]\n"
    assert not path.exists()


def test_unix_waits_for_the_command_without_delaying_others(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)), connect(path) as late:
        assert ask_once(path, b"first") == b"[first]\n"
        late.sendall(b"second")
        assert read_to_end(late) == b"[second]\n"
    assert echo.commands == [b"first", b"second"]


def test_unix_end_without_data_is_silent(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)):
        with connect(path) as client:
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b""
        with connect(path) as client:
            assert ask_once(path, b"between") == b"[between]\n"
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b""
    assert echo.commands == [b"between"]


def test_unix_considers_8191_bytes(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)), connect(path) as client:
        client.sendall(b"x" * 9000)
        wait_for(lambda: echo.commands, DEADLINE_S, "the command")
    assert echo.commands == [b"x" * 8191]


def test_unix_client_that_went_away(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)):
        with connect(path) as client:
            client.sendall(b"gone")
        wait_for(lambda: echo.commands, DEADLINE_S, "the command")
        assert ask_once(path, b"next") == b"[next]\n"


def test_unix_oldest_silent_client_makes_room(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 2)
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)), contextlib.ExitStack() as stack:
        oldest, second, third = (stack.enter_context(connect(path)) for _ in range(3))
        assert read_to_end(oldest) == b""
        for client in (second, third):
            client.sendall(b"V")
            assert read_to_end(client) == b"[V]\n"


def test_unix_leaves_no_descriptor_open(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)):
        ask_once(path, b"V")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            with connect(path) as late:
                assert ask_once(path, b"V") == b"[V]\n"
                late.sendall(b"V")
                assert read_to_end(late) == b"[V]\n"
        wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, DEADLINE_S, "descriptors closed")


# cunix


def test_cunix_answers_each_line_in_order(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, cunix(path)), connect(path) as client:
        client.sendall(b"one\ntwo\r\n\nthr")
        assert read_lines(client, 3) == b"[one]\n[two\r]\n[]\n"
        client.sendall(b"ee\n")
        assert read_lines(client, 1) == b"[three]\n"


def test_cunix_last_line_without_lf_is_discarded(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, cunix(path)), connect(path) as client:
        client.sendall(b"one\ntwo")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"[one]\n"
    assert echo.commands == [b"one"]


def test_cunix_line_limit(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, cunix(path)):
        with connect(path) as client:
            client.sendall(b"x" * 8191 + b"\n")
            assert read_lines(client, 1) == b"[%s]\n" % (b"x" * 8191)
            client.sendall(b"x" * 8192)
            assert read_to_end(client) == b""
        with connect(path) as client:
            client.sendall(b"short\n" + b"x" * 8191)
            assert read_lines(client, 1) == b"[short]\n"
            client.sendall(b"\n")
            assert read_lines(client, 1) == b"[%s]\n" % (b"x" * 8191)


def test_cunix_reader_that_is_slow(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    """Replies fill the socket: no more commands are read, others are served, nothing is lost in the end."""
    path = tmp_path / "s"
    echo.reply = b"y" * 999 + b"\n"
    count = 4000
    with serving(loop_factory, echo, cunix(path)), connect(path) as slow:
        sender = threading.Thread(target=slow.sendall, args=(b"c\n" * count,))
        sender.start()
        wait_for(lambda: echo.commands, DEADLINE_S, "the first commands")
        with connect(path) as other:
            other.sendall(b"other\n")
            assert read_lines(other, 1) == echo.reply
        data = read_lines(slow, count)
        sender.join(DEADLINE_S)
        assert data == echo.reply * count


def test_cunix_client_that_leaves_replies_unread(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    echo.reply = b"y" * 999 + b"\n"
    with serving(loop_factory, echo, cunix(path)):
        with connect(path) as client:
            client.sendall(b"c\n" * 2000)
            wait_for(lambda: echo.commands, DEADLINE_S, "the commands")
        with connect(path) as other:
            other.sendall(b"other\n")
            assert read_lines(other, 1) == echo.reply


def test_cunix_one_client_too_many(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 1)
    path = tmp_path / "s"
    with serving(loop_factory, echo, cunix(path)), connect(path) as first:
        with connect(path) as second:
            assert read_to_end(second) == b""
        first.sendall(b"V\n")
        assert read_lines(first, 1) == b"[V]\n"


# udp


@pytest.mark.parametrize(
    ("datagram", "reply"),
    [
        (b"c1 V", b"c1 [ V]\n"),
        (b" \tc2\tV\n", b"c2 [\tV\n]\n"),
        (b"c3", b"c3 []\n"),
        (b"", b"E5\n"),
        (b" \r\n", b"E5\n"),
        (b"c\x004 V", b"E5\n"),
        (b"x" * 999 + b" V", b"x" * 999 + b" [ V]\n"),
        (b"x" * 1000 + b" V", b"E5\n"),
        (b"x" * 9000, b"E5\n"),
        (b"c5 " + b"x" * 9000, b"c5 [ " + b"x" * (8191 - 3) + b"]\n"),
    ],
)
def test_udp_cookie(loop_factory: LoopFactory, echo: Echo, datagram: bytes, reply: bytes) -> None:
    address = free_udp()
    with serving(loop_factory, echo, address), datagram_client(address) as ask:
        assert ask(datagram) == reply


def test_udp_repeats_by_cookie_alone(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free_udp()
    with serving(loop_factory, echo, address), datagram_client(address) as ask:
        echo.reply = b"E0\n"
        assert ask(b"c1 Z") == b"c1 E0\n"
        echo.reply = b"other\n"
        assert ask(b"c1 V") == b"c1 E0\n"
        with datagram_client(address) as ask_elsewhere:
            assert ask_elsewhere(b"c1 V") == b"c1 E0\n"
        echo.now = 38.0
        assert ask(b"c1 V") == b"c1 other\n"
    assert len(echo.commands) == 2


def test_udp_burst_is_answered_whole(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free_udp()
    with (
        serving(loop_factory, echo, address),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(DEADLINE_S)
        for number in range(200):
            client.sendto(b"%d V" % number, (address.host, address.port))
        replies = [client.recv(100) for _ in range(200)]
    assert replies == [b"%d [ V]\n" % number for number in range(200)]


def test_udp_reply_that_cannot_be_sent(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free_udp()
    with serving(loop_factory, echo, address), datagram_client(address) as ask:
        echo.reply = b"x" * 70000
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"c1 V", (address.host, address.port))
        wait_for(lambda: echo.commands, DEADLINE_S, "the command")
        echo.reply = None
        assert ask(b"c2 V") == b"c2 [ V]\n"


# start and close


def test_serves_several_sockets(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    once, lines, datagrams = tmp_path / "1", tmp_path / "2", free_udp()
    with (
        serving(loop_factory, echo, unix(once), cunix(lines), datagrams),
        connect(lines) as client,
        datagram_client(datagrams) as ask,
    ):
        client.sendall(b"a\n")
        assert read_lines(client, 1) == b"[a]\n"
        assert ask(b"c b") == b"c [ b]\n"
        assert ask_once(once, b"c") == b"[c]\n"
    assert list(tmp_path.iterdir()) == []


def test_close_drops_clients(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    with contextlib.ExitStack() as clients:
        with serving(loop_factory, echo, unix(tmp_path / "1"), cunix(tmp_path / "2")):
            silent = clients.enter_context(connect(tmp_path / "1"))
            idle = clients.enter_context(connect(tmp_path / "2"))
            assert ask_once(tmp_path / "1", b"V") == b"[V]\n"
        assert (read_to_end(silent), read_to_end(idle)) == (b"", b"")


def test_stale_socket_file_is_replaced(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
        stale.listen()
    with serving(loop_factory, echo, unix(path)):
        assert ask_once(path, b"V") == b"[V]\n"


def test_live_socket_is_left_alone(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)):
        assert "in use by another process" in start_refusal(unix(path))
        assert ask_once(path, b"V") == b"[V]\n"


def test_live_socket_with_a_full_queue_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with connect(path):
            assert "in use by another process" in start_refusal(unix(path))
    assert path.is_socket()


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    assert "not a socket" in start_refusal(unix(path))
    assert path.read_text() == "precious"
    assert "not a socket" in start_refusal(unix(tmp_path))


def test_failed_start_removes_what_it_made(tmp_path: Path) -> None:
    first = tmp_path / "first"
    start_refusal(unix(first), unix(tmp_path / "missing" / "second"))
    assert list(tmp_path.iterdir()) == []


def test_close_leaves_a_file_that_took_the_place_of_ours(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path, other = tmp_path / "s", tmp_path / "other"
    with serving(loop_factory, echo, unix(path)):
        other.write_text("precious")
        other.rename(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (ControlAddress(ControlKind.UNIX, path="/tmp/" + "x" * 110), "longer than 107 bytes"),
        (ControlAddress(ControlKind.CUNIX, path="/nonexistent/dir/s"), "directory does not exist"),
        (ControlAddress(ControlKind.UNIX, path="/etc/passwd/s"), "not a directory"),
        (ControlAddress(ControlKind.UNIX, path="/sys/s"), "permission denied"),
        (ControlAddress(ControlKind.UDP, host="192.0.2.1", port=22222), "not one of this host"),
        (ControlAddress(ControlKind.UDP, host="no.such.host.invalid", port=22222), "cannot be resolved"),
        (ControlAddress(ControlKind.UDP, host="x" * 70, port=22222), "cannot be resolved"),
    ],
)
def test_start_refused(address: ControlAddress, reason: str) -> None:
    message = start_refusal(address)
    assert str(address) in message
    assert reason in message


def test_udp_port_in_use() -> None:
    address = free_udp()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((address.host, address.port))
        assert "port is in use" in start_refusal(address)
