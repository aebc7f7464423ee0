"""Tells when packets arrived that userspace relays: by the kernel's timestamps, which are of the wall clock."""

from collections.abc import Callable

from rtpproxy.recording.wall_clock import WallClock

EARLY_NS = 20_000_000
"""Time by which the kernel may note a packet before it puts it where it waits."""
_NS_PER_S = 1_000_000_000


def when_read(now: float) -> int:
    """Take the time when a packet was read for that of its arrival, in nanoseconds."""
    return int(now * _NS_PER_S)


class Arrivals:
    """The arrivals of packets, each to be asked for while the packet is handed on."""

    def __init__(
        self, monotonic: Callable[[], float], wall_ns: Callable[[], int], stamp: Callable[[], tuple[int, float]]
    ) -> None:
        """`monotonic` is in seconds.

        `stamp` tells of the packet that is being handed on: its timestamp, and a monotonic time in seconds when it did
        not wait yet.
        """
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._stamp = stamp
        self._wall_clock = WallClock()
        self._look()

    def arrived_ns(self, now: float) -> int:
        """Return when the packet arrived (CLOCK_MONOTONIC, ns) that is being handed on, and was read soon after `now`.

        That time where the timestamp makes no sense, as it may when somebody stepped the clock while the packet waited.
        """
        stamp_ns, not_yet = self._stamp()
        # Looking after the packet was taken shows any step from before it arrived.
        found = self._wall_clock.monotonic(stamp_ns, int(not_yet * _NS_PER_S) - EARLY_NS, self._look())
        return when_read(now) if found is None else found

    def _look(self) -> int:
        before_ns = int(self._monotonic() * _NS_PER_S)
        wall_ns = self._wall_ns()
        after_ns = int(self._monotonic() * _NS_PER_S)
        self._wall_clock.measure(before_ns, wall_ns, after_ns)
        return after_ns
