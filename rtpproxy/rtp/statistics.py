"""RTP sequence statistics of one stream (protocol.md 11.1): they count packets and classify each, and refuse none.

A *run* is a stretch of one SSRC without a break in its numbering. Within a run numbers are extended beyond 16 bits,
so that they never wrap; what was sent is the distance from the lowest to the highest number, summed over runs.

The kernel counts by the same rules what it forwards (`bpf/account.h`). Where one stops the other goes on, from an
`RtpState`; what the kernel counted meanwhile is the difference of two `RtpTotals`.
"""

from enum import Enum
from typing import NamedTuple

from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.jitter import CLOCK_HZ, KernelJitter, StreamJitter

MAX_JUMP = 536
"""Numbers ahead of or behind the highest that a packet may be and still belong to the run."""

_SEQUENCES = 1 << 16
_NO_RUN = -1
_NO_PAYLOAD_TYPE = -1
_TOTALS = 1 << 32


class RtpState(NamedTuple):
    """State of a stream's statistics, enough to go on counting as if nobody else had. Times: seconds, monotonic."""

    ssrc: int | None = None
    """SSRC of the latest packet; None before the first, when `highest`, `lowest` and `missing` mean nothing."""
    highest: int = 0
    """Highest sequence number of the run, extended beyond 16 bits."""
    lowest: int = 0
    """Lowest of the run, extended likewise; exact as long as it is at most MAX_JUMP behind `highest`."""
    missing: frozenset[int] = frozenset()
    """Extended numbers in between that may still come."""
    seen_at: float = 0.0
    """Arrival of the latest packet; 0.0 for none."""
    longest_gap_s: float = 0.0
    timestamp: int = 0
    """RTP timestamp of the packet that jitter is measured from."""
    arrived_at: float = 0.0
    """Its arrival; 0.0 when no packet of `ssrc` had a known clock."""
    jitter: float = 0.0
    """Jitter of the newest SSRC that has any, timestamp units."""
    jitter_max: float = 0.0
    is_jitter_new: bool = True
    """No packet of `ssrc` was measured yet."""
    payload_type: int = _NO_PAYLOAD_TYPE
    """Of the latest RTP packet; -1 before the first."""


class RtpTotals(NamedTuple):
    """The kernel's counts at a port, over all sessions that it had; all but `jitter_total` modulo 2**32."""

    lost: int = 0
    duplicates: int = 0
    parse_errors: int = 0
    jitter_total: float = 0.0
    jitter_count: int = 0
    ssrc_changes: int = 0


_NOTHING_FORWARDED = RtpTotals()


class Arrival(Enum):
    """Relation of a packet to the earlier ones of its stream."""

    NEXT = "next"
    """Follows the highest number of the run, as most do."""
    OUT_OF_ORDER = "out of order"
    """New, but ahead of the next number, or late."""
    DUPLICATE = "duplicate"
    """Its number came before."""
    RUN_STARTED = "run started"
    """The first of the stream, or too far from the highest number to belong to its run."""
    TALK_STARTED = "talk started"
    """Has a marker and a lower number than the highest: the sender restarted its numbers."""
    SSRC_CHANGED = "SSRC changed"
    """Has another SSRC than the packet before it; starts a run."""
    NOT_RTP = "not RTP"


# Looked up for every packet: a global is found faster than a member of an enum.
_NEXT = Arrival.NEXT
_DUPLICATE = Arrival.DUPLICATE


class SequenceTracker:
    """Sequence statistics of the packets accepted at one stream, and so of what was sent to it."""

    __slots__ = (
        "_forwarded",
        "_highest",
        "_lowest",
        "_missing",
        "_next",
        "_seen_at",
        "_sent_before",
        "_ssrc",
        "duplicates",
        "first_seen_at",
        "jitter",
        "longest_gap_s",
        "parse_errors",
        "payload_type",
        "received",
        "ssrc_changes",
    )

    def __init__(self) -> None:
        self.received = 0
        """Distinct packets."""
        self.duplicates = 0
        self.parse_errors = 0
        """Packets that are not RTP."""
        self.longest_gap_s = 0.0
        """Longest time between two packets, seconds."""
        self.first_seen_at = 0.0
        """Arrival of the first packet, seconds, monotonic; 0.0 for none. If the kernel forwarded it: of the first one
        of the SSRC that the kernel forwarded last when its packets were first absorbed."""
        self.payload_type = _NO_PAYLOAD_TYPE
        """Of the latest RTP packet; -1 before the first."""
        self.ssrc_changes = 0
        """Changes of the SSRC; the first one counts, too."""
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
        self.jitter = StreamJitter()
        self._forwarded = _NOTHING_FORWARDED
        """The kernel's totals, up to which its packets are absorbed."""

    @property
    def ssrc(self) -> int | None:
        """SSRC of the latest packet."""
        return self._ssrc

    @property
    def seen_at(self) -> float:
        """Arrival of the latest packet, seconds, monotonic; 0.0 for none."""
        return 0.0 if self._seen_at == float("inf") else self._seen_at

    @property
    def sent(self) -> int:
        """Packets that were sent, by their sequence numbers."""
        return self._sent_before + (0 if self._next == _NO_RUN else self._highest - self._lowest + 1)

    @property
    def lost(self) -> int:
        """Packets sent and not received."""
        return self.sent - self.received

    def observe(self, header: RtpHeader | None, now: float) -> Arrival:
        """Count an accepted packet, None for one that is not RTP, and classify it; `now` in seconds, monotonic."""
        gap_s = now - self._seen_at
        if gap_s > self.longest_gap_s:
            self.longest_gap_s = gap_s
        self._seen_at = now
        if header is None:
            self.parse_errors += 1
            self.first_seen_at = self.first_seen_at or now
            return Arrival.NOT_RTP
        ssrc, sequence, timestamp, payload_type, _ = header
        self.payload_type = payload_type
        if sequence == self._next and ssrc == self._ssrc:
            self._next = (sequence + 1) & 0xFFFF
            self._highest += 1
            self.received += 1
            arrival = _NEXT
        else:
            arrival = self._place(header, now)
            if arrival is _DUPLICATE or arrival is Arrival.TALK_STARTED:
                return arrival
        clock_hz = CLOCK_HZ[payload_type]
        if clock_hz:
            jitter = self.jitter.current
            if jitter is None:
                self.jitter.start(header, now)
            else:
                jitter.observe(timestamp, clock_hz, now)
        return arrival

    def state(self) -> RtpState:
        """Return the state from which the kernel must go on."""
        jitter = self.jitter.current
        oldest = self._highest - MAX_JUMP
        return RtpState(
            ssrc=self._ssrc,
            highest=self._highest,
            lowest=self._lowest,
            missing=frozenset(number for number in self._missing if number >= oldest) if self._missing else frozenset(),
            seen_at=self.seen_at,
            longest_gap_s=self.longest_gap_s,
            timestamp=jitter.timestamp if jitter else 0,
            arrived_at=jitter.arrived_at if jitter else 0.0,
            jitter=jitter.last if jitter and jitter.count else self.jitter.last,
            jitter_max=self.jitter.maximum,
            is_jitter_new=jitter is None or not jitter.count,
            payload_type=self.payload_type,
        )

    def skip_forwarded(self, totals: RtpTotals) -> None:
        """Leave out what the kernel counted so far: it belongs to another stream, or is absorbed already."""
        self._forwarded = totals

    def absorb_forwarded(self, packets: int, state: RtpState, totals: RtpTotals, ssrc_changed_at: float = 0.0) -> None:
        """Count `packets` that the kernel forwarded since the last time, and go on from its state.

        The kernel must have started from `state()` of this tracker. A change of SSRC that it saw is not reported again;
        `ssrc_changed_at` is the time of the latest one, 0.0 if there was none.
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
        self.ssrc_changes += (totals.ssrc_changes - before.ssrc_changes) % _TOTALS
        if state.seen_at:
            self._seen_at = state.seen_at
        if packets and not self.first_seen_at:
            self.first_seen_at = ssrc_changed_at if state.ssrc is not None else state.seen_at
        if state.ssrc is None:
            return
        self.payload_type = state.payload_type
        if state.ssrc != self._ssrc:
            self._switch(state.ssrc)
        self._highest, self._lowest = state.highest, state.lowest
        self._next = (state.highest + 1) % _SEQUENCES
        self._missing = set(state.missing) if state.missing else None
        self._sent_before = 0
        self._sent_before = sent - self.sent
        self.jitter.absorb(
            KernelJitter(
                ssrc=state.ssrc,
                timestamp=state.timestamp,
                arrived_at=state.arrived_at,
                is_new=state.is_jitter_new,
                last=state.jitter,
                maximum=state.jitter_max,
                total=totals.jitter_total - before.jitter_total,
                packets=(totals.jitter_count - before.jitter_count) % _TOTALS,
            )
        )

    def _switch(self, ssrc: int) -> None:
        """Go to another SSRC, or to the first."""
        self._end_run()
        self._ssrc = ssrc
        self.jitter.switch(ssrc)

    def _end_run(self) -> None:
        self._sent_before = self.sent
        self._next = _NO_RUN
        self._missing = None

    def _place(self, header: RtpHeader, now: float) -> Arrival:
        """Count a packet that does not follow the highest one of its SSRC."""
        self.first_seen_at = self.first_seen_at or now
        if header.ssrc != self._ssrc:
            is_first = self._ssrc is None
            self.ssrc_changes += 1
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
            self.jitter.restart(header.timestamp, now)
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
