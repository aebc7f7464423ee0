"""Replies to UDP commands, kept for a while so that a retransmitted command is not executed twice (protocol.md 1.4)."""

from collections import OrderedDict
from collections.abc import Hashable

LIFETIME_S = 35.0
"""Age from which a reply is dropped by the next purge."""
PURGE_INTERVAL_S = 3.0
"""Time between purges; so a reply is kept for 35 to 38 s."""
ENTRY_OVERHEAD_BYTES = 600
"""Memory of an entry beside its texts: two bytes objects, three tuples, the sender's host and port, a number, and its
place in the dictionary."""
DEFAULT_LIMIT_BYTES = 128 << 20


class ReplyCache:
    """Replies by sender and cookie. The command is not compared, as controllers expect.

    The C RTPproxy compares the cookie alone, so anybody who guesses a cookie can read or spoil another's reply
    (protocol.md 16, item 1). Comparing the sender has a price: a controller that repeats a command from another port
    has it executed again. That is harmless for `U` and `L`, but a second `D` is answered with E50. Kamailio, OpenSIPS
    and Sippy B2BUA repeat a command on the socket that they sent it from.

    Memory is bounded by `limit_bytes`: beyond it the oldest replies are dropped, whatever their age. With cookies and
    replies of usual size the default limit holds 200,000 of them: for their full lifetime at up to 5,500 commands a
    second, and at three times that rate for more than ten seconds, longer than any known controller goes on repeating.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._purge_at = 0.0
        # Oldest first. Not a dict: finding its first entry walks over all entries removed before.
        self._replies: OrderedDict[tuple[Hashable, bytes], tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def size_bytes(self) -> int:
        """Estimated memory of all entries, bytes."""
        return self._size_bytes

    def find(self, sender: Hashable, cookie: bytes, now: float) -> bytes | None:
        """Return the reply kept for `cookie` of `sender`, a socket address, or None. This does not prolong its life.

        `now` in seconds.
        """
        if now >= self._purge_at:
            self._purge(now)
        entry = self._replies.get((sender, cookie))
        return None if entry is None else entry[0]

    def store(self, sender: Hashable, cookie: bytes, reply: bytes, now: float) -> None:
        """Keep the reply to a command for which `find` gave None. `now` in seconds."""
        key = sender, cookie
        former = self._replies.pop(key, None)
        if former is not None:
            self._size_bytes -= _cost_bytes(cookie, former[0])
        self._replies[key] = reply, now
        self._size_bytes += _cost_bytes(cookie, reply)
        while self._size_bytes > self._limit_bytes:
            self._drop_oldest()

    def _purge(self, now: float) -> None:
        self._purge_at = now + PURGE_INTERVAL_S
        while self._replies and now - next(iter(self._replies.values()))[1] >= LIFETIME_S:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        (_, cookie), (reply, _) = self._replies.popitem(last=False)
        self._size_bytes -= _cost_bytes(cookie, reply)


def _cost_bytes(cookie: bytes, reply: bytes) -> int:
    return len(cookie) + len(reply) + ENTRY_OVERHEAD_BYTES
