"""Puts packets that come by several ways into the order of their arrival.

Each way is nearly in order by itself, but one may be some milliseconds behind another. So what came is held back for a
short time, the window, and then let go in order. What comes even later than that follows at once. Times are
CLOCK_MONOTONIC, in nanoseconds.
"""

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Merge(Generic[_T]):
    """Things with a time; those of one time keep the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, _T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, time_ns: int, thing: _T) -> None:
        """Take something that happened at a time."""
        self._waiting.append((time_ns, thing))

    def ripe(self, until_ns: int) -> Sequence[tuple[int, _T]]:
        """Let go of all that happened up to a time, that time included, in order."""
        waiting = self._waiting
        # The sort is stable, and takes one pass over what is in order already.
        waiting.sort(key=itemgetter(0))
        count = bisect_right(waiting, until_ns, key=itemgetter(0))
        ripe, self._waiting = waiting[:count], waiting[count:]
        return ripe
