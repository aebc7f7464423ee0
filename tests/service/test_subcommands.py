"""Effects of sub-commands on a session: protocol.md 2.6, 4.6, 6.3."""

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress
from tests.fakes import TOS
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    FACES_CALLER_RTCP,
    OUR_HOST,
    RTCP,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)

OFFER, ANSWER = "call 10.0.1.2 4000 f t", "call 10.0.2.2 5000 f t"


def ttl(play, call="call f t"):
    return play.counters(call)["ttl"]


# Both legs at once


def test_offer_and_answer_in_one_command(play):
    play.command(f"U {OFFER} && L 10.0.2.2 5000", "20000 && 20002")
    start_talking(play)
    play.command(f"L {ANSWER}", "20002")
    assert play.stats("nsess_created nsess_complete") == {"nsess_created": 1, "nsess_complete": 1}


def test_offer_and_answer_of_the_callee_in_one_command(talk):
    """A re-INVITE of the callee: its tag is in the from position, the answer is the caller's."""
    talk.command("U call 10.0.2.9 5009 t f && L 10.0.1.9 4009", "20002 && 20000")
    caller, callee = Endpoint("10.0.1.9", 4009), Endpoint("10.0.2.9", 5009)
    talk.packet(callee, FACES_CALLEE, rtp(101), (FACES_CALLER, caller))
    talk.packet(caller, FACES_CALLER, rtp(201), (FACES_CALLEE, callee))


def test_answer_has_modifiers_of_its_own():
    play = Scenario(listen=(ListenAddress("10.0.1.1"), ListenAddress("10.0.2.1", label="out")))
    play.command(f"U {OFFER} && L{{}}l 10.0.2.2 5000", "E3")
    play.command(f"U {OFFER} && Lwl{{out}} 10.0.2.2 5000", "20000 10.0.1.1 && 20002 10.0.2.1")
    play.command("D call f t", "0")
    assert play.sessions == 1, "the answer took a weak reference"
    play.command("Dw call f t", "0")
    play.assert_nothing_is_left()


def test_answer_that_gets_no_port_leaves_the_offer():
    play = Scenario(pairs=1)
    play.command(f"U {OFFER} && L 10.0.2.2 5000 && D", "20000 && -1")
    assert play.sessions == 1
    play.command("Q call f t", "60 0 0 0 0")


def test_second_answer_is_to_the_other_leg(play):
    """After `&& L` the roles are swapped, so the next one is answered with the first port."""
    play.command(f"U {OFFER} && L 10.0.2.2 5000 && L 10.0.1.2 4000", "20000 && 20002 && 20000")


# D


@pytest.mark.parametrize("command", [f"U {OFFER} && D", "L call 10.0.2.2 5000 f t && D", "Q call f t && D"])
def test_delete_with_another_command(talk, command):
    assert not talk.ask(command).startswith("E")
    talk.assert_nothing_is_left()
    talk.command("Q call f t", "E50")


def test_query_tells_what_there_was_before_the_end(talk):
    talk.command("Q call f t npkts_ina npkts_ino && D", "1 1")


@pytest.mark.parametrize("after", ["S ttl=5", "S tos=5", "D", "L 10.0.2.2 5000"])
def test_nothing_follows_the_end_of_the_session(play, after, caplog):
    play.command(f"U {OFFER} && D && {after} && S ttl=6", "20000 && 0 && -1")
    play.assert_nothing_is_left()
    assert caplog.messages == ["call: sub-command failed: the session has ended"]


def test_delete_uses_the_sessions_own_tag(play):
    """It drops the same reference as `D` with the session's from-tag, whatever leg issues it."""
    play.ask(f"Uw {OFFER}")
    play.command("L call 10.0.2.2 5000 f t && Dw", "20002")  # the caller's reference, which is not held
    play.command("U call 10.0.2.2 5000 t f && Dw", "20002")
    assert play.sessions == 1
    play.command("Dw call t f", "0")
    assert play.sessions == 1, "the second command took the strong reference"
    play.command("Q call t f && D", "60 0 0 0 0")
    play.assert_nothing_is_left()


# S ttl


@pytest.mark.parametrize("direction", ["S", "Sr", "Sx"])
def test_timeout_counts_from_now_and_is_kept(play, direction):
    play.ask(f"U {OFFER} && {direction} ttl=20")
    assert ttl(play) == 20
    play.at(5)
    play.ask(f"L {ANSWER}")
    assert ttl(play) == 20, "completion does not change it, and each command starts it again"
    play.at(10)
    assert ttl(play) == 15
    start_talking(play)
    assert ttl(play) == 20
    play.at(15)
    play.ask("Q call f t && S ttl=7")
    assert ttl(play) == 7
    play.tick(21.9)
    assert play.sessions == 1
    play.tick(22)
    play.assert_nothing_is_left()


def test_timeout_may_be_longer_than_the_usual(play):
    play.ask(f"U {OFFER} && L 10.0.2.2 5000 && S ttl=1000")
    play.tick(999)
    assert play.sessions == 1
    play.tick(1000)
    assert play.sessions == 0


def test_timeout_of_an_established_session(talk):
    talk.at(30)
    talk.ask(f"L {ANSWER} && S ttl=100")
    talk.tick(129)
    assert talk.sessions == 1
    talk.offload.forward(FACES_CALLEE, 1, talk.now, ssrc=0x1234)
    assert ttl(talk) == 100
    talk.tick(228.9)
    assert talk.sessions == 1
    talk.tick(229)
    assert talk.sessions == 0


@pytest.mark.parametrize(
    ("command", "sets_caller"),
    [
        (f"U {OFFER} && S ttl=20", True),
        (f"U {OFFER} && Sr ttl=20", False),
        (f"L {ANSWER} && S ttl=20", False),
        (f"L {ANSWER} && Sr ttl=20", True),
        ("U call 10.0.2.2 5000 t f && S ttl=20", False),
        ("Q call f t && S ttl=20", True),
        ("Q call t f && S ttl=20", False),
        (f"U {OFFER} && L 10.0.2.2 5000 && S ttl=20", False),
        (f"U {OFFER} && L 10.0.2.2 5000 && Sr ttl=20", True),
    ],
)
def test_independent_timeouts_are_set_for_one_party(command, sets_caller):
    """Only the timeout of the leg that is meant changes; the other keeps the configured one."""
    play = Scenario(is_independent=True)
    play.call()
    play.ask(command)
    assert ttl(play) == 20
    meant, other = ((CALLER, FACES_CALLER), (CALLEE, FACES_CALLEE))[:: 1 if sets_caller else -1]
    play.at(15)
    play.service.datagram(meant[1], rtp(1), meant[0], OUR_HOST, play.now)
    assert ttl(play) == 20
    play.at(34)
    play.service.datagram(meant[1], rtp(2), meant[0], OUR_HOST, play.now)
    assert ttl(play) == 20
    play.at(50)
    play.service.datagram(other[1], rtp(2), other[0], OUR_HOST, play.now)
    play.tick(53.9)
    assert play.sessions == 1
    play.tick(54)
    assert play.sessions == 0


def test_independent_timeout_of_one_party_leaves_the_other_its_usual_one():
    play = Scenario(is_independent=True, setup_timeout_s=10, idle_timeout_s=60)
    play.ask(f"U {OFFER} && S ttl=100")  # the caller's
    assert ttl(play) == 10
    play.ask(f"L {ANSWER}")
    assert ttl(play) == 60
    play.tick(59.9)
    assert play.sessions == 1
    play.tick(60)
    assert play.sessions == 0


# S tos


@pytest.mark.parametrize(
    ("command", "to_caller", "to_callee"),
    [
        (f"U {OFFER} && S tos=16", 16, TOS),
        (f"U {OFFER} && Sr tos=16", TOS, 16),
        (f"L {ANSWER} && S tos=16", TOS, 16),
        (f"L {ANSWER} && Sr tos=255", 252, TOS),
        (f"U {OFFER} && S tos=16 && Sr tos=32", 16, 32),
        (f"U {OFFER} && L 10.0.2.2 5000 && S tos=16", TOS, 16),
        ("U call 10.0.2.2 5000 t f && S tos=16", TOS, 16),
        ("Q call f t && S tos=300", 300 & 0xFC, TOS),
    ],
)
def test_tos_of_packets_to_one_party(talk, command, to_caller, to_callee):
    talk.ask(command)
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)
    assert talk.last_sent.tos == to_caller
    talk.packet(CALLER, FACES_CALLER, rtp(201), TO_CALLEE)
    assert talk.last_sent.tos == to_callee
    # Packets from the callee leave for the caller with the new TOS at once, in the kernel as well.
    assert talk.offload.entry(FACES_CALLEE).tos == to_caller
    assert talk.offload.entry(FACES_CALLER).tos == to_callee


def test_tos_is_of_one_socket(talk):
    """RTCP keeps the configured TOS."""
    talk.packet(CALLEE, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, (CALLER.host, 4001)))
    talk.ask(f"U {OFFER} && S tos=16")
    talk.packet(CALLEE, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, (CALLER.host, 4001)))
    assert talk.last_sent.tos == TOS
    assert talk.offload.entry(FACES_CALLEE_RTCP).tos == TOS


def test_tos_before_the_session_is_complete(play):
    play.ask(f"U {OFFER} && S tos=16")
    play.ask(f"L {ANSWER}")
    start_talking(play)
    assert [one.tos for one in play.media.sent] == [16, TOS]


def test_tos_of_other_sessions_is_that_of_the_option():
    play = Scenario(tos=0x20)
    play.call()
    start_talking(play)
    assert [one.tos for one in play.media.sent] == [0x20, 0x20]
    play.ask(f"U {OFFER} && S tos=16")
    play.call("other")
    play.service.datagram(20004, rtp(1), CALLEE, OUR_HOST, play.now)
    assert play.last_sent.tos == 0x20


# C


def test_copying_fails_and_the_session_stays(play):
    play.command(f"U {OFFER} && C call f t", "20000 && -1")
    assert play.sessions == 1
