"""When a stream counts as taken in turn, and when that is over."""

from rtpproxy.addr import Endpoint
from rtpproxy.session.contest import CONTEST_S, RIVALS, Contest

A, B, C, D = (Endpoint("192.0.2.1", port) for port in (1, 2, 3, 4))


def test_one_change_is_no_contest():
    contest = Contest()
    contest.taken(A, B, 10.0)
    assert (contest.is_on, contest.rivals, contest.changes) == (False, (A,), 1)
    assert not contest.settle(10.0 + CONTEST_S)
    assert contest.rivals == (A,), "who may still send"


def test_two_changes_soon_after_each_other_are_one():
    contest = Contest()
    contest.taken(A, B, 10.0)
    contest.taken(B, A, 9.9 + CONTEST_S)
    assert (contest.is_on, contest.rivals, contest.changes) == (True, (B,), 2)


def test_changes_far_apart_are_none():
    contest = Contest()
    for number in range(5):
        contest.taken(*((A, B) if number % 2 else (B, A)), number * CONTEST_S)
        assert (contest.is_on, contest.changes) == (False, 1)


def test_a_command_is_no_change_but_makes_a_rival():
    contest = Contest()
    contest.lost(A, B)
    contest.taken(B, A, 10.0)
    assert (contest.is_on, contest.rivals, contest.changes) == (False, (B,), 1)


def test_it_is_settled_when_nothing_has_changed_for_long_enough():
    contest = Contest()
    for number in range(10):
        contest.taken(*((A, B) if number % 2 else (B, A)), 10.0 + number)
    assert not contest.settle(18.9 + CONTEST_S)
    assert contest.settle(19.0 + CONTEST_S)
    assert (contest.is_on, contest.rivals, contest.changes) == (False, (), 10)
    assert not contest.settle(30.0), "once"
    contest.taken(A, B, 30.0)
    assert (contest.is_on, contest.changes) == (False, 1)


def test_the_latest_losers_are_rivals():
    contest = Contest()
    for loser, winner in ((A, B), (B, C), (C, A), (A, D)):
        contest.taken(loser, winner, 10.0)
    assert contest.rivals == (A, C)
    assert len(contest.rivals) == RIVALS
