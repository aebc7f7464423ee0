"""Ends loops of packets between relays that take each other for phones. Times in seconds, monotonic.

A relay sends with a TTL of its own, so nothing else ends such a loop, which would fill a link within a second. A packet
that goes round is recognized by its repeated sequence number. Packets without a number, and those that start a new
run, are limited in rate. RTCP has no number either. Its own rules give it a rate, so whoever takes an RTCP stream
cannot have more than that forwarded. No phone comes near these limits. The kernel has the same rule
(`bpf/account.h`), for the one source that it forwards.

Where several sources take a stream in turn, each change starts a new run. The endpoint that the newest command names
has a count of its own, so that nobody else's packets use up its limit.
"""

REPEATS_PER_SECOND = 200
"""Limit of a stream's RTP packets with a number that came before."""
UNNUMBERED_PER_SECOND = 5000
"""Limit of an RTP stream's packets that are not RTP, or that start a new run."""
RTCP_PER_SECOND = 500
"""Limit of an RTCP stream's packets, of whatever content.

5 % of a session of 8 Mbit/s (RFC 3550 6.2), in packets of 100 bytes with their headers. By that rule two phones with 64
kbit/s send four of them. The rest is room for feedback on losses (RFC 4585), which comes in bursts."""


class LoopGuard:
    """Counts a stream's packets that may be going round, as far as they are not refused."""

    __slots__ = ("_counts", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        self._counts = [0, 0]
        """Of all sources but the named one, and of that."""

    def is_going_round(self, now: float, most: int, *, is_named: bool = False) -> bool:
        """Count one more packet; True, and not counted, if that would be more than `most` in this second.

        `is_named` tells that the newest command names its source.
        """
        if now - self._since >= 1.0:
            self._since, self._counts = now, [0, 0]
        if self._counts[is_named] >= most:
            return True
        self._counts[is_named] += 1
        return False
