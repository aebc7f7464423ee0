"""Decides when a driver counts as one that refuses redirected frames, and when it is tried again. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

CHECKS = 2
"""A driver refuses if it did so between so many checks in a row: one that restarts refuses for a moment."""
PAUSE_CHECKS = 600
"""It is tried again after so many checks, the next time after twice as many, and so on, because each try in vain loses
packets; and at once when its number of transmit queues has changed."""


@dataclass(slots=True)
class _Noted:
    """What is known of one interface."""

    count: int
    times: int = 0
    """Checks in a row at which the count had grown."""
    queues: int | None = None
    left: int = 0
    """Checks until the next try; 0 while nothing is refused."""
    pause: int = PAUSE_CHECKS


class Refusing:
    """Follows the count of refused frames of each interface, from check to check; there is one every second."""

    def __init__(self) -> None:
        self._noted: dict[int, _Noted] = {}

    def __contains__(self, index: int) -> bool:
        """Tell if nothing should be redirected to an interface now."""
        noted = self._noted.get(index)
        return noted is not None and noted.left > 0

    def check(self, index: int, count: int, queues: Callable[[], int | None]) -> bool:
        """Take in the count of refused frames. Returns True when refusing begins.

        `queues` asks for the number of transmit queues, where that matters: the answer may take its time.
        """
        noted = self._noted.setdefault(index, _Noted(0))
        noted.times = noted.times + 1 if count > noted.count else 0
        noted.count = count
        if noted.left:
            noted.left = noted.left - 1 if queues() == noted.queues else 0
            noted.times = 0
            return False
        if noted.times < CHECKS:
            return False
        noted.left, noted.queues = noted.pause, queues()
        noted.pause *= 2
        return True

    def forget(self, index: int) -> None:
        """Try an interface again at once, or forget one that is gone."""
        noted = self._noted.get(index)
        if noted is not None:
            noted.left, noted.times, noted.pause = 0, 0, PAUSE_CHECKS
