"""Idle timers (protocol.md 4.6)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.session.reaper import NO_ROW, STREAMS, Activity


def test_idle_from_the_timeout_on():
    activity = Activity()
    timer = activity.add(100.0, 60.0)
    assert activity.idle(159.9, None) == []
    assert activity.idle(160.0, None) == [timer]


def test_touch_and_timeout_postpone():
    activity = Activity()
    timer, other = activity.add(100.0, 60.0), activity.add(100.0, 60.0)
    activity.touch(timer, 130.0)
    assert activity.idle(160.0, None) == [other]
    activity.set_timeout(other, 300.0)
    assert (activity.last_seen(timer), activity.timeout(other)) == (130.0, 300.0)
    assert activity.idle(190.0, None) == [timer]


def test_any_row_of_the_kernel_counts():
    kernel = np.zeros(10)
    activity = Activity()
    timer = activity.add(100.0, 60.0)
    activity.set_row(timer, 0, 3)
    activity.set_row(timer, 2, 7)
    assert activity.idle(160.0, kernel) == [timer]
    for row in (3, 7):
        kernel[row] = 101.0
        assert activity.idle(160.0, kernel) == []
        kernel[row] = 0.0
    kernel[:] = 159.0
    kernel[[3, 7]] = 100.0
    assert activity.idle(160.0, kernel) == [timer]


def test_row_is_replaced():
    kernel = np.full(4, 159.0)
    kernel[2] = 100.0
    activity = Activity()
    timer = activity.add(100.0, 60.0)
    activity.set_row(timer, 3, 1)
    assert activity.idle(160.0, kernel) == []
    activity.set_row(timer, 3, 2)
    assert activity.idle(160.0, kernel) == [timer]
    activity.set_row(timer, 3, 1)
    activity.set_row(timer, 3, NO_ROW)
    assert activity.idle(160.0, kernel) == [timer]


def test_removed_slot_is_never_reported_and_used_again_without_its_rows():
    kernel = np.full(4, 1000.0)
    activity = Activity()
    timer = activity.add(100.0, 60.0)
    activity.set_row(timer, 0, 1)
    activity.remove(timer)
    activity.touch(timer, 0.0)
    assert activity.idle(1e9, None) == []
    assert activity.add(200.0, 60.0) == timer
    assert activity.idle(260.0, kernel) == [timer]


def test_a_free_slot_is_refused():
    activity = Activity()
    timer = activity.add(100.0, 60.0)
    activity.remove(timer)
    for misuse in (
        lambda: activity.remove(timer),
        lambda: activity.set_timeout(timer, 1.0),
        lambda: activity.set_row(timer, 0, 1),
        lambda: activity.remove(-1),
        lambda: activity.remove(10**6),
    ):
        with pytest.raises(KeyError):
            misuse()


def test_nothing_is_idle_where_nothing_is():
    assert Activity().idle(1e9, np.zeros(4)) == []
    activity = Activity()
    timer = activity.add(0.0, 1.0)
    assert activity.idle(1e9, np.zeros(0)) == [timer]


def test_grows_between_checks():
    activity = Activity()
    timers = []
    for count in range(200):
        timers.append(activity.add(float(count), 60.0))
        activity.idle(0.0, np.zeros(1))
    assert sorted(timers) == list(range(200))
    assert sorted(activity.idle(100.0, None)) == timers[:41]


STEP = st.tuples(st.sampled_from(["add", "remove", "touch", "rows", "timeout"]), st.integers(0, 20), st.integers(0, 99))


@given(st.lists(STEP, max_size=60), st.lists(st.integers(0, 99), min_size=8, max_size=8))
def test_against_a_model(steps, kernel):
    activity, model = Activity(), {}
    for what, index, value in steps:
        if what == "add":
            timer = activity.add(float(value), float(index))
            assert timer not in model
            model[timer] = [value, index, {}]
            continue
        if not model:
            continue
        timer = sorted(model)[index % len(model)]
        if what == "remove":
            activity.remove(timer)
            del model[timer]
        elif what == "touch":
            activity.touch(timer, float(value))
            model[timer][0] = value
        elif what == "timeout":
            activity.set_timeout(timer, float(value))
            model[timer][1] = value
        else:
            activity.set_row(timer, index % STREAMS, value % 8)
            model[timer][2][index % STREAMS] = value % 8
    expected = [
        timer
        for timer, (seen, timeout, rows) in sorted(model.items())
        if 100 - max([seen, *(kernel[row] for row in rows.values())]) >= timeout
    ]
    assert activity.idle(100.0, np.array(kernel, dtype=np.float64)) == expected
