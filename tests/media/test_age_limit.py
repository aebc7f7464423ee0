"""Ages by timestamps of a wall clock that may be stepped."""

import pytest

from rtpproxy.media.age_limit import PRECISION_S, AgeLimit

LIMIT_S = 0.2
EPOCH = 1_800_000_000.0
"""The wall clock when the monotonic one was 0, before any step."""
EMPTY_AT = 100.0


class Clocks:
    """Two clocks that show what a test sets."""

    def __init__(self):
        self.now = EMPTY_AT
        self.distance = EPOCH

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now + self.distance


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def limit(clocks):
    return AgeLimit(LIMIT_S, clocks.monotonic, clocks.wall)


def is_old(limit, stamp):
    """Judge a datagram that was taken just now."""
    return limit.is_over(limit.age(stamp, EMPTY_AT))


@pytest.mark.parametrize(
    ("waited", "expected"),
    [(0.0, False), (0.1, False), (LIMIT_S, False), (LIMIT_S + 2 * PRECISION_S, True), (5.0, True)],
)
def test_is_old_after_the_limit(clocks, limit, waited, expected):
    stamp = clocks.wall()
    clocks.now += waited
    assert is_old(limit, stamp) is expected
    # Never more than it waited.
    assert max(0.0, waited - 2 * PRECISION_S) <= limit.age(stamp, EMPTY_AT) <= waited


def test_nothing_is_old_without_a_limit(clocks):
    limit = AgeLimit(0.0, clocks.monotonic, clocks.wall)
    stamp = clocks.wall()
    clocks.now += 1e6
    assert not is_old(limit, stamp)


@pytest.mark.parametrize("step", [3600.0, 1.0, LIMIT_S, 0.05, -0.05, -LIMIT_S, -1.0, -3600.0])
@pytest.mark.parametrize("is_stamped_before", [True, False])
@pytest.mark.parametrize("had_look", [True, False])
def test_step_of_the_wall_clock_makes_nothing_old(clocks, limit, step, is_stamped_before, had_look):
    """However long the buffer has not been empty, whether or not somebody looked before the datagram was taken."""
    clocks.now += 10.0
    before = clocks.wall()
    clocks.distance += step
    stamp = before if is_stamped_before else clocks.wall()
    if had_look:
        limit.look()
    for _ in range(10):
        clocks.now += 0.99 * LIMIT_S / 10
        assert not is_old(limit, stamp)


@pytest.mark.parametrize("step", [3600.0, 1.0, -1.0, -3600.0])
def test_what_waits_after_a_step_is_old_again(clocks, limit, step):
    clocks.distance += step
    limit.look()
    stamp = clocks.wall()
    clocks.now += LIMIT_S + 2 * PRECISION_S
    assert is_old(limit, stamp)


def test_every_step_counts(clocks, limit):
    for step in (3600.0, -3600.0, 1.0):
        stamp = clocks.wall()
        clocks.now += 0.6 * LIMIT_S
        clocks.distance += step
        limit.look()
        assert not is_old(limit, stamp)


def test_many_steps_too_small_to_be_seen_add_up_to_one(clocks, limit):
    clocks.now += 10.0
    before = clocks.wall()
    for _ in range(100):
        clocks.now += 0.99 * LIMIT_S / 100
        clocks.distance += PRECISION_S / 2
        limit.look()
    assert not is_old(limit, before)


def test_step_there_and_back_unseen(clocks, limit):
    """A datagram cannot be older than the time since its buffer was empty."""
    clocks.now += 10.0
    stamp = clocks.wall() - 3600.0
    assert not is_old(limit, stamp)


def test_process_that_is_held_up_between_two_readings_saw_no_step(clocks):
    """As when its quota of processor time is over just then."""
    pauses = iter([0.0] * 4 + [0.08] + [0.0] * 40)

    def monotonic():
        clocks.now += next(pauses)
        return clocks.now

    limit = AgeLimit(LIMIT_S, monotonic, clocks.wall)
    limit.look()
    stamp = clocks.wall()
    clocks.now += 1.5 * LIMIT_S
    assert is_old(limit, stamp)
    assert next(pauses) == 0.0


@pytest.mark.parametrize(("age", "seconds"), [(0.0, LIMIT_S), (0.05, 0.15), (0.199, 0.005), (LIMIT_S, 0.005)])
def test_what_follows_a_fresh_datagram_is_fresh_for_a_while(clocks, limit, age, seconds):
    """It arrived later. At the limit it is let pass, too, for some milliseconds: looking at each takes too long."""
    assert limit.fresh_until(age, 0.005) == pytest.approx(clocks.now + seconds)
