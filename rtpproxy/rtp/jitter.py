"""Interarrival jitter of one stream (RFC 3550 6.4.1, protocol.md 11.1), for each of its SSRCs, in timestamp units.

The kernel measures by the same rules what it forwards (`bpf/jitter.h`).
"""

from dataclasses import dataclass
from typing import NamedTuple

from rtpproxy.rtp.header import RtpHeader

JITTER_SSRCS = 10
"""Number of a stream's SSRCs whose jitter is followed at the same time."""

_TIMESTAMPS = 1 << 32
_NOBODY = -1
"""In place of an SSRC that only the kernel saw."""
# Timestamps that advance this many times faster than the clock, or go backwards, were reset by the sender.
_FORWARD_RATIO = 1024
_BACKWARD_RATIO = 50

# RFC 3551 6, payload types 0 to 18; those that are reserved or dynamic have no clock known to a relay.
_FIRST_TEN_HZ = (8000, 0, 0, 8000, 8000, 8000, 16000, 8000, 8000, 8000)
CLOCK_HZ = (*_FIRST_TEN_HZ, 44100, 44100, 8000, 8000, 90000, 8000, 11025, 22050, 8000, *(109 * (0,)))
"""By payload type; 0 where the clock is not known."""


@dataclass(slots=True, eq=False)
class Jitter:
    """The interarrival jitter of one SSRC (RFC 3550 6.4.1), in timestamp units."""

    ssrc: int
    timestamp: int
    arrived_at: float
    last: float = 0.0
    maximum: float = 0.0
    total: float = 0.0
    count: int = 0

    def observe(self, timestamp: int, clock_hz: int, now: float) -> None:
        """Add the packet's deviation, unless its timestamp repeats the last one or was reset."""
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
        """Measure the next packet from this one, which has no deviation itself."""
        self.timestamp = timestamp
        self.arrived_at = now

    def add(self, other: "Jitter") -> None:
        """Add the sums of another SSRC."""
        self.maximum = max(self.maximum, other.maximum)
        self.total += other.total
        self.count += other.count


class KernelJitter(NamedTuple):
    """Holds what the kernel measured since it was last absorbed, and where it stands."""

    ssrc: int
    """SSRC of the latest packet that it forwarded."""
    timestamp: int
    """RTP timestamp of the packet that it measures from."""
    arrived_at: float
    """Arrival of that packet, seconds, monotonic; 0.0 when no packet of `ssrc` had a known clock."""
    is_new: bool
    """True while no packet of `ssrc` has been measured."""
    last: float
    """Jitter after the latest packet."""
    maximum: float
    total: float
    """Sum over the packets measured since the last time, whatever their SSRC."""
    packets: int
    """Number of these packets."""


class StreamJitter:
    """The jitter of all SSRCs of a stream: JITTER_SSRCS of them separately, older ones added to the oldest of these."""

    __slots__ = ("_all", "current")

    def __init__(self) -> None:
        self.current: Jitter | None = None
        """That of the latest packet's SSRC; None until one of its packets had a known clock."""
        self._all: tuple[Jitter, ...] = ()
        """The newest first."""

    @property
    def last(self) -> float:
        """Jitter of the newest SSRC that has any."""
        return next((jitter.last for jitter in self._all if jitter.count), 0.0)

    @property
    def maximum(self) -> float:
        """Highest jitter of any SSRC."""
        return max((jitter.maximum for jitter in self._all), default=0.0)

    @property
    def average(self) -> float:
        """Jitter averaged over the packets of all SSRCs."""
        return self.total / self.count if self.count else 0.0

    @property
    def total(self) -> float:
        """Sum over the packets of all SSRCs."""
        return sum(jitter.total for jitter in self._all)

    @property
    def count(self) -> int:
        """Packets that were measured, of all SSRCs."""
        return sum(jitter.count for jitter in self._all)

    def start(self, header: RtpHeader, now: float) -> None:
        """Follow the current SSRC from this packet on, which has a known clock."""
        self._follow(Jitter(header.ssrc, header.timestamp, now))

    def switch(self, ssrc: int) -> None:
        """Make another SSRC the current one; it may have been so before."""
        self.current = next((jitter for jitter in self._all if jitter.ssrc == ssrc), None)

    def restart(self, timestamp: int, now: float) -> None:
        """Measure the next packet of the current SSRC from this one, which has no deviation itself."""
        if self.current is not None:
            self.current.restart(timestamp, now)

    def absorb(self, kernel: KernelJitter) -> None:
        """Take in what the kernel measured of packets that it forwarded."""
        if kernel.arrived_at:
            if self.current is None:
                self._follow(Jitter(kernel.ssrc, kernel.timestamp, kernel.arrived_at))
            else:
                self.current.restart(kernel.timestamp, kernel.arrived_at)
        measured = None if kernel.is_new else self.current
        if measured is None:
            if not kernel.packets:
                return
            # The kernel measured another SSRC before this one, which has ended.
            measured = Jitter(_NOBODY, 0, 0.0)
            newest = self._all[:1] if self.current in self._all[:1] else ()
            self._all = (*newest, measured, *self._all[len(newest) :])
            self._limit()
        measured.last = kernel.last
        measured.maximum = max(measured.maximum, kernel.maximum)
        measured.total += kernel.total
        measured.count += kernel.packets

    def _follow(self, jitter: Jitter) -> None:
        self.current = jitter
        self._all = (jitter, *self._all)
        self._limit()

    def _limit(self) -> None:
        while len(self._all) > JITTER_SSRCS:
            *kept, oldest = self._all
            kept[-1].add(oldest)
            self._all = tuple(kept)
