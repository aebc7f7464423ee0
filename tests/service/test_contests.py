"""Streams that several sources take in turn, as in a forked call: who is heard, what is forwarded, what is logged."""

from ipaddress import ip_network

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.offload.entry import CONTESTED, ForwardingEntry
from rtpproxy.session.latch import KnownSource
from rtpproxy.session.loops import REPEATS_PER_SECOND, UNNUMBERED_PER_SECOND
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER,
    FACES_CALLEE,
    FACES_CALLER,
    OUR_HOST,
    STRANGER,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)

SECOND = Endpoint("10.0.3.2", 5000)
ALL = range(FACES_CALLEE, FACES_CALLEE + 4)


@pytest.fixture
def play(caplog):
    caplog.set_level("INFO")
    return Scenario()


def fork(play):
    """Two callees ring; the first has been heard before the second was named."""
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(0, ssrc=1), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(0, ssrc=9), TO_CALLEE)
    play.at(1)
    play.command(f"L call {SECOND.host} {SECOND.port} f t2", str(FACES_CALLER))


def both_send(play, first, last):
    """From one second to the other, 10 packets a second from each callee; the caller is heard by the latest."""
    for number in range(first * 10, last * 10):
        play.at(number / 10)
        for ssrc, callee in enumerate((CALLEE, SECOND), 1):
            play.packet(callee, FACES_CALLEE, rtp(number, ssrc=ssrc), TO_CALLER)
            play.packet(CALLER, FACES_CALLER, rtp(2 * number + ssrc, ssrc=9), (FACES_CALLEE, callee))
        if number % 10 == 9:
            play.tick()


def contest_lines(caplog):
    return [line for line in caplog.messages if "changes between" in line or "changes of source" in line]


def test_both_callees_are_heard_and_the_second_after_the_first_fell_silent(play, caplog):
    fork(play)
    both_send(play, 1, 4)
    assert [play.offload.entry(key) for key in ALL] == [None] * 4
    assert play.offload.installed == dict.fromkeys(ALL, CONTESTED)
    for number in range(40, 60):
        play.at(number / 10)
        play.packet(SECOND, FACES_CALLEE, rtp(number, ssrc=2), TO_CALLER)
        play.packet(CALLER, FACES_CALLER, rtp(2 * number, ssrc=9), (FACES_CALLEE, SECOND))
        if number % 10 == 9:
            play.tick()
    entries = [play.offload.installed[key] for key in (FACES_CALLEE, FACES_CALLER)]
    assert all(isinstance(entry, ForwardingEntry) for entry in entries)
    assert (entries[0].source, entries[1].to) == (SECOND, SECOND)
    assert contest_lines(caplog) == [
        "call: stream at port 20000 changes between 10.0.3.2:5000 and 10.0.2.2:5000; userspace relays the session",
        "call: stream at port 20000 stays with 10.0.3.2:5000, after 60 changes of source",
    ]


def test_nobody_who_is_named_or_was_heard_is_a_stranger(play):
    fork(play)
    expected = play.media.expected
    assert expected[FACES_CALLEE] == KnownSource(*SECOND, True, 1, (CALLEE,))
    both_send(play, 1, 2)
    contested = KnownSource(*SECOND, True, 1, (CALLEE,), is_contested=True)
    assert expected[FACES_CALLEE] == contested
    play.command(f"L call {SECOND.host} {SECOND.port} f t2", str(FACES_CALLER))
    assert expected[FACES_CALLEE] == contested
    play.tick(10)
    assert expected[FACES_CALLEE] == KnownSource(*SECOND, True, 1)


def test_who_had_a_stream_is_a_stranger_again_after_the_window(play, caplog):
    """Nobody listens to them any more, so they have no room of their own; the log has nothing to say of it."""
    fork(play)
    third = Endpoint("10.0.3.3", 5000)
    for second, source in ((2, third), (5, CALLEE)):
        play.at(second)
        play.packet(source, FACES_CALLEE, rtp(1, ssrc=1), TO_CALLER)
    for second in (6, 11):
        play.tick(second)
        assert play.media.expected[FACES_CALLEE] == KnownSource(*CALLEE, True, 1, (SECOND, third))
    play.tick(12)
    assert play.media.expected[FACES_CALLEE] == KnownSource(*CALLEE, True, 1, (SECOND,))
    assert play.offload.installed[FACES_CALLEE].source == CALLEE
    play.command("D call f t", "0")
    assert contest_lines(caplog) == []


def test_so_is_who_was_replaced_by_a_command(play):
    fork(play)
    play.tick(11)
    assert play.media.expected[FACES_CALLEE] == KnownSource(*SECOND, True, 1, (CALLEE,))
    play.tick(12)
    assert play.media.expected[FACES_CALLEE] == KnownSource(*SECOND, True, 1)


@pytest.mark.parametrize("is_repeated", [True, False])
def test_a_flood_by_one_who_took_the_stream_silences_nobody_whom_a_command_names(play, is_repeated):
    """Its packets repeat a number, or each starts a run: what is over the limit is dropped, and takes nobody's room."""
    play.call()
    start_talking(play)
    play.command(f"U call {CALLER.host} {CALLER.port} f", str(FACES_CALLEE))
    before = play.discarded
    for number in range(2 * UNNUMBERED_PER_SECOND):
        ssrc = 0xBAD if is_repeated else 0xBAD0000 + number
        play.service.datagram(FACES_CALLER, rtp(1, ssrc=ssrc), tuple(STRANGER), OUR_HOST, play.now)
    limit = REPEATS_PER_SECOND if is_repeated else UNNUMBERED_PER_SECOND
    assert play.discarded - before == 2 * UNNUMBERED_PER_SECOND - limit
    for number in range(201, 210):
        play.packet(CALLER, FACES_CALLER, rtp(number), TO_CALLEE)
        play.service.datagram(FACES_CALLER, rtp(1, ssrc=0xBAD), tuple(STRANGER), OUR_HOST, play.now)


def test_a_call_may_end_while_a_stream_is_contested(play, caplog):
    fork(play)
    both_send(play, 1, 2)
    play.command("D call f t", "0")
    play.tick(20)
    assert contest_lines(caplog)[1:] == ["call: stream at port 20000 ends, after 20 changes of source"]


def test_ports_may_change_while_a_stream_is_contested(play, caplog):
    fork(play)
    both_send(play, 1, 2)
    play.command(f"Un call {CALLER.host} {CALLER.port} f t", "20004")
    play.tick(20)
    assert contest_lines(caplog)[1:] == [
        "call: stream at port 20004 stays with 10.0.3.2:5000, after 20 changes of source"
    ]
    assert play.offload.installed[20004].source == SECOND


def test_an_endpoint_may_be_refused_while_a_stream_is_contested(caplog):
    """It has become an address of this host, whose port 5060 is not for media: the stream forgets all that it knew."""
    caplog.set_level("INFO")
    play = Scenario()
    denied = Endpoint(SECOND.host, 5060)
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(0, ssrc=1), TO_CALLER)
    play.at(1)
    play.command(f"L call {denied.host} {denied.port} f t2", str(FACES_CALLER))
    for number in range(1, 5):
        play.packet((CALLEE, denied)[number % 2], FACES_CALLEE, rtp(number, ssrc=1 + number % 2), TO_CALLER)
    play.packet(denied, FACES_CALLEE, rtp(5, ssrc=2), TO_CALLER)
    play.service.host_has([ip_network(denied.host)], [], play.now)
    play.tick(10)
    assert len(contest_lines(caplog)) == 1
    play.packet(CALLEE, FACES_CALLEE, rtp(6, ssrc=1), TO_CALLER)
    assert play.offload.entry(FACES_CALLEE) is not None
    play.packet(CALLEE, FACES_CALLEE, rtp(7, ssrc=3), TO_CALLER)
    play.command(f"L call {SECOND.host} {SECOND.port} f t2", str(FACES_CALLER))
    for number in range(8, 12):
        play.packet((CALLEE, SECOND)[number % 2], FACES_CALLEE, rtp(number, ssrc=3 + number % 2), TO_CALLER)
    assert len(contest_lines(caplog)) == 2, "another contest"
