"""Tells which players are due, from the time alone. Pure; times are seconds, monotonic.

A wheel with a slot for each millisecond: a player is in the slot in which its next packet is due, and goes from there
to the slot of the packet after that. So due times follow from the first one, whenever a packet really left: nothing
adds up, and a stream never drifts.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

_SLOTS = 2048
_MASK = _SLOTS - 1
LONGEST_MS = _SLOTS - 1
"""Longest time between two packets: over the 1,020 ms of the longest packets there are."""
SPREAD_MS = 20
"""Players that begin at the same time do so within this time, spread evenly."""
MAX_LATE_MS = 100
"""What is due for no longer than this is sent at once. Where the process was kept from it for longer, all players go on
where they were: nothing is left out, and there is no larger burst."""

_T = TypeVar("_T")


class Wheel(Generic[_T]):
    """The players of one relay, by when they are due."""

    def __init__(self) -> None:
        self._slots: list[list[_T]] = [[] for _ in range(_SLOTS)]
        self._at = 0
        """Millisecond of the slot that was handed out last, by the wheel's own time, which is `_behind_ms` behind."""
        self._behind_ms = 0
        self._count = 0
        self.postponed_ms = 0
        """Sum of the times for which all players were held up."""

    def __len__(self) -> int:
        return self._count

    def start(self, item: _T, now: float) -> None:
        """Make an item due in one of the next slots: the one that has the fewest."""
        first = self._settle(now) + 1
        at = min(range(first, first + SPREAD_MS), key=lambda at: len(self._slots[at & _MASK]))
        self._slots[at & _MASK].append(item)
        self._count += 1

    def again(self, item: _T, after_ms: int) -> None:
        """Make an item due that was just handed out: so long after it was due, up to LONGEST_MS."""
        self._slots[(self._at + after_ms) & _MASK].append(item)
        self._count += 1

    def due(self, now: float) -> Iterator[list[_T]]:
        """Yield what is due, slot by slot. Items leave the wheel; `again` is for before the next slot."""
        until = self._settle(now)
        while self._at < until:
            self._at += 1
            number = self._at & _MASK
            items = self._slots[number]
            if items:
                self._slots[number] = []
                self._count -= len(items)
                yield items

    def next_ms(self) -> int | None:
        """Return the millisecond of the clock in which something is due next; None if the wheel is empty."""
        if not self._count:
            return None
        at = self._at + 1
        while not self._slots[at & _MASK]:
            at += 1
        return at + self._behind_ms

    def _settle(self, now: float) -> int:
        """Pass over empty slots, hold everything up if it is very late, and return the millisecond by our own time."""
        until = int(now * 1000) - self._behind_ms
        if not self._count:
            self._at = until
        while self._at < until and not self._slots[(self._at + 1) & _MASK]:
            self._at += 1
        late_ms = until - self._at - 1 - MAX_LATE_MS
        if late_ms <= 0:
            return until
        self._behind_ms += late_ms
        self.postponed_ms += late_ms
        return until - late_ms
