"""RTP sequence statistics of one stream (protocol.md 11.1). They only count; no packet is judged by them.

A *run* is a stretch of one SSRC without a break in its numbering. Within a run numbers are extended beyond 16 bits,
so that they never wrap; what was sent is the distance from the lowest to the highest number, summed over runs.

The kernel counts by the same rules what it forwards (`bpf/account.h`). Where one stops the other goes on, from a
`RtpState`; what it counted meanwhile is the difference of two `RtpTotals`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from rtpproxy.rtp.header import RtpHeader

MAX_JUMP = 536
"""Numbers ahead of or behind the highest that a packet may be and still belong to the run."""
JITTER_SSRCS = 10
"""SSRCs of a stream that jitter is followed for at the same time."""

_SEQUENCES = 1 << 16
_TIMESTAMPS = 1 << 32
_NO_RUN = -1
_TOTALS = 1 << 32
_NOBODY = -1
"""In place of an SSRC that only the kernel saw."""
# Timestamps that go this many times faster than time, or backwards, were set anew by the sender.
_FORWARD_RATIO = 1024
_BACKWARD_RATIO = 50

# RFC 3551 6, payload types 0 to 18; those that are reserved or dynamic have no clock known to a relay.
_FIRST_TEN_HZ = (8000, 0, 0, 8000, 8000, 8000, 16000, 8000, 8000, 8000)
_CLOCK_HZ = (*_FIRST_TEN_HZ, 44100, 44100, 8000, 8000, 90000, 8000, 11025, 22050, 8000, *(109 * (0,)))


@dataclass(slots=True, eq=False)
class _Jitter:
    """The interarrival jitter of one SSRC (RFC 3550 6.4.1), in timestamp units."""

    ssrc: int
    timestamp: int
    arrived_at: float
    last: float = 0.0
    maximum: float = 0.0
    total: float = 0.0
    count: int = 0

    def observe(self, timestamp: int, clock_hz: int, now: float) -> None:
        """Add the packet's deviation, unless its timestamp repeats the last one or was set anew."""
        step = timestamp - self.timestamp
        if not step:
            return
        elapsed = (now - self.arrived_at) * clock_hz
        self.timestamp = timestamp
        self.arrived_at = now
        if not -0x80000000 <= step < 0x80000000:
            step = (step + 0x80000000) % _TIMESTAMPS - 0x80000000
        if elapsed >= 1.0 and not -_BACKWARD_RATIO * elapsed <= step <= _FORWARD_RATIO * elapsed:
            return
        last = self.last
        self.last = last = last + (abs(elapsed - step) - last) / 16.0
        self.total += last
        self.count += 1
        if last > self.maximum:
            self.maximum = last

    def restart(self, timestamp: int, now: float) -> None:
        """Measure the next packet from this one, which deviates from nothing."""
        self.timestamp = timestamp
        self.arrived_at = now

    def add(self, other: "_Jitter") -> None:
        """Take the sums of another SSRC over."""
        self.maximum = max(self.maximum, other.maximum)
        self.total += other.total
        self.count += other.count


class RtpState(NamedTuple):
    """Where the statistics of a stream stand: whoever has this counts on without a seam. Times: seconds, monotonic."""

    ssrc: int | None = None
    """Of the latest packet; None before the first, and then `highest`, `lowest` and `missing` mean nothing."""
    highest: int = 0
    """Sequence number, extended beyond 16 bits."""
    lowest: int = 0
    """Of the run, extended alike; what is not over MAX_JUMP behind `highest` is exact."""
    missing: frozenset[int] = frozenset()
    """Extended numbers in between that may still come."""
    seen_at: float = 0.0
    """Arrival of the latest packet; 0.0 for none."""
    longest_gap_s: float = 0.0
    timestamp: int = 0
    """Of the packet that jitter is measured from."""
    arrived_at: float = 0.0
    """Its arrival; 0.0 when no packet of `ssrc` had a known clock."""
    jitter: float = 0.0
    """Of the newest SSRC that has any, timestamp units."""
    jitter_max: float = 0.0
    is_jitter_new: bool = True
    """No packet of `ssrc` was measured yet."""


class RtpTotals(NamedTuple):
    """What the kernel counted at a port, of whatever sessions; all but `jitter_total` modulo 2**32."""

    lost: int = 0
    duplicates: int = 0
    parse_errors: int = 0
    jitter_total: float = 0.0
    jitter_count: int = 0


_NOTHING_FORWARDED = RtpTotals()


class Arrival(Enum):
    """What a packet is among those of its stream."""

    NEXT = "next"
    """Follows the highest number of the run, as most do."""
    OUT_OF_ORDER = "out of order"
    """New, but ahead of the next number, or late."""
    DUPLICATE = "duplicate"
    """Its number came before."""
    RUN_STARTED = "run started"
    """The first of the stream, or too far from the highest number to belong to its run."""
    TALK_STARTED = "talk started"
    """Has a marker and a lower number than the highest: the sender began anew."""
    SSRC_CHANGED = "SSRC changed"
    """Of another SSRC than the packet before it; starts a run."""
    NOT_RTP = "not RTP"


# Looked up for every packet: a global is found faster than a member of an enum.
_NEXT = Arrival.NEXT
_DUPLICATE = Arrival.DUPLICATE


class SequenceTracker:
    """What the packets accepted from one party tell about what it sent."""

    __slots__ = (
        "_forwarded",
        "_highest",
        "_jitter",
        "_jitters",
        "_lowest",
        "_missing",
        "_next",
        "_seen_at",
        "_sent_before",
        "_ssrc",
        "duplicates",
        "longest_gap_s",
        "parse_errors",
        "received",
    )

    def __init__(self) -> None:
        self.received = 0
        """Distinct packets."""
        self.duplicates = 0
        self.parse_errors = 0
        """Packets that are not RTP."""
        self.longest_gap_s = 0.0
        """Longest time between two packets, seconds."""
        self._seen_at = float("inf")
        self._ssrc: int | None = None
        self._next = _NO_RUN
        """The sequence number that follows the highest of the run."""
        self._highest = 0
        self._lowest = 0
        self._missing: set[int] | None = None
        """Extended numbers between lowest and highest that have not come."""
        self._sent_before = 0
        """Sent in runs that ended."""
        self._jitter: _Jitter | None = None
        """Of the current SSRC."""
        self._jitters: tuple[_Jitter, ...] = ()
        """Of all SSRCs, the newest first."""
        self._forwarded = _NOTHING_FORWARDED
        """The kernel's totals, up to which its packets are absorbed."""

    @property
    def ssrc(self) -> int | None:
        """SSRC of the latest packet."""
        return self._ssrc

    @property
    def sent(self) -> int:
        """Packets that the party sent, as its sequence numbers tell."""
        return self._sent_before + (0 if self._next == _NO_RUN else self._highest - self._lowest + 1)

    @property
    def lost(self) -> int:
        """Packets sent and not received."""
        return self.sent - self.received

    @property
    def jitter_last(self) -> float:
        """Jitter of the newest SSRC that has any, timestamp units."""
        return next((jitter.last for jitter in self._jitters if jitter.count), 0.0)

    @property
    def jitter_max(self) -> float:
        """Highest jitter of any SSRC, timestamp units."""
        return max((jitter.maximum for jitter in self._jitters), default=0.0)

    @property
    def jitter_average(self) -> float:
        """Jitter averaged over the packets of all SSRCs, timestamp units."""
        count = sum(jitter.count for jitter in self._jitters)
        return sum(jitter.total for jitter in self._jitters) / count if count else 0.0

    def observe(self, header: RtpHeader | None, now: float) -> Arrival:
        """Count an accepted packet, None for one that is not RTP, and tell what it is; `now` in seconds, monotonic."""
        gap_s = now - self._seen_at
        if gap_s > self.longest_gap_s:
            self.longest_gap_s = gap_s
        self._seen_at = now
        if header is None:
            self.parse_errors += 1
            return Arrival.NOT_RTP
        ssrc, sequence, timestamp, payload_type, _ = header
        if sequence == self._next and ssrc == self._ssrc:
            self._next = (sequence + 1) & 0xFFFF
            self._highest += 1
            self.received += 1
            arrival = _NEXT
        else:
            arrival = self._place(header, now)
            if arrival is _DUPLICATE or arrival is Arrival.TALK_STARTED:
                return arrival
        clock_hz = _CLOCK_HZ[payload_type]
        if clock_hz:
            if self._jitter is None:
                self._follow_jitter(_Jitter(ssrc, timestamp, now))
            else:
                self._jitter.observe(timestamp, clock_hz, now)
        return arrival

    def state(self) -> RtpState:
        """Where the kernel has to go on from."""
        jitter = self._jitter
        oldest = self._highest - MAX_JUMP
        return RtpState(
            ssrc=self._ssrc,
            highest=self._highest,
            lowest=self._lowest,
            missing=frozenset(number for number in self._missing if number >= oldest) if self._missing else frozenset(),
            seen_at=0.0 if self._seen_at == float("inf") else self._seen_at,
            longest_gap_s=self.longest_gap_s,
            timestamp=jitter.timestamp if jitter else 0,
            arrived_at=jitter.arrived_at if jitter else 0.0,
            jitter=jitter.last if jitter and jitter.count else self.jitter_last,
            jitter_max=self.jitter_max,
            is_jitter_new=jitter is None or not jitter.count,
        )

    def skip_forwarded(self, totals: RtpTotals) -> None:
        """Leave out what the kernel counted so far, which is not of this stream or absorbed already."""
        self._forwarded = totals

    def absorb_forwarded(self, packets: int, state: RtpState, totals: RtpTotals) -> None:
        """Count `packets` that the kernel forwarded since the last time, and go on from where it stands.

        It must have gone on from `state()` of this tracker. A change of SSRC that it saw is not reported again.
        """
        before, self._forwarded = self._forwarded, totals
        duplicates = (totals.duplicates - before.duplicates) % _TOTALS
        parse_errors = (totals.parse_errors - before.parse_errors) % _TOTALS
        lost = (totals.lost - before.lost + _TOTALS // 2) % _TOTALS - _TOTALS // 2
        received = packets - duplicates - parse_errors
        sent = self.sent + received + lost
        self.duplicates += duplicates
        self.parse_errors += parse_errors
        self.received += received
        self.longest_gap_s = max(self.longest_gap_s, state.longest_gap_s)
        if state.seen_at:
            self._seen_at = state.seen_at
        if state.ssrc is None:
            return
        if state.ssrc != self._ssrc:
            self._switch(state.ssrc)
        self._highest, self._lowest = state.highest, state.lowest
        self._next = (state.highest + 1) % _SEQUENCES
        self._missing = set(state.missing) if state.missing else None
        self._sent_before = 0
        self._sent_before = sent - self.sent
        self._absorb_jitter(state, totals.jitter_total - before.jitter_total, totals.jitter_count - before.jitter_count)

    def _absorb_jitter(self, state: RtpState, total: float, count: int) -> None:
        if state.arrived_at:
            if self._jitter is None:
                self._follow_jitter(_Jitter(state.ssrc or 0, state.timestamp, state.arrived_at))
            else:
                self._jitter.restart(state.timestamp, state.arrived_at)
        measured = None if state.is_jitter_new else self._jitter
        if measured is None:
            if not count:
                return
            # The kernel measured another SSRC before this one, and that is over.
            measured = _Jitter(_NOBODY, 0, 0.0)
            newest = self._jitters[:1] if self._jitter in self._jitters[:1] else ()
            self._jitters = (*newest, measured, *self._jitters[len(newest) :])
            self._limit_jitters()
        measured.last = state.jitter
        measured.maximum = max(measured.maximum, state.jitter_max)
        measured.total += total
        measured.count += count % _TOTALS

    def _switch(self, ssrc: int) -> None:
        """Go to another SSRC, or to the first."""
        self._end_run()
        self._ssrc = ssrc
        self._jitter = next((jitter for jitter in self._jitters if jitter.ssrc == ssrc), None)

    def _end_run(self) -> None:
        self._sent_before = self.sent
        self._next = _NO_RUN
        self._missing = None

    def _place(self, header: RtpHeader, now: float) -> Arrival:
        """Count a packet that does not follow the highest one of its SSRC."""
        if header.ssrc != self._ssrc:
            is_first = self._ssrc is None
            self._switch(header.ssrc)
            self._start_run(header.sequence)
            return Arrival.RUN_STARTED if is_first else Arrival.SSRC_CHANGED
        ahead = (header.sequence - self._highest + MAX_JUMP) % _SEQUENCES - MAX_JUMP
        if ahead > MAX_JUMP:
            self._start_run(header.sequence)
            return Arrival.RUN_STARTED
        if ahead > 0:
            self._skip(ahead)
            return Arrival.OUT_OF_ORDER
        if ahead < 0 and header.marker:
            self._start_run(header.sequence)
            if self._jitter is not None:
                self._jitter.restart(header.timestamp, now)
            return Arrival.TALK_STARTED
        return self._fill(self._highest + ahead)

    def _start_run(self, sequence: int) -> None:
        self._end_run()
        self._lowest = self._highest = sequence
        self._next = (sequence + 1) & 0xFFFF
        self.received += 1

    def _skip(self, ahead: int) -> None:
        """Go on to a higher number and remember those left out."""
        highest = self._highest + ahead
        self._note_missing(self._highest + 1, highest)
        self._highest = highest
        self._next = (highest + 1) & 0xFFFF
        self.received += 1

    def _fill(self, number: int) -> Arrival:
        """Count a late packet or a duplicate."""
        if number < self._lowest:
            self._note_missing(number + 1, self._lowest)
            self._lowest = number
        elif self._missing is not None and number in self._missing:
            self._missing.remove(number)
        else:
            self.duplicates += 1
            return _DUPLICATE
        self.received += 1
        return Arrival.OUT_OF_ORDER

    def _note_missing(self, start: int, end: int) -> None:
        if self._missing is None:
            self._missing = set()
        self._missing.update(range(start, end))
        if len(self._missing) > 2 * MAX_JUMP:
            oldest = self._highest - MAX_JUMP
            self._missing = {number for number in self._missing if number >= oldest}

    def _follow_jitter(self, jitter: _Jitter) -> None:
        self._jitter = jitter
        self._jitters = (jitter, *self._jitters)
        self._limit_jitters()

    def _limit_jitters(self) -> None:
        while len(self._jitters) > JITTER_SSRCS:
            *kept, oldest = self._jitters
            kept[-1].add(oldest)
            self._jitters = tuple(kept)
