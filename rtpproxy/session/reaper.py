"""Holds the idle timers of all sessions, and finds those that have run out.

Every second all idle sessions must be found, from the later of what userspace and the kernel saw on up to four streams
of each. A loop over 15,000 sessions would delay packets by some 20 ms, so this uses columns and numpy: one pass over
60,000 streams within 5 ms. The columns are plain arrays, because writing an element of one (for each packet in
userspace) costs a third of what it costs with numpy, which reads them only during a check.

A session has one timer, or one for each leg (protocol.md 4.6). A timer is known by its number, an index of the columns.
"""

from array import array

import numpy as np
import numpy.typing as npt

STREAMS = 4
"""Rows of the kernel's counter table that a session may have."""
NO_ROW = -1

_INITIAL_TIMERS = 64
_NEVER = float("inf")
"""Timeout of a timer that is free."""


class Activity:
    """The idle timers: last touch and timeout of each (protocol.md 4.6)."""

    __slots__ = ("_free", "_last_seen_s", "_rows", "_timeout_s")

    def __init__(self) -> None:
        self._last_seen_s = array("d")
        self._timeout_s = array("d")
        self._rows = tuple(array("i") for _ in range(STREAMS))
        self._free: list[int] = []

    def add(self, now: float, timeout_s: float) -> int:
        """Start a timer now and return its number."""
        if not self._free:
            self._grow()
        timer = self._free.pop()
        self._last_seen_s[timer] = now
        self._timeout_s[timer] = timeout_s
        return timer

    def remove(self, timer: int) -> None:
        """Free a timer. Raises KeyError if it is free."""
        self._check(timer)
        self._timeout_s[timer] = _NEVER
        for column in self._rows:
            column[timer] = NO_ROW
        self._free.append(timer)

    def touch(self, timer: int, now: float) -> None:
        """Restart a timer. Harmless on a free timer."""
        self._last_seen_s[timer] = now

    def last_seen(self, timer: int) -> float:
        """Time that a packet in userspace or a command last touched the timer, seconds, monotonic."""
        return self._last_seen_s[timer]

    def timeout(self, timer: int) -> float:
        """Seconds without activity until the timer runs out; infinite for a free timer."""
        return self._timeout_s[timer]

    def set_timeout(self, timer: int, timeout_s: float) -> None:
        """Change the timeout. Raises KeyError for a free timer."""
        self._check(timer)
        self._timeout_s[timer] = timeout_s

    def set_row(self, timer: int, position: int, row: int) -> None:
        """Set the row of the kernel's counter table that belongs to one of the timer's streams; NO_ROW for none.

        `position` is below STREAMS. Raises KeyError for a free timer.
        """
        self._check(timer)
        self._rows[position][timer] = row

    def idle(self, now: float, kernel_last_seen: npt.NDArray[np.float64] | None) -> list[int]:
        """Numbers of the timers that no packet or command touched for their timeout.

        `kernel_last_seen` has seconds, monotonic, by row of the kernel's counter table, 0.0 for never.
        """
        if not self._timeout_s:
            return []
        seen_s = np.frombuffer(self._last_seen_s, np.float64)
        timeout_s = np.frombuffer(self._timeout_s, np.float64)
        timers = np.flatnonzero(now - seen_s >= timeout_s)
        if kernel_last_seen is not None and kernel_last_seen.size and timers.size:
            is_idle = now - self._kernel_last_seen(timers, kernel_last_seen) >= timeout_s[timers]
            timers = timers[is_idle]
        found: list[int] = timers.tolist()
        return found

    def _kernel_last_seen(
        self, timers: npt.NDArray[np.intp], kernel_last_seen: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        latest_s = np.zeros(timers.size)
        for column in self._rows:
            rows = np.frombuffer(column, np.int32)[timers]
            seen_s = kernel_last_seen.take(rows, mode="clip")
            seen_s[rows < 0] = 0.0
            np.maximum(latest_s, seen_s, out=latest_s)
        return latest_s

    def _check(self, timer: int) -> None:
        if not 0 <= timer < len(self._timeout_s) or self._timeout_s[timer] == _NEVER:
            raise KeyError(timer)

    def _grow(self) -> None:
        size = len(self._timeout_s)
        more = max(size, _INITIAL_TIMERS)
        self._last_seen_s.extend([0.0] * more)
        self._timeout_s.extend([_NEVER] * more)
        for column in self._rows:
            column.extend([NO_ROW] * more)
        self._free.extend(range(size + more - 1, size - 1, -1))
