"""When packets arrived, by timestamps of a clock that somebody may step."""

import itertools

import pytest

from rtpproxy.recording.arrivals import Arrivals, when_read

S = 1_000_000_000
EPOCH_NS = 1_790_000_000 * S
"""The wall clock when the monotonic one was 0, before any step."""


class Stage:
    """Two clocks, and packets that wait in a socket with the timestamps that the kernel noted."""

    def __init__(self):
        self.now = 1000.0
        self.stepped_s = 0.0
        self.noted = []
        self.empty_at = self.now
        self.arrivals = Arrivals(lambda: self.now, self.wall_ns, lambda: (self.noted[0], self.empty_at))

    def wall_ns(self):
        return EPOCH_NS + round((self.now + self.stepped_s) * S)

    def arrive(self):
        self.noted.append(self.wall_ns())
        return self.now

    def read(self, began=None):
        """Take a packet in a turn that began just now, if not given; its arrival."""
        found = self.arrivals.arrived_ns(self.now if began is None else began)
        del self.noted[0]
        if not self.noted:
            self.empty_at = self.now
        return found / S


@pytest.fixture
def stage():
    return Stage()


@pytest.mark.parametrize("waited", [0.0, 0.000_01, 0.005, 0.2, 9.0])
def test_a_packet_arrived_before_it_was_read(stage, waited):
    arrived = stage.arrive()
    stage.now += waited
    assert stage.read() == pytest.approx(arrived, abs=1e-6)


def test_one_that_arrived_after_the_turn_began(stage):
    began = stage.now
    stage.now += 0.001
    arrived = stage.arrive()
    stage.now += 0.001
    assert stage.read(began) == pytest.approx(arrived, abs=1e-6)


@pytest.mark.parametrize("step", [3600.0, 1.0, -1.0, -3600.0])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_step_while_packets_wait_changes_no_arrival(stage, step, is_first):
    """Those from before the step, and those from after it, all read after it."""
    if not is_first:
        stage.arrive()
        stage.read()
        stage.now += 0.5
    arrived = []
    for at in range(6):
        if at == 3:
            stage.stepped_s = step
        arrived.append(stage.arrive())
        stage.now += 0.010
    assert [stage.read() for _ in range(6)] == pytest.approx(arrived, abs=1e-6)


@pytest.mark.parametrize("step", [0.020, -0.020, 0.000_1, -0.000_1])
def test_a_small_step_makes_no_nonsense(stage, step):
    """A timestamp that may be of before the step or of after it is not believed."""
    stage.arrive()
    stage.read()
    stage.now += 1.0
    arrived = []
    for at in range(20):
        if at == 10:
            stage.stepped_s = step
        arrived.append(stage.arrive())
        stage.now += 0.001
    began = stage.now
    found = [stage.read(began) for _ in range(20)]
    for one, true in zip(found, arrived, strict=True):
        assert one == pytest.approx(true, abs=1e-6) or one == pytest.approx(began, abs=1e-6)
    stage.now += 0.050
    true = stage.arrive()
    stage.now += 0.001
    assert stage.read() == pytest.approx(true, abs=1e-6)


@pytest.mark.parametrize("nonsense", [0, 12 * S, EPOCH_NS, 2 * EPOCH_NS])
def test_a_timestamp_that_makes_no_sense(stage, nonsense):
    stage.noted.append(nonsense)
    assert stage.read() == stage.now


def test_a_process_that_is_held_up_between_two_readings(stage):
    """As when its quota of processor time is over just then: the packet after that has its time, too."""
    pauses = itertools.chain([0.0, 0.0, 0.0, 0.08], itertools.repeat(0.0))
    reading = stage.arrivals._monotonic

    def monotonic():
        stage.now += next(pauses)
        return reading()

    stage.arrivals._monotonic = monotonic
    for _ in range(3):
        arrived = stage.arrive()
        stage.now += 0.003
        assert stage.read() == pytest.approx(arrived, abs=1e-6)


def test_without_timestamps_a_packet_arrived_when_it_was_read():
    assert when_read(1234.5) == 1_234_500_000_000
