"""Counters of `Q`, `I` and `G`, of userspace and kernel together: protocol.md 11."""

import pytest

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
    assert play.service.totals().packets_discarded == 1


def test_packets_that_waited_too_long_were_received_and_discarded(talk):
    before, discarded = talk.totals(), talk.service.totals().packets_discarded
    talk.media.late += 3
    talk.media.excess += 5
    assert talk.totals() == before | {"packets received": before["packets received"] + 3}
    assert talk.service.totals().packets_discarded == discarded + 3


def test_packets_of_the_kernel_are_counted_once(talk):
    talk.at(1)
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.offload.forward(FACES_CALLER, 20, talk.now, ssrc=0x1234, sequence=220)
    talk.offload.dropped += 3
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
    """The change happened outside the window that the command opens, although it is noticed inside."""
    talk.at(1)
    talk.offload.forward(FACES_CALLER, 10, talk.now, ssrc=0x1234, sequence=210)
    talk.at(5)
    talk.offload.forward(FACES_CALLER, 10, talk.now, ssrc=0x77, sequence=10)
    talk.at(6)
    talk.command("U call 10.0.1.2 4000 f t", "20000")
    talk.at(17)
    talk.packet(STRANGER, FACES_CALLER, rtp(211))
    talk.packet(STRANGER, FACES_CALLER, rtp(11, ssrc=0x77), TO_CALLEE)


# Totals of the process (11.3)

SESSIONS = "nsess_created nsess_destroyed nsess_timeout nsess_complete"
PACKETS = "npkts_rcvd npkts_relayed npkts_discard"
WAYS = "nsess_nortp nsess_owrtp nsess_nortcp nsess_owrtcp"
SEQUENCES = "rtpa_nsent rtpa_nrcvd rtpa_ndups rtpa_nlost rtpa_perrs"
UNMOVED = "nplrs_created nplrs_destroyed npkts_played npkts_resizer_in npkts_resizer_out npkts_resizer_discard"


def values(play, names):
    return tuple(play.stats(names).values())


def test_sessions_are_counted(play):
    assert values(play, SESSIONS) == (0, 0, 0, 0)
    play.call()
    assert values(play, SESSIONS) == (1, 0, 0, 1)
    for _ in range(2):
        play.ask("L call 10.0.2.2 5000 f t")
        play.ask("U call 10.0.1.2 4000 f t")
    play.ask("U other 10.0.1.2 4000 f")
    assert values(play, SESSIONS) == (2, 0, 0, 1)
    play.command("D call f t", "0")
    assert values(play, SESSIONS) == (2, 1, 0, 1)
    play.tick(100)
    assert values(play, SESSIONS) == (2, 2, 1, 1)
    play.call("next")
    play.command("X", "0")
    assert values(play, SESSIONS) == (3, 3, 1, 2)
    assert values(play, UNMOVED) == (0,) * 6


def test_packets_are_counted(play):
    play.ask("U call 10.0.1.2 4000 f")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    assert values(play, PACKETS) == (0, 0, 1)  # before completion
    play.ask("L call 10.0.2.2 5000 f t")
    start_talking(play)
    assert values(play, PACKETS) == (2, 2, 1)
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    assert values(play, PACKETS) == (3, 3, 1)
    play.packet(STRANGER, FACES_CALLEE, rtp(1, ssrc=0x666))
    assert values(play, PACKETS) == (4, 3, 2)  # wrong source
    play.media.unreachable.add(CALLER.host)
    play.packet(CALLEE, FACES_CALLEE, rtp(101))
    assert values(play, PACKETS) == (5, 3, 3)  # impossible to send on
    play.command("D call f t", "0")
    play.packet(CALLEE, FACES_CALLEE, rtp(102))
    assert values(play, PACKETS) == (5, 3, 4)  # to a port just closed


def test_packets_of_the_kernel_are_in_the_totals(talk):
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.offload.dropped += 3
    assert values(talk, PACKETS) == (15, 12, 3)
    talk.ask("Q call f t")
    talk.packet(CALLEE, FACES_CALLEE, rtp(111), TO_CALLER)
    assert values(talk, PACKETS) == (16, 13, 3)
    talk.command("D call f t", "0")
    assert values(talk, PACKETS) == (16, 13, 3)


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ((), (1, 0, 1, 0)),
        ((FACES_CALLEE,), (0, 1, 1, 0)),
        ((FACES_CALLER,), (0, 1, 1, 0)),
        ((FACES_CALLEE, FACES_CALLER), (0, 0, 1, 0)),
        ((FACES_CALLER_RTCP,), (1, 0, 0, 1)),
        ((FACES_CALLER_RTCP, FACES_CALLEE_RTCP), (1, 0, 0, 0)),
        ((FACES_CALLER, FACES_CALLEE_RTCP), (0, 1, 0, 1)),
    ],
)
@pytest.mark.parametrize("is_forwarded", [False, True], ids=["userspace", "kernel"])
def test_ways_that_media_went(ports, expected, is_forwarded):
    sources = {
        **{FACES_CALLEE: CALLEE, FACES_CALLER: CALLER},
        **{FACES_CALLEE_RTCP: CALLEE_RTCP, FACES_CALLER_RTCP: CALLER_RTCP},
    }
    play = Scenario(listen_host=OUR_HOST)
    play.ask("Ua call 10.0.1.2 4000 f")
    play.ask("La call 10.0.2.2 5000 f t")
    for port in ports:
        if is_forwarded:
            play.offload.forward(port, 1, play.now, ssrc=1)
        else:
            play.service.datagram(port, rtp(1), sources[port], OUR_HOST, play.now)
    assert values(play, WAYS) == (0, 0, 0, 0)
    play.command("D call f t", "0")
    assert values(play, WAYS) == expected


def test_incomplete_session_went_no_way(play):
    play.ask("U call 10.0.1.2 4000 f")
    play.command("D call f t", "0")
    assert values(play, WAYS) == (0, 0, 0, 0)


def test_wrong_source_is_no_way(play):
    play.call()
    start_talking(play)
    play.packet(STRANGER, FACES_CALLEE, rtp(1, ssrc=0x666))
    play.call("other")
    play.command("D other f t", "0")
    assert values(play, WAYS) == (1, 0, 1, 0)


def test_durations_are_added_when_sessions_end(play):
    play.call()
    play.at(2.5)
    assert play.stats("total_duration") == {"total_duration": 0.0}
    play.ask("U other 10.0.1.2 4000 f")
    play.command("D call f t", "0")
    assert play.ask("G total_duration") == "2.500000"
    play.tick(62.5)
    assert play.ask("G total_duration") == "62.500000"


def test_sequence_statistics_are_added_when_a_session_ends(talk):
    for number in (101, 101, 104):
        talk.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER)
    talk.packet(CALLER, FACES_CALLER, b"no RTP", TO_CALLEE)
    assert values(talk, SEQUENCES) == (0, 0, 0, 0, 0)
    talk.command("D call f t", "0")
    assert values(talk, SEQUENCES) == (5 + 1, 3 + 1, 1, 2, 1)


@pytest.mark.parametrize("ending", ["D call f t", "X", "Q call f t && D", "tick"])
def test_what_the_kernel_forwarded_just_before_the_end_is_added(talk, ending):
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    talk.offload.forward(FACES_CALLER, 20, talk.now, ssrc=0x1234, sequence=220)
    if ending == "tick":
        talk.tick(60)
    else:
        talk.ask(ending)
    talk.assert_nothing_is_left()
    sent, received, *_ = values(talk, SEQUENCES)
    assert sent == received == 32
    assert values(talk, WAYS) == (0, 0, 1, 0)


def test_packets_a_second_are_those_since_the_last_tick(talk):
    """Packets of both tiers count, and the time between ticks may be longer than a second."""
    talk.tick(1)
    for number in range(101, 121):
        talk.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER)
    talk.offload.forward(FACES_CALLER, 30, talk.now, ssrc=0x1234, sequence=230)
    talk.tick(2)
    assert talk.ask("G pps_in") == "50.000000"
    talk.offload.forward(FACES_CALLER, 100, talk.now, ssrc=0x1234, sequence=330)
    talk.offload.dropped += 20
    assert talk.ask("G pps_in") == "50.000000", "refreshed by ticks only"
    talk.tick(4)
    assert talk.ask("G pps_in") == "60.000000"
    talk.tick(5)
    assert talk.ask("G pps_in") == "0.000000"


def test_packets_before_the_first_tick_are_of_no_second(play):
    """The first tick has nothing to compare with, and the clock may start at any number."""
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)
    play.tick(0.5)
    assert play.ask("G pps_in") == "0.000000"
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)
    play.tick(1.5)
    assert play.ask("G pps_in") == "1.000000"


def test_gap_and_jitter_are_of_the_party_asked_for(talk):
    talk.at(3)
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    assert talk.ask("Q call t f longest_ipi") == "3.000000"
    assert talk.ask("Q call f t longest_ipi rtpa_jlast rtpa_jmax rtpa_javg") == "0.000000 0.000000 0.000000 0.000000"
