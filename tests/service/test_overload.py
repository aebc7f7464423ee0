"""The load of the event loop, and when new sessions are refused for it (protocol.md 11.2, 12.5)."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.config import NotifyTarget, OverloadLimits
from rtpproxy.errors import OverloadError
from rtpproxy.service.overload import LATE_S, LONGEST_S, LoadAverage, Overload
from rtpproxy.session.totals import Totals
from tests.running import rtp
from tests.scenario import CALLER, FACES_CALLER, FIRST_PORT, TO_CALLEE, Scenario

STEP_S = 0.1


class Loop:
    """An event loop whose time is the test's; it measures its load every STEP_S."""

    def __init__(self, measured):
        self.now, self.busy_s = 1000.0, 50.0
        self._measured = measured
        measured(self.busy_s, 0.0, self.now)

    def run(self, seconds, share, *, until=None):
        """Be busy for a share of some time, or until a condition holds; how much time that took."""
        begun = self.now
        for _ in range(round(seconds / STEP_S)):
            if until is not None and until():
                break
            self.now += STEP_S
            self.busy_s += STEP_S * share
            self._measured(self.busy_s, 0.0, self.now)
        return self.now - begun

    def stand_still(self, seconds):
        """Come so much later than due."""
        self.now += STEP_S + seconds
        self._measured(self.busy_s, seconds, self.now)


@pytest.fixture
def average():
    return LoadAverage()


@pytest.fixture
def loop(average):
    return Loop(average.measure)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.99, 1.0])
def test_load_is_the_share_of_time_with_work(average, loop, share):
    loop.run(30.0, share)
    assert average.value == pytest.approx(share, abs=0.001)


def test_a_change_shows_within_seconds(average, loop):
    loop.run(30.0, 0.2)
    assert 3.0 < loop.run(30.0, 1.0, until=lambda: average.value > 0.9) < 6.0
    assert loop.run(30.0, 0.0, until=lambda: average.value < 0.1) < 6.0


def test_rare_measurements_tell_the_same(average):
    average.measure(0.0, 0.0, 0.0)
    for second in range(1, 31):
        average.measure(0.4 * second, 0.0, float(second))
    assert average.value == pytest.approx(0.4, abs=0.001)


def test_who_is_always_late_has_no_time(average, loop):
    """As on a machine whose processors a hypervisor gives away; nothing in it counts that time."""
    for _ in range(100):
        loop.stand_still(2 * LATE_S)
    assert average.value > 0.9


@pytest.mark.parametrize("seconds", [1.0, 60.0, 1e6])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_one_pause_is_no_overload_however_long_it_is(average, loop, seconds, share):
    """SIGSTOP, a debugger, a virtual machine that was suspended."""
    loop.run(30.0, share)
    loop.stand_still(seconds)
    assert share < average.value <= 0.9
    loop.run(5.0, share)
    assert average.value == pytest.approx(share, abs=0.05)


def test_a_second_of_pauses_counts_as_a_second_of_work(average, loop):
    for _ in range(50):
        loop.run(LONGEST_S, 0.0)
        loop.stand_still(LONGEST_S - STEP_S)
    assert 0.4 < average.value < 0.7


@given(st.lists(st.tuples(st.floats(-10, 1e9), st.floats(-10, 1e9), st.floats(-10, 1e9))))
def test_whatever_clocks_say_a_load_is_between_0_and_1(measurements):
    average = LoadAverage()
    for busy_s, late_s, now in measurements:
        average.measure(busy_s, late_s, now)
        assert 0.0 <= average.value <= 1.0


# Refusing

LIMITS = OverloadLimits(0.5, 0.7)


@pytest.fixture
def totals():
    return Totals()


@pytest.fixture
def overload(totals):
    return Overload(LIMITS, totals)


def is_refusing(overload):
    try:
        overload.check()
    except OverloadError:
        return True
    return False


def test_refuses_above_one_limit_until_below_the_other(overload, totals):
    loop = Loop(overload.measured)
    loop.run(30.0, 0.69)
    assert not is_refusing(overload)
    loop.run(30.0, 0.71)
    assert is_refusing(overload)
    loop.run(30.0, 0.51)
    assert is_refusing(overload)
    loop.run(30.0, 0.49)
    assert not is_refusing(overload)
    loop.run(30.0, 0.69)
    assert not is_refusing(overload)
    assert totals.load == pytest.approx(0.69, abs=0.001)


def test_begin_and_end_are_logged_and_counted(overload, caplog):
    caplog.set_level(logging.INFO)
    loop = Loop(overload.measured)
    assert overload.counts() == {"times": 0, "sessions_refused": 0}
    loop.run(30.0, 1.0)
    for _ in range(3):
        is_refusing(overload)
    lasted_s = 30.0 - 2.4 + loop.run(30.0, 0.0, until=lambda: not overload._is_refusing)
    loop.run(30.0, 1.0)
    is_refusing(overload)
    loop.run(30.0, 0.0)
    assert overload.counts() == {"times": 2, "sessions_refused": 4}
    begin, end, begin_again, end_again = (record.getMessage() for record in caplog.records)
    assert begin == begin_again == "overload: new sessions are refused, since the load is above 0.7"
    assert end == f"overload is over after {lasted_s:.0f} s: new sessions are accepted again, after 3 were refused"
    assert end_again.endswith("after 1 were refused")
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_off_by_default(totals, caplog):
    overload = Overload(None, totals)
    Loop(overload.measured).run(60.0, 1.0)
    overload.check()
    assert overload.counts() == {}
    assert totals.load > 0.99
    assert caplog.records == []


def test_after_the_pause_of_an_overloaded_relay_sessions_are_accepted_at_once(overload):
    loop = Loop(overload.measured)
    loop.run(30.0, 1.0)
    loop.stand_still(3600.0)
    assert loop.run(30.0, 0.0, until=lambda: not is_refusing(overload)) < 2.0


# Commands


@pytest.fixture
def busy():
    """A relay that has a call and no more time."""
    play = Scenario(overload=LIMITS, notify=(NotifyTarget("/run/to", text="unix:/run/to"),))
    play.call()
    Loop(play.service.measured).run(30.0, 1.0)
    return play


def test_only_new_sessions_are_refused(busy):
    busy.command("U next 10.0.1.2 4000 f", "E98")
    busy.command("U next 10.0.1.2 4000 f unix:/run/to tag", "E98")
    busy.command("L next 10.0.2.2 5000 f t", "0")
    busy.command("U call 10.0.1.2 4000 f t", f"{FIRST_PORT}")
    busy.command("L call 10.0.2.2 5000 f t", f"{FACES_CALLER}")
    busy.packet(CALLER, FACES_CALLER, rtp(1), TO_CALLEE)
    assert busy.ask("Q call f t").startswith("60 1 0 1 0")
    busy.command("Un call 10.0.1.2 4000 f t", f"{FIRST_PORT + 4}")
    busy.command("R call f t", "0")
    busy.command("N call f t", "0")
    busy.command("D call f t", "0")
    busy.command("U call 10.0.1.2 4000 f", "E98")


def test_what_is_refused_holds_nothing(busy):
    busy.command("U next 10.0.1.2 4000 f && S ttl=5", "E98")
    busy.command("D next f", "E50")
    busy.command("D call f", "0")
    busy.assert_nothing_is_left()


def test_order_of_refusals():
    """protocol.md 3.4"""
    play = Scenario(overload=LIMITS, pairs=2)
    play.call()
    Loop(play.service.measured).run(30.0, 1.0)
    play.command("U next 10.0.1.2 4000 f unix:/run/to tag", "E75")
    play.command("U next 10.0.1.2 4000 f", "E98")
    play.service.stop_slowly()
    play.command("U next 10.0.1.2 4000 f", "E99")


def test_what_is_told(busy):
    busy.command("U next 10.0.1.2 4000 f", "E98")
    assert busy.ask("Il").endswith("\naverage load: 1.000000")
    assert busy.ask("It").endswith("\noverload times: 1\noverload sessions_refused: 1")
    assert "overload" not in Scenario().ask("It")
