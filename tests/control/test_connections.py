"""Control connections, with real clients (protocol.md 1.2, 1.3). Each test runs on both event loops."""

import contextlib
import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from rtpproxy.addr import parse_network
from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control import connections
from tests.control.serving import (
    CHUNKS,
    DEADLINE_S,
    LOOP_FACTORIES,
    Echo,
    LoopFactory,
    address_of,
    ask_once,
    connect,
    connect_to,
    cunix,
    family_of,
    free,
    read_lines,
    read_to_end,
    read_what_comes,
    send_pieces,
    serving,
    unix,
)
from tests.waiting import wait_for

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
    monkeypatch.setattr(connections, "MAX_CLIENTS", 2)
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


# cunix, tcp


def test_cunix_one_client_too_many(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CLIENTS", 1)
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


def test_tcp_starts_again_on_the_same_port(loop_factory: LoopFactory, echo: Echo) -> None:
    """Although the server's end of a dropped connection is in TIME_WAIT."""
    address = free(ControlKind.TCP)
    for _ in range(2):
        with serving(loop_factory, echo, address), connect_to(address) as client:
            client.sendall(b"x" * 8192)
            assert read_to_end(client) == b""


def test_tcp_connections_answer_at_once_and_notice_the_dead(loop_factory: LoopFactory, echo: Echo) -> None:
    """Replies are sent at once (TCP_NODELAY), and a vanished controller is noticed (keepalive)."""
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
    """The server's end of a connection within this process."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as found:
            if found.getpeername() == client.getsockname():
                return found.dup()
    raise AssertionError("no such connection")


@pytest.mark.parametrize("kind", [ControlKind.TCP, ControlKind.TCP6])
def test_tcp_from_hosts_that_are_not_admitted(loop_factory: LoopFactory, echo: Echo, kind: ControlKind) -> None:
    """Their connections are closed at once, however many there are, and take no place from the admitted."""
    address = free(kind)
    other = "192.0.2.0/24" if kind is ControlKind.TCP else "2001:db8::/32"
    with serving(loop_factory, echo, address, allowed=(parse_network(other),)) as log:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            with connect_to(address) as stranger:
                assert read_what_comes(stranger) == b""
        wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, DEADLINE_S, "descriptors closed")
    assert log[0] == (
        f"control: commands ignored: 1; the last one from {address.host}, which no --control-allow admits"
    )
    with serving(loop_factory, echo, address, allowed=(parse_network(address.host),)), connect_to(address) as client:
        client.sendall(b"V\n")
        assert read_lines(client, 1) == b"[V]\n"
    assert echo.commands == [b"V"]


def test_unix_is_not_subject_to_addresses(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    once, lines = tmp_path / "1", tmp_path / "2"
    with serving(loop_factory, echo, unix(once), cunix(lines), allowed=(parse_network("192.0.2.1"),)):
        assert ask_once(once, b"V") == b"[V]\n"
        with connect(lines) as client:
            client.sendall(b"V\n")
            assert read_lines(client, 1) == b"[V]\n"


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
    """Send commands as fast as the socket takes them."""
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
    """Others on the same control socket, and on another one, get the reply to each command at once."""
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
    """A client gets one read only: the rest of a command that is sent in pieces is ignored."""
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path)), connect(path) as client:
        client.send(b"V")
        assert read_to_end(client) == b"[V]\n"


# When no descriptor is left


def descriptor_limit(count: int) -> contextlib.AbstractContextManager[None]:
    """Allow so many descriptors more than are open now."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    return files_allowed(highest + 1 + count)


@pytest.mark.parametrize("kind", [ControlKind.UNIX, ControlKind.CUNIX, ControlKind.TCP])
def test_out_of_descriptors(
    loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client is accepted. The next waits until a descriptor is free; one line in the log says so."""
    monkeypatch.setattr(connections, "ACCEPT_PAUSE_S", 0.0001)
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


# Any bytes, in any pieces


@pytest.mark.parametrize("loop_name", LOOP_FACTORIES)
def test_any_bytes_on_unix(tmp_path: Path, loop_name: str) -> None:
    """One read is the command: at least the first piece, and what else has arrived by then."""
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
