"""Decides when programs are attached again: those that somebody took off, and those that could not be attached. Pure.

Soon at first, then with pauses: not for ever against a will, and not in a loop. Times are seconds, monotonic.
"""

from collections.abc import Collection, Hashable
from typing import TypeVar

TRIES = 3
"""A program that was lost so many times within `MEMORY_S` is attached again at once; the next loss brings a pause."""
MEMORY_S = 600.0
PAUSE_S = 600.0
FIRST_PAUSE_S = 5.0
"""Before what failed in passing is tried again; doubled each time that it fails again, up to `PAUSE_S`.

Some drivers reset their link for a try that fails, too."""

_Place = TypeVar("_Place", bound=Hashable)


class Patience:
    """Remembers when programs were lost, by the place that they were attached to."""

    def __init__(self) -> None:
        self._lost_at: dict[Hashable, list[float]] = {}

    def pause_s(self, place: Hashable, now: float) -> float:
        """Note that a program was lost. Returns the seconds to wait before it is attached again, 0.0 for none."""
        recent = [at for at in self._lost_at.get(place, ()) if now - at < MEMORY_S]
        self._lost_at[place] = [*recent, now]
        return PAUSE_S if len(recent) >= TRIES else 0.0

    def forget(self, place: Hashable) -> None:
        """Forget a place that is gone."""
        self._lost_at.pop(place, None)


class Retries:
    """Remembers where attaching failed in passing, and when to try again there."""

    def __init__(self) -> None:
        self._next: dict[Hashable, tuple[float, float]] = {}
        """By place: the time of the next try, and the pause before it."""

    def due(self, failed: Collection[_Place], now: float) -> list[_Place]:
        """Take in the places where the last try failed in passing. Returns those to try again now.

        To be called every second, with the same place until a try there succeeds.
        """
        for place in self._next.keys() - set(failed):
            del self._next[place]
        found = []
        for place in failed:
            at, pause_s = self._next.setdefault(place, (now + FIRST_PAUSE_S, FIRST_PAUSE_S))
            if now >= at:
                pause_s = min(2 * pause_s, PAUSE_S)
                self._next[place] = now + pause_s, pause_s
                found.append(place)
        return found
