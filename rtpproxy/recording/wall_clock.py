"""Works out the time of day of what happened at a monotonic time, also where somebody steps the clock meanwhile.

Packets bear CLOCK_MONOTONIC, which nobody steps; files want the time since 1970. How far the two clocks are apart is
measured again and again. A small change is the clock being slewed, and holds for all that is asked from then on. A step
holds for what happened after the measurement that was the last before it was noticed: what arrived before keeps the
time of day that it had then. All times are nanoseconds.
"""

from collections import deque

STEP_NS = 1_000_000
"""A distance that changed by more than this between two measurements was stepped."""
PRECISION_NS = 20_000
"""A measurement that took longer is not used, if there is any other: the process was held up in the middle of it."""
KEPT_NS = 10_000_000_000
"""Nothing older than this is asked about."""


class WallClock:
    """The distance of the wall clock from the monotonic one, now and before."""

    def __init__(self) -> None:
        self._distances: deque[tuple[int, int]] = deque()
        """Monotonic time from which it holds, and distance; the latest last."""
        self._measured_at = 0

    def measure(self, before_ns: int, wall_ns: int, after_ns: int) -> None:
        """Take a reading of the wall clock between two readings of the monotonic one."""
        if self._distances and after_ns - before_ns > PRECISION_NS:
            return
        now_ns = (before_ns + after_ns) // 2
        distance = wall_ns - now_ns
        if self._distances and abs(distance - self._distances[-1][1]) <= STEP_NS:
            self._distances[-1] = self._distances[-1][0], distance
        else:
            self._distances.append((self._measured_at, distance))
        self._measured_at = now_ns
        while len(self._distances) > 1 and self._distances[1][0] < now_ns - KEPT_NS:
            self._distances.popleft()

    def since_1970(self, time_ns: int) -> int:
        """Return the time of day of a monotonic time. Something must have been measured."""
        begin, distance = self._distances[-1]
        if time_ns <= begin:
            distance = self._distance_before(time_ns)
        return time_ns + distance

    def _distance_before(self, time_ns: int) -> int:
        """Return the distance at a time before the last step."""
        for begin, distance in reversed(self._distances):
            if time_ns > begin:
                return distance
        return self._distances[0][1]
