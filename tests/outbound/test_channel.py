"""Channels to real listeners. Each test runs on both event loops."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.outbound import channel as channel_module
from rtpproxy.outbound.backlog import Backlog
from rtpproxy.outbound.channel import Address, Channel
from tests.outbound.listeners import Running, Side, tags, texts
from tests.waiting import DEADLINE_S, wait_for

MAX_MESSAGES, MAX_BYTES = 20_000, 2 << 20


class Sender:
    """A channel on a running loop."""

    def __init__(self, running: Running, address: Address) -> None:
        self._running = running
        self.call = running.call
        self.channel = Channel(running.loop, address, "receiver", Backlog(MAX_MESSAGES, MAX_BYTES))
        running.at_end.callback(self.channel.close)

    @property
    def ticks(self) -> int:
        return self._running.ticks

    def send(self, *texts: bytes) -> None:
        """Push each as a line, all in one round of the loop."""

        def burst():
            for text in texts:
                self.channel.push(text + b"\n")

        self.call(burst)

    def waiting(self) -> int:
        return self.call(lambda: self.channel.waiting)

    def is_idle(self) -> bool:
        """No connection is open or being opened."""
        return self.call(lambda: self.channel._socket is None)


@pytest.fixture
def sender_to(running: Running) -> Callable[[Address], Sender]:
    return lambda address: Sender(running, address)


@pytest.fixture
def sender(sender_to, side: Side) -> Sender:
    return sender_to(side.address)


@pytest.fixture
def tcp_sender(sender_to, tcp_side: Side) -> Sender:
    return sender_to(tcp_side.address)


@pytest.fixture
def unix_sender(sender_to, unix_side: Side) -> Sender:
    return sender_to(unix_side.address)


def full_listener(controllers, backlog_filler):
    """A TCP port whose host answers no SYN: its queue, of one connection, is full, and nobody accepts."""
    controller = controllers(socket.AF_INET, ("127.0.0.1", 0), backlog=0)
    backlog_filler.append(socket.create_connection(("127.0.0.1", controller.port), DEADLINE_S))

    def is_full():
        """Whether the receive queue of the listening socket, the fifth field, holds a connection."""
        table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        return any(line[1].endswith(f":{controller.port:04X}") and line[4].endswith(":00000001") for line in table)

    wait_for(is_full, DEADLINE_S, "a full queue")
    return controller


def test_nothing_is_opened_before_there_is_something_to_say(sender, side):
    side.controller.listening.setblocking(False)
    sender.call(lambda: None)
    with pytest.raises(BlockingIOError):
        side.controller.accept()


def test_listener_that_comes_back_gets_what_comes_after(sender, side, caplog):
    side.stop()
    sender.send(b"lost")
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    side.listen()
    sender.send(b"arrives")
    assert side.controller.accept().lines(1) == [b"arrives\n"]


def test_restart_of_the_listener_loses_nothing(sender, side):
    sender.send(b"before")
    client = side.controller.accept()
    assert client.lines(1) == [b"before\n"]
    client.close()
    side.stop()
    wait_for(sender.is_idle, DEADLINE_S, "the end of the connection to be noticed")
    side.listen()
    sender.send(b"after")
    assert side.controller.accept().lines(1) == [b"after\n"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_message_into_a_connection_just_closed_is_sent_again(sender, side, how):
    """The channel sees the end of the connection in the same round of the loop in which it has a message."""
    sender.send(b"before")
    client = side.controller.accept()
    client.lines(1)

    def close_and_push():
        getattr(client, how)()
        sender.channel.push(b"after\n")

    sender.call(close_and_push)
    assert side.controller.accept().lines(1) == [b"after\n"]


def test_unacknowledged_message_is_sent_again(tcp_sender, tcp_side):
    """It was written before the end of the connection showed, and the other host never took it."""
    tcp_sender.send(b"before")
    client = tcp_side.controller.accept()
    client.lines(1)

    def write_blindly():
        """Do as `_proceed`, with the connection breaking between its read and its write."""
        channel = tcp_sender.channel
        client.close()
        channel.push(b"after\n")
        channel._soon.cancel()
        channel._soon = None
        channel._write()
        assert channel.waiting == 0

    tcp_sender.call(write_blindly)
    assert tcp_side.controller.accept().lines(1) == [b"after\n"]


def test_message_is_not_sent_again_after_it_was_acknowledged(sender, side):
    sender.send(b"one")
    client = side.controller.accept()
    assert client.lines(1) == [b"one\n"]
    client.close()
    sender.send(b"two")
    second = side.controller.accept()
    assert second.lines(1) == [b"two\n"]
    sender.call(sender.channel.close)
    assert second.rest() == b""


def test_target_that_hangs_up_on_every_connection_is_tried_four_times(tcp_sender, tcp_side, caplog):
    count = 0
    # So small that the target can never take what the queue holds, and closes with it unread.
    tcp_side.controller.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    message = b"x" * (1 << 20)

    def hang_up():
        nonlocal count
        with contextlib.suppress(OSError):
            while True:
                tcp_side.controller.accept().reset()
                count += 1

    thread = threading.Thread(target=hang_up)
    thread.start()
    tcp_sender.send(message)
    line = wait_for(lambda: [text for text in texts(caplog) if "dropped" in text], DEADLINE_S, "the line in the log")[0]
    tcp_side.controller.listening.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE_S)
    assert line.startswith("receiver: 4 connections broke, the last one: ")
    assert line.endswith("; messages dropped: 1")
    assert count == 4


def test_message_that_was_half_written_is_sent_again_whole(sender, side):
    message = b"x" * (1 << 20)
    sender.send(message)
    client = side.controller.accept()
    assert client.connection.recv(1000) == b"x" * 1000
    client.close()
    assert side.controller.accept().lines(1) == [message + b"\n"]


def test_receiver_that_never_reads_holds_nobody_up(sender, side, sender_to, controllers, caplog):
    """A sender that waited for it would block for ever: it reads only at the end of the test."""
    other = controllers(socket.AF_INET, ("127.0.0.1", 0))
    message = b"x" * 1000
    sender.send(b"first")
    client = side.controller.accept()
    before = sender.ticks
    for _ in range(30):
        sender.send(*[message] * 1000)
    assert any("it does not take what waits for it; 1 messages dropped so far" in text for text in texts(caplog))
    sender_to(Endpoint("127.0.0.1", other.port)).send(b"elsewhere")
    assert other.accept().lines(1) == [b"elsewhere\n"]
    wait_for(lambda: sender.ticks > before + 20, DEADLINE_S, "the loop to go on")
    waiting = sender.waiting()
    assert 0 < waiting * 1001 <= MAX_BYTES
    # When it reads at last, everything that waited arrives, in order and whole.
    assert client.lines(1 + waiting) == [b"first\n"] + [message + b"\n"] * waiting


def test_host_that_never_answers_holds_nobody_up(sender_to, controllers, fillers, monkeypatch):
    monkeypatch.setattr(channel_module, "CONNECT_TIMEOUT_S", DEADLINE_S)
    sender = sender_to(Endpoint("127.0.0.1", full_listener(controllers, fillers).port))
    before = sender.ticks
    sender.send(*tags(3))
    wait_for(lambda: sender.ticks > before + 20, DEADLINE_S, "the loop to go on")
    assert sender.waiting() == 3


def test_host_that_never_answers_is_given_up(sender_to, controllers, fillers, caplog, monkeypatch):
    monkeypatch.setattr(channel_module, "CONNECT_TIMEOUT_S", 1.0)
    sender = sender_to(Endpoint("127.0.0.1", full_listener(controllers, fillers).port))
    sender.send(*tags(3))
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    assert texts(caplog) == ["receiver: cannot connect: no answer within 1 s; messages dropped: 3"]
    assert (sender.waiting(), sender.is_idle()) == (0, True)


def test_full_queue_of_a_unix_listener_is_waited_for(unix_sender, unix_side, fillers, caplog, monkeypatch):
    monkeypatch.setattr(channel_module, "CONNECT_TIMEOUT_S", DEADLINE_S)
    unix_side.stop()
    unix_side.listen(backlog=0)
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fillers.append(filler)
    filler.connect(unix_side.target.path)
    unix_sender.send(b"one")
    before = unix_sender.ticks
    wait_for(lambda: unix_sender.ticks > before + 20, DEADLINE_S, "some tries")
    unix_sender.send(b"two")
    unix_side.controller.accept()
    assert unix_side.controller.accept().lines(2) == [b"one\n", b"two\n"]
    assert texts(caplog) == []


def test_full_queue_of_a_unix_listener_is_given_up(unix_sender, unix_side, fillers, caplog, monkeypatch):
    monkeypatch.setattr(channel_module, "CONNECT_TIMEOUT_S", 0.3)
    unix_side.stop()
    unix_side.listen(backlog=0)
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fillers.append(filler)
    filler.connect(unix_side.target.path)
    unix_sender.send(b"one")
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    assert "cannot connect: no answer" in texts(caplog)[0]
    assert unix_sender.is_idle()
    unix_side.controller.accept()
    unix_sender.send(b"two")
    assert unix_side.controller.accept().lines(1) == [b"two\n"]


def test_what_a_target_says_is_not_listened_to(sender, side):
    sender.send(b"one")
    client = side.controller.accept()
    client.lines(1)
    for _ in range(10):
        client.connection.sendall(b"y" * 10_000)
    sender.send(b"two")
    assert client.lines(1) == [b"two\n"]
