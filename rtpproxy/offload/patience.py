"""Decides when a program is attached again that somebody took off: soon at first, not for ever against a will. Pure.

Times are seconds, monotonic.
"""

from collections.abc import Hashable

TRIES = 3
"""A program that was lost so many times within `MEMORY_S` is attached again at once; the next loss brings a pause."""
MEMORY_S = 600.0
PAUSE_S = 600.0


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
