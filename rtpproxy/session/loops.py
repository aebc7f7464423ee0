"""Ends loops of packets between relays that take each other for phones. Times in seconds, monotonic.

A relay sends with a TTL of its own, so nothing else ends such a loop, which would fill a link within a second. A packet
that goes round is recognized by its repeated sequence number. Packets without a number, and those that start a new
run, are limited in rate. RTCP has no number either. Its own rules give it a rate, so whoever takes an RTCP stream
cannot have more than that forwarded. No phone comes near these limits. The kernel has the same rule
(`bpf/account.h`).
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
    """Counts a stream's packets that may be going round."""

    __slots__ = ("_count", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        self._count = 0

    def is_going_round(self, now: float, most: int) -> bool:
        """Count one more packet; True if it is more than `most` in this second."""
        if now - self._since >= 1.0:
            self._since, self._count = now, 0
        self._count += 1
        return self._count > most
