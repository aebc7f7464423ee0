"""Timeout notification: protocol.md 2.4, 10.2."""

import pytest

from rtpproxy.cli.arguments import parse_notify_target
from tests.scenario import Scenario

SOCKET, TCP, WILDCARD = (
    parse_notify_target(text) for text in ("unix:/run/c.sock", "tcp:192.0.2.9:9", "tcp:%%CC_SELF%%:9")
)
OFFER, ANSWER = "call 10.0.1.2 4000 f", "call 10.0.2.2 5000 f t"


@pytest.fixture
def play():
    return Scenario(notify=(SOCKET, TCP, WILDCARD))


def told_after_idling(play):
    play.tick(1000)
    play.assert_nothing_is_left()
    return play.notifier.told


@pytest.mark.parametrize(
    ("quoted", "target"),
    [
        ("unix:/run/c.sock", SOCKET),
        ("/run/c.sock", SOCKET),
        ("tcp:192.0.2.9:9", TCP),
        ("tcp:%%CC_SELF%%:9", WILDCARD),
    ],
)
@pytest.mark.parametrize("to_tag", ["", " t"])
def test_tag_is_told_to_the_target(play, quoted, target, to_tag):
    play.command(f"U {OFFER}{to_tag} {quoted} a%20b+%ff", "20000")
    assert told_after_idling(play) == [(target, "", b"a b \xff")]
    assert play.stats("nsess_timeout") == {"nsess_timeout": 1}


def test_controllers_host_is_passed_on(play):
    play.ask(f"U {OFFER} tcp:%%CC_SELF%%:9 tag", controller_host="198.51.100.5")
    play.ask(f"L {ANSWER}", controller_host="198.51.100.6")
    assert told_after_idling(play) == [(WILDCARD, "198.51.100.5", b"tag")]


def test_established_session_is_told_once(play):
    play.command(f"U {OFFER} /run/c.sock tag", "20000")
    play.command(f"L {ANSWER}", "20002")
    play.tick(59.9)
    assert play.notifier.told == []
    play.tick(60)
    play.tick(61)
    assert play.notifier.told == [(SOCKET, "", b"tag")]


def test_each_direction_has_a_timer_and_still_it_is_told_once():
    play = Scenario(notify=(SOCKET,), is_independent=True)
    play.ask(f"U {OFFER} /run/c.sock tag")
    play.ask(f"L {ANSWER}")
    assert told_after_idling(play) == [(SOCKET, "", b"tag")]


@pytest.mark.parametrize("command", ["D call f t", "X"])
def test_other_ends_are_not_told(play, command):
    play.command(f"U {OFFER} /run/c.sock tag", "20000")
    play.command(command, "0")
    assert told_after_idling(play) == []


def test_drop_under_another_command_is_not_told(play):
    play.command(f"U {OFFER} /run/c.sock tag && D", "20000")
    assert told_after_idling(play) == []


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (f"U {OFFER} t tcp:192.0.2.9:9 new", [(TCP, "", b"new")]),
        (f"U {OFFER} t", []),
        ("U call 10.0.2.2 5000 t f", []),
        ("U call 10.0.2.2 5000 t f tcp:192.0.2.9:9 new", [(TCP, "", b"new")]),
        (f"U {OFFER} t /run/nobody new", []),
        (f"L {ANSWER}", [(SOCKET, "", b"old")]),
        ("L call 10.0.1.2 4000 t f", [(SOCKET, "", b"old")]),
        ("Q call f t", [(SOCKET, "", b"old")]),
        (f"U {OFFER} t /run/c.sock %", [(SOCKET, "", b"old")]),
        (f"Uz0 {OFFER} t", [(SOCKET, "", b"old")]),
    ],
)
def test_each_update_replaces_or_switches_off(play, later, expected):
    play.command(f"U {OFFER} /run/c.sock old", "20000")
    play.ask(later)
    assert told_after_idling(play) == expected


def test_update_that_gets_no_port_replaces_nothing():
    play = Scenario(notify=(SOCKET, TCP), pairs=1)
    play.ask(f"U {OFFER} /run/c.sock old")
    play.command("U call 10.0.2.2 5000 t f tcp:192.0.2.9:9 new", "E71")
    assert told_after_idling(play) == [(SOCKET, "", b"old")]


@pytest.mark.parametrize("quoted", ["/run/other", "unix:/run/c.soc", "tcp:192.0.2.9:8", "192.0.2.9:9", "tcp:1.2.3.4:9"])
def test_unknown_target_is_logged_and_the_session_made(play, quoted, caplog):
    play.command(f"U {OFFER} {quoted} tag", "20000")
    (line,) = caplog.messages
    assert line == f"call: no notification: {quoted.encode()!r} is none of the targets given with -n"
    assert told_after_idling(play) == []


def test_without_targets_nothing_is_done():
    play = Scenario()
    play.command(f"U {OFFER} /run/c.sock tag", "E75")
    play.assert_nothing_is_left()
    play.command(f"U {OFFER}", "20000")
    play.at(10)
    play.command(f"U {OFFER} t /run/c.sock tag", "E75")
    assert play.counters("call f t")["ttl"] == 50


def test_order_of_refusals():
    """A text is parsed first; then come `E75`, slow stop and ports (3.4)."""
    play = Scenario(pairs=1)
    play.service.stop_slowly()
    play.command(f"U {OFFER} /run/c.sock %", "E10")
    play.command(f"Ut {OFFER} /run/c.sock tag", "E35")
    play.command(f"U {OFFER} /run/c.sock tag && Z", "E3")
    play.command(f"U {OFFER} /run/c.sock tag", "E75")
    play.command(f"U {OFFER}", "E99")
    play.media.open_error = OSError(24, "Too many open files")
    play.command(f"U {OFFER}", "E99")
