"""`&& C` (protocol.md 8.7): a session that is fed with the packets of another one."""

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.cli.networks import read_media_network
from rtpproxy.offload.entry import COPIED, FED
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLEE_RTCP,
    CALLER,
    CALLER_RTCP,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    FACES_CALLER_RTCP,
    RTCP,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)

FIRST, SECOND = Endpoint("192.0.2.9", 7000), Endpoint("192.0.2.9", 7002)
"""Where a recorder wants to have what the caller and the callee send."""
TO_FIRST, TO_SECOND = (20006, FIRST), (20004, SECOND)


@pytest.fixture
def play():
    made = Scenario()
    made.call()
    start_talking(made)
    return made


def fork(play):
    """The first session is to be copied into another one."""
    play.command("U rec 192.0.2.9 7000 x y && C call f t", "20004")
    play.command("L rec 192.0.2.9 7002 x y", "20006")


def test_each_party_has_its_counterpart(play):
    fork(play)
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_FIRST, TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(101), TO_SECOND, TO_CALLER)
    rtcp = (20007, Endpoint("192.0.2.9", 7001))
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, rtcp, (FACES_CALLEE_RTCP, CALLEE_RTCP))


def test_in_one_command(play):
    play.command("U rec 192.0.2.9 7000 x y && L 192.0.2.9 7002 && C call f t", "20004 && 20006")
    # After && L the roles of issuer and peer are exchanged (protocol.md 2.6).
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_SECOND, TO_CALLEE)


def test_with_the_tags_of_the_source_exchanged(play):
    play.command("U rec 192.0.2.9 7000 x y && C call t f", "20004")
    play.command("L rec 192.0.2.9 7002 x y", "20006")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_SECOND, TO_CALLEE)


def test_both_legs_are_needed(play):
    play.command("U rec 192.0.2.9 7000 x y && C call f t", "20004")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)


def test_what_arrives_at_the_fed_sessions_own_ports_is_dropped(play):
    fork(play)
    play.packet(FIRST, 20006, rtp(1))
    play.packet(SECOND, 20004, rtp(1))
    # Nothing was learned, either.
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_FIRST, TO_CALLEE)


def test_copies_keep_the_fed_session_alive(play):
    fork(play)
    for second in range(10, 200, 20):
        play.at(second)
        play.packet(CALLER, FACES_CALLER, rtp(200 + second), TO_FIRST, TO_CALLEE)
        play.tick()
    assert play.sessions == 2


def test_it_ends_some_time_after_its_source(play):
    fork(play)
    play.command("D call f t", "0")
    play.tick(100)
    play.assert_nothing_is_left()


def test_the_source_goes_on_when_it_ends(play):
    fork(play)
    assert play.offload.installed[FACES_CALLER] == COPIED
    assert play.offload.installed[20004] == FED
    play.command("D rec x y", "0")
    assert play.offload.entry(FACES_CALLER) is not None
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    play.command("D call f t", "0")
    play.assert_nothing_is_left()


def test_repeating_changes_nothing(play):
    fork(play)
    play.command("U rec 192.0.2.9 7000 x y && C call f t", "20004")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_FIRST, TO_CALLEE)


def test_another_source(play):
    play.call("other", caller=Endpoint("10.0.1.3", 4000), callee=Endpoint("10.0.2.3", 5000))
    play.command("U rec 192.0.2.9 7000 x y && C call f t", "20008")
    play.command("L rec 192.0.2.9 7002 x y && S ttl=60", "20010")
    play.command("U rec 192.0.2.9 7000 x y && C other f t", "20008")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert play.offload.entry(FACES_CALLER) is not None


def test_two_recorders_of_one_call(play):
    fork(play)
    play.command("U also 192.0.2.8 7000 x y && C call f t", "20008")
    play.command("L also 192.0.2.8 7002 x y", "20010")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_FIRST, (20010, Endpoint("192.0.2.8", 7000)), TO_CALLEE)
    play.command("D also x y", "0")
    play.packet(CALLER, FACES_CALLER, rtp(202), TO_FIRST, TO_CALLEE)


def test_a_recording_of_the_source_beside_it(play):
    fork(play)
    play.command("R call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_FIRST, TO_CALLEE)
    play.command("N call f t", "0")
    play.packet(CALLER, FACES_CALLER, rtp(202), TO_FIRST, TO_CALLEE)
    assert play.recorder.made[0].packets == [rtp(201)]


@pytest.mark.parametrize("source", ["no f t", "rec x y"])
def test_what_is_no_source(play, source):
    play.command(f"U rec 192.0.2.9 7000 x y && C {source}", "20004 && -1")
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert play.sessions == 2


def test_nothing_is_sent_where_nothing_may_be_sent(play):
    fork(play)
    play.service.host_has([], [read_media_network("192.0.2.9").network], play.now)
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
