"""Matching of commands to sessions, legs and ports: protocol.md 4.2 to 4.4."""

import pytest

from rtpproxy.offload.entry import NOT_LEARNED
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    OUR_HOST,
    RTCP,
    STRANGER,
    TO_CALLEE,
    Scenario,
    start_talking,
)

# The port in the reply (4.3)


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
    """Until the port for the caller exists, `L` with reversed tags names the first port and completes nothing."""
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("L call 10.0.1.2 4000 t f", "20000")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    assert play.service.totals().packets_discarded == 1


def test_new_port_before_the_answer_completes_with_one_leg(play):
    """A quirk of 4.4; what happens to the other leg must not need its ports."""
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.command("Un call 10.0.1.2 4000 f", "20002")
    play.command("U call 10.0.1.3 4000 f", "20002")
    play.command("Q call f t", "60 0 0 0 0")
    play.packet(CALLEE, FACES_CALLER, rtp(1), local_host=OUR_HOST)
    play.command("L call 10.0.2.2 5000 f t", "20004")
    assert play.ask("G nsess_complete") == "1"


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


# Completion (4.4)


def test_packets_before_completion_are_thrown_away(play):
    play.command("U call 10.0.1.2 4000 f", "20000")
    play.packet(STRANGER, FACES_CALLEE, rtp(1))
    play.packet(STRANGER, FACES_CALLEE_RTCP, RTCP)
    assert play.service.totals().packets_discarded == 2
    assert play.totals()["packets received"] == 0
    play.command("L call 10.0.2.2 5000 f t", "20002")
    # Nothing was learned from these packets.
    play.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    play.command("Q call f t", "60 1 0 1 0")


def test_nothing_is_planned_before_completion(play):
    play.command("U call 10.0.1.2 4000 f", "20000")
    assert play.offload.applied == 0
    play.command("L call 10.0.2.2 5000 f t", "20002")
    assert play.offload.installed == dict.fromkeys(range(20000, 20004), NOT_LEARNED)
    assert {owner.label for owner in play.offload.owners.values()} == {"call"}


# Addresses that commands bring (2.3, 7.4)


@pytest.mark.parametrize("listen_host", ["", "10.0.0.1"], ids=["wildcard", "one address"])
def test_an_address_that_a_command_brings_has_one_port_space(listen_host):
    """An address joins once for both legs, and for a sub-command that was parsed before it joined."""
    play = Scenario(listen_host=listen_host)
    play.command("Ul10.0.0.8 call 10.0.1.2 4000 f", "20000 10.0.0.8")
    play.command("L call 10.0.2.2 5000 f t", "20002 10.0.0.8")
    both = "Ul10.0.0.9 other 10.0.1.2 4000 f t && Ll10.0.0.9 10.0.2.2 5000"
    play.command(both, "20004 10.0.0.9 && 20006 10.0.0.9")
    assert [one.host for one in play.media.joined] == ["10.0.0.8", "10.0.0.9"]
    assert len(play.media.open_ports) == 4
