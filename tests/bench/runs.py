"""One run: send, wait until what is under way has arrived, and compare."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.generator import Generator, Sent
from tests.bench.sink import Sink
from tests.waiting import wait_for

_QUIET_S = 0.5
_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Measured:
    """One run of one relay: packets a second that arrived, share lost, delays in microseconds."""

    rate: float
    loss: float
    p50_us: float = 0.0
    p99_us: float = 0.0
    lost_packets: int = 0

    @property
    def packet_ns(self) -> float:
        """Nanoseconds a packet."""
        return 1e9 / self.rate


class MeasuringError(Exception):
    """A relay did something that no figure can stand for."""


def run_once(generator: Generator, sink: Sink | None, seconds: float, interval_ns: int) -> Measured:
    """A whole run; as fast as possible for an interval of 0. Without a sink, only the sending is measured."""
    if sink is None:
        return Measured(generator.run(seconds, interval_ns).rate, 0.0)
    sink.reset()
    return measure(generator.run(seconds, interval_ns), sink)


def measure(sent: Sent, sink: Sink) -> Measured:
    """Compare what was sent with what arrived. Raises MeasuringError unless all that arrived is right."""
    arrived = settle(lambda: sink.counts().packets, sent.packets)
    counts = sink.counts()
    if counts.bad_ip_checksum + counts.bad_udp_checksum + counts.wrong_length:
        raise MeasuringError(f"packets arrived with wrong checksums or lengths: {counts}")
    if not arrived:
        raise MeasuringError(f"of {sent.packets:,} packets none arrived")
    delays = sink.delays()
    share = arrived / sent.packets
    return Measured(sent.rate * share, 1 - share, delays.p50_us, delays.p99_us, sent.packets - arrived)


def settle(count: Callable[[], int], wanted: int) -> int:
    """The count once it has reached what is wanted, or has not grown for half a second."""
    seen, since = -1, 0.0

    def is_settled() -> bool:
        nonlocal seen, since
        before, seen = seen, count()
        if before != seen:
            since = time.monotonic()
        return seen >= wanted or time.monotonic() - since > _QUIET_S

    wait_for(is_settled, _DEADLINE_S, "packets under way to arrive")
    return seen


def quartiles(values: list[float], digits: int = 1) -> list[float]:
    """The values between which the middle half lies, rounded."""
    in_order = sorted(values)
    quarter = len(in_order) // 4
    return [round(in_order[quarter], digits), round(in_order[-1 - quarter], digits)]
