"""In-memory doubles of what the service is given. Those that share a journal show in which order they were asked."""

import asyncio
import errno
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rtpproxy.addr import Endpoint
from rtpproxy.config import DEFAULT_TOS as TOS
from rtpproxy.config import NotifyTarget
from rtpproxy.errors import PlaybackError, PortBusyError, RecordingError
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded, Owner, PortCounters
from rtpproxy.rtp.statistics import RtpState, RtpTotals, SequenceTracker
from rtpproxy.service.playback import Party
from rtpproxy.service.taps import Tap
from rtpproxy.service.witnesses import Line
from rtpproxy.session.latch import KnownSource, Latch
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.ports import PortAllocator
from rtpproxy.session.session import Component, Leg, Role, Session, Stream, Witness
from tests.waiting import DEADLINE_S, wait_for

Journal = list[tuple[str, int]]
"""Requests and their ports, in order."""

NOTHING_COUNTED = PortCounters(
    packets=0,
    ssrc=0,
    sequence=0,
    ssrc_changed_at=0.0,
    sequence_set_at=0.0,
    state=RtpState(),
    totals=RtpTotals(),
)


ANY_IPV4 = LocalAddress(0)
"""All our addresses of IPv4, when there is nothing else."""


def make_leg(role: Role, local: LocalAddress = ANY_IPV4) -> Leg:
    """A leg without ports."""
    rtp, rtcp = (Stream(component, local, Latch(), tos=TOS) for component in Component)
    return Leg(role, rtp, rtcp)


def make_session(call_id: bytes = b"call", from_tag: bytes = b"f", created_at: float = 0.0) -> Session:
    """A session without ports."""
    return Session(call_id, from_tag, created_at, make_leg(Role.CALLEE), make_leg(Role.CALLER))


class Sent(NamedTuple):
    """A datagram that left."""

    from_port: int
    from_host: str
    to: Endpoint
    data: bytes
    tos: int = TOS


class FakeMedia:
    """Ports that are open or not, and a list of what was sent from them."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal: Journal = [] if journal is None else journal
        self.open_ports: set[int] = set()
        """Keys of RTP ports, one a pair."""
        self.busy: set[int] = set()
        """Keys of ports, RTP or RTCP, that another program has."""
        self.foreign: set[str] = set()
        """Hosts that are none of ours."""
        self.joined: list[LocalAddress] = []
        self.open_error: OSError | None = None
        """Raised by `open`, for whatever port."""
        self.unreachable: set[str] = set()
        """Hosts that the kernel refuses to send to."""
        self.sent: list[Sent] = []
        self.expected: dict[int, KnownSource | None] = {}
        """By port the source that was named last."""
        self.waiting: list[Callable[[], None]] = []
        """Datagrams that have arrived and are not taken yet: what takes them."""
        self.late = 0
        self.excess = 0

    def add_local(self, address: LocalAddress) -> None:
        if address.host in self.foreign:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        self.joined.append(address)

    def open(self, address: LocalAddress, rtp_port: int) -> None:
        key = address.key(rtp_port)
        assert key not in self.open_ports
        if self.open_error is not None:
            raise self.open_error
        if self.busy & {key, key + 1}:
            raise PortBusyError(f"port {rtp_port} is busy")
        self.journal.append(("open", key))
        self.open_ports.add(key)

    def close(self, address: LocalAddress, rtp_port: int) -> None:
        key = address.key(rtp_port)
        self.journal.append(("close", key))
        self.open_ports.remove(key)

    def expect(self, key: int, source: KnownSource | None, component: Component) -> None:
        assert key & ~1 in self.open_ports
        assert component == key & 1
        self.expected[key] = source

    def take_waiting(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    def waited_too_long(self) -> int:
        return self.late

    def no_room(self) -> int:
        return self.excess

    def send(self, stream: Stream, from_host: str, to: Endpoint, data: bytes) -> bool:
        assert stream.key & ~1 in self.open_ports, f"sending from port {stream.local_port}, which is closed"
        if to.host in self.unreachable or (":" in to.host) != stream.local.is_ipv6:
            return False
        self.sent.append(Sent(stream.local_port, from_host, to, data, stream.tos))
        return True


class FakeOffload:
    """A kernel tier, entries and counters, that forwards only what a test says it did. A port's row is its key."""

    rest = "not complete"

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal: Journal = [] if journal is None else journal
        self.installed: dict[int, ForwardingEntry | NotOffloaded] = {}
        """By port what was applied last, until withdrawn."""
        self.owners: dict[int, Owner] = {}
        self.held: set[int] = set()
        """Ports that the kernel forwards nothing from until they are seeded."""
        self.came_up_at: list[tuple[int, float]] = []
        """Key and time of each packet that came up."""
        self.applied = 0
        """How many times entries were applied."""
        self.dropped = 0
        self.tee_missed_by_key: dict[int, int] = {}
        self.tee_chosen_by_key: dict[int, int] = {}
        self._counters: dict[int, PortCounters] = {}
        self._last_seen = np.zeros(4 * 65536)

    def apply(self, owner: Owner, wanted: Mapping[int, ForwardingEntry | NotOffloaded], now: float) -> Collection[int]:
        self.applied += 1
        lost = [key for key, want in wanted.items() if self.entry(key) and not isinstance(want, ForwardingEntry)]
        self.installed.update(wanted)
        self.owners.update(dict.fromkeys(wanted, owner))
        return lost

    def withdraw(self, key: int, reason: str, now: float) -> None:
        self.journal.append(("withdraw", key))
        self.installed.pop(key, None)
        self.owners.pop(key, None)

    def is_wanted(self, key: int) -> bool:
        return self.entry(key) is not None

    def hold(self, key: int) -> None:
        self.held.add(key)

    def came_up(self, key: int, now: float) -> None:
        self.came_up_at.append((key, now))

    def seed(self, key: int, tracker: SequenceTracker) -> None:
        self.held.discard(key)
        state = tracker.state()
        self._counters[key] = replace(self.counters(key), ssrc=state.ssrc or 0, state=state)

    def counters(self, key: int) -> PortCounters:
        assert key & 0xFFFF, "the table has no such row"
        return self._counters.get(key, NOTHING_COUNTED)

    def forwarded(self, key: int) -> int:
        return self.counters(key).packets

    def tee_missed(self, key: int) -> int:
        assert key, "of a stream without a port"
        return self.tee_missed_by_key.get(key, 0)

    def tee_chosen(self, key: int) -> int:
        assert key, "of a stream without a port"
        return self.tee_chosen_by_key.get(key, 0)

    def seen_at(self, key: int) -> float:
        return self.counters(key).state.seen_at

    def total_forwarded(self) -> int:
        return sum(counters.packets for counters in self._counters.values())

    def total_dropped(self) -> int:
        return self.dropped

    def total_parse_errors(self) -> int:
        return 6

    def by_program(self) -> Mapping[str, int]:
        return {"XDP": sum(self.entry(key) is not None for key in self.installed)}

    def by_reason(self) -> Mapping[str, int]:
        return Counter(str(want) for want in self.installed.values() if isinstance(want, NotOffloaded))

    def verdicts(self) -> Mapping[str, int]:
        return {"up_no_entry": 5, "up_vlan": 0}

    def row(self, key: int) -> int:
        return key

    def last_seen(self) -> npt.NDArray[np.float64]:
        return self._last_seen

    def entry(self, key: int) -> ForwardingEntry | None:
        """The entry of a port that the kernel forwards from, if it has one."""
        found = self.installed.get(key)
        return found if isinstance(found, ForwardingEntry) else None

    def forward(
        self, key: int, packets: int, now: float, *, ssrc: int = 0, sequence: int = 0, is_memory_due: bool = True
    ) -> None:
        """Count so many packets at a port that has an entry, the last of them now and with these numbers.

        The latching memory is refreshed about once a second only; `is_memory_due` tells whether it is.
        """
        assert self.entry(key) is not None, f"the kernel has no entry for port {key}"
        assert key not in self.held, f"port {key} was never seeded again"
        before = self.counters(key)
        is_change = before.state.ssrc != ssrc
        self._counters[key] = replace(
            before,
            packets=before.packets + packets,
            ssrc=ssrc,
            sequence=sequence if is_memory_due else before.sequence,
            ssrc_changed_at=now if is_change else before.ssrc_changed_at,
            sequence_set_at=now if is_memory_due else before.sequence_set_at,
            state=before.state._replace(ssrc=ssrc, highest=sequence, lowest=sequence, missing=frozenset(), seen_at=now),
        )
        self._last_seen[key] = now

    def forward_again(self, key: int, packets: int) -> None:
        """Count so many packets whose numbers came before at a port that has an entry."""
        assert self.entry(key) is not None, f"the kernel has no entry for port {key}"
        before = self.counters(key)
        totals = before.totals._replace(duplicates=before.totals.duplicates + packets)
        self._counters[key] = replace(before, packets=before.packets + packets, totals=totals)


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

    key: int
    data: bytes
    source: tuple[str, int]
    local_host: str
    now: float


class ShiftedClocks:
    """The clocks of this host, but for the time that a test lets pass, and what it steps the wall clock by."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.stepped_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s

    def wall(self) -> float:
        return time.time() + self.passed_s + self.stepped_s


def no_limit(clock: Callable[[], float]) -> AgeLimit:
    """Let datagrams wait as long as they like."""
    return AgeLimit(0.0, clock, clock)


class Inbox:
    """Takes datagrams in place of the service. Its clock goes on by a second each time that it is read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrived: list[Arrived] = []
        self.on_arrival: Callable[[], None] = lambda: None
        self._loop = loop
        self.now = 0.0
        """What the clock said last."""

    def on_datagram(self, key: int, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        self.arrived.append(Arrived(key, data, source, local_host, now))
        self.on_arrival()

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def turn(self) -> None:
        """Let the event loop look once at what is readable."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def take(self, count: int = 1) -> list[Arrived]:
        """Wait for so many datagrams; all that arrived by then, each once."""

        def is_complete() -> bool:
            self.turn()
            return len(self.arrived) >= count

        wait_for(is_complete, DEADLINE_S, f"{count} datagrams")
        taken, self.arrived = self.arrived, []
        return taken


class FakeNotifier:
    """Remembers whom it was to tell what."""

    def __init__(self) -> None:
        self.told: list[tuple[NotifyTarget, str, bytes]] = []
        self.minor = 0

    def notify(self, target: NotifyTarget, controller_host: str, text: bytes, *, is_minor: bool = False) -> None:
        self.told.append((target, controller_host, text))
        self.minor += is_minor


class FakeRecorded:
    """A recording that only notes what it gets."""

    def __init__(
        self, streams: Sequence[Stream], name: bytes | None, on_end: Callable[[float], None], *, is_teed: bool
    ) -> None:
        self.name = name
        self.on_end = on_end
        self.streams = [FakeRecordedStream(stream, is_teed=is_teed) for stream in streams]
        self.stopped_at: float | None = None
        self.received_before = -1
        """Packets of RTP that the stream had received when the recording began."""

    @property
    def packets(self) -> list[bytes]:
        """Payloads of RTP."""
        return [data for data, *_ in self.streams[0].taken]

    def begin(self) -> None:
        self.received_before = self.streams[0].stream.received_packets

    def stop(self, now: float) -> None:
        assert self.stopped_at is None
        self.stopped_at = now


class FakeRecordedStream:
    """One stream of it. The kernel may tee it or not."""

    def __init__(self, stream: Stream, *, is_teed: bool = False) -> None:
        self.stream = stream
        self.is_teed = is_teed
        self.payload_type: int | None = None
        self.looked_again_at = -1.0
        self.taken: list[tuple[bytes, tuple[str, int], str, float]] = []

    def packet(self, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        self.taken.append((data, source, local_host, now))

    def look_again(self, now: float) -> None:
        self.looked_again_at = now


class FakeRecorder:
    """Makes recordings, or refuses them while there is a `refusal`."""

    def __init__(self) -> None:
        self.has_single_files = False
        self.has_ring = False
        self.refusal = ""
        self.made: list[FakeRecorded] = []
        self.while_made: Callable[[], None] = lambda: None
        """Called while the files are being made."""

    def record(
        self,
        session: Session,
        role: Role,
        name: bytes | None,
        *,
        is_single: bool,
        on_end: Callable[[float], None],
        absorb: Callable[[float], None],
    ) -> FakeRecorded:
        if self.refusal:
            raise RecordingError(self.refusal)
        self.while_made()
        self.made.append(FakeRecorded(session.leg(role).streams, name, on_end, is_teed=self.has_ring))
        return self.made[-1]

    def counts(self) -> Mapping[str, int]:
        return {"files_open": 2 * sum(one.stopped_at is None for one in self.made)} if self.made else {}


class FakeCopier:
    """Makes copies that the kernel may tee, and that note where they are to go whenever that is judged."""

    def __init__(self) -> None:
        self.refusal = ""
        self.made: list[FakeCopies] = []

    def copy(
        self, title: str, lines: Sequence[Line], *, on_end: Callable[[float], None], absorb: Callable[[float], None]
    ) -> "FakeCopies":
        if self.refusal:
            raise RecordingError(self.refusal)
        self.made.append(FakeCopies(title, lines, on_end))
        return self.made[-1]

    def counts(self) -> Mapping[str, int]:
        return {"copies_open": sum(one.stopped_at is None for one in self.made)}


class FakeCopies:
    """Copies that only note what they get."""

    def __init__(self, title: str, lines: Sequence[Line], on_end: Callable[[float], None]) -> None:
        self.title = title
        self.on_end = on_end
        self.streams = [FakeCopiedStream(line) for line in lines]
        self.stopped_at: float | None = None

    def begin(self) -> None:
        pass

    def stop(self, now: float) -> None:
        assert self.stopped_at is None
        self.stopped_at = now


class FakeCopiedStream(FakeRecordedStream):
    """One stream of it."""

    def __init__(self, line: Line) -> None:
        super().__init__(line.stream, is_teed=True)
        self.line = line
        self.to = line.to()

    @property
    def way(self) -> tuple[int, Endpoint | None]:
        """The port that copies leave from, and where they go, as it was when that was judged last."""
        return self.line.out.local_port, self.to

    def look_again(self, now: float) -> None:
        super().look_again(now)
        self.to = self.line.to()


class FakeLater:
    """Calls back what was to be called later, as time passes."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.calls: list[tuple[float, Callable[[float], None]]] = []

    def call(self, delay_s: float, callback: Callable[[float], None]) -> None:
        self.calls.append((self.now + delay_s, callback))

    def pass_until(self, now: float) -> None:
        while self.calls and min(at for at, _ in self.calls) <= now:
            at, callback = first = min(self.calls, key=lambda call: call[0])
            self.calls.remove(first)
            self.now = at
            callback(at)
        self.now = now


class FakePlaying:
    """A prompt that a test lets send and end."""

    def __init__(self, request: tuple[bytes, tuple[int, ...], int, int | None], outlet: Party) -> None:
        self.request = request
        """Prompt, payload types, milliseconds of a packet, passes."""
        self.outlet = outlet
        self.is_stopped = False
        self.woken = 0

    def stop(self) -> None:
        assert not self.is_stopped
        self.is_stopped = True

    def wake(self) -> None:
        assert not self.is_stopped
        self.woken += 1

    def send(self, packet: bytes) -> bool:
        assert not self.is_stopped
        return self.outlet.send(packet)


class FakePlayers:
    """Has every prompt whose name ends in "prompt"."""

    def __init__(self) -> None:
        self.all: list[FakePlaying] = []
        self.ticks: list[float] = []

    def play(
        self, prompt: bytes, payload_types: Sequence[int], packet_ms: int, passes: int | None, outlet: Party
    ) -> FakePlaying:
        if not prompt.endswith(b"prompt"):
            raise PlaybackError("no such file")
        self.all.append(FakePlaying((prompt, tuple(payload_types), packet_ms, passes), outlet))
        return self.all[-1]

    def tick(self, now: float) -> None:
        self.ticks.append(now)


class FakeTees:
    """Numbers what the kernel may tee: what is for `FakeRecordedStream`s that say so."""

    def __init__(self) -> None:
        self.last = 0

    def tee(self, witnesses: Sequence[Witness]) -> int:
        if not witnesses or not all(isinstance(one, FakeRecordedStream) and one.is_teed for one in witnesses):
            return 0
        self.last += 1
        return self.last


class FakeTap:
    """A tap that only notes what it gets, and on which a test may find something."""

    def __init__(
        self, title: str, tap: Tap, on_found: Callable[[bytes], None], on_end: Callable[[float], None]
    ) -> None:
        self.title = title
        self.tap = tap
        self.on_found = on_found
        self.on_end = on_end
        self.streams = [FakeRecordedStream(stream, is_teed=True) for stream in tap.streams]
        for stream in self.streams:
            stream.payload_type = tap.payload_type
        self.has_begun = False
        self.stopped_at: float | None = None

    @property
    def packets(self) -> list[bytes]:
        """Payloads of all streams, one stream after the other."""
        return [data for stream in self.streams for data, *_ in stream.taken]

    def begin(self) -> None:
        self.has_begun = True

    def stop(self, now: float) -> None:
        assert self.stopped_at is None
        self.stopped_at = now


class FakeTapper:
    """Makes taps, or refuses them while there is a `refusal`."""

    def __init__(self) -> None:
        self.refusal = ""
        self.made: list[FakeTap] = []

    def tap(
        self,
        title: str,
        tap: Tap,
        *,
        on_found: Callable[[bytes], None],
        on_end: Callable[[float], None],
        absorb: Callable[[float], None],
    ) -> FakeTap:
        if self.refusal:
            raise RecordingError(self.refusal)
        self.made.append(FakeTap(title, tap, on_found, on_end))
        return self.made[-1]

    def counts(self) -> Mapping[str, int]:
        return {"taps_open": sum(one.stopped_at is None for one in self.made)} if self.made else {}
