"""Bounds how long commands may wait for files, which holds everything else up. Pure; times are seconds, monotonic."""

MOST_S = 0.25
"""What may be waited at once: a disk that hangs holds everything up for so long, once. A thread that waits for a busy
processor must not make a missing file look like a slow disk."""
PER_SECOND_S = 0.02
"""What may be waited in each second, from then on."""
SHORT_S = 0.001
"""A disk that answers within this time costs nothing. What is left is not spent on waits that are shorter."""


class Budget:
    """What the commands of one relay may still wait."""

    def __init__(self) -> None:
        self._left = MOST_S
        self._seen_at = 0.0

    def left(self, now: float) -> float:
        """Return how long a command may wait now, in seconds; 0 if not at all."""
        self._left = min(self._left + (now - self._seen_at) * PER_SECOND_S, MOST_S)
        self._seen_at = now
        return self._left if self._left >= SHORT_S else 0.0

    def spend(self, seconds: float, took_s: float | None) -> None:
        """Take note that a command has waited so long, for a disk that took so long, or has not answered (None)."""
        if took_s is None or took_s > SHORT_S:
            self._left = max(0.0, self._left - seconds)
