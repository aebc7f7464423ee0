"""One command a line, with real clients on connections (protocol.md 1.3). Each test runs on both event loops."""

import contextlib
import itertools
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtpproxy.config import ControlAddress, ControlKind
from tests.control.serving import (
    CHUNKS,
    DEADLINE_S,
    LINE_KINDS,
    LOOP_FACTORIES,
    Echo,
    LoopFactory,
    address_of,
    answers,
    connect,
    connect_to,
    cunix,
    read_lines,
    read_to_end,
    read_what_comes,
    send_pieces,
    serving,
)
from tests.waiting import wait_for


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
    """Its replies fill the socket: its commands are read no more, others are served, and nothing is lost in the end."""
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


def test_flood_takes_turns_with_others(loop_factory: LoopFactory, tmp_path: Path) -> None:
    """A command of another client is executed among the thousands of a flood, not after them."""
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
    """Each of several floods gets its share all the time. The lines all fit into the sockets before anybody reads."""
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
