"""Strong and weak references, and what is released when a session ends: protocol.md 4.5, 4.7."""

import pytest

from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER_RTCP,
    FACES_CALLEE,
    FACES_CALLER_RTCP,
    RTCP,
)

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
    """`D` ends a session that has no reference left, even if it dropped none."""
    play.ask("Uw call 10.0.1.2 4000 f")
    play.command("D call f t", "0")
    assert play.sessions == 1
    play.command("Dw call t f", "0")
    play.command("D call f t", "E50")


# The end (4.7)


def test_delete_withdraws_then_closes_then_frees(talk):
    talk.journal.clear()
    talk.command("D call f t", "0")
    assert talk.journal == [
        ("withdraw", 20000),
        ("withdraw", 20001),
        ("close", 20000),
        ("release", 20000),
        ("withdraw", 20002),
        ("withdraw", 20003),
        ("close", 20002),
        ("release", 20002),
    ]
    talk.assert_nothing_is_left()
    talk.command("D call f t", "E50")


def test_packets_after_the_end_go_nowhere(talk):
    talk.command("D call f t", "0")
    talk.packet(CALLEE, FACES_CALLEE, rtp(101))
    talk.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP)
    assert talk.service.totals().packets_discarded == 2
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
