"""The time of day of monotonic times, with a clock that is slewed and stepped."""

from rtpproxy.recording.wall_clock import KEPT_NS, WallClock

S = 1_000_000_000
DISTANCE = 1_700_000_000 * S


def measure(clock, at_ns, distance, took_ns=100):
    clock.measure(at_ns - took_ns // 2, at_ns + distance, at_ns + took_ns // 2)


def test_one_measurement_holds_for_before_and_after():
    clock = WallClock()
    measure(clock, 5 * S, DISTANCE)
    assert [clock.since_1970(at) for at in (0, 5 * S, 9 * S)] == [DISTANCE, DISTANCE + 5 * S, DISTANCE + 9 * S]


def test_a_slewed_clock_is_followed():
    clock = WallClock()
    measure(clock, 1 * S, DISTANCE)
    measure(clock, 2 * S, DISTANCE + 500_000)
    assert clock.since_1970(2 * S) == DISTANCE + 2 * S + 500_000


def test_what_arrived_before_a_step_keeps_its_time():
    clock = WallClock()
    measure(clock, 1 * S, DISTANCE)
    measure(clock, 2 * S, DISTANCE)
    measure(clock, 3 * S, DISTANCE - 3600 * S)
    assert clock.since_1970(2 * S - 1) == DISTANCE + 2 * S - 1
    assert clock.since_1970(2 * S + 1) == DISTANCE - 3600 * S + 2 * S + 1
    measure(clock, 4 * S, DISTANCE)
    assert clock.since_1970(2 * S + 5) == DISTANCE - 3600 * S + 2 * S + 5
    assert clock.since_1970(3 * S + 1) == DISTANCE + 3 * S + 1
    assert clock.since_1970(1 * S) == DISTANCE + 1 * S


def test_a_measurement_that_was_held_up_is_not_used():
    clock = WallClock()
    measure(clock, 1 * S, DISTANCE)
    measure(clock, 2 * S, DISTANCE + 40_000_000, took_ns=80_000_000)
    assert clock.since_1970(3 * S) == DISTANCE + 3 * S


def test_the_first_is_used_in_any_case():
    clock = WallClock()
    measure(clock, 1 * S, DISTANCE, took_ns=80_000_000)
    assert clock.since_1970(1 * S) == DISTANCE + 1 * S


def test_old_steps_are_forgotten():
    clock = WallClock()
    for second in range(1000):
        measure(clock, second * S, DISTANCE + (second % 2) * S)
    now_ns = 999 * S
    recent_ns = now_ns - KEPT_NS + 2 * S + 1
    assert clock.since_1970(recent_ns) == recent_ns + DISTANCE + (recent_ns // S + 1) % 2 * S
    assert len(clock._distances) < 20
