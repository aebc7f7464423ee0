"""Replies to UDP commands, kept for a while so that a retransmitted command is not executed twice (protocol.md 1.4)."""

from collections import OrderedDict

LIFETIME_S = 35.0
"""Age at which the next purge drops a reply."""
PURGE_INTERVAL_S = 3.0
"""Time between purges: a reply is found for 35 to 38 s."""
ENTRY_OVERHEAD_BYTES = 300
"""What one entry costs beside its texts: two bytes objects, a tuple, a number and a slot of the dictionary."""
DEFAULT_LIMIT_BYTES = 64 << 20


class ReplyCache:
    """Replies by cookie. Neither the sender nor the command is compared, as controllers expect.

    Memory is bounded by `limit_bytes`: beyond it the oldest replies go first, however young they are. With cookies
    and replies of usual size the default limit holds 180,000 of them: full lifetime up to 4,700 commands a second,
    and at three times that rate still more than ten seconds, longer than any known controller goes on repeating.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._purge_at = 0.0
        # In order of age. Not a dict: taking the first of a dict again and again walks over all that were taken before.
        self._replies: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def size_bytes(self) -> int:
        """Estimated memory of all entries."""
        return self._size_bytes

    def find(self, cookie: bytes, now: float) -> bytes | None:
        """The reply kept for `cookie`, if any; finding it does not prolong its life. `now` in seconds."""
        if now >= self._purge_at:
            self._purge(now)
        entry = self._replies.get(cookie)
        return None if entry is None else entry[0]

    def store(self, cookie: bytes, reply: bytes, now: float) -> None:
        """Keep the reply to a cookie that was not found. `now` in seconds."""
        former = self._replies.pop(cookie, None)
        if former is not None:
            self._size_bytes -= _cost_bytes(cookie, former[0])
        self._replies[cookie] = reply, now
        self._size_bytes += _cost_bytes(cookie, reply)
        while self._size_bytes > self._limit_bytes:
            self._drop_oldest()

    def _purge(self, now: float) -> None:
        self._purge_at = now + PURGE_INTERVAL_S
        while self._replies and now - next(iter(self._replies.values()))[1] >= LIFETIME_S:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        cookie, (reply, _) = self._replies.popitem(last=False)
        self._size_bytes -= _cost_bytes(cookie, reply)


def _cost_bytes(cookie: bytes, reply: bytes) -> int:
    return len(cookie) + len(reply) + ENTRY_OVERHEAD_BYTES
