"""Which sessions are idle.

Every second the idle ones among all sessions must be found, by the later of what userspace and the kernel saw on up
to four streams of each. A loop over 15,000 sessions would hold packets up for some 20 ms, so this is columns and
numpy: one pass over 60,000 streams within 5 ms. The columns are plain arrays, because writing an element of one (for
each packet in userspace) costs a third of what it costs with numpy, which looks at them only during a check.
"""

from array import array

import numpy as np
import numpy.typing as npt

STREAMS = 4
"""Rows of the kernel's counter table that a session may have."""
NO_ROW = -1

_INITIAL_SLOTS = 64
_NEVER = float("inf")
"""Timeout of a slot that holds no session."""


class Activity:
    """When each session was last active, and after how many seconds it is idle (protocol.md 4.6)."""

    __slots__ = ("_free", "_last_seen_s", "_rows", "_timeout_s")

    def __init__(self) -> None:
        self._last_seen_s = array("d")
        self._timeout_s = array("d")
        self._rows = tuple(array("i") for _ in range(STREAMS))
        self._free: list[int] = []

    def add(self, now: float, timeout_s: float) -> int:
        """A slot for a session that is active now."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._last_seen_s[slot] = now
        self._timeout_s[slot] = timeout_s
        return slot

    def remove(self, slot: int) -> None:
        """Free a slot. Raises KeyError for one that is free."""
        self._check(slot)
        self._timeout_s[slot] = _NEVER
        for column in self._rows:
            column[slot] = NO_ROW
        self._free.append(slot)

    def touch(self, slot: int, now: float) -> None:
        """Note that the session is active. Does nothing of note to a free slot."""
        self._last_seen_s[slot] = now

    def last_seen(self, slot: int) -> float:
        """When userspace or a command last touched the session, seconds, monotonic."""
        return self._last_seen_s[slot]

    def timeout(self, slot: int) -> float:
        """Seconds without activity until the session is idle; infinite for a free slot."""
        return self._timeout_s[slot]

    def set_timeout(self, slot: int, timeout_s: float) -> None:
        """Change the timeout. Raises KeyError for a free slot."""
        self._check(slot)
        self._timeout_s[slot] = timeout_s

    def set_row(self, slot: int, position: int, row: int) -> None:
        """Say which row of the kernel's counter table belongs to one of the slot's streams; NO_ROW for none.

        `position` is below STREAMS. Raises KeyError for a free slot.
        """
        self._check(slot)
        self._rows[position][slot] = row

    def idle(self, now: float, kernel_last_seen: npt.NDArray[np.float64] | None) -> list[int]:
        """The slots whose session saw no packet or command for its timeout.

        `kernel_last_seen` has seconds, monotonic, by row of the kernel's counter table, 0.0 for never.
        """
        if not self._timeout_s:
            return []
        seen_s = np.frombuffer(self._last_seen_s, np.float64)
        timeout_s = np.frombuffer(self._timeout_s, np.float64)
        slots = np.flatnonzero(now - seen_s >= timeout_s)
        if kernel_last_seen is not None and kernel_last_seen.size and slots.size:
            is_idle = now - self._kernel_last_seen(slots, kernel_last_seen) >= timeout_s[slots]
            slots = slots[is_idle]
        found: list[int] = slots.tolist()
        return found

    def _kernel_last_seen(
        self, slots: npt.NDArray[np.intp], kernel_last_seen: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        latest_s = np.zeros(slots.size)
        for column in self._rows:
            rows = np.frombuffer(column, np.int32)[slots]
            seen_s = kernel_last_seen.take(rows, mode="clip")
            seen_s[rows < 0] = 0.0
            np.maximum(latest_s, seen_s, out=latest_s)
        return latest_s

    def _check(self, slot: int) -> None:
        if not 0 <= slot < len(self._timeout_s) or self._timeout_s[slot] == _NEVER:
            raise KeyError(slot)

    def _grow(self) -> None:
        size = len(self._timeout_s)
        more = max(size, _INITIAL_SLOTS)
        self._last_seen_s.extend([0.0] * more)
        self._timeout_s.extend([_NEVER] * more)
        for column in self._rows:
            column.extend([NO_ROW] * more)
        self._free.extend(range(size + more - 1, size - 1, -1))
