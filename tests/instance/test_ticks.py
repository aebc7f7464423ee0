"""What is due every second, with an event loop whose time is the test's."""

import asyncio
from types import SimpleNamespace

import pytest

from rtpproxy.instance.stop import Stop
from rtpproxy.instance.ticks import REPORT_INTERVAL_S, Ticks

BEGIN = 1000.5


class Stage:
    """Ticks, and parts that only count them."""

    def __init__(self):
        self.now = BEGIN
        self.ticked = []
        self.kernel_ticks = self.reports = 0
        self.is_failing = False
        self._scheduled = []
        self.service = SimpleNamespace(tick=self._tick_service, is_finished=False)
        parts = SimpleNamespace(
            service=self.service,
            kernel=SimpleNamespace(tick=self._tick_kernel),
            verdicts=SimpleNamespace(log_changes=self._report),
        )
        self.stop = Stop(lambda number: None)
        self.ticks = Ticks(parts, SimpleNamespace(call_later=self._schedule), lambda: self.now, self.stop)
        self.ticks.start()

    def _schedule(self, delay_s, action, *arguments):
        self._scheduled.append((self.now + delay_s, action, arguments))

    def _tick_service(self, now):
        if self.is_failing:
            raise ValueError("a fault")
        self.ticked.append(now - BEGIN)

    def _tick_kernel(self):
        self.kernel_ticks += 1

    def _report(self):
        self.reports += 1

    def run(self, late_s=0.0):
        """Call what is scheduled next, later than it is due; False if there is nothing."""
        if not self._scheduled:
            return False
        at, action, arguments = self._scheduled.pop(0)
        self.now = at + late_s
        action(*arguments)
        return True


@pytest.fixture
def stage():
    return Stage()


def test_ticks_keep_their_rhythm_though_each_is_a_little_late(stage):
    for late_s in (0.0, 0.25, 0.0, 0.5, 0.0):
        stage.run(late_s)
    assert stage.ticked == [1.0, 2.25, 3.0, 4.5, 5.0]
    assert stage.kernel_ticks == 5


def test_missed_ticks_are_not_made_up_for(stage):
    stage.run(10.0)
    stage.run()
    stage.run()
    assert stage.ticked == [11.0, 11.0, 12.0]


def test_a_tick_that_fails_is_not_the_last(stage):
    stage.is_failing = True
    with pytest.raises(ValueError, match="a fault"):
        stage.run()
    stage.is_failing = False
    stage.run()
    assert stage.ticked == [2.0]


def test_verdicts_are_reported_once_a_minute(stage):
    for _ in range(int(3 * REPORT_INTERVAL_S)):
        stage.run()
    assert stage.reports == 3


def test_the_end_of_the_last_session_stops_the_relay(stage):
    stage.run()
    assert not stage.stop.is_asked
    stage.service.is_finished = True
    stage.run()
    asyncio.run(stage.stop.wait())


def test_nothing_is_done_once_the_relay_stops(stage):
    stage.stop.now("enough")
    stage.run()
    assert stage.ticked == []
    assert not stage.run()
