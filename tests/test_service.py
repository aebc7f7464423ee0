"""What commands, packets and time do to sessions: protocol.md 4 and 5 as a playbook."""

import errno
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rtpproxy.addr import Endpoint
from rtpproxy.config import LatchingMode
from rtpproxy.offload.entry import NOT_LEARNED, PEER_UNKNOWN, ForwardingEntry
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
    OUR_HOST,
    STRANGER,
    Scenario,
)

RTCP = b"\x81\xc9\x00\x07" + bytes(28)
ALL_COUNTERS = "npkts_ina npkts_ino nrelayed ndropped rtpa_nsent rtpa_nrcvd rtpa_ndups rtpa_nlost rtpa_perrs"

TO_CALLER = (FACES_CALLER, CALLER)
TO_CALLEE = (FACES_CALLEE, CALLEE)


@pytest.fixture
def play():
    return Scenario()


@pytest.fixture
def talk():
    """A call in which both parties have sent a packet from where they said."""
    play = Scenario()
    play.call()
    start_talking(play)
    return play


def start_talking(play, *, ssrc=0x1234):
    play.packet(CALLEE, FACES_CALLEE, rtp(100, ssrc=ssrc), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(200, ssrc=ssrc), TO_CALLEE)


# Which port is answered (4.3)


def test_each_command_is_answered_with_the_port_for_the_other_party(play):
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("L call 10.0.2.2 5000 f t", "20002")
    for _ in range(2):
        play.command("U call 10.0.1.2 4000 f t", "20000")
        play.command("L call 10.0.2.2 5000 f t", "20002")
        play.command("U call 10.0.2.2 5000 t f", "20002")
        play.command("L call 10.0.1.2 4000 t f", "20000")
    assert play.ports.held == {20000, 20002}


@pytest.mark.parametrize(
    "completing",
    ["L call 10.0.2.2 5000 f t", "L call 10.0.2.2 5000 f", "U call 10.0.2.2 5000 t f"],
    ids=["L", "L without to-tag", "U with tags exchanged"],
)
def test_second_leg_completes_the_session(play, completing):
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command(completing, "20002")
    start_talking(play)


def test_answered_with_tags_exchanged_before_the_second_leg(play):
    """Until the caller-facing port exists, `L` from the other side names the first port and completes nothing."""
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("L call 10.0.1.2 4000 t f", "20000")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    assert play.service.totals(0.0).packets_discarded == 1


def test_reply_names_the_listen_address():
    play = Scenario(listen_host="192.0.2.1")
    play.command("U call 10.0.1.2 4000 f", "20000 192.0.2.1")
    play.command("L call 10.0.2.2 5000 f t", "20002 192.0.2.1")


def test_other_from_tag_or_call_id_is_another_session(play):
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("U call 10.0.1.2 4000 other", "20002")
    play.command("U call2 10.0.1.2 4000 f", "20004")
    play.command("U call 10.0.1.2 4000 f", "20000")
    assert play.totals()["sessions created"] == play.sessions == 3


def test_lookup_of_unknown_session_is_zero_and_creates_nothing(play):
    play.command("L call 10.0.2.2 5000 f t", "0")
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("L call 10.0.2.2 5000 nobody t", "0")
    assert play.ports.held == {20000}


# Media numbers (4.2)


def test_media_numbers_tell_sessions_of_a_call_apart(play):
    play.command("U call 10.0.1.2 4000 f;1", "20000")
    play.command("U call 10.0.1.2 4002 f;2", "20002")
    play.command("L call 10.0.2.2 5000 f;1 t;1", "20004")
    play.command("U call 10.0.2.2 5002 t;2 f;2", "20006")
    play.command("U call 10.0.1.2 4000 f;1 t;1", "20000")
    play.command("Q call f t", "E50")
    play.command("Q call f;1 t;1", "60 0 0 0 0")


def test_media_number_on_the_other_tag_only(play):
    play.command("U call 10.0.1.2 4000 f;1", "20000")
    play.command("U call 10.0.2.2 5000 t;1 f", "20002")
    play.command("U call 10.0.2.2 5000 t;2 f", "20004")
    assert play.sessions == 2


def test_delete_without_media_number_ends_all_of_the_call(play):
    for number in (1, 2, 3):
        play.ask(f"U call 10.0.1.2 4000 f;{number}")
    play.ask("U call 10.0.1.2 4000 ff")
    play.command("D call f;2 t", "0")
    assert play.ports.held == {20000, 20004, 20006}
    play.command("D call t f", "0")
    assert play.ports.held == {20006}
    play.command("D call f t", "E50")


# Strong and weak (4.5)


@pytest.mark.parametrize(
    ("commands", "held_by"),
    [
        (["U call 10.0.1.2 4000 f"], ["D call f"]),
        (["U call 10.0.1.2 4000 f"], ["D call t f"]),
        (["Uw call 10.0.1.2 4000 f"], ["Dw call t f"]),
        (["Uw call 10.0.1.2 4000 f", "U call 10.0.1.2 4000 f"], ["D call f", "Dw call t f"]),
        (["Uw call 10.0.1.2 4000 f", "U call 10.0.2.2 5000 t f"], ["Dw call t f", "D call f"]),
        (["U call 10.0.1.2 4000 f", "Uw call 10.0.1.2 4000 f"], ["D call f", "Dw call t f"]),
        (["Uw call 10.0.1.2 4000 f", "Uw call 10.0.2.2 5000 t f"], ["Dw call t f", "Dw call f t"]),
        (["Uw call 10.0.1.2 4000 f", "Lw call 10.0.2.2 5000 f t"], ["Dw call f t", "Dw call t f"]),
        (["Uw call 10.0.1.2 4000 f", "L call 10.0.2.2 5000 f t"], ["Dw call t f"]),
        (["U call 10.0.1.2 4000 f", "Lw call 10.0.1.2 4000 t f"], ["D call f", "Dw call t f"]),
    ],
)
def test_session_lives_until_its_last_reference_is_dropped(play, commands, held_by):
    for command in commands:
        assert not play.ask(command).startswith("E")
    for command in held_by:
        assert play.sessions == 1, f"before {command}"
        play.command(command, "0")
    play.assert_nothing_is_left()


def test_weak_reference_is_dropped_by_the_other_tag_than_set_it(play):
    """The inversion of 4.5: what `Uw call a p f` holds, `Dw call f t` does not drop."""
    play.ask("Uw call 10.0.1.2 4000 f")
    play.ask("Uw call 10.0.2.2 5000 t f")
    play.command("Dw call f t", "0")
    play.command("Dw call f t", "0")
    assert play.sessions == 1
    play.command("Dw call t f", "0")
    play.assert_nothing_is_left()


def test_dropping_a_reference_that_is_not_held_succeeds_and_ends_nothing(play):
    play.ask("U call 10.0.1.2 4000 f")
    play.command("Dw call f t", "0")
    play.command("Dw call t f", "0")
    assert play.sessions == 1


def test_strong_delete_of_a_weak_session_with_no_reference_left_ends_it(play):
    """`D` looks at what is left, not at what it dropped."""
    play.ask("Uw call 10.0.1.2 4000 f")
    play.command("D call f t", "0")
    assert play.sessions == 1
    play.command("Dw call t f", "0")
    play.command("D call f t", "E50")


# Completion (4.4)


def test_packets_before_completion_are_thrown_away(play):
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.packet(STRANGER, FACES_CALLEE, rtp(1))
    play.packet(STRANGER, FACES_CALLEE_RTCP, RTCP)
    assert play.service.totals(0.0).packets_discarded == 2
    assert play.totals()["packets received"] == 0
    play.command("L call 10.0.2.2 5000 f t", "20002")
    # Nothing was learned from them.
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.command("Q call f t", "60 1 0 1 0")


def test_nothing_is_planned_before_completion(play):
    play.command("U call 10.0.1.2 4000 f", "20000")
    assert play.offload.applied == 0
    play.command("L call 10.0.2.2 5000 f t", "20002")
    assert play.offload.installed == dict.fromkeys(range(20000, 20004), NOT_LEARNED)
    assert set(play.offload.labels.values()) == {"call"}


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
    # Only a guess: the first real packet corrects the port, and then it is certain.
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
    """RTCP may come from another host than RTP; what it taught stands until RTP moves."""
    play.ask("U call 192.168.0.7 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    monitor = Endpoint("10.0.1.77", 33333)
    play.packet(monitor, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLER, FACES_CALLER, rtp(2), TO_CALLEE, local_host="10.0.0.99")
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, monitor))


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


# Hold (5.7)


def test_hold_lets_media_flow(talk):
    talk.command("U call 0.0.0.0 4000 f", "20000")
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)


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
    talk.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP)  # so the true one comes too late
    assert talk.counters(f"call f t {ALL_COUNTERS}") == before
    assert talk.service.totals(0.0).packets_discarded == 3
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
    # The window is that of the party that the command described.
    talk.packet(STRANGER, FACES_CALLEE, rtp(9002, ssrc=0x666))


def test_stream_without_memory_is_not_taken_even_in_the_window(play):
    play.ask("U call foo 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.command("U call 10.0.1.2 4000 f t", "20000")
    play.packet(STRANGER, FACES_CALLER, rtp(2))
    # Until its source changes the SSRC, which makes a memory; outside the window, for the memory to be made.
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


# What the kernel is to forward


def test_entry_follows_once_both_ends_are_known():
    play = Scenario(listen_host=OUR_HOST)
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(100), TO_CALLER)
    assert play.offload.entry(FACES_CALLEE) == ForwardingEntry(
        port=FACES_CALLEE,
        local_host=OUR_HOST,
        source=CALLEE,
        is_any_source_port=False,
        is_rtp=True,
        from_host=OUR_HOST,
        from_port=FACES_CALLER,
        to=CALLER,
    )
    assert play.offload.installed[FACES_CALLER] == NOT_LEARNED
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    entry = play.offload.entry(FACES_CALLEE_RTCP)
    assert entry is not None
    assert (entry.source, entry.to, entry.is_rtp) == (CALLEE_RTCP, CALLER_RTCP, False)


def test_entry_follows_a_party_that_moves(talk):
    elsewhere = Endpoint("198.51.100.7", 1234)
    talk.packet(elsewhere, FACES_CALLEE, rtp(101), TO_CALLER)
    assert talk.offload.entry(FACES_CALLEE).source == elsewhere
    assert talk.offload.entry(FACES_CALLER).to == elsewhere


def test_plan_is_not_made_again_for_ordinary_packets(talk):
    applied = talk.offload.applied
    for number in range(101, 150):
        talk.at(number / 10)
        talk.packet(CALLEE, FACES_CALLEE, rtp(number), TO_CALLER)
    assert talk.offload.applied == applied


def test_under_the_wildcard_packets_leave_from_the_address_that_the_party_sends_to(play):
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER, local_host="10.0.2.1")
    assert play.last_sent.from_host == ""  # the caller has not told yet which of our addresses it knows
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE, local_host="10.0.1.1")
    assert play.last_sent.from_host == "10.0.2.1"
    play.packet(CALLEE, FACES_CALLEE, rtp(2), TO_CALLER, local_host="10.0.2.1")
    assert play.last_sent.from_host == "10.0.1.1"
    entry = play.offload.entry(FACES_CALLEE)
    assert (entry.local_host, entry.from_host) == ("10.0.2.1", "10.0.1.1")
    play.packet(CALLEE, FACES_CALLEE, rtp(3), TO_CALLER, local_host="10.0.2.99")
    assert play.offload.entry(FACES_CALLEE).local_host == "10.0.2.99"
    assert play.offload.entry(FACES_CALLER).from_host == "10.0.2.99"


def test_with_a_listen_address_packets_leave_from_it():
    play = Scenario(listen_host="192.0.2.1")
    play.call()
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER, local_host="192.0.2.1")
    assert play.last_sent.from_host == "192.0.2.1"


def test_address_of_an_ignored_packet_is_not_learned(talk):
    talk.packet(STRANGER, FACES_CALLEE, rtp(1, ssrc=0x666), local_host="10.0.2.66")
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert talk.last_sent.from_host == OUR_HOST


# Counters (11.1, 11.2)


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


# The end (4.7)


def test_delete_withdraws_then_closes_then_frees(talk):
    talk.journal.clear()
    talk.command("D call f t", "0")
    assert sorted(talk.journal[:4]) == [("withdraw", port) for port in range(20000, 20004)]
    assert talk.journal[4:] == [("close", 20000), ("release", 20000), ("close", 20002), ("release", 20002)]
    talk.assert_nothing_is_left()
    talk.command("D call f t", "E50")


def test_packets_after_the_end_go_nowhere(talk):
    talk.command("D call f t", "0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(101))
    talk.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP)
    assert talk.service.totals(0.0).packets_discarded == 2
    talk.command("Q call f t", "E50")


def test_delete_of_an_incomplete_session(play):
    play.ask("U call 10.0.1.2 4000 f")
    play.command("D call f", "0")
    play.assert_nothing_is_left()


def test_delete_all(play):
    for number in range(3):
        play.call(f"call{number}")
    play.ask("Uw call9 10.0.1.2 4000 f")
    play.command("X", "0")
    play.assert_nothing_is_left()
    assert play.totals()["sessions created"] == 4
    play.command("X", "0")


def test_kernel_counts_outlive_the_session(talk):
    talk.offload.forward(FACES_CALLEE, 10, talk.now, ssrc=0x1234, sequence=110)
    before = talk.totals()
    talk.command("D call f t", "0")
    assert talk.totals() == {**before, "active sessions": 0, "active streams": 0}


# Time (4.6)


def test_session_that_nobody_answers_ends_after_the_setup_timeout():
    play = Scenario(setup_timeout_s=10, idle_timeout_s=60)
    play.ask("U call 10.0.1.2 4000 f")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.tick(9)
    assert play.counters("call f t")["ttl"] == 1
    play.packet(CALLEE, FACES_CALLEE, rtp(2))
    play.tick(9.99)
    assert play.sessions == 1
    play.tick(10)
    play.assert_nothing_is_left()


def test_answer_replaces_the_setup_timeout():
    play = Scenario(setup_timeout_s=10, idle_timeout_s=60)
    play.ask("U call 10.0.1.2 4000 f")
    play.at(5)
    play.ask("L call 10.0.2.2 5000 f t")
    play.tick(64.9)
    assert play.sessions == 1
    play.tick(65)
    play.assert_nothing_is_left()


def test_repeated_setup_command_postpones():
    play = Scenario(setup_timeout_s=10)
    play.ask("U call 10.0.1.2 4000 f")
    play.at(9)
    play.ask("U call 10.0.1.2 4000 f")
    play.tick(18.9)
    assert play.sessions == 1
    play.tick(19)
    assert play.sessions == 0


def is_alive_after(play, second):
    play.tick(second)
    return play.sessions == 1


def test_what_keeps_a_session(talk):
    talk.at(50)
    talk.packet(CALLER, FACES_CALLER, rtp(250), TO_CALLEE)
    assert is_alive_after(talk, 109)
    talk.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    assert is_alive_after(talk, 168)
    talk.ask("L call 10.0.2.2 5000 f t")
    assert is_alive_after(talk, 227)
    talk.media.unreachable.add(CALLER.host)
    talk.packet(CALLEE, FACES_CALLEE, rtp(999))
    assert is_alive_after(talk, 286.9)
    assert not is_alive_after(talk, 287)


def test_what_does_not_keep_a_session(talk):
    talk.at(50)
    talk.packet(STRANGER, FACES_CALLER, rtp(1, ssrc=0x666))
    talk.ask("Q call f t")
    talk.ask("Dw call f t")
    talk.ask("I")
    talk.ask("U call 10.0.1.2 4000 f2")
    assert talk.counters("call f t")["ttl"] == 10
    talk.tick(60)
    talk.command("Q call f t", "E50")
    assert talk.sessions == 1


def test_session_that_is_busy_in_the_kernel_is_never_ended(talk):
    for second in range(5, 1000, 5):
        talk.at(second)
        talk.offload.forward((FACES_CALLEE, FACES_CALLER)[second % 2], 250, talk.now, ssrc=0x1234)
        talk.tick()
        assert talk.sessions == 1
        assert talk.counters("call f t")["ttl"] == 60
    talk.tick(1054.9)
    assert talk.sessions == 1
    talk.tick(1055)
    talk.assert_nothing_is_left()


def test_rtcp_in_the_kernel_keeps_a_session(talk):
    talk.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    talk.at(59)
    talk.offload.forward(FACES_CALLEE_RTCP, 1, talk.now)
    assert is_alive_after(talk, 118.9)
    assert not is_alive_after(talk, 119)


def test_ports_earlier_session_does_not_keep_its_successor():
    play = Scenario(pairs=3, idle_timeout_s=10, setup_timeout_s=10)
    play.call()
    start_talking(play)
    play.at(5)
    play.offload.forward(FACES_CALLEE, 10, play.now, ssrc=0x1234)
    play.command("D call f t", "0")
    play.ask("U next 10.0.1.2 4000 f")
    play.command("L next 10.0.2.2 5000 f t", "20000")
    assert is_alive_after(play, 14.9)
    assert not is_alive_after(play, 15)


def test_only_idle_sessions_end(talk):
    talk.call("other")
    talk.at(30)
    talk.packet(CALLER, FACES_CALLER, rtp(250), TO_CALLEE)
    talk.tick(60)
    talk.command("Q other f t", "E50")
    assert talk.ports.held == {20000, 20002}
    assert talk.journal[-2:] == [("close", 20006), ("release", 20006)]


def test_idle_session_is_withdrawn_before_its_ports_are_free(talk):
    talk.journal.clear()
    talk.tick(60)
    assert [what for what, _ in talk.journal] == ["withdraw"] * 4 + ["close", "release"] * 2


# Refusals (3.3): a refused command changes nothing


def test_no_port_for_a_new_session():
    play = Scenario(pairs=2)
    play.call()
    before = list(play.journal)
    play.command("U next 10.0.1.2 4000 f", "E72")
    play.command("Q next f t", "E50")
    assert (play.sessions, play.totals()["sessions created"], play.journal) == (1, 1, before)


@pytest.mark.parametrize("command", ["L call 10.0.2.2 5000 f t", "U call 10.0.2.2 5000 t f"])
def test_no_port_for_the_second_leg_leaves_the_session_incomplete(command):
    play = Scenario(pairs=3)
    play.ask("U call 10.0.1.2 4000 f")
    play.ask("U b 10.0.1.2 4000 f")
    play.ask("U c 10.0.1.2 4000 f")
    play.at(10)
    play.command(command, "E71")
    assert play.counters("call f t")["ttl"] == 50
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    assert (play.service.totals(0.0).packets_discarded, play.offload.applied) == (1, 0)
    play.command("D b f", "0")
    play.command(command, "20002")
    start_talking(play)


def test_refused_update_takes_no_reference():
    play = Scenario(pairs=3)
    play.ask("Uw call 10.0.1.2 4000 f")
    play.ask("U b 10.0.1.2 4000 f")
    play.ask("U c 10.0.1.2 4000 f")
    play.command("U call 10.0.2.2 5000 t f", "E71")
    play.command("Dw call t f", "0")
    play.command("Q call f t", "E50")


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("Ul10.9.9.9 call 10.0.1.9 4999 f t", "E31"),
        ("Ur10.9.9.9 call 10.0.1.9 4999 f t", "E32"),
        ("Ll10.9.9.9 call 10.0.2.9 5999 f t", "E31"),
        ("Ut call 10.0.1.9 4999 f t", "E35"),
        ("U6 call 10.0.1.9 4999 f t", "E36"),
        ("U call 10.0.1.999 4999 f t", "E37"),
        ("U call 10.0.1.9 4999 f t x y", "E75"),
        ("U call 10.0.1.9 4999 f t && D", "E3"),
        ("Dq call f t", "E8"),
        ("D call nobody f2", "E50"),
    ],
)
def test_refused_command_changes_nothing(talk, command, reply):
    talk.at(10)
    before = talk.ask("Q call f t"), talk.totals(), dict(talk.offload.installed), list(talk.journal)
    talk.command(command, reply)
    assert (talk.ask("Q call f t"), talk.totals(), dict(talk.offload.installed), list(talk.journal)) == before
    # Nor did the command open the window for other sources.
    talk.packet(STRANGER, FACES_CALLER, rtp(1, ssrc=0x666))
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)


def test_refused_creation_leaves_nothing(play):
    play.command("Ul10.9.9.9 call 10.0.1.2 4000 f", "E31")
    play.assert_nothing_is_left()
    assert play.totals()["sessions created"] == 0


def test_our_own_address_may_be_asked_for():
    play = Scenario(listen_host="192.0.2.1")
    play.command("Ul192.0.2.1 call 10.0.1.2 4000 f", "20000 192.0.2.1")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
def test_failure_to_open_ends_the_search(play, number):
    play.media.open_error = OSError(number, "no")
    play.command("U call 10.0.1.2 4000 f", "E72")
    play.assert_nothing_is_left()
    play.media.open_error = None
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.media.open_error = OSError(number, "no")
    play.command("L call 10.0.2.2 5000 f t", "E71")
    assert play.ports.held == {20000}


def test_busy_port_is_passed_over(play):
    play.media.busy = {20000, 20003}
    play.command("U call 10.0.1.2 4000 f", "20004")
    play.command("L call 10.0.2.2 5000 f t", "20006")
    play.media.busy = set()
    play.command("D call f t", "0")
    assert play.ports.held == set()


def test_all_ports_busy():
    play = Scenario(pairs=4)
    play.media.busy = set(range(20000, 20008))
    play.command("U call 10.0.1.2 4000 f", "E72")
    play.assert_nothing_is_left()


def test_slow_stop_refuses_new_sessions_only(talk):
    assert not talk.service.is_finished
    talk.service.stop_slowly()
    talk.command("U next 10.0.1.2 4000 f", "E99")
    talk.command("U call 10.0.1.2 4000 f t", "20000")
    talk.command("L call 10.0.2.2 5000 f t", "20002")
    talk.command("L next 10.0.2.2 5000 f t", "0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    assert not talk.service.is_finished
    talk.command("D call f t", "0")
    assert talk.service.is_finished


def test_slow_stop_without_sessions_is_finished_at_once(play):
    play.service.stop_slowly()
    assert play.service.is_finished


# Everything at random, against a simple model


class Model:
    """A session as the commands describe it."""

    def __init__(self, from_tag, port, is_weak, now):
        self.from_tag = from_tag
        self.ports = [port, None]
        self.is_strong = not is_weak
        self.weak = [is_weak, False]
        self.seen = now
        self.timeout = SETUP_S


SETUP_S, IDLE_S = 10, 25
TAGS = ("f", "f;1", "f;2", "g", "t", "t;1")
ENDPOINTS = (CALLER, CALLEE, STRANGER)
calls, tags = st.sampled_from(["a", "b"]), st.sampled_from(TAGS)


class SessionsComeAndGo(RuleBasedStateMachine):
    """Which session a command means, and who holds which port, is worked out twice."""

    def __init__(self):
        super().__init__()
        self.play = Scenario(pairs=8, setup_timeout_s=SETUP_S, idle_timeout_s=IDLE_S)
        self.models = {"a": [], "b": []}
        self.created = 0

    @property
    def all(self):
        return [model for models in self.models.values() for model in models]

    def find(self, call, from_tag, to_tag):
        """The first that matches, and the stream (0 or 1) that a `U` would be answered with."""
        for model in self.models[call]:
            if model.from_tag == from_tag:
                return model, 0
            numbered = to_tag + ";" + from_tag.rsplit(";")[-1] if ";" in from_tag else to_tag
            if model.from_tag in (to_tag, numbered):
                return model, 1
        return None, 0

    def took(self, reply):
        """Whether the reply names a port, which then was free or of this session; else none can be had."""
        if reply in ("E71", "E72"):
            free = {20000 + 2 * number for number in range(8)} - {port for m in self.all for port in m.ports}
            assert len(free) <= 1, "the pair taken last is the only one that may be withheld"
            return False
        assert reply.isdigit()
        return True

    @rule(call=calls, from_tag=tags, to_tag=tags, is_weak=st.booleans(), to=st.sampled_from(ENDPOINTS))
    def update(self, call, from_tag, to_tag, is_weak, to):
        reply = self.play.ask(f"U{'w' * is_weak} {call} {to.host} {to.port} {from_tag} {to_tag}")
        model, stream = self.find(call, from_tag, to_tag)
        if not self.took(reply):
            return
        if model is None:
            self.created += 1
            self.models[call].append(Model(from_tag, int(reply), is_weak, self.play.now))
            return
        model.is_strong |= not is_weak
        self.answered(model, stream, int(reply), is_weak)

    @rule(call=calls, from_tag=tags, to_tag=tags, is_weak=st.booleans(), to=st.sampled_from(ENDPOINTS))
    def lookup(self, call, from_tag, to_tag, is_weak, to):
        reply = self.play.ask(f"L{'w' * is_weak} {call} {to.host} {to.port} {from_tag} {to_tag}")
        model, stream = self.find(call, from_tag, to_tag)
        if model is None:
            assert reply == "0"
        elif self.took(reply):
            self.answered(model, 1 - stream, int(reply), is_weak)

    def answered(self, model, stream, port, is_weak):
        model.seen = self.play.now
        model.weak[stream] |= is_weak
        if model.ports[stream] is None:
            assert port not in [held for other in self.all for held in other.ports]
            model.ports[stream] = port
            model.timeout = IDLE_S
        assert model.ports[stream] == port

    @rule(call=calls, from_tag=tags, to_tag=tags, is_weak=st.booleans())
    def delete(self, call, from_tag, to_tag, is_weak):
        reply = self.play.ask(f"D{'w' * is_weak} {call} {from_tag} {to_tag}")
        is_found = False
        for model in list(self.models[call]):
            prefixes = (model.from_tag, model.from_tag.split(";")[0])
            if from_tag not in prefixes and to_tag not in prefixes:
                continue
            is_found = True
            if is_weak:
                model.weak[1 if from_tag in prefixes else 0] = False
            else:
                model.is_strong = False
            if not (model.is_strong or any(model.weak)):
                self.models[call].remove(model)
        assert reply == ("0" if is_found else "E50")

    @rule()
    def delete_all(self):
        self.play.command("X", "0")
        self.models = {"a": [], "b": []}

    @rule(port=st.integers(20000, 20016), source=st.sampled_from(ENDPOINTS), sequence=st.integers(0, 999))
    def packet(self, port, source, sequence):
        model = next((m for m in self.all if port & ~1 in m.ports), None)
        is_complete = model is not None and None not in model.ports
        before, sent = self.play.service.totals(0.0).packets_discarded, len(self.play.media.sent)
        self.play.service.datagram(port, rtp(sequence), tuple(source), OUR_HOST, self.play.now)
        is_sent = len(self.play.media.sent) > sent
        assert is_sent is (self.play.service.totals(0.0).packets_discarded == before)
        if is_sent:
            assert is_complete
            # It leaves from the other leg's port of the same component.
            assert {port, self.play.last_sent.from_port} == {held + port % 2 for held in model.ports}
            model.seen = self.play.now

    @rule(port=st.integers(20000, 20016), packets=st.integers(1, 5))
    def forward(self, port, packets):
        if self.play.offload.entry(port) is None:
            return
        self.play.offload.forward(port, packets, self.play.now, ssrc=0x1234, sequence=packets)
        next(model for model in self.all if port & ~1 in model.ports).seen = self.play.now

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds):
        self.play.now += seconds
        self.play.tick()
        for call, models in self.models.items():
            self.models[call] = [model for model in models if self.play.now - model.seen < model.timeout]

    @invariant()
    def sessions_are_counted(self):
        totals = self.play.totals()
        assert (totals["active sessions"], totals["sessions created"]) == (len(self.all), self.created)

    @invariant()
    def ports_are_held_by_sessions_only(self):
        held = {port for model in self.all for port in model.ports if port is not None}
        assert self.play.ports.held == held
        assert self.play.media.open_ports == held
        assert self.play.service._streams.keys() == {port + odd for port in held for odd in (0, 1)}

    @invariant()
    def only_complete_sessions_are_offloaded(self):
        complete = {
            port + odd for model in self.all if None not in model.ports for port in model.ports for odd in (0, 1)
        }
        assert self.play.offload.installed.keys() == complete

    @invariant()
    def time_left_is_known(self):
        for call, models in self.models.items():
            for model in models:
                left = math.ceil(model.timeout - (self.play.now - model.seen))
                assert self.play.counters(f"{call} {model.from_tag}")["ttl"] == left

    def teardown(self):
        self.play.command("X", "0")
        self.play.assert_nothing_is_left()


SessionsComeAndGo.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestSessionsComeAndGo = SessionsComeAndGo.TestCase
