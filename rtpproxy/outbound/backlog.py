"""Keeps messages that wait to be sent on a connection, and written ones that may have to be written again."""

from collections import deque

_BATCH_BYTES = 1 << 16
"""Approximate size of one write."""


class Backlog:
    """Holds a bounded number of messages. They are in one of two places, in the order in which they came:

    - *unconfirmed*: written into a connection, but not known to be acknowledged by the other host;
    - *waiting*: not written yet, or the first of them in part.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        """Limit the waiting messages; unconfirmed ones are not counted."""
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent_bytes = 0
        """Bytes of the first waiting message that were written."""
        self._unconfirmed: deque[bytes] = deque()
        self._unconfirmed_bytes = 0

    def __len__(self) -> int:
        """Count the waiting messages."""
        return len(self._waiting)

    def append(self, message: bytes, *, is_minor: bool = False) -> bool:
        """Queue a message; False when there is no room for it. Minor ones leave half of the room to others."""
        parts = 2 if is_minor else 1
        if len(self._waiting) >= self._max_messages // parts:
            return False
        if self._waiting_bytes + len(message) > self._max_bytes // parts:
            return False
        self._waiting.append(message)
        self._waiting_bytes += len(message)
        return True

    def batch(self) -> bytes:
        """Return the bytes to write next; empty when nothing waits."""
        parts = []
        size = -self._sent_bytes
        for message in self._waiting:
            parts.append(message)
            size += len(message)
            if size >= _BATCH_BYTES:
                break
        return b"".join(parts)[self._sent_bytes :]

    def written(self, count: int) -> None:
        """Note that the first `count` bytes of `batch` were written."""
        count += self._sent_bytes
        while self._waiting and count >= len(self._waiting[0]):
            message = self._waiting.popleft()
            count -= len(message)
            self._waiting_bytes -= len(message)
            self._unconfirmed.append(message)
            self._unconfirmed_bytes += len(message)
        self._sent_bytes = count

    def confirm(self, outstanding_bytes: int) -> bool:
        """Forget what the other host acknowledged: all but the last `outstanding_bytes` that were written.

        True when that was at least one message.
        """
        is_any = False
        while self._unconfirmed:
            rest = self._unconfirmed_bytes - len(self._unconfirmed[0])
            if rest + self._sent_bytes < outstanding_bytes:
                break
            self._unconfirmed.popleft()
            self._unconfirmed_bytes = rest
            is_any = True
        return is_any

    def take_back(self) -> None:
        """Queue for the next connection all unconfirmed messages, and the whole of one that was written in part."""
        while self._unconfirmed:
            message = self._unconfirmed.pop()
            self._waiting.appendleft(message)
            self._waiting_bytes += len(message)
        self._unconfirmed_bytes = self._sent_bytes = 0

    def clear(self) -> int:
        """Drop all waiting messages and return their number."""
        dropped = len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = self._sent_bytes = 0
        return dropped
