"""In-memory doubles of what the service is given. Those that share a journal show in which order they were asked."""

import asyncio
import itertools
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rtpproxy.addr import Endpoint
from rtpproxy.errors import PortBusyError
from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded, PortCounters
from rtpproxy.session.ports import PortAllocator
from rtpproxy.session.stats import RtpState, RtpTotals, SequenceTracker
from tests.waiting import wait_for

Journal = list[tuple[str, int]]
"""What was asked for and at which port, in order."""

NOTHING_COUNTED = PortCounters(
    packets=0,
    last_seen=0.0,
    others_dropped=0,
    ssrc=0,
    sequence=0,
    ssrc_changed_at=0.0,
    sequence_set_at=0.0,
    state=RtpState(),
    totals=RtpTotals(),
)


class Sent(NamedTuple):
    """A datagram that left."""

    from_port: int
    from_host: str
    to: Endpoint
    data: bytes


class FakeMedia:
    """Ports that are open or not, and a list of what was sent from them."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal: Journal = [] if journal is None else journal
        self.open_ports: set[int] = set()
        """RTP ports, one a pair."""
        self.busy: set[int] = set()
        """Ports, RTP or RTCP, that another program has."""
        self.open_error: OSError | None = None
        """Raised by `open`, for whatever port."""
        self.unreachable: set[str] = set()
        """Hosts that the kernel refuses to send to."""
        self.sent: list[Sent] = []

    def open(self, rtp_port: int) -> None:
        assert rtp_port not in self.open_ports
        if self.open_error is not None:
            raise self.open_error
        if self.busy & {rtp_port, rtp_port + 1}:
            raise PortBusyError(f"port {rtp_port} is busy")
        self.journal.append(("open", rtp_port))
        self.open_ports.add(rtp_port)

    def close(self, rtp_port: int) -> None:
        self.journal.append(("close", rtp_port))
        self.open_ports.remove(rtp_port)

    def send(self, from_port: int, from_host: str, to: Endpoint, data: bytes) -> bool:
        assert from_port & ~1 in self.open_ports, f"sending from port {from_port}, which is closed"
        if to.host in self.unreachable:
            return False
        self.sent.append(Sent(from_port, from_host, to, data))
        return True


class FakeOffload:
    """A kernel tier that forwards only what a test says it did. A port's row is its number."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal: Journal = [] if journal is None else journal
        self.installed: dict[int, ForwardingEntry | NotOffloaded] = {}
        """By port what was applied last, until withdrawn."""
        self.labels: dict[int, str] = {}
        self.held: set[int] = set()
        """Ports that the kernel forwards nothing from until they are seeded."""
        self.applied = 0
        """How many times entries were applied."""
        self._counters: dict[int, PortCounters] = {}
        self._last_seen = np.zeros(65536)

    def apply(self, label: str, wanted: Mapping[int, ForwardingEntry | NotOffloaded]) -> None:
        self.applied += 1
        self.installed.update(wanted)
        self.labels.update(dict.fromkeys(wanted, label))

    def withdraw(self, port: int, reason: str) -> None:
        self.journal.append(("withdraw", port))
        self.installed.pop(port, None)
        self.labels.pop(port, None)

    def is_wanted(self, key: int) -> bool:
        return self.entry(key) is not None

    def hold(self, key: int) -> None:
        self.held.add(key)

    def seed(self, key: int, tracker: SequenceTracker) -> None:
        self.held.discard(key)
        state = tracker.state()
        self._counters[key] = replace(self.counters(key), ssrc=state.ssrc or 0, state=state)

    def counters(self, port: int) -> PortCounters:
        return self._counters.get(port, NOTHING_COUNTED)

    def forwarded(self, port: int) -> int:
        return self.counters(port).packets

    def total_forwarded(self) -> int:
        return sum(counters.packets for counters in self._counters.values())

    def total_dropped(self) -> int:
        return sum(counters.others_dropped for counters in self._counters.values())

    def row(self, port: int) -> int:
        return port

    def last_seen(self) -> npt.NDArray[np.float64]:
        return self._last_seen

    def entry(self, port: int) -> ForwardingEntry | None:
        """What the kernel forwards for the port, if anything."""
        found = self.installed.get(port)
        return found if isinstance(found, ForwardingEntry) else None

    def forward(self, port: int, packets: int, now: float, *, ssrc: int = 0, sequence: int = 0) -> None:
        """Count so many packets at a port that has an entry, the last of them now and with these numbers."""
        assert self.entry(port) is not None, f"the kernel has no entry for port {port}"
        assert port not in self.held, f"port {port} was never seeded again"
        before = self.counters(port)
        is_change = before.state.ssrc != ssrc
        self._counters[port] = replace(
            before,
            packets=before.packets + packets,
            last_seen=now,
            ssrc=ssrc,
            sequence=sequence,
            ssrc_changed_at=now if is_change else before.ssrc_changed_at,
            sequence_set_at=now,
            state=before.state._replace(ssrc=ssrc, highest=sequence, lowest=sequence, missing=frozenset(), seen_at=now),
        )
        self._last_seen[port] = now

    def drop_others(self, port: int, packets: int) -> None:
        """Count so many packets dropped for their source."""
        before = self.counters(port)
        self._counters[port] = replace(before, others_dropped=before.others_dropped + packets)


class JournalledPorts(PortAllocator):
    """The real allocator, which also notes what is taken and released."""

    def __init__(self, first: int, last: int, journal: Journal, exclude: Collection[int] = ()) -> None:
        super().__init__(first, last, True, random.Random(0), exclude)
        self.held: set[int] = set()
        self._journal = journal

    def take(self, port: int) -> None:
        super().take(port)
        self._journal.append(("take", port))
        self.held.add(port)

    def release(self, port: int) -> None:
        super().release(port)
        self._journal.append(("release", port))
        self.held.remove(port)


class Arrived(NamedTuple):
    """A datagram as the media hand it on."""

    port: int
    data: bytes
    source: tuple[str, int]
    local_host: str
    now: float


class Inbox:
    """Takes datagrams in place of the service. Its clock goes on by a second each time that it is read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrived: list[Arrived] = []
        self.on_arrival: Callable[[], None] = lambda: None
        self._loop = loop
        self._seconds = itertools.count(1)

    def on_datagram(self, port: int, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        self.arrived.append(Arrived(port, data, source, local_host, now))
        self.on_arrival()

    def clock(self) -> float:
        return float(next(self._seconds))

    def turn(self) -> None:
        """Let the event loop look once at what is readable."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def take(self, count: int = 1) -> list[Arrived]:
        """Wait for so many datagrams; all that arrived by then, each once."""

        def is_complete() -> bool:
            self.turn()
            return len(self.arrived) >= count

        wait_for(is_complete, 5.0, f"{count} datagrams")
        taken, self.arrived = self.arrived, []
        return taken
