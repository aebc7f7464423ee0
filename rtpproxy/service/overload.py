"""Refuses new sessions while the relay has too little processor time for those that it has (protocol.md 12.5).

The event loop answers commands and relays packets, in one thread. Its load is the share of time for which it has work:
it runs, or waits for a processor that others have. Times are seconds, `now` is monotonic.
"""

import logging
import math
from collections.abc import Mapping

from rtpproxy.config import OverloadLimits
from rtpproxy.errors import OverloadError
from rtpproxy.session.totals import Totals

log = logging.getLogger(__name__)

LATE_S = 0.01
"""Where the event loop comes later than this to what is due, it had no time for anything, whatever the kernel counts: a
hypervisor that gives its processors to other machines is seen by this alone."""
SMOOTHING_S = 2.0
"""Time after which a load counts for a third (1/e) of what it did."""
LONGEST_S = 1.0
"""A measurement counts for no more than this time. So one pause, however long (a debugger, a machine that was
suspended), lifts the average to 0.4 at most, if nothing was to be done before."""


class LoadAverage:
    """The load, from 0 to 1, averaged over some seconds."""

    def __init__(self) -> None:
        self.value = 0.0
        self._busy_s = 0.0
        self._measured_at = math.inf

    def measure(self, busy_s: float, late_s: float, now: float) -> None:
        """Add what happened since the last call; the first one only begins.

        `busy_s` is how long the event loop has run or waited for a processor since it began, `late_s` how much later
        than due it makes this call.
        """
        elapsed_s = now - self._measured_at
        if elapsed_s > 0:
            load = 1.0 if late_s > LATE_S else min(max((busy_s - self._busy_s) / elapsed_s, 0.0), 1.0)
            weight = 1 - math.exp(-min(elapsed_s, LONGEST_S) / SMOOTHING_S)
            self.value += weight * (load - self.value)
        self._busy_s, self._measured_at = busy_s, now


class Overload:
    """Decides if new sessions are refused: once the load is above one limit, until it is below the other."""

    def __init__(self, limits: OverloadLimits | None, totals: Totals) -> None:
        """Without limits nothing is refused; the load is measured, and put into `totals`, in any case."""
        self._limits = limits
        self._totals = totals
        self._average = LoadAverage()
        self._is_refusing = False
        self._since = 0.0
        self._begun = 0
        """Times that refusing began."""
        self._refused = 0
        self._refused_before = 0
        """How many there were when it began last."""

    def measured(self, busy_s: float, late_s: float, now: float) -> None:
        """Take note of how busy the event loop is, as `LoadAverage.measure` does."""
        self._average.measure(busy_s, late_s, now)
        load = self._totals.load = self._average.value
        if self._limits is None:
            return
        if not self._is_refusing and load > self._limits.high:
            self._is_refusing = True
            self._begun += 1
            self._since, self._refused_before = now, self._refused
            log.warning("overload: new sessions are refused, since the load is above %g", self._limits.high)
        elif self._is_refusing and load < self._limits.low:
            self._is_refusing = False
            log.warning(
                "overload is over after %.0f s: new sessions are accepted again, after %d were refused",
                *(now - self._since, self._refused - self._refused_before),
            )

    def check(self) -> None:
        """Refuse a new session, if this is the time to. Raises OverloadError."""
        if self._is_refusing:
            self._refused += 1
            raise OverloadError(f"overload: no new sessions at a load of {self._average.value:.2f}")

    def counts(self) -> Mapping[str, int]:
        """Count the sessions that were refused, and the times that this began; nothing if none ever are."""
        if self._limits is None:
            return {}
        return {"times": self._begun, "sessions_refused": self._refused}
