"""RTP sequence statistics of one stream (protocol.md 11.1). They only count; no packet is judged by them.

A *run* is a stretch of one SSRC without a break in its numbering. Within a run numbers are extended beyond 16 bits,
so that they never wrap; what was sent is the distance from the lowest to the highest number, summed over runs.
"""

from dataclasses import dataclass

from rtpproxy.media.rtp import RtpHeader

MAX_JUMP = 536
"""Numbers ahead of or behind the highest that a packet may be and still belong to the run."""
JITTER_SSRCS = 10
"""SSRCs of a stream that jitter is followed for at the same time."""

_SEQUENCES = 1 << 16
_TIMESTAMPS = 1 << 32
_NO_RUN = -1
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


class SequenceTracker:
    """What the packets accepted from one party tell about what it sent."""

    __slots__ = (
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

    def observe(self, header: RtpHeader | None, now: float) -> bool:
        """Count an accepted packet, None for one that is not RTP; True when it changed the SSRC."""
        gap_s = now - self._seen_at
        if gap_s > self.longest_gap_s:
            self.longest_gap_s = gap_s
        self._seen_at = now
        if header is None:
            self.parse_errors += 1
            return False
        ssrc, sequence, timestamp, payload_type, _ = header
        is_changed = ssrc != self._ssrc and self._switch(ssrc)
        if sequence == self._next:
            self._next = (sequence + 1) & 0xFFFF
            self._highest += 1
            self.received += 1
        elif not self._place(header, now):
            return is_changed
        clock_hz = _CLOCK_HZ[payload_type]
        if clock_hz:
            if self._jitter is None:
                self._follow_jitter(ssrc, timestamp, now)
            else:
                self._jitter.observe(timestamp, clock_hz, now)
        return is_changed

    def absorb_forwarded(self, packets: int, ssrc: int, seen_at: float) -> None:
        """Count packets that the kernel forwarded, the last of them of `ssrc` and at `seen_at`, seconds, monotonic.

        Their numbers are not known, so none counts as lost; what follows them starts a new run, no gap is measured
        across them, and their SSRC is not reported as a change again.
        """
        if packets <= 0:
            return
        self._end_run()
        self._sent_before += packets
        self.received += packets
        if seen_at > self._seen_at or self._seen_at == float("inf"):
            self._seen_at = seen_at
        if ssrc != self._ssrc:
            self._switch(ssrc)

    def _switch(self, ssrc: int) -> bool:
        """Go to another SSRC; True unless it is the first."""
        is_changed = self._ssrc is not None
        self._end_run()
        self._ssrc = ssrc
        self._jitter = next((jitter for jitter in self._jitters if jitter.ssrc == ssrc), None)
        return is_changed

    def _end_run(self) -> None:
        self._sent_before = self.sent
        self._next = _NO_RUN
        self._missing = None

    def _place(self, header: RtpHeader, now: float) -> bool:
        """Count a packet that does not follow the highest one; False for one that leaves jitter alone."""
        ahead = (header.sequence - self._highest + MAX_JUMP) % _SEQUENCES - MAX_JUMP
        if self._next == _NO_RUN or ahead > MAX_JUMP:
            self._start_run(header.sequence)
            return True
        if ahead > 0:
            self._skip(ahead)
            return True
        if ahead < 0 and header.marker:
            self._start_run(header.sequence)
            if self._jitter is not None:
                self._jitter.restart(header.timestamp, now)
            return False
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

    def _fill(self, number: int) -> bool:
        """Count a late packet or a duplicate; False for a duplicate."""
        if number < self._lowest:
            self._note_missing(number + 1, self._lowest)
            self._lowest = number
        elif self._missing is not None and number in self._missing:
            self._missing.remove(number)
        else:
            self.duplicates += 1
            return False
        self.received += 1
        return True

    def _note_missing(self, start: int, end: int) -> None:
        if self._missing is None:
            self._missing = set()
        self._missing.update(range(start, end))
        if len(self._missing) > 2 * MAX_JUMP:
            oldest = self._highest - MAX_JUMP
            self._missing = {number for number in self._missing if number >= oldest}

    def _follow_jitter(self, ssrc: int, timestamp: int, now: float) -> None:
        self._jitter = _Jitter(ssrc, timestamp, now)
        self._jitters = (self._jitter, *self._jitters)
        if len(self._jitters) > JITTER_SSRCS:
            *kept, oldest = self._jitters
            kept[-1].add(oldest)
            self._jitters = tuple(kept)
