"""protocol.md 4.6."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.session.reaper import NO_ROW, STREAMS, Activity


def test_idle_from_the_timeout_on():
    activity = Activity()
    slot = activity.add(100.0, 60.0)
    assert activity.idle(159.9, None) == []
    assert activity.idle(160.0, None) == [slot]


def test_touch_and_timeout_postpone():
    activity = Activity()
    slot, other = activity.add(100.0, 60.0), activity.add(100.0, 60.0)
    activity.touch(slot, 130.0)
    assert activity.idle(160.0, None) == [other]
    activity.set_timeout(other, 300.0)
    assert (activity.last_seen(slot), activity.timeout(other)) == (130.0, 300.0)
    assert activity.idle(190.0, None) == [slot]


def test_any_row_of_the_kernel_counts():
    kernel = np.zeros(10)
    activity = Activity()
    slot = activity.add(100.0, 60.0)
    activity.set_row(slot, 0, 3)
    activity.set_row(slot, 2, 7)
    assert activity.idle(160.0, kernel) == [slot]
    for row in (3, 7):
        kernel[row] = 101.0
        assert activity.idle(160.0, kernel) == []
        kernel[row] = 0.0
    kernel[:] = 159.0
    kernel[[3, 7]] = 100.0
    assert activity.idle(160.0, kernel) == [slot]


def test_row_is_replaced():
    kernel = np.full(4, 159.0)
    kernel[2] = 100.0
    activity = Activity()
    slot = activity.add(100.0, 60.0)
    activity.set_row(slot, 3, 1)
    assert activity.idle(160.0, kernel) == []
    activity.set_row(slot, 3, 2)
    assert activity.idle(160.0, kernel) == [slot]
    activity.set_row(slot, 3, 1)
    activity.set_row(slot, 3, NO_ROW)
    assert activity.idle(160.0, kernel) == [slot]


def test_removed_slot_is_never_reported_and_used_again_without_its_rows():
    kernel = np.full(4, 1000.0)
    activity = Activity()
    slot = activity.add(100.0, 60.0)
    activity.set_row(slot, 0, 1)
    activity.remove(slot)
    activity.touch(slot, 0.0)
    assert activity.idle(1e9, None) == []
    assert activity.add(200.0, 60.0) == slot
    assert activity.idle(260.0, kernel) == [slot]


def test_a_free_slot_is_refused():
    activity = Activity()
    slot = activity.add(100.0, 60.0)
    activity.remove(slot)
    for misuse in (
        lambda: activity.remove(slot),
        lambda: activity.set_timeout(slot, 1.0),
        lambda: activity.set_row(slot, 0, 1),
        lambda: activity.remove(-1),
        lambda: activity.remove(10**6),
    ):
        with pytest.raises(KeyError):
            misuse()


def test_nothing_is_idle_where_nothing_is():
    assert Activity().idle(1e9, np.zeros(4)) == []
    activity = Activity()
    slot = activity.add(0.0, 1.0)
    assert activity.idle(1e9, np.zeros(0)) == [slot]


def test_grows_between_checks():
    activity = Activity()
    slots = []
    for count in range(200):
        slots.append(activity.add(float(count), 60.0))
        activity.idle(0.0, np.zeros(1))
    assert sorted(slots) == list(range(200))
    assert sorted(activity.idle(100.0, None)) == slots[:41]


STEP = st.tuples(st.sampled_from(["add", "remove", "touch", "rows", "timeout"]), st.integers(0, 20), st.integers(0, 99))


@given(st.lists(STEP, max_size=60), st.lists(st.integers(0, 99), min_size=8, max_size=8))
def test_against_a_model(steps, kernel):
    activity, model = Activity(), {}
    for what, index, value in steps:
        if what == "add":
            slot = activity.add(float(value), float(index))
            assert slot not in model
            model[slot] = [value, index, {}]
            continue
        if not model:
            continue
        slot = sorted(model)[index % len(model)]
        if what == "remove":
            activity.remove(slot)
            del model[slot]
        elif what == "touch":
            activity.touch(slot, float(value))
            model[slot][0] = value
        elif what == "timeout":
            activity.set_timeout(slot, float(value))
            model[slot][1] = value
        else:
            activity.set_row(slot, index % STREAMS, value % 8)
            model[slot][2][index % STREAMS] = value % 8
    expected = [
        slot
        for slot, (seen, timeout, rows) in sorted(model.items())
        if 100 - max([seen, *(kernel[row] for row in rows.values())]) >= timeout
    ]
    assert activity.idle(100.0, np.array(kernel, dtype=np.float64)) == expected
