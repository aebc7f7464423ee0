"""Notifications to real listeners (protocol.md 10). Each test runs on both event loops."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import uvloop

from rtpproxy.cli.arguments import parse_notify_target
from rtpproxy.config import NotifyTarget
from rtpproxy.outbound import notify as notify_module
from rtpproxy.outbound.notify import MAX_CHANNELS, MAX_QUEUED, MAX_QUEUED_BYTES, Notifier
from tests.waiting import DEADLINE_S, wait_for

TICK_S = 0.005
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Running:
    """A notifier on a loop in a thread of its own, beside a callback that ticks as long as nothing blocks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.notifier = Notifier()
        self.notifier.start(loop)
        self.ticks = 0
        self.longest_gap_s = 0.0
        self._ticked_at = loop.time()

    def tick(self) -> None:
        now = self.loop.time()
        self.longest_gap_s = max(self.longest_gap_s, now - self._ticked_at)
        self._ticked_at = now
        self.ticks += 1
        self.loop.call_later(TICK_S, self.tick)

    def call(self, what, *arguments):
        """Run `what` in the loop's thread, and give its result."""

        async def run():
            return what(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(DEADLINE_S)

    def notify(self, target: NotifyTarget, *tags: bytes, host: str = "") -> None:
        """All in one go of the loop, as a tick of the relay does."""

        def burst():
            for tag in tags:
                self.notifier.notify(target, host, tag)

        self.call(burst)

    def waiting(self) -> int:
        return self.call(lambda: sum(channel.waiting for channel in self.notifier._channels.values()))

    def is_idle(self) -> bool:
        """No connection is open or being opened."""
        return self.call(lambda: all(channel._socket is None for channel in self.notifier._channels.values()))


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        # The directory's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    failures: list[object] = []
    started = threading.Event()
    handles: list[tuple[Running, asyncio.Event]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        made, stop = Running(loop), asyncio.Event()
        made.tick()
        handles.append((made, stop))
        started.set()
        await stop.wait()
        made.notifier.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(serve())

    before = open_sockets()
    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(DEADLINE_S)
    made, stop = handles[0]
    try:
        yield made
    finally:
        made.loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert failures == []
    assert open_sockets() == before


class Controller:
    """What listens on the other side, and what it was told."""

    def __init__(self, family: int, address: object, backlog: int = 64) -> None:
        self.listening = socket.socket(family, socket.SOCK_STREAM)
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listening.settimeout(DEADLINE_S)
        self.listening.bind(address)
        self.listening.listen(backlog)
        self.clients: list[socket.socket] = []

    @property
    def port(self) -> int:
        return self.listening.getsockname()[1]

    def accept(self) -> "Client":
        client, _ = self.listening.accept()
        client.settimeout(DEADLINE_S)
        self.clients.append(client)
        return Client(client)

    def close(self) -> None:
        self.listening.close()
        for client in self.clients:
            client.close()


class Client:
    """One accepted connection, read by lines."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._file = connection.makefile("rb")

    def lines(self, count: int) -> list[bytes]:
        return [self._file.readline() for _ in range(count)]

    def rest(self) -> bytes:
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self.connection.close()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


@pytest.fixture
def controllers() -> Iterator[Callable[..., Controller]]:
    with contextlib.ExitStack() as stack:

        def make(family, address, backlog=64):
            controller = Controller(family, address, backlog)
            stack.callback(controller.close)
            return controller

        yield make


class Side:
    """A target of one kind, and the listener behind it, which may go away and come back."""

    def __init__(self, controllers, family: int, address: object) -> None:
        self._controllers = controllers
        self._family = family
        self._address = address
        self.listen()
        if family == socket.AF_UNIX:
            text = f"unix:{address}"
        else:
            self._address = self.controller.listening.getsockname()
            text = f"tcp:{address[0]}:{self.controller.port}"
        self.target = parse_notify_target(text)

    def listen(self, backlog: int = 64) -> None:
        self.controller = self._controllers(self._family, self._address, backlog)

    def stop(self) -> None:
        self.controller.close()
        if self._family == socket.AF_UNIX:
            os.unlink(self._address)


@pytest.fixture(params=["unix", "tcp", "tcp6"])
def side(request, controllers, tmp_path) -> Side:
    if request.param == "unix":
        return Side(controllers, socket.AF_UNIX, str(tmp_path / "to.sock"))
    if request.param == "tcp":
        return Side(controllers, socket.AF_INET, ("127.0.0.1", 0))
    return Side(controllers, socket.AF_INET6, ("::1", 0))


@pytest.fixture
def unix_side(controllers, tmp_path) -> Side:
    return Side(controllers, socket.AF_UNIX, str(tmp_path / "to.sock"))


@pytest.fixture
def tcp_side(controllers) -> Side:
    return Side(controllers, socket.AF_INET, ("127.0.0.1", 0))


def tags(count, start=0):
    return [b"call %d" % number for number in range(start, start + count)]


def texts(caplog):
    return [record.getMessage() for record in caplog.records]


def test_message_is_the_tag_and_a_line_feed_on_one_connection(running, side):
    running.notify(side.target, b"tag one")
    client = side.controller.accept()
    assert client.lines(1) == [b"tag one\n"]
    running.notify(side.target, b"", b"\xff 100%")
    running.notify(side.target, b"last")
    assert client.lines(3) == [b"\n", b"\xff 100%\n", b"last\n"]
    running.call(running.notifier.close)
    assert client.rest() == b""
    side.controller.listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        side.controller.accept()


def test_nothing_is_opened_before_there_is_something_to_say(running, side):
    side.controller.listening.setblocking(False)
    running.call(lambda: None)
    with pytest.raises(BlockingIOError):
        side.controller.accept()


@pytest.mark.parametrize(
    ("family", "bound", "controller_host"),
    [
        (socket.AF_INET, "127.0.0.1", ""),
        (socket.AF_INET, "127.0.0.2", "127.0.0.2"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_wildcard_goes_to_the_host_that_the_command_came_from(running, controllers, family, bound, controller_host):
    controller = controllers(family, (bound, 0))
    target = parse_notify_target(f"tcp:%%CC_SELF%%:{controller.port}")
    running.notify(target, b"tag", host=controller_host)
    assert controller.accept().lines(1) == [b"tag\n"]


def test_wildcard_has_a_connection_for_each_host(running, controllers):
    one = controllers(socket.AF_INET, ("127.0.0.1", 0))
    two = controllers(socket.AF_INET, ("127.0.0.2", one.port))
    target = parse_notify_target(f"tcp:%%CC_SELF%%:{one.port}")
    for host, tag in (("", b"a"), ("127.0.0.2", b"b"), ("127.0.0.1", b"c"), ("127.0.0.2", b"d")):
        running.notify(target, tag, host=host)
    assert one.accept().lines(2) == [b"a\n", b"c\n"]
    assert two.accept().lines(2) == [b"b\n", b"d\n"]


def test_a_host_that_was_resolved_is_used_and_not_the_name(running, tcp_side):
    target = replace(parse_notify_target(f"tcp:host.invalid:{tcp_side.target.port}"), host="127.0.0.1")
    running.notify(target, b"tag")
    assert tcp_side.controller.accept().lines(1) == [b"tag\n"]


def test_a_name_is_not_looked_up_here(running, caplog):
    running.notify(parse_notify_target("tcp:localhost:9"), b"tag")
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    assert "notification target tcp:localhost:9: cannot connect" in texts(caplog)[0]


def test_storm_arrives_whole_and_in_order(running, side):
    storm = tags(MAX_QUEUED)
    running.notify(side.target, *storm)
    assert side.controller.accept().lines(len(storm)) == [tag + b"\n" for tag in storm]


# What breaks


def test_refused_target_is_named_with_the_reason_once_for_all_messages(running, side, caplog):
    side.stop()
    running.notify(side.target, *tags(1000))
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    why = os.strerror(errno.ENOENT if side.target.path else errno.ECONNREFUSED)
    name = str(side.target).replace("tcp:::1:", "tcp:[::1]:")
    assert texts(caplog) == [f"notification target {name}: cannot connect: {why}; messages dropped: 1000"]
    assert (running.waiting(), running.is_idle()) == (0, True)


def test_listener_that_comes_back_gets_what_comes_after(running, side, caplog):
    side.stop()
    running.notify(side.target, b"lost")
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    side.listen()
    running.notify(side.target, b"arrives")
    assert side.controller.accept().lines(1) == [b"arrives\n"]


def test_restart_of_the_listener_loses_nothing(running, side):
    running.notify(side.target, b"before")
    client = side.controller.accept()
    assert client.lines(1) == [b"before\n"]
    client.close()
    side.stop()
    wait_for(running.is_idle, DEADLINE_S, "the end of the connection to be noticed")
    side.listen()
    running.notify(side.target, b"after")
    assert side.controller.accept().lines(1) == [b"after\n"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_message_into_a_connection_just_closed_is_sent_again(running, side, how):
    """The notifier gets to know of the end in the same go of the loop in which it has something to say."""
    running.notify(side.target, b"before")
    client = side.controller.accept()
    client.lines(1)

    def close_and_notify():
        getattr(client, how)()
        running.notifier.notify(side.target, "", b"after")

    running.call(close_and_notify)
    assert side.controller.accept().lines(1) == [b"after\n"]


def test_unacknowledged_message_is_sent_again(running, tcp_side, caplog):
    """It was written before the end of the connection could be noticed; the other host never took it."""
    running.notify(tcp_side.target, b"before")
    client = tcp_side.controller.accept()
    client.lines(1)

    def write_blindly():
        """What `_proceed` does, but that the connection breaks between its look and its write."""
        (channel,) = running.notifier._channels.values()
        client.close()
        channel.push(b"after\n")
        channel._soon.cancel()
        channel._soon = None
        channel._write()
        assert channel.waiting == 0

    running.call(write_blindly)
    assert tcp_side.controller.accept().lines(1) == [b"after\n"]


def test_message_is_not_sent_again_after_it_was_acknowledged(running, side):
    running.notify(side.target, b"one")
    client = side.controller.accept()
    assert client.lines(1) == [b"one\n"]
    client.close()
    running.notify(side.target, b"two")
    second = side.controller.accept()
    assert second.lines(1) == [b"two\n"]
    running.call(running.notifier.close)
    assert second.rest() == b""


def test_target_that_hangs_up_on_every_connection_is_tried_four_times(running, tcp_side, caplog):
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
    running.notify(tcp_side.target, message)
    line = wait_for(lambda: [text for text in texts(caplog) if "dropped" in text], DEADLINE_S, "the line in the log")[0]
    tcp_side.controller.listening.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE_S)
    assert line.startswith(f"notification target {tcp_side.target}: 4 connections broke, the last one: ")
    assert line.endswith("; messages dropped: 1")
    assert count == 4


def test_message_that_was_half_written_is_sent_again_whole(running, side):
    message = b"x" * (1 << 20)
    running.notify(side.target, message)
    client = side.controller.accept()
    assert client.connection.recv(1000) == b"x" * 1000
    client.close()
    assert side.controller.accept().lines(1) == [message + b"\n"]


def test_target_that_never_reads_holds_nobody_up(running, side, controllers, caplog):
    other = controllers(socket.AF_INET, ("127.0.0.1", 0))
    message = b"x" * 1000
    running.notify(side.target, b"first")
    client = side.controller.accept()
    before = running.ticks
    for _ in range(30):
        running.notify(side.target, *[message] * 1000)
    assert any("it does not take what waits for it; 1 messages dropped so far" in text for text in texts(caplog))
    running.notify(parse_notify_target(f"tcp:127.0.0.1:{other.port}"), b"elsewhere")
    assert other.accept().lines(1) == [b"elsewhere\n"]
    wait_for(lambda: running.ticks > before + 20, DEADLINE_S, "the loop to go on")
    assert running.longest_gap_s < 1.0
    waiting = running.waiting()
    assert 0 < waiting * 1001 <= MAX_QUEUED_BYTES
    # It wakes up: everything that waited arrives, in order and whole.
    assert client.lines(1 + waiting) == [b"first\n"] + [message + b"\n"] * waiting


def test_drops_are_logged_at_powers_of_two(running, caplog):
    target = parse_notify_target("tcp:127.0.0.1:9")
    running.notify(target, *tags(MAX_QUEUED + 1000))
    counts = [text.rpartition("; ")[2] for text in texts(caplog) if "does not take" in text]
    assert counts == [f"{1 << power} messages dropped so far" for power in range(10)]


def full_listener(controllers, backlog_filler):
    """A TCP port whose host answers no SYN: its queue of connections is full, and nobody accepts."""
    controller = controllers(socket.AF_INET, ("127.0.0.1", 0), backlog=0)
    while True:
        filler = socket.socket()
        backlog_filler.append(filler)
        filler.settimeout(0.2)
        try:
            filler.connect(("127.0.0.1", controller.port))
        except TimeoutError:
            return controller


@pytest.fixture
def fillers() -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for filler in opened:
        filler.close()


def test_host_that_never_answers_is_given_up(running, controllers, fillers, caplog, monkeypatch):
    monkeypatch.setattr(notify_module, "CONNECT_TIMEOUT_S", 1.0)
    controller = full_listener(controllers, fillers)
    before = running.ticks
    running.notify(parse_notify_target(f"tcp:127.0.0.1:{controller.port}"), *tags(3))
    wait_for(lambda: running.ticks > before + 20, DEADLINE_S, "the loop to go on")
    assert running.waiting() == 3
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    assert texts(caplog)[0].endswith("cannot connect: no answer within 1 s; messages dropped: 3")
    assert (running.waiting(), running.is_idle()) == (0, True)


def test_full_queue_of_a_unix_listener_is_waited_for(running, unix_side, fillers, caplog):
    unix_side.stop()
    unix_side.listen(backlog=0)
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fillers.append(filler)
    filler.connect(unix_side.target.path)
    running.notify(unix_side.target, b"one")
    before = running.ticks
    wait_for(lambda: running.ticks > before + 20, DEADLINE_S, "some tries")
    running.notify(unix_side.target, b"two")
    unix_side.controller.accept()
    assert unix_side.controller.accept().lines(2) == [b"one\n", b"two\n"]
    assert texts(caplog) == []


def test_full_queue_of_a_unix_listener_is_given_up(running, unix_side, fillers, caplog, monkeypatch):
    monkeypatch.setattr(notify_module, "CONNECT_TIMEOUT_S", 0.3)
    unix_side.stop()
    unix_side.listen(backlog=0)
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fillers.append(filler)
    filler.connect(unix_side.target.path)
    running.notify(unix_side.target, b"one")
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    assert "cannot connect: no answer" in texts(caplog)[0]
    assert running.is_idle()
    unix_side.controller.accept()
    running.notify(unix_side.target, b"two")
    assert unix_side.controller.accept().lines(1) == [b"two\n"]


def test_what_a_target_says_is_not_listened_to(running, side):
    running.notify(side.target, b"one")
    client = side.controller.accept()
    client.lines(1)
    for _ in range(10):
        client.connection.sendall(b"y" * 10_000)
    running.notify(side.target, b"two")
    assert client.lines(1) == [b"two\n"]


def test_idle_connections_make_room_for_new_ones(running, controllers):
    one = controllers(socket.AF_INET, ("0.0.0.0", 0), MAX_CHANNELS + 16)
    target = parse_notify_target(f"tcp:%%CC_SELF%%:{one.port}")
    running.notify(target, b"first", host="127.0.1.0")
    first = one.accept()
    assert first.lines(1) == [b"first\n"]
    for number in range(1, MAX_CHANNELS + 1):
        running.notify(target, b"tag", host=f"127.0.1.{number}")
        assert one.accept().lines(1) == [b"tag\n"]
    assert first.rest() == b""
    assert running.call(lambda: len(running.notifier._channels)) == MAX_CHANNELS


def test_busy_connections_are_not_given_up_for_others(running, caplog):
    target = parse_notify_target("tcp:%%CC_SELF%%:9")

    def crowd():
        for number in range(MAX_CHANNELS + 3):
            running.notifier.notify(target, f"127.0.1.{number}", b"tag")

    running.call(crowd)
    crowded = [text for text in texts(caplog) if "others are busy" in text]
    assert crowded == [
        f"notification target {target}: {MAX_CHANNELS} others are busy; {count} messages dropped so far"
        for count in (1, 2)
    ]


def test_close_does_not_wait_and_counts_what_is_lost(running, side, caplog):
    def storm_and_close():
        for tag in tags(7):
            running.notifier.notify(side.target, "", tag)
        running.notifier.close()
        running.notifier.close()

    running.call(storm_and_close)
    assert texts(caplog) == ["7 timeout notifications were not sent before the end"]


def test_nothing_is_said_at_the_end_when_nothing_waits(running, side, caplog):
    caplog.set_level(logging.INFO)
    running.notify(side.target, b"one")
    side.controller.accept().lines(1)
    running.call(running.notifier.close)
    assert texts(caplog) == []
