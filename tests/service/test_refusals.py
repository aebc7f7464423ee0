"""Refusals change nothing: protocol.md 3.3."""

import errno

import pytest

from tests.running import rtp
from tests.scenario import (
    CALLEE,
    FACES_CALLEE,
    FACES_CALLER,
    STRANGER,
    TO_CALLER,
    Scenario,
    start_talking,
)


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
    assert (play.service.totals().packets_discarded, play.offload.applied) == (1, 0)
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
        ("Ul10.9.9.999 call 10.0.1.9 4999 f t", "E31"),
        ("Ul{nobody} call 10.0.1.9 4999 f t", "E31"),
        ("Ur10.9.9.9 call 10.0.1.9 4999 f t", "E32"),
        ("Lr10.9.9.9 call 10.0.2.9 5999 f t", "E32"),
        ("Unl10.9.9.9 call 10.0.1.9 4999 f t", "E71"),
        ("Lnl10.9.9.9 call 10.0.2.9 5999 f t", "E71"),
        ("Ut call 10.0.1.9 4999 f t", "E35"),
        ("Uz0 call 10.0.1.9 4999 f t", "E13"),
        ("U6 call 10.0.1.9 4999 f t", "E36"),
        ("U call 10.0.1.999 4999 f t", "E37"),
        ("U call 10.0.1.9 4999 f t x y", "E75"),
        ("U call 10.0.1.9 4999 f t x %", "E10"),
        ("U call 10.0.1.9 4999 f t && Dx", "E3"),
        ("L call 10.0.2.9 5999 f t && S ttl=0", "E3"),
        ("Q call f t && L 10.0.2.9 5999", "E3"),
        ("Dq call f t", "E8"),
        ("D call nobody f2", "E50"),
        ("P call /x 0 f t", "E60"),
        ("C call x f t", "E65"),
        ("R call f t", "E50"),
        ("S call f t", "0"),
    ],
)
def test_refused_command_changes_nothing(talk, command, reply):
    talk.media.foreign.add("10.9.9.9")
    talk.recorder.refusal = "there is no directory for recordings"
    talk.at(10)
    before = talk.ask("Q call f t"), talk.totals(), dict(talk.offload.installed), list(talk.journal)
    talk.command(command, reply)
    assert (talk.ask("Q call f t"), talk.totals(), dict(talk.offload.installed), list(talk.journal)) == before
    # The command did not open the window for other sources either.
    talk.packet(STRANGER, FACES_CALLER, rtp(1, ssrc=0x666))
    talk.packet(CALLEE, FACES_CALLEE, rtp(101), TO_CALLER)


def test_refused_creation_leaves_nothing(play):
    play.media.foreign.add("10.9.9.9")
    play.command("Ul10.9.9.9 call 10.0.1.2 4000 f", "E72")
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
