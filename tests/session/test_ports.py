"""Allocation of port pairs, each of which can be used again (protocol.md 7.1, 16 item 5)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtpproxy.session.ports import PortAllocator


def allocator(first=20000, last=20006, is_sequential=True, seed=1, exclude=()):
    return PortAllocator(first, last, is_sequential, random.Random(seed), exclude)


def take_next(ports):
    port = ports.next_free()
    assert port is not None
    ports.take(port)
    return port


def test_sequential_starts_at_the_first_port_and_goes_on_after_the_last_taken():
    ports = allocator()
    assert [take_next(ports) for _ in range(2)] == [20000, 20002]
    ports.release(20000)
    assert list(ports.candidates()) == [20004, 20006, 20000]


def test_the_pair_taken_last_is_not_offered_next():
    ports = allocator(last=20002)
    for expected in (20000, 20002, 20000):
        assert take_next(ports) == expected
        ports.release(expected)


def test_a_range_of_one_pair_can_be_used_again_and_again():
    ports = allocator(last=20000)
    for _ in range(3):
        assert take_next(ports) == 20000
        assert ports.next_free() is None
        ports.release(20000)


def test_the_pair_freed_last_is_offered_last():
    ports = allocator()
    assert take_next(ports) == 20000
    ports.release(20000)
    assert list(ports.candidates()) == [20002, 20004, 20006, 20000]


def test_counts_what_is_taken():
    ports = allocator(exclude={20000})
    assert ports.taken == 0
    take_next(ports)
    take_next(ports)
    assert ports.taken == 2
    ports.release(20002)
    assert ports.taken == 1


def test_random_order_is_fixed_by_the_seed_and_holds_every_port():
    ports, same, other = (allocator(last=20998, is_sequential=False, seed=seed) for seed in (1, 1, 2))
    order = [take_next(ports) for _ in range(500)]
    assert order == list(same.candidates())
    assert order != list(other.candidates())
    assert order != sorted(order)
    assert sorted(order) == list(range(20000, 21000, 2))
    assert ports.next_free() is None


def test_busy_candidates_are_passed_over():
    ports = allocator()
    walk = ports.candidates()
    next(walk)
    ports.take(next(walk))
    assert list(ports.candidates()) == [20004, 20006, 20000]


@pytest.mark.parametrize("number", [20002, 20003])
def test_excluded_pair_is_never_offered(number):
    ports = allocator(exclude={number, 22222, 1})
    assert list(ports.candidates()) == [20000, 20004, 20006]
    with pytest.raises(ValueError, match="20002 is taken"):
        ports.take(20002)


def test_misuse_is_refused():
    ports = allocator()
    ports.take(20002)
    with pytest.raises(ValueError, match="is taken"):
        ports.take(20002)
    with pytest.raises(ValueError, match="is free"):
        ports.release(20004)
    for outside in (19998, 20008):
        with pytest.raises(ValueError, match="not in the range"):
            ports.take(outside)


@given(st.booleans(), st.integers(1, 40), st.integers(0, 9))
def test_each_free_port_is_offered_once(is_sequential, pairs, taken):
    ports = allocator(last=20000 + 2 * (pairs - 1), is_sequential=is_sequential)
    held = {take_next(ports) for _ in range(min(taken, pairs))}
    assert sorted(ports.candidates()) == sorted(set(range(20000, 20000 + 2 * pairs, 2)) - held)


class PortsAreNeverHandedOutTwice(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.ports = allocator(last=20020, is_sequential=False, exclude={20007})
        self.held = []

    @rule()
    def take(self):
        port = self.ports.next_free()
        if port is not None:
            assert port not in self.held
            self.ports.take(port)
            self.held.append(port)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        self.ports.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def offers_what_is_free(self):
        free = set(range(20000, 20022, 2)) - {20006} - set(self.held)
        assert set(self.ports.candidates()) == free
        assert self.ports.taken == len(self.held)


TestPortsAreNeverHandedOutTwice = PortsAreNeverHandedOutTwice.TestCase
