"""The time of day of monotonic times and back, with a clock that is stepped."""

import pytest

from rtpproxy.recording.wall_clock import KEPT_NS, STEP_NS, WallClock

S = 1_000_000_000
MS = 1_000_000
DISTANCE = 1_700_000_000 * S
TOOK_NS = 100


def measure(clock, at_ns, distance, took_ns=TOOK_NS, *, has_waited=False):
    clock.measure(at_ns - took_ns // 2, at_ns + distance, at_ns + took_ns // 2, has_waited=has_waited)


def stepped(step, *, has_waited=False):
    """A clock that was measured every second, and stepped between 2 s and 3 s."""
    clock = WallClock()
    for second in (1, 2, 3):
        measure(clock, second * S, DISTANCE + (second == 3) * step, has_waited=has_waited)
    return clock


def test_one_measurement_holds_for_before_and_after():
    clock = WallClock()
    measure(clock, 5 * S, DISTANCE)
    assert [clock.since_1970(at) for at in (0, 5 * S, 9 * S)] == [DISTANCE, DISTANCE + 5 * S, DISTANCE + 9 * S]


@pytest.mark.parametrize("step", [-3600 * S, -10 * MS, -2 * STEP_NS, 2 * STEP_NS, 10 * MS, 3600 * S])
def test_what_arrived_before_a_step_keeps_its_time(step):
    clock = stepped(step)
    assert clock.since_1970(2 * S - TOOK_NS) == DISTANCE + 2 * S - TOOK_NS
    assert clock.since_1970(2 * S + TOOK_NS) == DISTANCE + step + 2 * S + TOOK_NS
    measure(clock, 4 * S, DISTANCE)
    assert clock.since_1970(2 * S + TOOK_NS) == DISTANCE + step + 2 * S + TOOK_NS
    assert clock.since_1970(3 * S + TOOK_NS) == DISTANCE + 3 * S + TOOK_NS
    assert clock.since_1970(1 * S) == DISTANCE + 1 * S


def test_a_step_that_ended_a_wait_came_at_its_end():
    clock = stepped(3600 * S, has_waited=True)
    assert clock.since_1970(3 * S - TOOK_NS) == DISTANCE + 3 * S - TOOK_NS
    assert clock.since_1970(3 * S) == DISTANCE + 3603 * S


def test_measurements_that_agree_tell_the_distance_more_and_more_exactly():
    clock = WallClock()
    clock.measure(1 * S - 900, DISTANCE + 1 * S, 1 * S + 100)
    assert clock.since_1970(1 * S) == DISTANCE + 1 * S + 400
    clock.measure(2 * S - 100, DISTANCE + 2 * S, 2 * S + 900)
    assert clock.since_1970(2 * S) == DISTANCE + 2 * S
    measure(clock, 3 * S, DISTANCE, took_ns=10)
    clock.measure(4 * S - 6, DISTANCE + 4 * S, 4 * S + 10_000)
    assert clock.since_1970(4 * S) == DISTANCE + 4 * S


def test_a_measurement_that_was_held_up_tells_no_more():
    clock = WallClock()
    measure(clock, 1 * S, DISTANCE)
    measure(clock, 2 * S, DISTANCE + 40 * MS - 1000, took_ns=80 * MS)
    assert abs(clock.since_1970(3 * S) - DISTANCE - 3 * S) < TOOK_NS


def test_nor_does_it_hide_when_a_step_came():
    clock = WallClock()
    measure(clock, 1 * S, DISTANCE)
    measure(clock, 2 * S, DISTANCE + 10 * MS, took_ns=80 * MS)
    measure(clock, 3 * S, DISTANCE + 10 * MS)
    assert clock.since_1970(1 * S + TOOK_NS) == DISTANCE + 10 * MS + 1 * S + TOOK_NS


def test_the_first_is_used_in_any_case():
    clock = WallClock()
    measure(clock, 1 * S, DISTANCE, took_ns=80 * MS)
    assert clock.since_1970(1 * S) == DISTANCE + 1 * S


def test_old_steps_are_forgotten():
    clock = WallClock()
    for second in range(1000):
        measure(clock, second * S, DISTANCE + (second % 2) * S)
    now_ns = 999 * S
    recent_ns = now_ns - KEPT_NS + 2 * S + 1
    assert clock.since_1970(recent_ns) == recent_ns + DISTANCE + (recent_ns // S + 1) % 2 * S
    assert len(clock._eras) < 20


# From the time of day to monotonic time


@pytest.mark.parametrize("at", [1 * S, 2 * S, 3 * S, 4 * S])
def test_a_time_of_day_was_at_a_time(at):
    clock = WallClock()
    measure(clock, 3 * S, DISTANCE)
    assert clock.monotonic(DISTANCE + at, 1 * S, 4 * S) == at


@pytest.mark.parametrize("at", [0, 1 * S - 1, 4 * S + 1, 3600 * S])
def test_a_time_of_day_that_was_not(at):
    clock = WallClock()
    measure(clock, 3 * S, DISTANCE)
    assert clock.monotonic(DISTANCE + at, 1 * S, 4 * S) is None


@pytest.mark.parametrize("step", [-3600 * S, -5 * S, 5 * S, 3600 * S])
def test_times_of_day_before_and_after_a_step(step):
    """Also between the two measurements, where nothing tells when it came."""
    clock = stepped(step)
    for at in (1 * S, 2 * S, 2 * S + 500 * MS, 3 * S):
        assert clock.monotonic(DISTANCE + at, 1 * S, 3 * S) == at
    for at in (2 * S, 2 * S + 500 * MS, 3 * S, 4 * S):
        assert clock.monotonic(DISTANCE + step + at, 2 * S - 200 * MS, 4 * S) == at


@pytest.mark.parametrize("step", [-400 * MS, 400 * MS])
def test_a_time_of_day_that_may_have_been_twice(step):
    """It was before the step or after it."""
    clock = stepped(step)
    assert clock.monotonic(DISTANCE + 2 * S + 500 * MS, 1 * S, 3 * S) is None
    assert clock.monotonic(DISTANCE + 1 * S + 500 * MS, 1 * S, 3 * S) == 1 * S + 500 * MS
    # Not when what came before the step is out of the question.
    assert clock.monotonic(DISTANCE + step + 3 * S + 500 * MS, 3 * S + 200 * MS, 4 * S) == 3 * S + 500 * MS
