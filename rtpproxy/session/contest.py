"""Tells when sources take a stream from each other in turn, as the callees of a forked call do. Pure.

The rules of learning (`latch`) give a stream to whoever sent last, in the window after a command, and for phones that
go on with an SSRC. Where that changes with every packet, the kernel cannot follow: such a stream is *contested*, and is
userspace's until it is settled. Times are seconds, monotonic.
"""

import math
from dataclasses import dataclass

from rtpproxy.addr import Endpoint

CONTEST_S = 2.0
"""Two changes of source within so many seconds begin a contest; so many without a change settle it."""
RIVALS = 2
"""So many of those who lost a stream are remembered, the latest."""


@dataclass(slots=True)
class Contest:
    """Who had one stream, and how often it changed hands."""

    rivals: tuple[Endpoint, ...] = ()
    """Who had the stream before: the latest first."""
    changes: int = 0
    """How often packets of another source took the stream, in the latest contest."""
    is_on: bool = False
    """The stream is contested."""
    changed_at: float = -math.inf

    def lost(self, loser: Endpoint, winner: Endpoint) -> None:
        """Note that a command or a packet made another source that of the stream."""
        others = [rival for rival in self.rivals if rival not in (loser, winner)]
        self.rivals = (loser, *others)[:RIVALS]

    def taken(self, loser: Endpoint, winner: Endpoint, now: float) -> None:
        """Note that a packet did."""
        self.lost(loser, winner)
        if now - self.changed_at < CONTEST_S:
            self.is_on = True
        elif not self.is_on:
            self.changes = 0
        self.changes += 1
        self.changed_at = now

    def settle(self, now: float) -> bool:
        """End the contest if the stream has not changed hands for long enough; True if so."""
        if not self.is_on or now - self.changed_at < CONTEST_S:
            return False
        self.is_on = False
        self.rivals = ()
        return True
