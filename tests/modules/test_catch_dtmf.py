"""DTMF of sessions whose commands ask for it (protocol.md 13.3): `&& M3:1`, and what is told of it to whom."""

import logging

import pytest

from rtpproxy.config import DtmfSettings, NotifyTarget
from rtpproxy.rtp.telephone_events import Event, encode_event, encode_untold
from tests.scenario import FACES_CALLEE, FACES_CALLER, Scenario, start_talking

SOCKET = NotifyTarget("/run/c.sock", text="unix:/run/c.sock")
SELF = NotifyTarget(port=22223, text="tcp:%%CC_SELF%%:22223")
DEFAULT = NotifyTarget("/run/d.sock", text="unix:/run/d.sock")
OFFER = "call 10.0.1.2 4000 f"
NOTIFY = "/run/c.sock tag"
ANSWER = "call 10.0.2.2 5000 f t"


def scenario(target=None, **config):
    return Scenario(notify=(SOCKET, SELF), modules=(DtmfSettings(target),), **config)


@pytest.fixture
def play():
    return scenario()


def find(play, number=-1, digit=b"5", timestamp=8000, duration=1600):
    """The tap finds an event."""
    play.tapper.made[number].on_found(encode_event(Event(digit, 10, duration, 7, timestamp)))


def told(play):
    taken, play.notifier.told = play.notifier.told, []
    return taken


def tapped(play):
    """Stream and payload type of every tap that goes on, and if it hides."""
    return [
        (one.tap.streams[0].local_port, one.tap.payload_type, one.tap.streams[0].hidden_type == one.tap.payload_type)
        for one in play.tapper.made
        if one.stopped_at is None
    ]


def test_events_of_the_caller_are_told(play):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 Dd3a1.5f 101", "20000")
    play.command(f"L {ANSWER}", "20002")
    assert tapped(play) == [(FACES_CALLER, 101, False)]
    find(play)
    find(play, digit=b" ", timestamp=9000, duration=100_000)
    assert told(play) == [(SOCKET, "", b"Dd3a1.5f 5 10 1600 0"), (SOCKET, "", b"Dd3a1.5f   10 100000 0")]
    assert play.notifier.minor == 2


def test_events_of_the_callee_are_told(play):
    play.command(f"U {OFFER} {NOTIFY}", "20000")
    play.command(f"L {ANSWER} && M3:1 here", "20002")
    assert tapped(play) == [(FACES_CALLEE, 101, False)]
    find(play)
    assert told(play) == [(SOCKET, "", b"here 5 10 1600 1")]


def test_in_one_command_with_the_answer(play):
    """After `&& L`, the callee is the one who issues commands."""
    play.command(
        f"U call 10.0.1.2 4000 f t {NOTIFY} && M3:1 one && L 10.0.2.2 5000 && M3:1 two 96", "20000 && 0 && 20002"
    )
    assert tapped(play) == [(FACES_CALLER, 101, False), (FACES_CALLEE, 96, False)]
    find(play, 0)
    find(play, 1)
    assert [text for *_, text in told(play)] == [b"one 5 10 1600 0", b"two 5 10 1600 1"]


def test_tag_is_decoded(play):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 a%20b+%ff", "20000")
    find(play)
    assert [text for *_, text in told(play)] == [b"a b \xff 5 10 1600 0"]


@pytest.mark.parametrize("payload_type", [0, 96, 101, 127])
@pytest.mark.parametrize("option", ["", " h", " H", " hh"])
def test_payload_type_and_option(play, payload_type, option):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag {payload_type}{option}", "20000")
    assert tapped(play) == [(0, payload_type, bool(option))]


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "%zz",
        "tag 128",
        "tag -1",
        "tag x",
        "tag 1x",
        "tag +1",
        "tag 101 x",
        "tag 101 hx",
        "tag 101 h more",
        "%",
        "a 0x1",
    ],
)
def test_arguments_that_are_refused(play, arguments):
    """Only the sub-command fails, and nothing is watched."""
    play.command(f"U {OFFER} {NOTIFY} && M3:1 {arguments}", "20000 && -1")
    play.command(f"L {ANSWER}", "20002")
    assert tapped(play) == []


def test_long_payload_type(play):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag {'9' * 5000}", "20000 && -1")
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag 0101", "20000 && -1")


def test_without_a_notification_target_it_is_refused(play, caplog):
    play.command(f"U {OFFER} && M3:1 tag", "20000 && -1")
    play.command(f"U {OFFER} /run/nobody tag && M3:1 tag", "20000 && -1")
    assert tapped(play) == []
    assert "no DTMF is reported: the session has no notification target" in caplog.text


def test_the_target_for_all_sessions():
    play = scenario(DEFAULT)
    play.command(f"U {OFFER} && M3:1 tag", "20000")
    find(play)
    assert told(play) == [(DEFAULT, "", b"tag 5 10 1600 0")]
    play.command(f"U {OFFER} {NOTIFY}", "20000")
    find(play, timestamp=9000)
    assert [target for target, *_ in told(play)] == [SOCKET]
    play.command(f"U {OFFER}", "20000")
    find(play, timestamp=10000)
    assert [target for target, *_ in told(play)] == [DEFAULT]


def test_a_wildcard_target_is_where_the_command_came_from():
    play = scenario(SELF)
    assert play.ask(f"U {OFFER} && M3:1 tag", "192.0.2.9") == "20000"
    find(play)
    assert told(play) == [(SELF, "192.0.2.9", b"tag 5 10 1600 0")]


def test_a_session_that_lost_its_target_is_watched_and_nobody_told(play):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag", "20000")
    play.command(f"U {OFFER}", "20000")
    find(play)
    assert told(play) == []


def test_again_with_another_payload_type(play):
    """The tag stays that of the first command."""
    play.command(f"U {OFFER} {NOTIFY} && M3:1 first 101", "20000")
    for payload_type, option in ((101, ""), (101, " h"), (96, " h"), (96, "")):
        play.command(f"U {OFFER} {NOTIFY} && M3:1 other {payload_type}{option}", "20000")
        assert tapped(play) == [(0, payload_type, bool(option))]
    assert len(play.tapper.made) == 2
    find(play)
    assert [text for *_, text in told(play)] == [b"first 5 10 1600 0"]


def test_an_event_that_a_process_finds_again_is_told_once(play):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag", "20000")
    find(play)
    find(play)
    find(play, timestamp=9000)
    find(play)
    assert len(told(play)) == 2


def test_events_that_are_too_many_are_logged(play, caplog):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag", "20000")
    for events in (7, 5, 1):
        play.tapper.made[0].on_found(encode_untold(events))
    assert [line for line in caplog.messages if "too many" in line] == [
        "call: too many DTMF events: 7 of one second are not reported (7 of all sessions so far)",
        "call: too many DTMF events: 5 of one second are not reported (12 of all sessions so far)",
    ]
    assert told(play) == []


def test_the_end_of_the_session(play):
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag", "20000")
    play.command("D call f", "0")
    assert tapped(play) == []
    find(play)
    assert [text for *_, text in told(play)] == [b"tag 5 10 1600 0"]
    play.command(f"U {OFFER} {NOTIFY} && M3:1 new", "20002")
    find(play)
    assert [text for *_, text in told(play)] == [b"new 5 10 1600 0"]


def test_after_the_session_was_dropped_it_fails(play):
    play.command(f"U {OFFER} {NOTIFY} && D && M3:1 tag", "20000 && 0 && -1")


def test_a_process_that_cannot_start_is_refused(play):
    play.tapper.refusal = "cannot start"
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag", "20000 && -1")
    play.tapper.refusal = ""
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag", "20000")


def test_other_modules_and_instances_are_none(play):
    for name in ("M1:1", "M3:2", "M3", "M3:0", "M4:1"):
        play.command(f"U {OFFER} {NOTIFY} && {name} tag", "E3")


def test_after_a_query(play):
    play.command(f"U {OFFER} {NOTIFY}", "20000")
    play.command("Q call f && M3:1 tag", "60 0 0 0 0")
    assert tapped(play) == [(0, 101, False)]


def test_the_stream_stays_in_the_kernel(play, caplog):
    caplog.set_level(logging.INFO)
    play.command(f"U {OFFER} {NOTIFY} && M3:1 tag", "20000")
    play.command(f"L {ANSWER}", "20002")
    start_talking(play)
    entry = play.offload.entry(FACES_CALLER)
    assert entry is not None
    assert (bool(entry.tee), entry.tee_type, entry.hidden_type) == (True, 101, None)
