"""Commands as datagrams, with real clients (protocol.md 1.4). Each test runs on both event loops."""

import collections
import contextlib
import socket
import struct
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtpproxy.addr import parse_network
from rtpproxy.cli.arguments import parse_control_address
from rtpproxy.config import ControlAddress, ControlKind
from rtpproxy.control.datagrams import TURNS
from tests.control.serving import (
    DEADLINE_S,
    LOOP_FACTORIES,
    Echo,
    LoopFactory,
    connect_to,
    datagram_client,
    free,
    free_udp,
    serving,
)
from tests.running import own_namespace
from tests.waiting import wait_for

SO_RCVBUFFORCE = 33


@pytest.mark.parametrize(
    ("datagram", "reply"),
    [
        (b"c1 V", b"c1 [ V]\n"),
        (b" \tc2\tV\n", b"c2 [\tV\n]\n"),
        (b"c3", b"c3 []\n"),
        (b"", b"[]\n"),
        (b" \r\n", b"[]\n"),
        (b"c\x004 V", b"[]\n"),
        (b"x" * 999 + b" V", b"x" * 999 + b" [ V]\n"),
        (b"x" * 1000 + b" V", b"[]\n"),
        (b"x" * 9000, b"[]\n"),
        (b"c5 " + b"x" * 9000, b"c5 [ " + b"x" * (8191 - 3) + b"]\n"),
    ],
)
def test_udp_cookie(loop_factory: LoopFactory, echo: Echo, datagram: bytes, reply: bytes) -> None:
    address = free_udp()
    with serving(loop_factory, echo, address), datagram_client(address) as ask:
        assert ask(datagram) == reply


def test_udp_unusable_cookies_are_empty_commands(loop_factory: LoopFactory, echo: Echo) -> None:
    """They are executed each time, so that they are counted, and their replies are not kept."""
    address = free_udp()
    with serving(loop_factory, echo, address), datagram_client(address) as ask:
        for _ in range(2):
            assert ask(b"") == b"[]\n"
            assert ask(b"c\0 V") == b"[]\n"
    assert echo.commands == [b""] * 4
    assert echo.duplicates == 0


def test_udp_repeats_by_sender_and_cookie(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free_udp()
    with serving(loop_factory, echo, address), datagram_client(address) as ask:
        echo.reply = b"E0\n"
        assert ask(b"c1 Z") == b"c1 E0\n"
        echo.reply = b"other\n"
        assert ask(b"c1 V") == b"c1 E0\n"
        with datagram_client(address) as ask_elsewhere:
            assert ask_elsewhere(b"c1 V") == b"c1 other\n"
        assert ask(b"c1 V") == b"c1 E0\n"
        assert (echo.duplicates, len(echo.commands)) == (2, 2)
        echo.now = 38.0
        assert ask(b"c1 V") == b"c1 other\n"
    assert (echo.duplicates, len(echo.commands)) == (2, 3)
    assert echo.hosts == ["127.0.0.1"] * 3


def test_udp6(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free(ControlKind.UDP6)
    with serving(loop_factory, echo, address), datagram_client(address) as ask:
        assert ask(b"c1 V") == b"c1 [ V]\n"
        assert ask(b"c1 V") == b"c1 [ V]\n"
    assert (echo.hosts, echo.duplicates) == (["::1"], 1)


def test_both_families_on_one_port(loop_factory: LoopFactory, echo: Echo) -> None:
    """An IPv6 socket on all addresses receives nothing over IPv4."""
    port = free_udp().port
    addresses = [ControlAddress(kind, port=port) for kind in (ControlKind.UDP6, ControlKind.UDP)]
    with (
        serving(loop_factory, echo, *addresses),
        datagram_client(ControlAddress(ControlKind.UDP, host="127.0.0.1", port=port)) as ask,
        datagram_client(ControlAddress(ControlKind.UDP6, host="::1", port=port)) as ask6,
    ):
        assert ask(b"c V") == ask6(b"c V") == b"c [ V]\n"
    assert echo.hosts == ["127.0.0.1", "::1"]


def test_udp_from_hosts_that_are_not_admitted(loop_factory: LoopFactory, echo: Echo) -> None:
    """They get no answer, not even one that was given already, and the admitted controller is served all the same."""
    address = free_udp()
    allowed = (parse_network("127.0.0.1"),)
    with (
        serving(loop_factory, echo, address, allowed=allowed) as log,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        datagram_client(address) as ask,
    ):
        stranger.bind(("127.0.0.2", 0))
        stranger.setblocking(False)
        assert ask(b"c1 V") == b"c1 [ V]\n"
        for datagram in (b"c1 V", b"c2 X", b"", b"\0") * (TURNS + 1):
            stranger.sendto(datagram, (address.host, address.port))
        assert ask(b"c2 V") == b"c2 [ V]\n"
        with pytest.raises(BlockingIOError):
            stranger.recv(100)
    assert echo.commands == [b" V", b" V"]
    assert echo.duplicates == 0
    assert log[0] == "control: commands ignored: 1; the last one from 127.0.0.2, which no --control-allow admits"
    assert len(log) == 6


def test_udp6_from_hosts_that_are_not_admitted(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free(ControlKind.UDP6)
    for network, is_admitted in (("::1", True), ("2001:db8::/32", False)):
        with (
            serving(loop_factory, echo, address, allowed=(parse_network(network),)) as log,
            connect_to(address) as client,
        ):
            client.send(b"c1 V")
            if is_admitted:
                assert client.recv(100) == b"c1 [ V]\n"
            else:
                wait_for(lambda log=log: log, DEADLINE_S, "the command to be ignored")
    assert echo.commands == [b" V"]


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
    with serving(loop_factory, echo, address) as log, datagram_client(address) as ask:
        echo.reply = b"x" * 70000
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"c1 V", (address.host, address.port))
        wait_for(lambda: echo.commands, DEADLINE_S, "the command")
        echo.reply = None
        assert ask(b"c2 V") == b"c2 [ V]\n"
        assert "could not be sent: 1;" in log[0]


@pytest.mark.root
@pytest.mark.kernel
def test_full_socket_drops_that_reply_only(loop_factory: LoopFactory, echo: Echo) -> None:
    """Replies to a neighbour that does not exist wait for its hardware address until nothing more fits the socket.

    What is asked meanwhile is executed; the reply is kept, and given when the command is repeated.
    """
    with own_namespace():
        set_up_link_without_neighbours()
        address = ControlAddress(ControlKind.UDP, port=22222)
        with serving(loop_factory, echo, address) as log, connect_to(replace(address, host="127.0.0.1")) as client:
            client.settimeout(0.01)
            echo.reply = b"x" * 1000 + b"\n"
            number = 0
            while not log:  # no reply was refused so far
                number += 1
                assert number < 5000
                spoof(b"dead%d V" % number)
                wait_for(lambda sent=number: len(echo.commands) == sent, DEADLINE_S, "the command")
            echo.reply = None
            client.send(b"c1 V")
            wait_for(lambda: b" V" in echo.commands[number:], DEADLINE_S, "the command")
            with pytest.raises(TimeoutError):
                client.recv(100)
            ask_again = wait_for(lambda: repeat(client, b"c1 V"), DEADLINE_S, "the reply, once there is room")
            assert ask_again == b"c1 [ V]\n"
        assert len(echo.commands) == number + 1
        assert echo.duplicates >= 1
        assert "Resource temporarily unavailable" in log[0]
        assert len(log) < 12


@pytest.mark.root
@pytest.mark.kernel
@pytest.mark.parametrize("kind", [ControlKind.UDP6, ControlKind.TCP6])
def test_link_local_controller(loop_factory: LoopFactory, echo: Echo, kind: ControlKind) -> None:
    """Its host has no zone, and it gets its replies."""
    with own_namespace():
        set_up_link_without_neighbours()
        subprocess.run(["ip", "addr", "add", "fe80::77/64", "dev", "v0", "nodad"], check=True)
        address = parse_control_address(f"{kind.value}:fe80::77%v0:9000")
        with serving(loop_factory, echo, address), connect_to(address) as client:
            client.settimeout(0.1)
            # The interface has just come up, and may still lose datagrams.
            reply = wait_for(lambda: repeat(client, b"c1 V\n"), DEADLINE_S, "the reply")
            assert reply == (b"c1 [ V\n]\n" if kind.is_datagram else b"[c1 V]\n")
    assert echo.hosts[:1] == ["fe80::77"]


def set_up_link_without_neighbours() -> None:
    for arguments in (
        "link add v0 type veth peer name v1",
        "addr add 192.0.2.1/24 dev v0",
        "link set v1 up",
        "link set v0 up",
    ):
        subprocess.run(["ip", *arguments.split()], check=True)
    Path("/proc/sys/net/ipv4/neigh/v0/unres_qlen_bytes").write_text(str(16 << 20))
    for name in ("all", "lo"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")


def spoof(datagram: bytes) -> None:
    """Send a command to the relay in the name of 192.0.2.99, port 4000, which does not exist."""
    source, target = socket.inet_aton("192.0.2.99"), socket.inet_aton("192.0.2.1")
    udp = struct.pack("!HHHH", 4000, 22222, 8 + len(datagram), 0) + datagram
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, source, target)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(ip + udp, ("192.0.2.1", 0))


def repeat(client: socket.socket, datagram: bytes) -> bytes:
    client.send(datagram)
    try:
        return client.recv(100)
    except TimeoutError:
        return b""


class HeldUp(Echo):
    """Executes nothing until a test says so; what is sent until then waits in the socket."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def on_command(self, text: bytes, now: float, host: str) -> bytes:
        assert self.go_on.wait(DEADLINE_S)
        return super().on_command(text, now, host)


SENDERS, COMMANDS = 5, 2000
RESEND_S = 0.2
"""Without any reply, what was sent and not answered is sent again."""


@pytest.mark.root
def test_ten_thousand_commands_in_flight(loop_factory: LoopFactory) -> None:
    """From several sockets: each is executed once and answered once, in the order of each sender.

    Root, since buffers of the usual size hold a few hundred.
    """
    address, echo = free_udp(), HeldUp()
    with serving(loop_factory, echo, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect_to(address)) for _ in range(SENDERS)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        for number in range(COMMANDS):
            for index, client in enumerate(clients):
                client.send(b"c%d %d" % (number, 100_000 * index + number))
        echo.go_on.set()
        for index, client in enumerate(clients):
            replies = [client.recv(100) for _ in range(COMMANDS)]
            assert replies == [b"c%d [ %d]\n" % (number, 100_000 * index + number) for number in range(COMMANDS)]
        for client in clients:
            client.send(b"last")
            assert client.recv(100) == b"last []\n", "answered twice"
    for index in range(SENDERS):
        mine = [int(text) for text in echo.commands if text and int(text) // 100_000 == index]
        assert mine == list(range(100_000 * index, 100_000 * index + COMMANDS))
    assert echo.duplicates == 0


def test_what_is_repeated_is_executed_once(loop_factory: LoopFactory, echo: Echo) -> None:
    """Repeated at once, or because buffers of usual size lost commands or replies."""
    address = free_udp()
    with serving(loop_factory, echo, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect_to(address)) for _ in range(SENDERS)]
        for number in range(COMMANDS):
            for index, client in enumerate(clients):
                for _ in range(1 if number % 10 else 2):
                    client.send(b"c%d %d" % (number, 100_000 * index + number))
        for index, client in enumerate(clients):
            check_answers(client, index)
    expected = [100_000 * index + number for index in range(SENDERS) for number in range(COMMANDS)]
    assert sorted(map(int, echo.commands)) == expected


def check_answers(client: socket.socket, index: int) -> None:
    """Every command is answered by its own reply, no more often than it was sent; what was lost is sent again."""
    texts = {b"c%d" % number: b"%d" % (100_000 * index + number) for number in range(COMMANDS)}
    open_ends = collections.Counter({cookie: 1 if int(cookie[1:]) % 10 else 2 for cookie in texts})
    missing = set(texts)
    client.settimeout(RESEND_S)
    rounds = round(DEADLINE_S / RESEND_S)
    while missing and rounds:
        try:
            cookie, _, reply = client.recv(2048).partition(b" ")
        except TimeoutError:
            rounds -= 1
            for lost in missing:
                client.send(b"%b %b" % (lost, texts[lost]))
            open_ends.update(missing)
            continue
        assert reply == b"[ %b]\n" % texts[cookie]
        missing.discard(cookie)
        open_ends[cookie] -= 1
    assert missing == set()
    assert min(open_ends.values()) >= 0


def test_a_burst_that_fits_is_executed_in_order(loop_factory: LoopFactory, echo: Echo) -> None:
    address = free_udp()
    with serving(loop_factory, echo, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect_to(address)) for _ in range(4)]
        for number in range(50):
            for index, client in enumerate(clients):
                client.send(b"c%d %d" % (number, 100 * index + number))
                client.send(b"c%d %d" % (number, 100 * index + number))
        for index, client in enumerate(clients):
            replies = [client.recv(100) for _ in range(100)]
            assert replies == [b"c%d [ %d]\n" % (number // 2, 100 * index + number // 2) for number in range(100)]
    assert len(echo.commands) == echo.duplicates == 200


@pytest.mark.parametrize("loop_name", LOOP_FACTORIES)
def test_any_datagram_has_one_answer(loop_name: str) -> None:
    addresses, echo = [free(ControlKind.UDP), free(ControlKind.UDP6)], Echo()
    blank = st.text(" \t\r\n", max_size=3).map(str.encode)
    answers: dict[tuple[ControlAddress, tuple[str, int], bytes], set[bytes]] = {}

    @settings(max_examples=100, deadline=None)
    @given(
        st.sampled_from(addresses),
        st.one_of(st.binary(max_size=100), st.tuples(blank, st.binary(max_size=1100), blank).map(b"".join)),
    )
    def check(address: ControlAddress, datagram: bytes) -> None:
        token, command = split(datagram)
        is_usable = 0 < len(token) < 1000 and b"\0" not in token
        with connect_to(address) as client:
            client.send(datagram)
            # A client that happens to have the port and the cookie of an earlier one gets the reply to that one.
            own = client.getsockname()[:2]
            possible = answers.setdefault((address, own, token if is_usable else b""), set())
            possible.add(b"%b [%b]\n" % (token, command) if is_usable else b"[]\n")
            assert client.recv(65536) in possible

    with serving(LOOP_FACTORIES[loop_name], echo, *addresses) as log:
        check()
    assert log == []


def split(datagram: bytes) -> tuple[bytes, bytes]:
    """Cookie and command of a datagram, found in the simplest way."""
    start = 0
    while datagram[start : start + 1] in (b" ", b"\t", b"\r", b"\n"):
        start += 1
    end = start
    while end < len(datagram) and datagram[end : end + 1] not in (b" ", b"\t", b"\r", b"\n"):
        end += 1
    return datagram[start:end], datagram[end:]
