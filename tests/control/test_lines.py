"""Control connections, with real clients (protocol.md 1.2, 1.3). Each test runs on both event loops."""

import contextlib
import fcntl
import itertools
import os
import resource
import socket
import struct
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control import lines as streams
from tests.control.serving import (
    DEADLINE_S,
    LOOP_FACTORIES,
    Echo,
    LoopFactory,
    ask_once,
    connect,
    connect_to,
    cunix,
    family_of,
    free,
    read_lines,
    read_to_end,
    serving,
    unix,
)
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]

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
    monkeypatch.setattr(streams, "MAX_CLIENTS", 2)
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


def test_cunix_waits_while_a_reply_is_under_way(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    """A command that arrives meanwhile is not read: its reply would have no place to wait."""
    path = tmp_path / "s"
    echo.reply = b"y" * 1_000_000 + b"\n"
    with serving(loop_factory, echo, cunix(path)), connect(path) as slow, connect(path) as other:
        slow.sendall(b"first\n")
        wait_for(lambda: echo.commands, DEADLINE_S, "the command")
        slow.sendall(b"second\n")
        for _ in range(10):
            other.sendall(b"other\n")
            assert read_lines(other, 1) == echo.reply
        assert b"second" not in echo.commands
        assert read_lines(slow, 2) == echo.reply * 2


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
    monkeypatch.setattr(streams, "MAX_CLIENTS", 1)
    path = tmp_path / "s"
    with serving(loop_factory, echo, cunix(path)), connect(path) as first:
        with connect(path) as second:
            assert read_to_end(second) == b""
        first.sendall(b"V\n")
        assert read_lines(first, 1) == b"[V]\n"


@pytest.mark.parametrize("kind", [ControlKind.CUNIX, ControlKind.TCP])
def test_connections_leave_most_descriptors_alone(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind
) -> None:
    address = address_of(kind, tmp_path)
    with files_allowed(800), serving(loop_factory, echo, address) as log, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect_to(address)) for _ in range(100)]
        for client in held:
            client.sendall(b"V\n")
            assert read_lines(client, 1) == b"[V]\n"
        assert read_to_end(stack.enter_context(connect_to(address))) == b""
        assert log == ["control connection refused: 100 are open"]


@contextlib.contextmanager
def files_allowed(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# tcp, tcp6


LINE_KINDS = [ControlKind.CUNIX, ControlKind.TCP, ControlKind.TCP6]


def address_of(kind: ControlKind, tmp_path: Path) -> ControlAddress:
    return unix(tmp_path / "s", kind) if kind.is_unix else free(kind)


@pytest.mark.parametrize("kind", LINE_KINDS)
def test_lines_in_order(loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind) -> None:
    address = address_of(kind, tmp_path)
    with serving(loop_factory, echo, address), connect_to(address) as client:
        client.sendall(b"one\ntwo\r\n\nthr")
        assert read_lines(client, 3) == b"[one]\n[two\r]\n[]\n"
        client.sendall(b"ee\nlast without LF")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == b"[three]\n"
    host = {ControlKind.TCP: "127.0.0.1", ControlKind.TCP6: "::1"}.get(kind, "")
    assert echo.hosts == [host] * 4


def test_tcp_starts_again_on_the_same_port(loop_factory: LoopFactory, echo: Echo) -> None:
    """The server's end of a dropped connection is in TIME_WAIT then."""
    address = free(ControlKind.TCP)
    for _ in range(2):
        with serving(loop_factory, echo, address), connect_to(address) as client:
            client.sendall(b"x" * 8192)
            assert read_to_end(client) == b""


def test_tcp_connections_answer_at_once_and_notice_the_dead(loop_factory: LoopFactory, echo: Echo) -> None:
    """Replies are not held back for more of them, and a controller that vanished is found out."""
    address = free(ControlKind.TCP)
    with serving(loop_factory, echo, address), connect_to(address) as client:
        client.sendall(b"V\n")
        read_lines(client, 1)
        with server_end(client) as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


def server_end(client: socket.socket) -> socket.socket:
    """The other end of a connection to this process."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as found:
            if found.getpeername() == client.getsockname():
                return found.dup()
    raise AssertionError("no such connection")


def test_tcp_serves_more_clients_than_the_reference(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free(ControlKind.TCP)
    with files_allowed(4096), serving(loop_factory, echo, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect_to(address)) for _ in range(300)]
        for number, client in enumerate(clients):
            client.sendall(b"%d\n" % number)
        for number, client in enumerate(clients):
            assert read_lines(client, 1) == b"[%d]\n" % number


# Clients that behave badly delay nobody


BAD_CLIENTS = ["silent", "half a line", "closed at once", "reset", "deaf", "byte by byte", "flood", "left with a flood"]


@contextlib.contextmanager
def bad_client(name: str, address: ControlAddress) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connect_to(address))
        stop = threading.Event()
        match name:
            case "half a line":
                client.sendall(b"half")
            case "closed at once":
                client.close()
            case "reset":
                client.sendall(b"half")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            case "byte by byte":
                stack.enter_context(in_background(lambda: trickle(client, stop), stop))
            case "deaf":
                stack.enter_context(in_background(lambda: pour(client, stop), stop))
            case "flood":
                stack.enter_context(in_background(lambda: swallow(client, stop), stop))
                stack.enter_context(in_background(lambda: pour(client, stop), stop))
            case "left with a flood":
                client.sendall(b"x\n" * 4000)
                client.close()
        yield


@contextlib.contextmanager
def in_background(work, stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def pour(client: socket.socket, stop: threading.Event) -> None:
    """Send commands as fast as they are taken."""
    client.settimeout(0.05)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            client.send(b"flood\n" * 500)


def swallow(client: socket.socket, stop: threading.Event) -> None:
    client.settimeout(0.05)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            client.recv(1 << 16)


def trickle(client: socket.socket, stop: threading.Event) -> None:
    while not stop.wait(0.001):
        client.send(b"x")


@pytest.mark.parametrize("name", BAD_CLIENTS)
@pytest.mark.parametrize("kind", [ControlKind.CUNIX, ControlKind.TCP])
def test_bad_clients_delay_nobody(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind, name: str
) -> None:
    """Commands of others on the same socket, and on another, stay in step with what was executed of the bad ones'."""
    address, once = address_of(kind, tmp_path), tmp_path / "once"
    with serving(loop_factory, echo, address, unix(once)), connect_to(address) as good:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(bad_client(name, address))
            for number in range(50):
                good.sendall(b"good %d\n" % number)
                assert read_lines(good, 1) == b"[good %d]\n" % number
                assert ask_once(once, b"once") == b"[once]\n"
        good.sendall(b"end\n")
        assert read_lines(good, 1) == b"[end]\n"


@pytest.mark.parametrize("name", ["silent", "closed at once", "reset"])
def test_bad_one_shot_clients_delay_nobody(loop_factory: LoopFactory, echo: Echo, tmp_path: Path, name: str) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)), contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(bad_client(name, unix(path)))
            assert ask_once(path, b"V") == b"[V]\n"


def test_one_byte_is_a_command_on_unix(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    """One read is all that a client gets: the rest of a command sent piecemeal is never read."""
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)), connect(path) as client:
        client.send(b"V")
        assert read_to_end(client) == b"[V]\n"


def test_flood_takes_turns_with_others(loop_factory: LoopFactory, tmp_path: Path) -> None:
    """A command that arrives while a client's thousands are executed is executed among them, not behind them."""
    path = tmp_path / "s"
    with contextlib.ExitStack() as clients:

        class Interrupted(Echo):
            def on_command(self, text: bytes, now: float, host: str) -> bytes:
                if text == b"first":
                    good.sendall(b"good\n")
                return super().on_command(text, now, host)

        echo = Interrupted()
        with serving(loop_factory, echo, cunix(path)):
            good, flood = (clients.enter_context(connect(path)) for _ in range(2))
            flood.sendall(b"first\n" + b"\n" * 8000)
            assert read_lines(good, 1) == b"[good]\n"
            read_lines(flood, 8001)
    assert echo.commands.index(b"good") - echo.commands.index(b"first") <= 4


def test_clients_take_turns_fairly(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    """Each of several floods gets its share all the time. So few lines fit the sockets though nobody reads yet."""
    path = tmp_path / "s"
    lines = 150
    with serving(loop_factory, echo, cunix(path)), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(path)) for _ in range(12)]
        for number, client in enumerate(clients):
            client.sendall(b"%d\n" % number * lines)
        for client in clients:
            read_lines(client, lines)
    for number in range(12):
        mine = [position for position, text in enumerate(echo.commands) if text == b"%d" % number]
        gaps = [later - former for former, later in itertools.pairwise(mine)]
        assert len(mine) == lines
        assert max(gaps) <= 2 * 12


def descriptor_limit(count: int) -> contextlib.AbstractContextManager[None]:
    """At most so many descriptors more than are open now."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    return files_allowed(highest + 1 + count)


@pytest.mark.parametrize("kind", [ControlKind.UNIX, ControlKind.CUNIX, ControlKind.TCP])
def test_out_of_descriptors(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is accepted. Then accepting stops, is tried again, and works once descriptors are free; one line says so."""
    monkeypatch.setattr(streams, "ACCEPT_PAUSE_S", 0.0001)
    address, other = address_of(kind, tmp_path), cunix(tmp_path / "other")
    with serving(loop_factory, echo, address, other) as log, contextlib.ExitStack() as stack:
        served_already = stack.enter_context(connect_to(other))
        served_already.sendall(b"V\n")
        assert read_lines(served_already, 1) == b"[V]\n"
        before = len(os.listdir("/proc/self/fd"))
        held = [stack.enter_context(connect_to(address)) for _ in range(3)]
        wait_for(lambda: len(os.listdir("/proc/self/fd")) == before + 6, DEADLINE_S, "accepted connections")
        last, late = (stack.enter_context(socket.socket(family_of(kind), socket.SOCK_STREAM)) for _ in range(2))
        with descriptor_limit(0), contextlib.ExitStack() as taken:
            take_every_descriptor(taken)
            for client in (last, late):
                client.settimeout(DEADLINE_S)
                client.connect(address.path if kind.is_unix else (address.host, address.port))
            late.sendall(b"late\n")
            wait_for(lambda: log, DEADLINE_S, "the complaint")
            last.sendall(b"last\n")
            assert read_lines(last, 1).startswith(b"[last")
            for _ in range(100):  # while it is tried again and again
                served_already.sendall(b"V\n")
                assert read_lines(served_already, 1) == b"[V]\n"
        assert read_lines(late, 1).startswith(b"[late")
        held[0].sendall(b"held\n")
        assert read_lines(held[0], 1).startswith(b"[held")
    assert len(log) == 1
    assert "cannot accept a control connection" in log[0]


@pytest.mark.parametrize("kind", [ControlKind.UNIX, ControlKind.CUNIX, ControlKind.TCP])
def test_one_client_after_another_needs_no_free_descriptor(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind
) -> None:
    address = address_of(kind, tmp_path)
    with serving(loop_factory, echo, address) as log, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(family_of(kind), socket.SOCK_STREAM)) for _ in range(20)]
        with descriptor_limit(0), contextlib.ExitStack() as taken:
            take_every_descriptor(taken)
            for number, client in enumerate(clients):
                client.settimeout(DEADLINE_S)
                client.connect(address.path if kind.is_unix else (address.host, address.port))
                if number % 2:
                    client.sendall(b"V\n")
                    assert read_lines(client, 1).startswith(b"[V")
                client.shutdown(socket.SHUT_WR)
                assert read_to_end(client) == b""
    assert log == []


def take_every_descriptor(stack: contextlib.ExitStack) -> None:
    with contextlib.suppress(OSError):
        while True:
            stack.callback(os.close, os.dup(0))


# Whatever arrives, and in whatever pieces


CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from([b"V", b"\n", b"\r\n", b"\0", b" ", b"&&"]), max_size=30).map(b"".join),
        st.integers(8100, 8300).map(lambda size: b"x" * size),
    ),
    max_size=6,
)


def answers(data: bytes) -> bytes:
    """What a line stream answers; beyond a line that is too long, nothing."""
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


@pytest.mark.parametrize("loop_name", LOOP_FACTORIES)
def test_any_bytes_on_lines(tmp_path: Path, loop_name: str) -> None:
    addresses = [address_of(kind, tmp_path) for kind in LINE_KINDS]

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(addresses), CHUNKS)
    def check(address: ControlAddress, chunks: list[bytes]) -> None:
        with connect_to(address) as client:
            send_pieces(client, chunks)
            replies = read_what_comes(client)
        wanted = answers(b"".join(chunks))
        is_dropped = any(len(line) >= 8192 for line in b"".join(chunks).split(b"\n"))
        assert replies == wanted or (is_dropped and wanted.startswith(replies))

    with serving(LOOP_FACTORIES[loop_name], Echo(), *addresses) as log:
        check()
    assert log == []


@pytest.mark.parametrize("loop_name", LOOP_FACTORIES)
def test_any_bytes_on_unix(tmp_path: Path, loop_name: str) -> None:
    """One read is the command: the first piece at least, and as much more as had arrived."""
    path = tmp_path / "s"

    @settings(max_examples=60, deadline=None)
    @given(CHUNKS)
    def check(chunks: list[bytes]) -> None:
        with connect(path) as client:
            send_pieces(client, chunks)
            reply = read_what_comes(client)
        data = b"".join(chunks)
        first = next((chunk for chunk in chunks if chunk), b"")
        assert (reply[:1], reply[-2:]) == ((b"[", b"]\n") if reply else (b"", b""))
        command = reply[1:-2]
        assert data[:8191].startswith(command)
        assert len(command) >= min(len(first), 8191) or (not reply and len(data) > len(first)) or len(data) > 8191

    with serving(LOOP_FACTORIES[loop_name], Echo(), unix(path)) as log:
        check()
    assert log == []


# stdio, stdioc


LOOP_NAMES = pytest.mark.parametrize("loop_name", LOOP_FACTORIES)


@contextlib.contextmanager
def served(loop_name: str, address: str, **streams_of_it) -> Iterator[subprocess.Popen]:
    """A process that serves its standard input, ready; afterwards it must have ended by itself."""
    command = [sys.executable, "-m", "tests.control.served", loop_name, address]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, **streams_of_it)
    try:
        assert process.stderr.readline() == b"ready\n"
        yield process
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@LOOP_NAMES
@pytest.mark.parametrize("kind", ["stdio", "stdioc"])
def test_stdio_pipes(loop_name: str, kind: str) -> None:
    with served(loop_name, f"{kind}:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"one\ntwo\r\n\nthr")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(3)] == [b"[one]\n", b"[two\r]\n", b"[]\n"]
        process.stdin.write(b"ee\nlast without LF")
        process.stdin.close()
        assert process.stdout.read() == b"[three]\n"
        assert process.stderr.read() == b"end of %b\n" % kind.encode()


@LOOP_NAMES
def test_stdio_pipes_that_are_slow(loop_name: str) -> None:
    """More commands than the pipes hold, and nobody reads at first: all are answered in the end."""
    count = 40_000
    with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def send() -> None:
            process.stdin.write(b"command\n" * count)
            process.stdin.close()

        sender = threading.Thread(target=send)
        sender.start()
        wait_for(lambda: is_full(process.stdout), DEADLINE_S, "a full pipe")
        assert process.stdout.read() == b"[command]\n" * count
        sender.join(DEADLINE_S)
        assert not sender.is_alive()


def is_full(pipe: IO[bytes]) -> bool:
    waiting = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
    return waiting > 60_000


@LOOP_NAMES
def test_stdio_files(loop_name: str, tmp_path: Path) -> None:
    """A regular file cannot be waited for, and is read to its end all the same."""
    commands, replies = tmp_path / "commands", tmp_path / "replies"
    commands.write_bytes(b"".join(b"%d\n" % number for number in range(5000)))
    with (
        commands.open("rb") as source,
        replies.open("wb") as target,
        served(loop_name, "stdioc:", stdin=source, stdout=target) as process,
    ):
        assert process.stderr.read() == b"end of stdioc\n"
    assert replies.read_bytes() == b"".join(b"[%d]\n" % number for number in range(5000))


@LOOP_NAMES
def test_stdio_nothing(loop_name: str) -> None:
    with served(loop_name, "stdio:", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        assert process.stderr.read() == b"end of stdio\n"


@LOOP_NAMES
def test_stdio_terminal(loop_name: str) -> None:
    """It is left as it was found: blocking, for the shell that goes on using it."""
    controller, terminal = os.openpty()
    try:
        tty.setraw(terminal)
        with served(loop_name, "stdio:", stdin=terminal, stdout=terminal) as process:
            assert not os.get_blocking(terminal)
            os.write(controller, b"one\n")
            assert os.read(controller, 100) == b"[one]\n"
            process.terminate()
        assert os.get_blocking(terminal)
    finally:
        os.close(controller)
        os.close(terminal)


@LOOP_NAMES
def test_stdio_socket(loop_name: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, served(loop_name, "stdioc:", stdin=theirs, stdout=theirs) as process:
        ours.settimeout(DEADLINE_S)
        ours.sendall(b"one\ntwo\n")
        assert read_lines(ours, 2) == b"[one]\n[two]\n"
        ours.shutdown(socket.SHUT_WR)
        assert process.stderr.read() == b"end of stdioc\n"


@LOOP_NAMES
def test_stdio_reader_that_went_away(loop_name: str) -> None:
    """Replies that nobody reads are the end, too."""
    with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stderr.read() == b"end of stdio\n"


@LOOP_NAMES
def test_stdio_line_limit(loop_name: str) -> None:
    with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"x" * 8191 + b"\n" + b"x" * 8192)
        process.stdin.flush()
        assert process.stdout.read() == b"[%b]\n" % (b"x" * 8191)


@LOOP_NAMES
def test_any_bytes_on_stdio(loop_name: str) -> None:
    @settings(max_examples=8, deadline=None)
    @given(CHUNKS)
    def check(chunks: list[bytes]) -> None:
        with served(loop_name, "stdio:", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            for chunk in chunks:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(chunk)
                    process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            assert process.stdout.read() == answers(b"".join(chunks))
            assert process.stderr.read() == b"end of stdio\n"

    check()
