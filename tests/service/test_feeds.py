"""`&& C` (protocol.md 8.7): a session that is fed with the packets of another one."""

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.cli.networks import read_media_network
from rtpproxy.offload.entry import FED, WITNESSED
from tests.fakes import FakeCopier
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
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_FIRST, TO_CALLEE)
    play.at(50)
    play.command("D call f t", "0")
    play.tick(59)
    assert play.sessions == 1
    play.tick(61)
    play.assert_nothing_is_left()


def test_it_ends_when_its_source_is_silent(play):
    play.command("U call 10.0.1.2 4000 f t && S ttl=300", "20000")
    fork(play)
    play.at(30)
    play.packet(CALLER, FACES_CALLER, rtp(201), TO_FIRST, TO_CALLEE)
    play.tick(89)
    assert play.sessions == 2
    play.tick(91)
    assert play.sessions == 1


def test_a_fed_session_of_one_leg_has_the_time_of_its_setup_only(play):
    play.command("U rec 192.0.2.9 7000 x y && C call f t", "20004")
    for second in range(10, 80, 10):
        play.at(second)
        play.packet(CALLER, FACES_CALLER, rtp(200 + second), TO_CALLEE)
        play.tick()
    assert play.sessions == 1


def test_the_source_goes_on_when_it_ends(play):
    fork(play)
    assert play.offload.installed[FACES_CALLER] == WITNESSED
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


# Where the kernel tees


@pytest.fixture
def teeing():
    made = Scenario(copier=FakeCopier())
    made.call()
    start_talking(made)
    return made


def ways(play, number=-1):
    """Where copies go: of what the callee sends and of what the caller sends, RTP and RTCP of each."""
    return [one.way for one in play.service._feeds._copier.made[number].streams]


def after(way):
    return way[0] + 1, Endpoint(way[1].host, way[1].port + 1)


def test_the_source_stays_in_the_kernel(teeing):
    fork(teeing)
    assert teeing.offload.entry(FACES_CALLER).tee > 0
    assert teeing.offload.entry(FACES_CALLEE).tee > 0
    assert teeing.offload.installed[20004] == FED
    assert ways(teeing) == [TO_SECOND, after(TO_SECOND), TO_FIRST, after(TO_FIRST)]
    teeing.command("D rec x y", "0")
    assert teeing.offload.entry(FACES_CALLER).tee == 0
    assert teeing.service._feeds._copier.made[0].stopped_at == teeing.now


def test_copies_begin_when_the_fed_session_has_both_legs(teeing):
    teeing.command("U rec 192.0.2.9 7000 x y && C call f t", "20004")
    assert [to for _, to in ways(teeing)] == [None] * 4
    teeing.command("L rec 192.0.2.9 7002 x y", "20006")
    assert ways(teeing)[0] == TO_SECOND


def test_the_recorder_moves(teeing):
    fork(teeing)
    teeing.command("U rec 192.0.2.8 8000 x y", "20004")
    assert ways(teeing)[2] == (20006, Endpoint("192.0.2.8", 8000))
    assert ways(teeing)[0] == TO_SECOND


def test_new_ports_of_the_fed_session(teeing):
    fork(teeing)
    teeing.command("Ln rec 192.0.2.9 7002 x y", "20008")
    assert ways(teeing)[2] == (20008, FIRST)


def test_copies_stop_where_nothing_may_be_sent(teeing):
    fork(teeing)
    teeing.service.host_has([], [read_media_network("192.0.2.9").network], teeing.now)
    assert [to for _, to in ways(teeing)] == [None] * 4


def test_repeating_makes_no_other_copies(teeing):
    fork(teeing)
    teeing.command("U rec 192.0.2.9 7000 x y && C call f t", "20004")
    assert len(teeing.service._feeds._copier.made) == 1
    teeing.command("U rec 192.0.2.9 7000 x y && C call t f", "20004")
    assert ways(teeing)[0] == TO_SECOND
    first, second = teeing.service._feeds._copier.made
    assert first.stopped_at == teeing.now
    assert first.streams[0].stream is not second.streams[0].stream


def test_what_the_kernel_sees_of_the_source_keeps_the_fed_session_alive(teeing):
    fork(teeing)
    for second in range(10, 200, 10):
        teeing.at(second)
        teeing.offload.forward(FACES_CALLER, 5, teeing.now, ssrc=0x1234, sequence=200 + second)
        teeing.tick()
        assert teeing.sessions == 2
    # It is told as well how long the session has.
    assert teeing.ask("Q rec x y").split()[0] == teeing.ask("Q call f t").split()[0]
    teeing.tick(249)
    assert teeing.sessions == 2
    teeing.tick(251)
    teeing.assert_nothing_is_left()


def test_new_ports_of_the_source_keep_it_alive_as_well(teeing):
    fork(teeing)
    teeing.command("Ln call 10.0.2.2 5000 f t", "20008")
    teeing.packet(CALLER, 20008, rtp(201), TO_CALLEE)
    teeing.at(50)
    teeing.offload.forward(20008, 5, teeing.now, ssrc=0x1234, sequence=206)
    teeing.tick(100)
    assert teeing.sessions == 2
    teeing.tick(111)
    teeing.assert_nothing_is_left()


def test_each_direction_by_itself():
    """With an idle time for each direction, a silent party of the source ends the fed session as it ends the source."""
    play = Scenario(copier=FakeCopier(), is_independent=True)
    play.call()
    start_talking(play)
    fork(play)
    play.at(50)
    play.offload.forward(FACES_CALLER, 5, play.now, ssrc=0x1234, sequence=205)
    play.tick(59)
    assert play.sessions == 2
    play.tick(61)
    play.assert_nothing_is_left()


def test_copies_that_end_by_themselves(teeing, caplog):
    fork(teeing)
    teeing.service._feeds._copier.made[0].on_end(teeing.now)
    assert teeing.offload.entry(FACES_CALLER).tee == 0
    assert "rec: gets no more copies of call" in caplog.messages
    teeing.command("D rec x y", "0")


def test_copies_that_cannot_be_made(teeing):
    teeing.service._feeds._copier.refusal = "cannot start the process"
    teeing.command("U rec 192.0.2.9 7000 x y && C call f t", "20004 && -1")
    assert teeing.offload.entry(FACES_CALLER).tee == 0
