"""Turns monotonic times into the time of day and back, also where somebody steps the clock meanwhile.

Packets bear CLOCK_MONOTONIC, which nobody steps; files want the time since 1970, and the kernel's timestamps of packets
are such times. How far the two clocks are apart is measured again and again. It changes by steps only: where one clock
is slewed, both are. So each measurement tells the distance more exactly, or tells of a step. That came after the
measurement before; what had arrived by then keeps the time of day that it had. All times are nanoseconds.
"""

from collections import deque
from dataclasses import dataclass

STEP_NS = 1_000
"""Measurements that are further than this from those before tell of a step."""
PRECISION_NS = 20_000
"""A measurement that took longer does not tell that there was no step: the process was held up in the middle of it."""
KEPT_NS = 10_000_000_000
"""Nothing older than this is asked about."""


@dataclass(slots=True)
class _Era:
    """The time between two steps."""

    begin_ns: int
    """Monotonic time after which it began."""
    seen_ns: int
    """Monotonic time by which it had begun."""
    low: int
    """The least distance of the clocks, wall clock less monotonic clock, by all measurements."""
    high: int
    """The greatest."""
    distance: int
    """What is taken for the distance."""


class WallClock:
    """The distance of the wall clock from the monotonic one, now and before."""

    def __init__(self) -> None:
        self._eras: deque[_Era] = deque()
        """The latest last."""
        self._measured_at = 0

    def measure(self, before_ns: int, wall_ns: int, after_ns: int, *, has_waited: bool = False) -> None:
        """Take a reading of the wall clock between two readings of the monotonic one.

        `has_waited`: the caller waited just now, for a step as well (`clock_steps`), so a step that shows now is new.
        """
        low, high = wall_ns - after_ns, wall_ns - before_ns
        era = self._eras[-1] if self._eras else None
        if era is None or low > era.high + STEP_NS or high < era.low - STEP_NS:
            begin_ns = before_ns if has_waited else self._measured_at
            self._eras.append(_Era(begin_ns, after_ns, low, high, (low + high) // 2))
        elif era.low < low <= era.high or era.low <= high < era.high:
            era.low, era.high = max(low, era.low), min(high, era.high)
            era.distance = (era.low + era.high) // 2
        if after_ns - before_ns <= PRECISION_NS:
            self._measured_at = before_ns
        while len(self._eras) > 1 and self._eras[1].seen_ns < before_ns - KEPT_NS:
            self._eras.popleft()

    def since_1970(self, time_ns: int) -> int:
        """Return the time of day of a monotonic time. Something must have been measured."""
        era = self._eras[-1]
        if time_ns <= era.begin_ns:
            era = self._era_at(time_ns)
        return time_ns + era.distance

    def monotonic(self, wall_ns: int, since_ns: int, now_ns: int) -> int | None:
        """Return the monotonic time between two others when the wall clock showed a time.

        None if it did not, as far as is known, or if it may have done so twice: before and after a step. Something must
        have been measured.
        """
        found, latest_ns = None, now_ns
        for era in reversed(self._eras):
            time_ns = wall_ns - era.distance
            if max(era.begin_ns, since_ns) <= time_ns <= latest_ns:
                if found is not None:
                    return None
                found = time_ns
            latest_ns = min(latest_ns, era.seen_ns)
        return found

    def _era_at(self, time_ns: int) -> _Era:
        """Return the era of a time before the last step."""
        return next((era for era in reversed(self._eras) if time_ns > era.begin_ns), self._eras[0])
