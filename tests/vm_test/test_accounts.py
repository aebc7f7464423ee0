"""Accounts against arrivals that are forged: what a relay does well, and each way of doing it badly."""

import numpy as np
from generator.accounts import ranks
from hypothesis import given
from hypothesis import strategies as st

from tests.vm_test.streams import MS, Wire, flipped, frames


def outcome(wire):
    account = wire.account
    names = ("doubled", "reordered", "early_reordered", "late", "wrong")
    counts = {name: int(getattr(account, name).sum()) for name in names}
    return {name: count for name, count in {**counts, "lost": wire.lost()}.items() if count}


def settled(wire, count=10):
    """Frames of a call after its opening."""
    wire.arrive(*wire.send(1))
    wire.account.limit_transition(0)
    return wire.send(count)


def test_all_arrive():
    wire = Wire()
    assert wire.arrive(*settled(wire)) == []
    assert outcome(wire) == {}
    assert wire.account.received().tolist() == [11, 0, 0]


def test_one_is_lost():
    wire = Wire()
    sent = settled(wire)
    wire.arrive(*sent[:4], *sent[5:])
    assert outcome(wire) == {"lost": 1}


def test_the_last_is_lost():
    wire = Wire()
    wire.arrive(*settled(wire)[:-1])
    assert outcome(wire) == {"lost": 1}


def test_one_is_doubled_at_once_and_another_later():
    wire = Wire()
    sent = settled(wire)
    wire.arrive(*sent[:4], sent[3], *sent[4:])
    wire.arrive(sent[7])
    assert outcome(wire) == {"doubled": 2}


def test_two_are_swapped():
    wire = Wire()
    sent = settled(wire)
    wire.arrive(*sent[:4], sent[5], sent[4], *sent[6:])
    assert outcome(wire) == {"reordered": 1}


def test_one_is_overtaken_by_many_that_were_taken_before():
    wire = Wire()
    sent = settled(wire)
    wire.arrive(*sent[1:])
    wire.arrive(sent[0])
    assert outcome(wire) == {"reordered": 1}


def test_streams_do_not_overtake_each_other():
    wire = Wire()
    mixed = [frame for call in (2, 0, 1) for frame in wire.send(5, call)]
    wire.arrive(*mixed[::3], *mixed[1::3], *mixed[2::3])
    assert not {"doubled", "lost", "wrong"} & outcome(wire).keys()
    by_call = Wire()
    first, second = by_call.send(5, 0), by_call.send(5, 1)
    by_call.arrive(*(frame for pair in zip(second, first, strict=True) for frame in pair))
    assert outcome(by_call) == {}


def test_in_the_order_that_was_sent_although_numbers_of_rtp_are_not():
    """What the phone's network reorders is not the relay's fault."""
    wire = Wire()
    account = wire.account
    numbers = account.send(np.array([0, 0, 0]), np.array([1, 0, 2]))
    wire.arrive(*(account.expected(0, number) for number in numbers))
    assert outcome(wire) == {}


def test_late():
    wire = Wire()
    sent = wire.send(2, at_ns=5 * MS)
    wire.arrive(sent[0], at_ns=25 * MS)
    wire.arrive(sent[1], at_ns=25 * MS + MS // 10)
    assert outcome(wire) == {"late": 1}
    assert wire.account.max_delay_ns == 20 * MS + MS // 10
    assert wire.account.delays.sum() == 2


def test_packets_before_one_arrives_are_excused_until_the_limit():
    wire = Wire()
    sent = wire.send(6)
    wire.arrive(sent[3], sent[5])
    assert wire.account.opening().tolist() == [4, 0, 0]
    assert outcome(wire) == {}


def test_after_the_limit_nothing_is_excused():
    wire = Wire()
    wire.send(4)
    wire.account.limit_transition(0)
    wire.arrive(*wire.send(4)[2:])
    assert wire.account.opening().tolist() == [4, 0, 0]
    assert outcome(wire) == {"lost": 2}


def test_after_one_has_arrived_nothing_is_excused():
    wire = Wire()
    wire.arrive(wire.send(2)[1])
    wire.send(3)
    assert wire.account.opening().tolist() == [1, 0, 0]
    assert outcome(wire) == {"lost": 3}


def test_overtaken_in_the_opening_is_counted_apart():
    wire = Wire()
    sent = wire.send(3)
    wire.arrive(sent[0], sent[2], sent[1])
    assert outcome(wire) == {"early_reordered": 1}


def test_a_limit_for_another_transition_changes_nothing():
    wire = Wire()
    wire.send(3)
    wire.account.start_transition()
    wire.account.limit_transition(0)
    wire.arrive(*wire.send(3)[2:])
    assert wire.account.opening().tolist() == [5, 0, 0]


def test_a_phone_moves():
    """Until the relay has followed, packets to the old place are nobody's fault; afterwards they are wrong."""
    wire = Wire()
    in_flight = settled(wire)
    wire.account.move(frames(first_port=45000))
    wire.judge.expect_at_phones(wire.account)
    wire.arrive(*in_flight)
    assert outcome(wire) == {}
    sent = wire.send(4)
    old = [wire.account.expected(0, number, is_previous=True) for number in range(11, 15)]
    wire.arrive(old[0])
    assert wire.account.old_place.sum() == 1
    wire.arrive(sent[2])
    assert wire.account.is_heard() is False  # the other streams moved, too, and were not heard
    wire.arrive(old[3])
    assert wire.account.old_place.sum() == 2  # it was sent before the first one arrived
    wire.send(1)
    wire.arrive(wire.account.expected(0, 15, is_previous=True))
    assert wire.fields() == {"destination port"}
    assert outcome(wire) == {"wrong": 1}
    assert wire.account.opening().tolist() == [3, 0, 0]


def test_a_wrong_frame_is_not_lost_as_well():
    wire = Wire()
    sent = settled(wire)
    wire.arrive(*sent[:4], flipped(sent[4], 100), *sent[5:])
    assert outcome(wire) == {"wrong": 1}


@given(st.lists(st.integers(0, 4), max_size=60))
def test_ranks(keys):
    seen: dict[int, int] = {}
    expected = []
    for key in keys:
        expected.append(seen.get(key, 0))
        seen[key] = expected[-1] + 1
    assert ranks(np.array(keys, dtype=np.int64)).tolist() == expected


@given(
    st.permutations(range(8)), st.sets(st.integers(0, 7)), st.lists(st.integers(0, 7), max_size=4), st.integers(1, 8)
)
def test_whatever_arrives_is_counted_as_a_list_would_count_it(order, lost, again, step):
    """In any order, with any losses and doubles, taken in steps of any length."""
    wire = Wire()
    sent = settled(wire, 8)
    arriving = [number for number in order if number not in lost]
    arriving += [number for number in again if number in arriving]
    for start in range(0, len(arriving), step):
        wire.arrive(*(sent[number] for number in arriving[start : start + step]))
    firsts = list(dict.fromkeys(arriving))
    overtaken = sum(number < max(firsts[:at], default=-1) for at, number in enumerate(firsts))
    expected = {"lost": len(lost), "doubled": len(arriving) - len(firsts), "reordered": overtaken}
    assert outcome(wire) == {name: count for name, count in expected.items() if count}
