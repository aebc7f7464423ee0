"""Opening control sockets: what can go wrong, who may connect, and what is left behind (protocol.md 1.1, 1.7)."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import IO

import pytest

from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control.server import ControlServer
from rtpproxy.control.sockets import SocketFile, bind_unix
from rtpproxy.errors import StartError
from tests.activation import activating, descriptors
from tests.control.serving import (
    DEADLINE_S,
    LOOP_FACTORIES,
    Echo,
    LoopFactory,
    ask_once,
    connect,
    datagram_client,
    free,
    free_udp,
    read_to_end,
    serving,
    unix,
)

ROOT = Path(__file__).parents[2]


def start_refusal(*addresses: ControlAddress, bound: Sequence[int] = (), **options) -> str:
    server = ControlServer(addresses, lambda: 0.0, **options)
    with pytest.raises(StartError) as caught:
        asyncio.run(server.open(bound))
    message = str(caught.value)
    assert message.startswith("control socket")
    assert "\n" not in message
    return message


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
    assert "neither a socket nor an empty file" in start_refusal(unix(path))
    assert path.read_text() == "precious"
    assert "neither a socket nor an empty file" in start_refusal(unix(tmp_path))
    path.unlink()
    (tmp_path / "empty").touch()
    path.symlink_to("empty")
    assert "neither a socket nor an empty file" in start_refusal(unix(path))
    assert path.is_symlink()


def test_empty_file_is_replaced(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path, other_name = tmp_path / "s", tmp_path / "other name"
    path.touch(mode=0o600)
    other_name.hardlink_to(path)
    with serving(loop_factory, echo, unix(path)):
        assert ask_once(path, b"V") == b"[V]\n"
    assert other_name.is_file()


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
        (ControlAddress(ControlKind.UDP, host="::1", port=22222), "cannot be resolved to an IPv4 address"),
        (ControlAddress(ControlKind.TCP, host="192.0.2.1", port=22222), "not one of this host"),
        (ControlAddress(ControlKind.TCP6, host="2001:db8::1", port=22222), "not one of this host"),
        (ControlAddress(ControlKind.UDP6, host="127.0.0.1", port=22222), "cannot be resolved to an IPv6 address"),
        (ControlAddress(ControlKind.TCP6, host=":", port=22222), "cannot be resolved"),
        (ControlAddress(ControlKind.UDP6, host="fe80::1%nosuch0", port=22222), "cannot be resolved"),
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


def test_ports_in_use_of_tcp() -> None:
    for kind in (ControlKind.TCP, ControlKind.TCP6, ControlKind.UDP6):
        address = free(kind)

        async def twice(address: ControlAddress = address) -> None:
            first = ControlServer([address], lambda: 0.0)
            await first.open()
            try:
                with pytest.raises(StartError, match="port is in use"):
                    await ControlServer([address], lambda: 0.0).open()
            finally:
                first.close()

        asyncio.run(twice())


# Who may connect


def permissions(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def test_umask_decides(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0o027)
    try:
        with serving(loop_factory, echo, unix(path)):
            assert permissions(path) == (os.getuid(), os.getgid(), 0o750)
    finally:
        os.umask(before)


def test_mode_without_owner(loop_factory: LoopFactory, echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path), mode=0o620):
        assert permissions(path) == (os.getuid(), os.getgid(), 0o620)
        assert ask_once(path, b"V") == b"[V]\n"


@pytest.mark.root
@pytest.mark.parametrize("kind", [ControlKind.UNIX, ControlKind.CUNIX])
def test_owner_and_mode(loop_factory: LoopFactory, echo: Echo, tmp_path: Path, kind: ControlKind) -> None:
    path = tmp_path / "s"
    with serving(loop_factory, echo, unix(path, kind), owner=(4321, 8765), mode=0o770):
        assert permissions(path) == (4321, 8765, 0o770)


@pytest.mark.root
def test_owner_that_cannot_be_given_leaves_nothing() -> None:
    """The kernel refuses that to anybody but root. The file is removed again."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chown(directory, 4321, 4321)
        path = f"{directory}/s"
        os.seteuid(4321)
        try:
            message = start_refusal(unix(Path(path)), owner=(0, 0))
        finally:
            os.seteuid(0)
        assert message == f"control socket unix:{path}: its owner cannot be set: permission denied"
        assert os.listdir(directory) == []


@pytest.mark.root
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_can_connect_before_owner_and_mode_are_set(tmp_path: Path, umask: int) -> None:
    """Looked at after every single call: the file never has another mode, and the socket listens last."""
    path = tmp_path / "s"
    seen = []

    def look(*_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = permissions(path)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                seen.append((found, client.connect_ex(str(path))))

    before = os.umask(umask)
    sys.setprofile(look)
    try:
        opened, _ = bind_unix(unix(path), (4321, 8765), 0o660, lambda _: False)
    finally:
        sys.setprofile(None)
        assert os.umask(before) == umask
    opened.close()
    roots, owners = (0, 0, 0o660), (4321, 8765, 0o660)
    states = [(roots, errno.ECONNREFUSED), (owners, errno.ECONNREFUSED), (owners, 0)]
    assert list(dict.fromkeys(seen)) == states


def exchange(kind: str, path: Path, secret: Path, other: socket.socket) -> None:
    """Put another file in the place of a socket file, as somebody can who may write to the directory."""
    path.rename(path.parent / "kept")  # so that its inode is not used again
    match kind:
        case "link":
            path.symlink_to(secret)
        case "file":
            path.hardlink_to(secret)
        case "socket":
            other.bind(str(path))
        case "second name of a socket":
            other.bind(f"{path}-other")
            path.hardlink_to(f"{path}-other")


KINDS = ["link", "file", "socket", "second name of a socket"]


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_owner_is_never_that_of_another_file(tmp_path: Path, kind: str) -> None:
    """As when somebody else who may write to the directory exchanges the file before it gets its owner."""
    path, secret = tmp_path / "s", tmp_path / "secret"
    secret.write_text("")
    secret.chmod(0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened, socket.socket(socket.AF_UNIX) as other:
        opened.bind(str(path))
        exchange(kind, path, secret, other)
        before = permissions(path)
        with pytest.raises(OSError, match="taken the path"):
            SocketFile(str(path), opened, (4321, 8765))
        assert permissions(path) == before


# Sockets that are bound already


def test_socket_that_is_bound_already_is_served_and_stays(loop_factory: LoopFactory, echo: Echo) -> None:
    """What comes once the server has closed its sockets is not refused."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for opened in (bound, elsewhere):
            opened.bind(("127.0.0.1", 0))
        client.connect(bound.getsockname())
        address = ControlAddress(ControlKind.UDP, host="127.0.0.1", port=bound.getsockname()[1])
        descriptors_of_both = [elsewhere.fileno(), bound.fileno()]
        with serving(loop_factory, echo, address, bound=descriptors_of_both):
            client.settimeout(DEADLINE_S)
            client.send(b"c V")
            assert client.recv(100) == b"c [ V]\n"
        client.send(b"d V")
        client.send(b"e V")
        assert bound.recv(100, socket.MSG_DONTWAIT) == b"d V"


def test_socket_that_is_bound_elsewhere_is_not_served(loop_factory: LoopFactory, echo: Echo) -> None:
    """Neither that of another family on the port, nor that of another address."""
    address = replace(free(ControlKind.UDP6), host="")
    with contextlib.ExitStack() as stack:
        bound = []
        for host in ("127.0.0.1", "127.0.0.2"):
            opened = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            opened.bind((host, address.port))
            bound.append(opened.fileno())
        ask = None
        with serving(loop_factory, echo, address, bound=bound):
            ask = stack.enter_context(datagram_client(replace(address, host="::1")))
            assert ask(b"c V") == b"c [ V]\n"


def test_address_that_is_given_twice_is_refused_though_it_is_bound_already() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        address = ControlAddress(ControlKind.UDP, host="127.0.0.1", port=bound.getsockname()[1])
        assert start_refusal(address, address, bound=[bound.fileno()]).endswith(": the port is in use")


# Socket activation


@pytest.mark.parametrize("loop_name", LOOP_FACTORIES)
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
def test_passed_socket_is_served(loop_name: str, family: socket.AddressFamily, tmp_path: Path) -> None:
    """One command a connection, as on `unix:`; a dual-stack socket names an IPv4 host as IPv4."""
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "s") if family == socket.AF_UNIX else ("", 0))
        listening.listen()
        with activated(loop_name, listening) as process:
            assert process.stderr.readline() == "ready\n"
            for _ in range(2):
                assert ask_listening(listening) == {socket.AF_UNIX: b"[V]\n"}.get(family, b"[V]127.0.0.1\n")
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        assert ask_is_accepted_still(listening)


@pytest.mark.parametrize("loop_name", LOOP_FACTORIES)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_passed_datagram_socket_is_served(loop_name: str, family: socket.AddressFamily) -> None:
    """A dual-stack socket names an IPv4 host as IPv4. What waits when the relay stops is its successor's."""
    with socket.socket(family, socket.SOCK_DGRAM) as passed, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        passed.bind(("", 0))
        client.connect(("127.0.0.1", passed.getsockname()[1]))
        client.settimeout(DEADLINE_S)
        for cookie in (b"first", b"second"):
            client.send(cookie + b" V")
            with activated(loop_name, passed) as process:
                assert client.recv(100) == cookie + b" [ V]127.0.0.1\n"
                process.terminate()
                assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("loop_name", LOOP_FACTORIES)
def test_all_passed_sockets_are_served(loop_name: str, tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        stream.bind(str(tmp_path / "s"))
        datagrams.bind(("127.0.0.1", 0))
        for listening in (stream, other):
            listening.listen()
        client.connect(datagrams.getsockname())
        client.settimeout(DEADLINE_S)
        with activated(loop_name, stream, datagrams, other):
            client.send(b"c V")
            assert client.recv(100) == b"c [ V]127.0.0.1\n"
            assert [ask_listening(one) for one in (stream, other)] == [b"[V]\n", b"[V]127.0.0.1\n"]


def ask_listening(listening: socket.socket) -> bytes:
    """Over IPv4 unless it is a Unix socket."""
    is_unix = listening.family == socket.AF_UNIX
    with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE_S)
        name = listening.getsockname()
        client.connect(name if is_unix else ("127.0.0.1", name[1]))
        client.sendall(b"V")
        return read_to_end(client)


def ask_is_accepted_still(listening: socket.socket) -> bool:
    """The service manager keeps the socket: connections wait there for the next start."""
    is_unix = listening.family == socket.AF_UNIX
    with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_STREAM) as client:
        name = listening.getsockname()
        return client.connect_ex(name if is_unix else ("127.0.0.1", name[1])) == 0


@contextlib.contextmanager
def activated(loop_name: str, *passed: IO | socket.socket, count: str = "", pid: str = "") -> Iterator[Popen]:
    """A process that got sockets as from a service manager; count and pid are right unless given."""
    served = [sys.executable, "-m", "tests.control.served", loop_name, "systemd:"]
    process = Popen(
        [*activating(passed, count, pid), *served],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=descriptors(passed),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def activation_refusal(*passed: IO | socket.socket, count: str = "", pid: str = "") -> str:
    with activated("asyncio", *passed, count=count, pid=pid) as process:
        message = process.stderr.read()
        assert process.wait(DEADLINE_S) == 1
    return message


def no_use(descriptor: int) -> str:
    return f"control socket systemd:: descriptor {descriptor} is neither a listening stream socket nor a UDP socket\n"


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_no_socket_passed(count: str) -> None:
    message = "control socket systemd:: the service manager passed no socket (LISTEN_FDS)\n"
    assert activation_refusal(count=count) == message


def test_passed_socket_is_not_there() -> None:
    """Without passed sockets, descriptor 3 belongs to the event loop."""
    assert activation_refusal(count="1") == no_use(3)


@pytest.mark.parametrize("pid", ["1", "x"])
def test_passed_socket_is_for_somebody_else(pid: str) -> None:
    message = "control socket systemd:: the socket was passed to another process (LISTEN_PID); a daemon needs -f here\n"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.listen()
        assert activation_refusal(listening, pid=pid) == message


def test_passed_socket_is_of_no_use(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as not_listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as not_bound,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix_datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        open(os.devnull) as file,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening,
    ):
        unix_datagrams.bind(str(tmp_path / "datagrams"))
        packets.bind("")
        for opened in (packets, listening):
            opened.listen()
        for passed in (not_listening, not_bound, unix_datagrams, packets, file):
            assert activation_refusal(passed) == no_use(3)
            assert activation_refusal(listening, passed) == no_use(4)


def test_what_can_be_given_once_only() -> None:
    once = [ControlAddress(kind) for kind in (ControlKind.SYSTEMD, ControlKind.STDIO, ControlKind.STDIOC)]
    for pair in [(once[0], once[0]), (once[1], once[2]), (once[2], once[2])]:
        assert "once only" in start_refusal(*pair)
