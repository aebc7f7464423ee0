"""Sessions that time out: protocol.md 4.6."""

import pytest

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
    RTCP,
    STRANGER,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
    start_talking,
)


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


@pytest.mark.parametrize(
    ("letter", "other", "port", "out"),
    [("S", CALLEE, FACES_CALLEE, TO_CALLER), ("Sr", CALLER, FACES_CALLER, TO_CALLEE)],
    ids=["caller's set", "callee's set"],
)
def test_answer_replaces_the_setup_timeout_of_the_side_that_no_command_set(letter, other, port, out):
    """With a timer for each leg: a command set one, the other changes to that of answered calls."""
    play = Scenario(setup_timeout_s=10, idle_timeout_s=25, is_independent=True)
    play.ask(f"U call 10.0.1.2 4000 f && {letter} ttl=30")
    play.ask("L call 10.0.2.2 5000 f t")
    assert play.counters("call f t")["ttl"] == 25
    play.at(20)
    play.packet(other, port, rtp(1), out)
    assert play.counters("call f t")["ttl"] == 10


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
    assert [what for what, _ in talk.journal] == ["withdraw", "withdraw", "close", "release"] * 2


def test_lives_for_its_timeout_and_a_tick(play):
    """Idle sessions are looked for every second, so one ends at most a second after its timeout."""
    play.at(0.5)
    play.ask("U call 10.0.1.2 4000 f")
    for second in range(1, 61):
        assert is_alive_after(play, second)
    assert not is_alive_after(play, 61)


# One timer for each direction (-i)


@pytest.fixture
def independent():
    play = Scenario(is_independent=True)
    play.call()
    start_talking(play)
    return play


def keep(play, source, port, second):
    play.at(second)
    play.service.datagram(port, rtp(int(second) * 50), source, OUR_HOST, play.now)


@pytest.mark.parametrize(("source", "port"), [(CALLER, FACES_CALLER), (CALLEE, FACES_CALLEE)])
def test_either_direction_that_is_idle_ends_the_session(independent, source, port):
    for second in range(10, 60, 10):
        keep(independent, source, port, second)
        assert independent.counters("call f t")["ttl"] == 60 - second
    assert is_alive_after(independent, 59.9)
    assert not is_alive_after(independent, 60)
    independent.assert_nothing_is_left()
    assert independent.stats("nsess_timeout nsess_destroyed") == {"nsess_timeout": 1, "nsess_destroyed": 1}


def test_one_direction_is_enough_without_the_option(talk):
    for second in range(10, 200, 10):
        keep(talk, CALLER, FACES_CALLER, second)
        assert talk.counters("call f t")["ttl"] == 60
        assert is_alive_after(talk, second)


def test_both_directions_keep_an_independent_session(independent):
    for second in range(10, 200, 10):
        keep(independent, CALLER, FACES_CALLER, second)
        keep(independent, CALLEE, FACES_CALLEE, second + 5)
        assert is_alive_after(independent, second + 5)
    assert independent.counters("call f t")["ttl"] == 55


def test_rtcp_keeps_its_direction(independent):
    keep(independent, CALLER, FACES_CALLER, 50)
    independent.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    assert is_alive_after(independent, 109.9)
    assert not is_alive_after(independent, 110)


def test_commands_keep_both_directions(independent):
    independent.at(50)
    independent.ask("L call 10.0.2.2 5000 f t")
    assert independent.counters("call f t")["ttl"] == 60
    assert is_alive_after(independent, 109.9)


@pytest.mark.parametrize(("forwarded", "other"), [(FACES_CALLEE, FACES_CALLER), (FACES_CALLER, FACES_CALLEE)])
def test_kernel_keeps_its_direction_only(independent, forwarded, other):
    independent.at(50)
    independent.offload.forward(forwarded, 100, independent.now, ssrc=0x1234)
    assert independent.counters("call f t")["ttl"] == 10
    independent.offload.forward(other, 100, independent.now, ssrc=0x1234)
    assert independent.counters("call f t")["ttl"] == 60
    independent.at(100)
    independent.offload.forward(forwarded, 100, independent.now, ssrc=0x1234)
    assert is_alive_after(independent, 109.9)
    assert not is_alive_after(independent, 110)


def test_independent_setup_has_one_end():
    play = Scenario(is_independent=True, setup_timeout_s=10, idle_timeout_s=60)
    play.ask("U call 10.0.1.2 4000 f")
    assert is_alive_after(play, 9.9)
    assert not is_alive_after(play, 10)
    play.assert_nothing_is_left()
    play.ask("U call 10.0.1.2 4000 f")
    play.ask("L call 10.0.2.2 5000 f t")
    assert play.counters("call f t")["ttl"] == 60


def test_independent_sessions_end_apart(independent):
    independent.call("other")
    keep(independent, CALLER, FACES_CALLER, 30)
    keep(independent, CALLEE, FACES_CALLEE, 30)
    independent.tick(60)
    independent.command("Q other f t", "E50")
    assert independent.counters("call f t")["ttl"] == 30
