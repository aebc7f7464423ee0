"""Packets that go round between relays which take each other for phones. Pure; times in seconds, monotonic.

A relay sets the TTL afresh, so nothing else ends such a loop, which would fill a line within a second. What carries a
number shows itself by repeating it; of what carries none, or starts its numbers anew, only so many are believed. A
phone comes nowhere near either.
The kernel has the same rule (`bpf/account.h`).
"""

REPEATS_PER_SECOND = 200
"""RTP packets with a number that came before, of one stream."""
UNNUMBERED_PER_SECOND = 5000
"""RTCP packets, what is not RTP, and RTP packets that follow on none, of one stream."""


class LoopGuard:
    """Counts a stream's packets that may be going round."""

    __slots__ = ("_count", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        self._count = 0

    def is_going_round(self, now: float, most: int) -> bool:
        """Count one more; whether it is over what is allowed in this second."""
        if now - self._since >= 1.0:
            self._since, self._count = now, 0
        self._count += 1
        return self._count > most
