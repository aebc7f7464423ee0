"""When players are due: never early, evenly spread, without drift, and without bursts after a long stop."""

from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.playback.wheel import LONGEST_MS, MAX_LATE_MS, SPREAD_MS, Wheel

BEGIN = 1000.0


class Clockwork:
    """A wheel whose players have a step each, and what was due when."""

    def __init__(self, steps):
        self.wheel = Wheel()
        self.steps = steps
        self.due = [[] for _ in steps]
        """By player: times at which it was handed out, ms from the beginning."""
        for item in range(len(steps)):
            self.wheel.start(item, BEGIN)

    def turn(self, ms):
        """It is so many ms after the beginning; return how many were due."""
        count = 0
        for items in self.wheel.due(BEGIN + ms / 1000):
            for item in items:
                self.due[item].append(ms)
                self.wheel.again(item, self.steps[item])
                count += 1
        return count


def test_an_empty_wheel():
    wheel = Wheel()
    assert wheel.next_ms() is None
    assert list(wheel.due(BEGIN)) == []


def test_packets_are_due_in_their_rhythm():
    work = Clockwork([20])
    for ms in range(201):
        work.turn(ms + 0.5)
    first = work.due[0][0]
    assert 0 < first <= SPREAD_MS + 1
    assert work.due[0] == [first + 20 * n for n in range(len(work.due[0]))]
    assert len(work.due[0]) == 10


def test_players_that_begin_together_are_spread():
    work = Clockwork([20] * 500)
    counts = [work.turn(ms + 0.5) for ms in range(1, 201)]
    assert set(counts) == {25}


def test_lateness_does_not_add_up():
    """Turns come late at random; a minute later every player is where it should be."""
    work = Clockwork([20] * 50)
    ms = 0.0
    for number in range(20_000):
        ms += (1, 7, 3, 12, 2)[number % 5]
        work.turn(ms)
    for due in work.due:
        assert abs(len(due) - ms / 20) <= 1


def test_what_is_late_is_made_up_for_at_once():
    work = Clockwork([20] * 5)
    work.turn(25)
    before = [len(due) for due in work.due]
    work.turn(25 + MAX_LATE_MS)
    made_up = [len(due) - count for due, count in zip(work.due, before, strict=True)]
    assert set(made_up) == {MAX_LATE_MS // 20}
    assert work.wheel.postponed_ms == 0


def test_a_long_stop_postpones_everything_and_makes_no_larger_burst():
    """As when the process was stopped for a minute: the prompts go on where they were."""
    work = Clockwork([20] * 500)
    for ms in range(1, 26):
        work.turn(ms)
    assert work.turn(60_000) <= 500 * (MAX_LATE_MS // 20 + 1)
    assert 59_800 < work.wheel.postponed_ms < 60_000
    counts = [work.turn(ms) for ms in range(60_001, 60_101)]
    assert set(counts) == {25}


def test_a_pause_between_packets_is_not_lateness():
    work = Clockwork([999])
    for ms in (15, 21, 1030, 2040, 3050):
        work.turn(ms)
    assert work.wheel.postponed_ms == 0
    assert len(work.due[0]) == 4


def test_a_player_that_begins_after_a_long_stop_begins_now():
    work = Clockwork([20])
    work.turn(30)
    work.wheel.start(0, BEGIN + 10.0)
    assert work.wheel.next_ms() <= 1000 * BEGIN + 10_000
    work.turn(10_000 + SPREAD_MS + 1)
    assert work.due[0].count(10_000 + SPREAD_MS + 1) >= 2


def test_the_time_of_the_next():
    wheel = Wheel()
    wheel.start("a", BEGIN)
    at = wheel.next_ms()
    assert 1000 * BEGIN < at <= 1000 * BEGIN + SPREAD_MS
    assert list(wheel.due((at - 0.5) / 1000)) == []
    assert list(wheel.due((at + 0.5) / 1000)) == [["a"]]
    assert wheel.next_ms() is None
    assert len(wheel) == 0


@given(st.lists(st.integers(1, LONGEST_MS), min_size=1, max_size=20), st.lists(st.floats(0, 90), max_size=100))
def test_any_steps_and_turns(steps, pauses):
    """Each player is handed out exactly as often as its step fits into the time, whenever turns come."""
    work = Clockwork(steps)
    ms = 0.0
    for pause in pauses:
        ms += pause
        work.turn(ms)
    for item, step in enumerate(steps):
        count = len(work.due[item])
        assert (ms - SPREAD_MS - 2) / step - 1 <= count <= ms / step + 1
        assert all(one <= other for one, other in zip(work.due[item], work.due[item][1:], strict=False))
    assert len(work.wheel) == len(steps)
    assert work.wheel.postponed_ms == 0
