import itertools

import numpy as np
import pytest
from generator.schedule import NS, Impairments, Plan, Schedule
from hypothesis import given
from hypothesis import strategies as st

MS = NS // 1000
PLAN = Plan(streams=5, period_ns=20 * MS, start_ns=0, end_ns=3 * NS)
NOTHING = Impairments()


def all_of(schedule, step_ns=NS):
    """Everything, taken in steps."""
    taken, now = [], 0
    while not schedule.is_over:
        due = schedule.take(now)
        assert (due.due_ns <= now).all()
        taken += zip(due.streams.tolist(), due.places.tolist(), due.due_ns.tolist(), strict=True)
        now += step_ns
        assert now < 100 * NS
    return taken


@given(st.integers(1, 40), st.integers(1 * MS, 300 * MS), st.integers(0, NS), st.integers(1, 2 * NS))
def test_every_stream_sends_one_packet_a_period(streams, period_ns, start_ns, length_ns):
    plan = Plan(streams, period_ns, start_ns, start_ns + length_ns)
    taken = all_of(Schedule(plan, NOTHING, (1,)))
    assert sorted((stream, place) for stream, place, _ in taken) == [
        (stream, place) for stream in range(streams) for place in range(plan.packets)
    ]
    assert [due for *_, due in taken] == sorted(due for *_, due in taken)
    for _, place, due in taken:
        assert start_ns + place * period_ns <= due < start_ns + (place + 1) * period_ns


@given(st.integers(1 * MS, 700 * MS))
def test_what_is_handed_out_does_not_depend_on_how_often_it_is_asked_for(step_ns):
    impairments = Impairments(0.1, 0.1, 0.03)
    assert all_of(Schedule(PLAN, impairments, (7,)), step_ns) == all_of(Schedule(PLAN, impairments, (7,)))


def test_the_seed_decides():
    impairments = Impairments(0.1, 0.1, 0.03)
    one, same, other = (all_of(Schedule(PLAN, impairments, (seed,))) for seed in (1, 1, 2))
    assert one == same != other


def test_loss_is_counted():
    schedule = Schedule(PLAN, Impairments(loss=0.2), (1,))
    taken = all_of(schedule)
    assert len(taken) + schedule.withheld.sum() == 5 * PLAN.packets
    assert 0.1 < schedule.withheld.sum() / (5 * PLAN.packets) < 0.3


def test_reordering_lets_the_next_packet_overtake():
    taken = all_of(Schedule(PLAN, Impairments(reorder=0.1), (1,)))
    places = [place for stream, place, _ in taken if stream == 0]
    overtaken = [place for place, after in itertools.pairwise(places) if after < place]
    assert sorted(places) == list(range(PLAN.packets))
    assert 0.03 < len(overtaken) / len(places) < 0.2


def test_jitter_delays_by_no_more_than_it_may():
    nominal = {(stream, place): due for stream, place, due in all_of(Schedule(PLAN, NOTHING, (1,)))}
    delays = [
        due - nominal[stream, place] for stream, place, due in all_of(Schedule(PLAN, Impairments(jitter_s=0.01), (1,)))
    ]
    assert min(delays) >= 0
    assert 8 * MS < max(delays) <= 10 * MS
    assert len(set(delays)) > len(delays) / 2


def test_silence_leaves_out_packets_but_not_their_places():
    plan = Plan(2, 20 * MS, 0, NS, silence_ns=(200 * MS, 600 * MS))
    taken = all_of(Schedule(plan, NOTHING, (1,)))
    assert not [due for *_, due in taken if 200 * MS <= due < 600 * MS]
    assert max(place for _, place, _ in taken) == plan.packets - 1
    assert len(taken) == 2 * 30


def test_streams_of_a_long_period_begin_soon():
    plan = Plan(4, 5 * NS, NS, 20 * NS, spread_ns=NS)
    assert [due for _, place, due in all_of(Schedule(plan, NOTHING, (1,))) if place == 0] == pytest.approx(
        np.arange(4) * NS // 4 + NS
    )
