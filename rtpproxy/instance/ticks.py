"""Does what is due every second."""

from asyncio import AbstractEventLoop

from rtpproxy.instance.build import Clock, Parts
from rtpproxy.instance.stop import Stop

TICK_S = 1.0
REPORT_INTERVAL_S = 60.0


class Ticks:
    """Does what is due every second: timers of sessions, checks of the kernel tier, reports."""

    def __init__(self, parts: Parts, loop: AbstractEventLoop, clock: Clock, stop: Stop) -> None:
        self._parts = parts
        self._loop = loop
        self._clock = clock
        self._stop = stop

    def start(self) -> None:
        """Schedule the first tick, a second from now."""
        self._loop.call_later(TICK_S, self._tick, self._clock() + TICK_S)

    def _tick(self, due: float) -> None:
        if self._stop.is_asked:
            # The parts that a tick uses may be closed already.
            return
        now = self._clock()
        # Ticks keep their rhythm; missed ones are not made up for. The next tick is scheduled first, so that it comes
        # even if this one fails.
        following = max(due + TICK_S, now)
        self._loop.call_later(following - now, self._tick, following)
        self._parts.service.tick(now)
        self._parts.kernel.tick()
        if self._parts.service.is_finished:
            self._stop.now("the last session of a slow stop has ended")
        if int(due / REPORT_INTERVAL_S) != int((due - TICK_S) / REPORT_INTERVAL_S):
            self._parts.verdicts.log_changes()
