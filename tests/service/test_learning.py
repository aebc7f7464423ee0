"""Sources that packets are accepted from, and endpoints that they are sent to: protocol.md 5 and 6.2."""

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import LatchingMode, ListenAddress
from rtpproxy.offload.entry import NOT_LEARNED, PEER_UNKNOWN, REFLECTED, ForwardingEntry
from rtpproxy.session.latch import KnownSource
from rtpproxy.session.loops import REPEATS_PER_SECOND, RTCP_PER_SECOND, UNNUMBERED_PER_SECOND
from tests.fakes import TOS
from tests.running import muxed_rtcp, rtp
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
)

# Prefill and RTCP (5.2, 5.6)


def test_packets_go_to_the_signalled_address_at_once(play):
    play.call()
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)


def test_rtcp_goes_to_the_port_above(play):
    play.call()
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))


def test_port_above_the_last_one_is_none(play):
    play.ask("U call 10.0.1.2 65535 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP)
    play.packet(CALLEE, FACES_CALLEE, rtp(1), (FACES_CALLER, Endpoint("10.0.1.2", 65535)))
    assert play.offload.installed[FACES_CALLEE_RTCP] == PEER_UNKNOWN


def test_port_zero_is_not_sent_to(play):
    play.ask("U call 10.0.1.2 0 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.command("Q call f t", "60 0 1 0 1")


def test_address_that_is_not_looked_at_is_learned_from_the_first_packet(play):
    play.ask("U call foo 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)
    play.command("Q call f t", "60 1 2 2 1")


def test_learned_rtp_address_is_a_guess_for_rtcp(play):
    play.ask("U call 192.168.0.7 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    # A guess: the first RTCP packet corrects the port, which is then certain.
    real = Endpoint(CALLER.host, 33333)
    play.packet(real, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, real))
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP)


def test_rtcp_of_the_same_host_is_not_guessed_again(play):
    play.call()
    real = Endpoint(CALLER.host, 33333)
    play.packet(real, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(Endpoint(CALLER.host, 4444), FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, real))


def test_rtcp_that_is_known_is_not_guessed_again_when_only_our_address_changes(play):
    """RTCP may come from another host than RTP; what was learned from it holds until RTP moves."""
    play.ask("U call 192.168.0.7 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    monitor = Endpoint("10.0.1.77", 33333)
    play.packet(monitor, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLER, FACES_CALLER, rtp(2), TO_CALLEE, local_host="10.0.0.99")
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, monitor))


# Hold (5.7)


def test_hold_lets_media_flow(talk):
    talk.command("U call 0.0.0.0 4000 f", "20000")
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)


def test_hold_of_ipv6_lets_media_flow():
    phone, other = Endpoint("2001:db8::2", 4000), Endpoint("2001:db8::3", 5000)
    play = Scenario(listen=(ListenAddress("2001:db8::1", is_ipv6=True),))
    play.ask(f"U6 call {phone.host} 4000 f")
    play.ask(f"L6 call {other.host} 5000 f t")
    play.command("U6 call :: 4000 f t", "20000 2001:db8::1 6")
    play.packet(other, FACES_CALLEE, rtp(1), (FACES_CALLER, phone), local_host="2001:db8::1")
    play.packet(phone, FACES_CALLER, rtp(1), (FACES_CALLEE, other), local_host="2001:db8::1")


def test_hold_opens_no_window(talk):
    """The command names no endpoint, so it opens no window for other sources (5.2, 5.7)."""
    talk.command("U call 0.0.0.0 4000 f t", "20000")
    talk.packet(STRANGER, FACES_CALLER, rtp(9000, ssrc=0x666))
    talk.command("U call foo 4000 f t", "20000")
    talk.packet(STRANGER, FACES_CALLER, rtp(9000, ssrc=0x666))


def test_hold_from_the_start_waits_for_a_packet(play):
    play.ask("U call 0.0.0.0 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)


# Asymmetric (5.5)


def test_asymmetric_party_may_send_from_any_port_of_its_host(play):
    play.ask("Ua call 10.0.1.2 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    for port in (4000, 7, 65535):
        play.packet(Endpoint(CALLER.host, port), FACES_CALLER, rtp(port), TO_CALLEE)
    play.packet(STRANGER, FACES_CALLER, rtp(1))
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)


def test_asymmetric_party_without_address_is_learned_once(play):
    play.ask("Ua call foo 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(Endpoint(CALLER.host, 9), FACES_CALLER, rtp(2), TO_CALLEE)
    play.packet(STRANGER, FACES_CALLER, rtp(3))
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)


def test_symmetric_again_keeps_the_stream_latched(play):
    play.ask("Ua call 10.0.1.2 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.command("Us call 10.0.1.2 4000 f", "20000")
    play.packet(Endpoint(CALLER.host, 9), FACES_CALLER, rtp(1))
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)


def test_asymmetric_stream_is_forwarded_without_a_packet_in_userspace():
    play = Scenario(listen_host=OUR_HOST)
    play.ask("Ua call 10.0.1.2 4000 f")
    play.ask("La call 10.0.2.2 5000 f t")
    assert play.offload.entry(FACES_CALLER) == ForwardingEntry(
        port=FACES_CALLER,
        local_host=OUR_HOST,
        source=CALLER,
        is_any_source_port=True,
        is_rtp=True,
        from_host=OUR_HOST,
        from_port=FACES_CALLEE,
        to=CALLEE,
        tos=TOS,
    )


# Learning (5.3, 5.4)


def test_party_behind_nat_is_learned_and_believed_more_than_later_commands(play):
    inside = "192.168.0.7 4000"
    play.ask(f"U call {inside} f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLEE, FACES_CALLEE, rtp(1), (FACES_CALLER, Endpoint("192.168.0.7", 4000)))
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)
    play.command(f"U call {inside} f t", "20000")
    play.command("U call 10.0.9.9 4000 f t", "20000")
    play.packet(CALLEE, FACES_CALLEE, rtp(3), TO_CALLER)


def test_new_address_in_a_command_is_used_at_once_where_the_old_one_was_signalled_too(talk):
    talk.at(1)
    talk.command("U call 10.0.1.3 4100 f t", "20000")
    moved = Endpoint("10.0.1.3", 4100)
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), (FACES_CALLER, moved))
    talk.packet(moved, FACES_CALLER, rtp(1, ssrc=0x99), TO_CALLEE)


def test_third_source_is_ignored_and_leaves_no_trace(talk):
    before = talk.counters(f"call f t {ALL_COUNTERS}")
    applied = talk.offload.applied
    talk.packet(STRANGER, FACES_CALLEE, rtp(5000, ssrc=0x666))
    talk.packet(STRANGER, FACES_CALLEE, b"")
    talk.packet(STRANGER, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))  # not latched yet
    talk.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP)  # so the real phone comes too late
    assert talk.counters(f"call f t {ALL_COUNTERS}") == before
    assert talk.service.totals().packets_discarded == 3
    assert talk.offload.applied == applied + 1
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)


@pytest.mark.parametrize(("ahead", "is_taken"), [(0, True), (536, True), (537, False), (-1, False)])
def test_other_source_goes_on_where_the_memory_ends(talk, ahead, is_taken):
    elsewhere = Endpoint("198.51.100.7", 1234)
    outs = [TO_CALLER] if is_taken else []
    talk.packet(elsewhere, FACES_CALLEE, rtp(100 + ahead), *outs)
    talk.packet(CALLER, FACES_CALLER, rtp(201), (FACES_CALLEE, elsewhere if is_taken else CALLEE))


def test_other_ssrc_does_not_go_on(talk):
    talk.packet(STRANGER, FACES_CALLEE, rtp(101, ssrc=0x666))
    talk.packet(STRANGER, FACES_CALLEE, b"\x80" + bytes(4))


@pytest.mark.parametrize("kind", [200, 201, 213])
def test_rtcp_on_the_rtp_port_does_not_go_on(talk, kind):
    """Of rtcp-mux: it is no RTP, so no other source takes the stream by it, even in the window (5.3, 5.8)."""
    elsewhere = Endpoint("198.51.100.7", 1234)
    talk.packet(elsewhere, FACES_CALLEE, muxed_rtcp(101, kind=kind))
    talk.command("L call 10.0.2.2 5000 f t", "20002")
    talk.packet(elsewhere, FACES_CALLEE, muxed_rtcp(101, kind=kind))
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    talk.packet(elsewhere, FACES_CALLEE, rtp(101), TO_CALLER)


def test_rtcp_on_the_rtp_port_is_relayed_and_changes_no_statistics(talk):
    for packet in (muxed_rtcp(9000, ssrc=7), rtp(101), muxed_rtcp(101), rtp(103)):
        talk.packet(CALLEE, FACES_CALLEE, packet, TO_CALLER)
    names = ("rtpa_nsent", "rtpa_nrcvd", "rtpa_nlost", "rtpa_ndups", "rtpa_perrs")
    counters = talk.counters(f"call t f {' '.join(names)}")
    assert [counters[name] for name in names] == [4, 3, 1, 0, 2]
    # The memory is still that of the RTP packets.
    talk.packet(STRANGER, FACES_CALLEE, rtp(9001, ssrc=7))
    talk.packet(STRANGER, FACES_CALLEE, rtp(104), TO_CALLER)


def test_rtcp_on_the_rtp_port_that_comes_first_leaves_no_memory(play):
    play.call()
    play.packet(CALLEE, FACES_CALLEE, muxed_rtcp(100), TO_CALLER)
    play.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    play.packet(STRANGER, FACES_CALLEE, rtp(102))


def test_any_source_takes_a_stream_within_ten_seconds_of_a_command(talk):
    talk.at(100)
    talk.packet(STRANGER, FACES_CALLER, rtp(9000, ssrc=0x666))
    talk.command("U call 10.0.1.2 4000 f t", "20000")
    talk.at(109.9)
    talk.packet(STRANGER, FACES_CALLER, rtp(9000, ssrc=0x666), TO_CALLEE)
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), (FACES_CALLER, STRANGER))
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    talk.at(110.1)
    talk.packet(STRANGER, FACES_CALLER, rtp(9001, ssrc=0x666))
    # The window belongs to the leg that the command described.
    talk.packet(STRANGER, FACES_CALLEE, rtp(9002, ssrc=0x666))


def test_stream_without_memory_is_not_taken_even_in_the_window(play):
    play.ask("U call foo 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.command("U call 10.0.1.2 4000 f t", "20000")
    play.packet(STRANGER, FACES_CALLER, rtp(2))
    # Until its source changes the SSRC: outside the window, that makes a memory.
    play.at(11)
    play.packet(CALLER, FACES_CALLER, rtp(10, ssrc=0x77), TO_CALLEE)
    play.packet(STRANGER, FACES_CALLER, rtp(11, ssrc=0x77), TO_CALLEE)


def test_ssrc_change_of_the_accepted_source_is_remembered(talk):
    talk.packet(CALLEE, FACES_CALLEE, rtp(5, ssrc=0x77), TO_CALLER)
    elsewhere = Endpoint("198.51.100.7", 1234)
    talk.packet(elsewhere, FACES_CALLEE, rtp(101))
    talk.packet(elsewhere, FACES_CALLEE, rtp(6, ssrc=0x77), TO_CALLER)


def test_ssrc_zero_unlocks_the_stream(talk):
    assert talk.offload.entry(FACES_CALLEE)
    talk.packet(CALLEE, FACES_CALLEE, rtp(5, ssrc=0), TO_CALLER)
    assert talk.offload.installed[FACES_CALLEE] == NOT_LEARNED
    talk.packet(STRANGER, FACES_CALLEE, rtp(6, ssrc=0x77), TO_CALLER)


def test_anything_is_relayed_unchanged(talk):
    for data in (b"", b"x", bytes(1500), b"\x00" * 8192):
        talk.packet(CALLEE, FACES_CALLEE, data, TO_CALLER)


# Strict latching (16)


@pytest.mark.parametrize("is_stolen", [False, True])
def test_rtcp_of_a_phone_that_talks_from_where_it_said_is_its_own_in_strict_mode(is_stolen):
    play = Scenario(latching=LatchingMode.STRICT)
    play.call()
    if is_stolen:
        play.packet(STRANGER, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.packet(STRANGER, FACES_CALLER_RTCP, RTCP)
    real = Endpoint(CALLER.host, 33333)
    play.packet(real, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, real))


def test_short_packets_are_sent_twice_where_that_is_asked_for():
    play = Scenario(is_doubling=True)
    play.call()
    short, long = bytes(127), bytes(128)
    play.packet(CALLEE, FACES_CALLEE, short, TO_CALLER, TO_CALLER)
    play.packet(CALLEE, FACES_CALLEE, long, TO_CALLER)
    play.packet(
        CALLEE_RTCP, FACES_CALLEE_RTCP, short, (FACES_CALLER_RTCP, CALLER_RTCP), (FACES_CALLER_RTCP, CALLER_RTCP)
    )
    assert play.counters("call f t")["nrelayed"] == 2


def test_call_ids_are_logged_on_one_line(play, caplog):
    with caplog.at_level("INFO"):
        play.ask("U \x1b[31m\x0bred 10.0.1.2 4000 f")
    assert caplog.messages[0].startswith(r"\x1b[31m\x0bred: session created")


def test_log_lines_of_audio_and_video_differ(play, caplog):
    """Kamailio and OpenSIPS add the number of the media line to the tags."""
    with caplog.at_level("INFO"):
        for number in (1, 2):
            play.ask(f"U call 10.0.1.2 4000 f;{number}")
        play.ask("U call 10.0.1.2 4000 a;b")
        play.ask("D call f")
    assert [line.partition(", port")[0] for line in caplog.messages] == [
        "call media 1: session created",
        "call media 2: session created",
        "call: session created",
        "call media 1: session ended: deleted",
        "call media 2: session ended: deleted",
    ]


def test_nothing_is_sent_back_to_its_sender(play):
    """Parties that signal the same address and port would hear themselves."""
    play.call(callee=CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(1))
    play.packet(CALLER, FACES_CALLEE, rtp(1))
    assert play.discarded == 2
    assert play.offload.installed[FACES_CALLER] == REFLECTED
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER)


# Packets that go round


def test_repeated_numbers_are_believed_so_often_a_second(play):
    play.call()
    play.packet(CALLER, FACES_CALLER, rtp(7), TO_CALLEE)
    for second in range(1, 3):
        play.at(second)
        for _ in range(REPEATS_PER_SECOND):
            play.packet(CALLER, FACES_CALLER, rtp(7), TO_CALLEE)
        for _ in range(5):
            play.packet(CALLER, FACES_CALLER, rtp(7))
        # Other packets still pass.
        play.packet(CALLER, FACES_CALLER, rtp(7 + second), TO_CALLEE)
        play.packet(CALLEE, FACES_CALLEE, rtp(6 + second), TO_CALLER)
    assert play.counters("call f t")["ndropped"] == 10


def test_repeats_that_the_kernel_forwarded_are_none_of_the_packets_of_userspace(talk):
    """As when a sender's fragments go to userspace, and its small packets, sent twice, through the kernel."""
    for number in range(REPEATS_PER_SECOND + 10):
        talk.offload.forward_again(FACES_CALLER, 1)
        talk.packet(CALLER, FACES_CALLER, rtp(201 + number, ssrc=0x1234), TO_CALLEE)
    assert talk.counters("call f t")["ndropped"] == 0
    assert talk.counters("call t f rtpa_ndups")["rtpa_ndups"] == 0
    assert talk.counters("call f t rtpa_ndups")["rtpa_ndups"] == REPEATS_PER_SECOND + 10


@pytest.mark.parametrize("ssrcs", [(1, 2), (1, 1)], ids=["two SSRCs", "far apart"])
def test_numbers_that_start_anew_are_believed_so_often_a_second(play, ssrcs):
    """Of two packets that go round, each makes the other look new."""
    play.call()
    packets = [rtp(7 + 1000 * number, ssrc=ssrc) for number, ssrc in enumerate(ssrcs)]
    for number in range(UNNUMBERED_PER_SECOND):
        play.packet(CALLER, FACES_CALLER, packets[number % 2], TO_CALLEE)
    for number in range(10):
        play.packet(CALLER, FACES_CALLER, packets[number % 2])


@pytest.mark.parametrize(
    ("source", "key", "data", "out", "most"),
    [
        (CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP), RTCP_PER_SECOND),
        (CALLER, FACES_CALLER, b"\0 not RTP", TO_CALLEE, UNNUMBERED_PER_SECOND),
    ],
    ids=["rtcp", "not rtp"],
)
def test_what_has_no_number_is_believed_so_often_a_second(play, source, key, data, out, most):
    play.call()
    for _ in range(most):
        play.packet(source, key, data, out)
    play.packet(source, key, data)
    play.at(1)
    play.packet(source, key, data, out)


def test_the_kernel_hears_from_whom_packets_are_expected(play):
    """Whenever that changes, so that a flood by others displaces none of them."""
    play.call()
    expected = play.media.expected
    assert expected[FACES_CALLER] == KnownSource(CALLER.host, CALLER.port, False, None)
    assert expected[FACES_CALLER_RTCP] == KnownSource(CALLER_RTCP.host, CALLER_RTCP.port, False, None)
    play.packet(CALLER, FACES_CALLER, rtp(1, ssrc=7), TO_CALLEE)
    assert expected[FACES_CALLER] == KnownSource(CALLER.host, CALLER.port, True, 7)
    play.packet(CALLER, FACES_CALLER, rtp(1, ssrc=8), TO_CALLEE)
    assert expected[FACES_CALLER] == KnownSource(CALLER.host, CALLER.port, True, 8)


def test_nobody_is_expected_where_the_peer_is_unknown(play):
    """What comes there cannot be sent on, and a port that somebody else learned must not bring him more room."""
    play.ask("U call 10.0.1.2 4000 f")
    play.ask("L call 0.0.0.0 0 f t")
    play.packet(CALLER, FACES_CALLER, rtp(1))
    assert play.media.expected[FACES_CALLER] is None
    assert play.media.expected[FACES_CALLEE] is None
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)
    assert play.media.expected[FACES_CALLER] == KnownSource(CALLER.host, CALLER.port, True, 0x1234)
    assert play.media.expected[FACES_CALLEE] == KnownSource(CALLEE.host, CALLEE.port, True, None)


def test_packet_is_not_sent_to_a_port_of_its_own_session():
    """Packets to parties that signal the relay's own address would go round for ever."""
    play = Scenario(listen_host=OUR_HOST)
    play.ask(f"U call {OUR_HOST} {FACES_CALLEE} f")
    play.ask(f"L call {OUR_HOST} {FACES_CALLER} f t")
    play.packet(Endpoint(OUR_HOST, FACES_CALLEE), FACES_CALLER, rtp(1))
    play.packet(Endpoint(OUR_HOST, FACES_CALLER), FACES_CALLEE, rtp(1))
    assert play.counters("call f t")["ndropped"] == 2
    play.ask(f"U call {OUR_HOST} {FACES_CALLER} f t")
    play.packet(Endpoint(OUR_HOST, FACES_CALLEE), FACES_CALLEE, rtp(2))
