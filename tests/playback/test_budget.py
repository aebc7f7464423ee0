"""How long commands may wait for files."""

import pytest

from rtpproxy.playback.budget import MOST_S, SHORT_S, Budget


def waits(budget, now, takes):
    """Let a command wait at a time for a disk that takes so long; how long it waited."""
    allowed = budget.left(now)
    budget.spend(min(allowed, takes), takes if takes <= allowed else None)
    return min(allowed, takes)


def test_a_disk_that_answers_at_once_is_always_waited_for():
    budget = Budget()
    for number in range(10_000):
        assert waits(budget, 5.0 + number / 10_000, 0.0005) == 0.0005
    assert budget.left(6.0) == MOST_S


def test_a_slow_disk_is_waited_for_until_it_is_used_up():
    budget = Budget()
    assert [round(waits(budget, 5.0, 0.1), 6) for _ in range(4)] == [0.1, 0.1, 0.05, 0]


@pytest.mark.parametrize("takes", [SHORT_S * 1.01, 0.005, 0.015, 1e9])
def test_the_sum_of_all_waits_is_bounded(takes):
    """Time passes by what is waited, and by 1 ms for each command: a flood of them."""
    budget, now, waited = Budget(), 5.0, 0.0
    while now < 15:
        wait = waits(budget, now, takes)
        waited += wait
        now += wait + 0.001
    assert waited <= MOST_S + 0.02 * 10.1


def test_it_comes_back_with_time_up_to_its_limit():
    budget = Budget()
    assert waits(budget, 5.0, 1e9) == MOST_S
    assert budget.left(5.0) == 0
    assert budget.left(5.04) == 0, "too short a wait to be worth it"
    assert budget.left(5.06) == pytest.approx(0.0012)
    assert budget.left(6.0) == pytest.approx(0.02)
    assert budget.left(100.0) == MOST_S


def test_a_machine_that_was_busy_leaves_no_debt():
    budget = Budget()
    budget.left(5.0)
    budget.spend(3.0, None)
    assert budget.left(6.0) == pytest.approx(0.02)


def test_a_machine_that_is_busy_is_not_a_slow_disk():
    """What waits longer than its disk took waits for the processor."""
    budget = Budget()
    for _ in range(100):
        assert budget.left(5.0) == MOST_S
        budget.spend(0.010, SHORT_S)
