"""What `Q`, `I` and `G` tell, of both tiers: protocol.md 11."""

from rtpproxy.addr import Endpoint
from tests.running import rtp
from tests.scenario import (
    ALL_COUNTERS,
    CALLEE,
    CALLEE_RTCP,
    CALLER,
    CALLER_RTCP,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    FACES_CALLER_RTCP,
    OUR_HOST,
    RTCP,
    STRANGER,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)


def test_query_counts_by_party(play):
    play.call()
    play.media.unreachable.add(CALLER.host)
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.media.unreachable.clear()
    for number in (2, 2, 4):
        play.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, b"no RTP", TO_CALLEE)
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    names = ALL_COUNTERS.split()
    assert play.counters(f"call f t {ALL_COUNTERS}") == dict(zip(names, (1, 4, 4, 1, 0, 0, 0, 0, 1), strict=True))
    assert play.counters(f"call t f {ALL_COUNTERS}") == dict(zip(names, (4, 1, 4, 1, 4, 3, 1, 1, 0), strict=True))
    totals = play.totals()
    assert (totals["packets received"], totals["packets transmitted"]) == (6, 5)
    assert play.service.totals(0.0).packets_discarded == 1


def test_packets_of_the_kernel_are_counted_once(talk):
    talk.at(1)
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.offload.forward(FACES_CALLER, 20, talk.now, ssrc=0x1234, sequence=220)
    talk.offload.drop_others(FACES_CALLER, 3)
    for _ in range(2):
        talk.command("Q call f t", "60 21 11 32 0")
        totals = talk.totals()
        assert (totals["packets received"], totals["packets transmitted"]) == (35, 32)
    talk.offload.forward(FACES_CALLEE, 1, talk.now, ssrc=0x1234, sequence=111)
    talk.packet(CALLEE, FACES_CALLEE, rtp(112), TO_CALLER)
    talk.command("Q call t f", "60 13 21 34 0")
    assert talk.counters("call t f rtpa_nsent rtpa_nrcvd rtpa_nlost rtpa_ndups") == {
        "rtpa_nsent": 13,
        "rtpa_nrcvd": 13,
        "rtpa_nlost": 0,
        "rtpa_ndups": 0,
    }


def test_packets_of_a_stream_that_userspace_never_saw_are_in_the_sequence_counters_too():
    play = Scenario(listen_host=OUR_HOST)
    play.ask("Ua call 10.0.1.2 4000 f")
    play.ask("La call 10.0.2.2 5000 f t")
    play.offload.forward(FACES_CALLER, 20, play.now, ssrc=0x1234, sequence=220)
    found = play.counters("call f t npkts_ina nrelayed rtpa_nsent rtpa_nrcvd")
    assert found == {"npkts_ina": 20, "nrelayed": 20, "rtpa_nsent": 20, "rtpa_nrcvd": 20}


def test_port_that_is_given_away_again_starts_from_zero():
    play = Scenario(pairs=3)
    play.call()
    start_talking(play)
    play.offload.forward(FACES_CALLEE, 10, play.now, ssrc=0x1234, sequence=110)
    play.command("D call f t", "0")
    play.at(1)
    play.command("U next 10.0.1.2 4000 f", "20004")
    play.command("L next 10.0.2.2 5000 f t", "20000")
    play.command("Q next f t", "60 0 0 0 0")
    assert play.totals()["packets received"] == 12


def test_memory_goes_on_from_what_the_kernel_saw(talk):
    talk.at(5)
    talk.offload.forward(FACES_CALLEE, 1000, talk.now, ssrc=0x1234, sequence=1100)
    elsewhere = Endpoint("198.51.100.7", 1234)
    talk.packet(elsewhere, FACES_CALLEE, rtp(101))
    talk.packet(elsewhere, FACES_CALLEE, rtp(1101), TO_CALLER)


def test_ssrc_that_changed_in_the_kernel_is_remembered(talk):
    talk.at(1)
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.at(5)
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x77, sequence=10)
    elsewhere = Endpoint("198.51.100.7", 1234)
    talk.packet(elsewhere, FACES_CALLEE, rtp(111))
    talk.packet(elsewhere, FACES_CALLEE, rtp(11, ssrc=0x77), TO_CALLER)


def test_ssrc_that_changed_in_the_kernel_before_a_command_is_remembered(talk):
    """The change was outside the window that the command opens, though it is noticed only then."""
    talk.at(1)
    talk.offload.forward(FACES_CALLER, 10, talk.now, ssrc=0x1234, sequence=210)
    talk.at(5)
    talk.offload.forward(FACES_CALLER, 10, talk.now, ssrc=0x77, sequence=10)
    talk.at(6)
    talk.command("U call 10.0.1.2 4000 f t", "20000")
    talk.at(17)
    talk.packet(STRANGER, FACES_CALLER, rtp(211))
    talk.packet(STRANGER, FACES_CALLER, rtp(11, ssrc=0x77), TO_CALLEE)
