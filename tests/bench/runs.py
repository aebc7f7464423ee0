"""One run: send, wait until what is under way has arrived, and compare."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.generator import Generator, Sent
from tests.bench.sink import Sink
from tests.waiting import wait_for

_QUIET_S = 0.1


@dataclass(frozen=True)
class Measured:
    """One run of one relay: packets a second that arrived, share lost, delays in microseconds."""

    rate: float
    loss: float
    p50_us: float = 0.0
    p99_us: float = 0.0


def run_once(generator: Generator, sink: Sink, seconds: float, interval_ns: int) -> Measured:
    """A whole run; as fast as possible for an interval of 0."""
    sink.reset()
    return measure(generator.run(seconds, interval_ns), sink)


def measure(sent: Sent, sink: Sink) -> Measured:
    """What became of what was sent; all that arrived must be right."""
    arrived = settle(lambda: sink.counts().packets, sent.packets)
    counts = sink.counts()
    assert counts.bad_ip_checksum + counts.bad_udp_checksum + counts.wrong_length == 0, counts
    delays = sink.delays()
    share = arrived / sent.packets
    return Measured(sent.rate * share, 1 - share, delays.p50_us, delays.p99_us)


def settle(count: Callable[[], int], wanted: int) -> int:
    """The count once it has reached what is wanted, or has not grown for a tenth of a second."""
    seen, since = -1, 0.0

    def is_settled() -> bool:
        nonlocal seen, since
        before, seen = seen, count()
        if before != seen:
            since = time.monotonic()
        return seen >= wanted or time.monotonic() - since > _QUIET_S

    wait_for(is_settled, 10.0, "packets under way to arrive")
    return seen
