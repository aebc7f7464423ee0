"""Notifications to real listeners (protocol.md 10). Each test runs on both event loops."""

import errno
import logging
import os
import socket
from dataclasses import replace

import pytest

from rtpproxy.cli.arguments import parse_notify_target
from rtpproxy.config import NotifyTarget
from rtpproxy.outbound.notify import MAX_CHANNELS, MAX_QUEUED, Notifier
from tests.outbound.listeners import Running, tags, texts
from tests.waiting import DEADLINE_S, wait_for


class Told:
    """A notifier on a running loop."""

    def __init__(self, running: Running) -> None:
        self.call = running.call
        self.notifier = Notifier(running.loop)

    def notify(self, target: NotifyTarget, *tags: bytes, host: str = "") -> None:
        """Notify of all in one round of the loop, as a tick of the relay does."""

        def burst():
            for tag in tags:
                self.notifier.notify(target, host, tag)

        self.call(burst)

    def waiting(self) -> int:
        return self.call(lambda: sum(channel.waiting for channel in self.notifier._channels.values()))

    def is_idle(self) -> bool:
        """No connection is open or being opened."""
        return self.call(lambda: all(channel._socket is None for channel in self.notifier._channels.values()))


@pytest.fixture
def told(running: Running) -> Told:
    told = Told(running)
    running.at_end.callback(told.notifier.close)
    return told


def test_message_is_the_tag_and_a_line_feed_on_one_connection(told, side):
    told.notify(side.target, b"tag one")
    client = side.controller.accept()
    assert client.lines(1) == [b"tag one\n"]
    told.notify(side.target, b"", b"\xff 100%")
    told.notify(side.target, b"last")
    assert client.lines(3) == [b"\n", b"\xff 100%\n", b"last\n"]
    told.call(told.notifier.close)
    assert client.rest() == b""
    side.controller.listening.setblocking(False)
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
def test_wildcard_goes_to_the_host_that_the_command_came_from(told, controllers, family, bound, controller_host):
    controller = controllers(family, (bound, 0))
    target = parse_notify_target(f"tcp:%%CC_SELF%%:{controller.port}")
    told.notify(target, b"tag", host=controller_host)
    assert controller.accept().lines(1) == [b"tag\n"]


def test_wildcard_of_a_controller_on_ipv6_goes_to_this_host_first(told, controllers):
    """As the C RTPproxy does it; where nobody listens there, it goes to the controller's address."""
    here = controllers(socket.AF_INET, ("127.0.0.1", 0))
    there = controllers(socket.AF_INET6, ("::1", here.port))
    target = parse_notify_target(f"tcp:%%CC_SELF%%:{here.port}")
    told.notify(target, b"one", host="::1")
    first = here.accept()
    assert first.lines(1) == [b"one\n"]
    first.close()
    here.close()
    wait_for(told.is_idle, DEADLINE_S, "the end of the connection")
    told.notify(target, b"two", host="::1")
    second = there.accept()
    assert second.lines(1) == [b"two\n"]
    controllers(socket.AF_INET, ("127.0.0.1", there.port))
    told.notify(target, b"three", host="::1")
    assert second.lines(1) == [b"three\n"], "a connection that works is kept"


def test_wildcard_of_a_controller_on_ipv6_that_is_nowhere(told, caplog):
    told.notify(parse_notify_target("tcp:%%CC_SELF%%:9"), b"one", b"two", host="::1")
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    why = f"cannot connect: {os.strerror(errno.ECONNREFUSED)}; messages dropped: 2"
    assert texts(caplog) == [f"notification target tcp:127.0.0.1:9 or tcp:[::1]:9: {why}"]
    assert (told.waiting(), told.is_idle()) == (0, True)


def test_wildcard_has_a_connection_for_each_host(told, controllers):
    one = controllers(socket.AF_INET, ("127.0.0.1", 0))
    two = controllers(socket.AF_INET, ("127.0.0.2", one.port))
    target = parse_notify_target(f"tcp:%%CC_SELF%%:{one.port}")
    for host, tag in (("", b"a"), ("127.0.0.2", b"b"), ("127.0.0.1", b"c"), ("127.0.0.2", b"d")):
        told.notify(target, tag, host=host)
    assert one.accept().lines(2) == [b"a\n", b"c\n"]
    assert two.accept().lines(2) == [b"b\n", b"d\n"]


def test_a_host_that_was_resolved_is_used_and_not_the_name(told, tcp_side):
    target = replace(parse_notify_target(f"tcp:host.invalid:{tcp_side.target.port}"), host="127.0.0.1")
    told.notify(target, b"tag")
    assert tcp_side.controller.accept().lines(1) == [b"tag\n"]


def test_a_name_is_not_looked_up_here(told, caplog):
    told.notify(parse_notify_target("tcp:localhost:9"), b"tag")
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    assert "notification target tcp:localhost:9: cannot connect" in texts(caplog)[0]


def test_storm_arrives_whole_and_in_order(told, side):
    storm = tags(MAX_QUEUED)
    told.notify(side.target, *storm)
    assert side.controller.accept().lines(len(storm)) == [tag + b"\n" for tag in storm]


def test_refused_target_is_named_with_the_reason_once_for_all_messages(told, side, caplog):
    side.stop()
    told.notify(side.target, *tags(1000))
    wait_for(lambda: texts(caplog), DEADLINE_S, "the line in the log")
    why = os.strerror(errno.ENOENT if side.target.path else errno.ECONNREFUSED)
    name = str(side.target).replace("tcp:::1:", "tcp:[::1]:")
    assert texts(caplog) == [f"notification target {name}: cannot connect: {why}; messages dropped: 1000"]
    assert (told.waiting(), told.is_idle()) == (0, True)


def test_drops_are_logged_at_powers_of_two(told, caplog):
    target = parse_notify_target("tcp:127.0.0.1:9")
    told.notify(target, *tags(MAX_QUEUED + 1000))
    counts = [text.rpartition("; ")[2] for text in texts(caplog) if "does not take" in text]
    assert counts == [f"{1 << power} messages dropped so far" for power in range(10)]


def test_idle_connections_make_room_for_new_ones(told, controllers):
    one = controllers(socket.AF_INET, ("0.0.0.0", 0), MAX_CHANNELS + 16)
    target = parse_notify_target(f"tcp:%%CC_SELF%%:{one.port}")
    told.notify(target, b"first", host="127.0.1.0")
    first = one.accept()
    assert first.lines(1) == [b"first\n"]
    for number in range(1, MAX_CHANNELS + 1):
        told.notify(target, b"tag", host=f"127.0.1.{number}")
        assert one.accept().lines(1) == [b"tag\n"]
    assert first.rest() == b""
    assert told.call(lambda: len(told.notifier._channels)) == MAX_CHANNELS


def test_busy_connections_are_not_given_up_for_others(told, caplog):
    target = parse_notify_target("tcp:%%CC_SELF%%:9")

    def crowd():
        for number in range(MAX_CHANNELS + 3):
            told.notifier.notify(target, f"127.0.1.{number}", b"tag")

    told.call(crowd)
    crowded = [text for text in texts(caplog) if "others are busy" in text]
    assert crowded == [
        f"notification target {target}: {MAX_CHANNELS} others are busy; {count} messages dropped so far"
        for count in (1, 2)
    ]


def test_close_does_not_wait_and_counts_what_is_lost(told, side, caplog):
    def storm_and_close():
        for tag in tags(7):
            told.notifier.notify(side.target, "", tag)
        told.notifier.close()
        told.notifier.close()

    told.call(storm_and_close)
    assert texts(caplog) == ["7 notifications were not sent before the end"]


def test_nothing_is_said_at_the_end_when_nothing_waits(told, side, caplog):
    caplog.set_level(logging.INFO)
    told.notify(side.target, b"one")
    side.controller.accept().lines(1)
    told.call(told.notifier.close)
    assert texts(caplog) == []
