"""Clients against servers that are written for it, as the real relay never loses a command."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from generator.addresses import ControlAddress
from generator.control import SENDS, Clients, NoAnswerError, connect

from tests.waiting import DEADLINE_S

SHORT_S = 0.5
"""For what does not answer at all."""


@contextlib.contextmanager
def served(serve: Callable[[], None]) -> Iterator[None]:
    """Run a server beside the test; it ends by itself."""
    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def datagrams():
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("127.0.0.1", 0))
    opened.settimeout(DEADLINE_S)
    return opened, ControlAddress("udp", "127.0.0.1", opened.getsockname()[1])


def test_a_datagram_that_is_lost_is_sent_again_with_its_cookie():
    server, address = datagrams()
    heard = []

    def serve():
        for _ in range(3):
            data, sender = server.recvfrom(100)
            heard.append(data)
        server.sendto(data.split()[0] + b" 20040107\n", sender)

    with server, served(serve), Clients([address], 5) as clients:
        assert clients[0].ask("V") == "20040107"
    assert len(heard) == 3
    assert len(set(heard)) == 1


def test_replies_to_others_are_passed_over():
    server, address = datagrams()

    def serve():
        data, sender = server.recvfrom(100)
        server.sendto(b"cookie 1\n", sender)
        server.sendto(data.split()[0] + b" 35000 10.0.0.1\n", sender)

    with server, served(serve), Clients([address], DEADLINE_S) as clients:
        assert clients[0].ask("U c 1.2.3.4 5 f") == "35000 10.0.0.1"


def test_no_answer_to_a_datagram():
    server, address = datagrams()
    with server, Clients([address], SHORT_S) as clients:
        with pytest.raises(NoAnswerError, match="no answer to 'V'"):
            clients[0].ask("V")
        server.setblocking(False)
        cookies = {server.recv(100) for _ in range(SENDS)}
    assert len(cookies) == 1


def test_lines_on_one_connection():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = ControlAddress("tcp", "127.0.0.1", listener.getsockname()[1], is_line_stream=True)
        heard = []

        def serve():
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as lines:
                for reply in (b"20040107\n", b"streams by XDP: 2\n", b"0\n"):
                    heard.append(lines.readline())
                    lines.write(reply)
                    if reply.startswith(b"streams"):
                        lines.write(b"streams by userspace: 0\n")
                    lines.flush()

        with served(serve), Clients([address], DEADLINE_S) as clients:
            assert [clients[0].ask(command) for command in ("V", "It", "D c f t")] == [
                "20040107",
                "streams by XDP: 2\nstreams by userspace: 0",
                "0",
            ]
    assert heard == [b"V\n", b"It\n", b"D c f t\n"]


@pytest.mark.parametrize("is_line_stream", [True, False])
def test_a_connection_that_is_closed(tmp_path, is_line_stream):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve():
            with listener.accept()[0] as connection:
                connection.recv(100)

        client = connect(ControlAddress("unix", path=path, is_line_stream=is_line_stream), DEADLINE_S)
        with served(serve), pytest.raises(NoAnswerError, match="closed"):
            client.ask("V")
        client.close()


def test_a_relay_that_is_silent(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(NoAnswerError, match=f"unix:{path}: no answer to 'V'"):
            connect(ControlAddress("unix", path=path), SHORT_S).ask("V")


def test_nobody_listens(tmp_path):
    with pytest.raises(NoAnswerError, match="could not be sent"):
        connect(ControlAddress("unix", path=str(tmp_path / "s")), DEADLINE_S).ask("V")


def test_calls_take_turns(tmp_path):
    addresses = [ControlAddress("unix", path=str(tmp_path / name)) for name in "ab"]
    with Clients(addresses, DEADLINE_S) as clients:
        assert [clients.of_call(call) for call in range(3)] == [clients[0], clients[1], clients[0]]
