"""Judges how long datagrams waited in a receive buffer, by the kernel's timestamps. Times in seconds.

These are of the wall clock, and somebody may step that while datagrams wait: a step changes how far wall clock and
monotonic clock are apart. Once a step was seen, nothing is taken for old for as long as the limit. A datagram that
still bears a timestamp from before the step has waited longer than the limit then, whatever that timestamp says.
"""

import math
from collections.abc import Callable

PRECISION_S = 0.002
"""How exactly the two clocks are compared: changes of their distance are a step once they add up to more."""
LOOKING_S = 0.01
"""Time between two looks for a step that makes datagrams look younger, which drops none. Others are seen at once."""


class AgeLimit:
    """The time that datagrams may wait for userspace. One for all sockets of a relay."""

    def __init__(
        self, limit_s: float, clock: Callable[[], float], wall_clock: Callable[[], float], *, is_noted: bool = False
    ) -> None:
        """`limit_s` of 0 is no limit. `clock` is monotonic, `wall_clock` that of the timestamps.

        `is_noted` has the kernel note when datagrams arrive even where there is no limit.
        """
        self.limit_s = limit_s or math.inf
        self.is_noted = is_noted or math.isfinite(self.limit_s)
        """The kernel has to note when datagrams arrive."""
        self.clock = clock
        self.dropped = 0
        """Datagrams that were dropped because they waited longer."""
        self._wall_clock = wall_clock
        self._distance_s = self._measure()
        """How far the wall clock is ahead of the monotonic one: measured at the last step, and right by PRECISION_S."""
        self._trusted_from = -math.inf
        self._look_again_at = -math.inf

    def look_again(self, now: float) -> None:
        """Look, unless that was a short time ago."""
        if now >= self._look_again_at:
            self._look_again_at = now + LOOKING_S
            self.look()

    def look(self) -> None:
        """Notice whether the wall clock was stepped since the last look."""
        distance_s = self._measure()
        if abs(distance_s - self._distance_s) > PRECISION_S:
            self._distance_s = distance_s
            self._trusted_from = self.clock() + self.limit_s

    def age(self, stamp: float, empty_at: float) -> float:
        """Return how long a datagram with that timestamp, just taken from a buffer, waited there at least.

        0 in case of doubt. `empty_at` is a (monotonic) time at which the buffer was empty, so nothing in it is older.
        """
        now = self.clock()
        if now + self._distance_s - stamp > self.limit_s:
            # Looking after the datagram was taken shows any step from before it arrived.
            self.look()
        age = now + self._distance_s - stamp - PRECISION_S
        return max(age, 0.0) if now >= self._trusted_from and age <= now - empty_at else 0.0

    def is_over(self, age: float) -> bool:
        """Tell whether a datagram of that age is too old to be relayed."""
        return age > self.limit_s

    def fresh_until(self, age: float, least: float) -> float:
        """Return when a datagram of that age will have reached the limit, which is after at least `least` seconds."""
        return self.clock() + max(self.limit_s - age, least)

    def _measure(self) -> float:
        """Measure the distance of the clocks. A process that is held up between two readings measures too little."""
        return max(self._wall_clock() - self.clock(), self._wall_clock() - self.clock())
