"""Measuring the load, with an event loop whose time is the test's."""

from types import SimpleNamespace

import pytest

from rtpproxy.instance.build import Clocks
from rtpproxy.instance.load import LONGEST_S, SHORTEST_S, LoadMeter
from rtpproxy.instance.stop import Stop

BEGIN = 1000.0


class Stage:
    """A meter, and a service that only notes what it is told."""

    def __init__(self):
        self.now, self.busy_s = BEGIN, 0.0
        self.measured = []
        self.is_failing = False
        self.waits = []
        self._scheduled = []
        self.stop = Stop(lambda number: None)
        service = SimpleNamespace(measured=lambda *told: self.measured.append(told))
        clocks = Clocks(lambda: self.now, lambda: 0.0, lambda: 0, self._busy)
        LoadMeter(service, SimpleNamespace(call_later=self._schedule), clocks, self.stop).start()

    def _busy(self):
        if self.is_failing:
            raise ValueError("a fault")
        return self.busy_s

    def _schedule(self, delay_s, action, *arguments):
        self.waits.append(delay_s)
        self._scheduled.append((self.now + delay_s, action, arguments))

    def run(self, late_s=0.0):
        at, action, arguments = self._scheduled.pop(0)
        self.now = at + late_s
        action(*arguments)

    @property
    def is_over(self):
        return not self._scheduled


@pytest.fixture
def stage():
    return Stage()


def test_tells_how_busy_and_how_late_the_loop_is(stage):
    stage.busy_s = 0.07
    stage.run(late_s=0.03)
    assert stage.measured == [(0.0, 0.0, BEGIN), (0.07, pytest.approx(0.03), stage.now)]
    stage.run(late_s=5.0)
    stage.run()
    assert [late_s for _, late_s, _ in stage.measured[2:]] == [pytest.approx(5.0), 0.0]


def test_measures_at_no_rhythm(stage):
    for _ in range(200):
        stage.run()
    assert SHORTEST_S <= min(stage.waits) < 0.06 < 0.14 < max(stage.waits) <= LONGEST_S


def test_a_measurement_that_fails_is_not_the_last(stage):
    stage.is_failing = True
    with pytest.raises(ValueError, match="a fault"):
        stage.run()
    stage.is_failing = False
    stage.run()
    assert len(stage.measured) == 2


def test_nothing_is_measured_once_the_relay_stops(stage):
    stage.stop.now("enough")
    stage.run()
    assert len(stage.measured) == 1
    assert stage.is_over
