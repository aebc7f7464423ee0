"""What is under way from the relay to the process that writes recordings. Nobody waits for that process.

Packets of one turn of the event loop share messages. So does what has no descriptors, within a short time: each message
wakes the process, which takes longer than all else that a call does here. What the socket does not take waits in a
queue, and is sent once it does. The queue takes packets up to a limit, and all other messages.
"""

import errno
import os
import socket
from asyncio import AbstractEventLoop, Handle, TimerHandle
from collections import deque
from collections.abc import Sequence

from rtpproxy.recording.messages import MAX_BYTES, encode_packets, encode_several

BACKLOG_BYTES = 16 << 20
"""Packets that wait for a slow disk, at most: 100 calls for some ten seconds."""
JOIN_S = 0.01
"""Time that a message without descriptors waits for others at most."""
_HEAD_BYTES = 4
"""That a message takes beyond its own length among others."""
PAUSE_S = 0.05
"""Wait before the kernel is asked again that had no room for descriptors, or no memory."""
_PASSING = (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)


class Outbox:
    """Sends by one socket, in order. To be closed when the other end is gone."""

    def __init__(self, loop: AbstractEventLoop, to: socket.socket) -> None:
        """`to` must not block."""
        self._loop = loop
        self._to = to
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._joined: list[bytes] = []
        """Messages that are to be sent together. They or the batch of packets are empty: so all keep their order."""
        self._joined_bytes = 0
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._queued_bytes = 0
        self._soon: Handle | None = None
        self._joining: TimerHandle | None = None
        self._later: TimerHandle | None = None
        self._is_waiting = False

    @property
    def has_room(self) -> bool:
        """True if packets may be added."""
        return self._queued_bytes + self._batch_bytes < BACKLOG_BYTES

    def add_packet(self, encoded: bytes) -> None:
        """Send a packet soon."""
        size = len(encoded)
        if self._joined:
            self._end_joined()
        if self._batch_bytes + size > MAX_BYTES:
            self._end_batch()
        self._batch.append(encoded)
        self._batch_bytes += size
        if self._soon is None:
            self._soon = self._loop.call_soon(self._flush)

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message after all packets so far: at once with descriptors, else within JOIN_S.

        The descriptors become the outbox's, which closes them.
        """
        self._end_batch()
        if descriptors:
            self._end_joined()
            self._enqueue(message, descriptors)
            self._send_queue()
            return
        if self._joined_bytes + _HEAD_BYTES + len(message) > MAX_BYTES:
            self._end_joined()
        self._joined.append(message)
        self._joined_bytes += _HEAD_BYTES + len(message)
        if self._joining is None:
            self._joining = self._loop.call_later(JOIN_S, self._flush_joined)

    def drain(self, wait_s: float) -> int:
        """Send everything, and wait until each message is taken, or no longer than this for one. Ends the sending.

        Returns the bytes of packets and messages that were not taken.
        """
        self._end_all()
        self._stop_waiting()
        self._to.settimeout(wait_s)
        self._send_queue()
        left_bytes = self._queued_bytes
        self.close()
        return left_bytes

    def close(self) -> None:
        """Forget what is left, and let go of the socket, which stays open."""
        self._stop_waiting()
        self._batch.clear()
        self._joined.clear()
        self._batch_bytes = self._joined_bytes = self._queued_bytes = 0
        for _, descriptors in self._queue:
            _close(descriptors)
        self._queue.clear()

    def _stop_waiting(self) -> None:
        for handle in (self._soon, self._joining, self._later):
            if handle is not None:
                handle.cancel()
        self._soon = self._joining = self._later = None
        if self._is_waiting:
            self._loop.remove_writer(self._to)
            self._is_waiting = False

    def _flush(self) -> None:
        self._soon = None
        self._end_batch()
        self._send_queue()

    def _flush_joined(self) -> None:
        self._joining = None
        self._end_all()
        self._send_queue()

    def _end_all(self) -> None:
        self._end_batch()
        self._end_joined()

    def _end_batch(self) -> None:
        if self._batch:
            message = encode_packets(self._batch)
            self._batch.clear()
            self._batch_bytes = 0
            self._enqueue(message)

    def _end_joined(self) -> None:
        if self._joined:
            message = self._joined[0] if len(self._joined) == 1 else encode_several(self._joined)
            self._joined.clear()
            self._joined_bytes = 0
            self._enqueue(message)

    def _enqueue(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        self._queue.append((message, descriptors))
        self._queued_bytes += len(message)

    def _send_queue(self) -> None:
        if self._is_waiting or self._later is not None:
            return
        while self._queue:
            message, descriptors = self._queue[0]
            try:
                if descriptors:
                    socket.send_fds(self._to, [message], list(descriptors))
                else:
                    self._to.send(message)
            except BlockingIOError:
                self._is_waiting = True
                self._loop.add_writer(self._to, self._on_writable)
                return
            except TimeoutError:  # when it drains
                return
            except OSError as error:
                if error.errno in _PASSING:
                    self._later = self._loop.call_later(PAUSE_S, self._on_pause_over)
                    return
                # The other end is gone, which reading tells, too: then the owner closes this.
                self.close()
                return
            self._queue.popleft()
            self._queued_bytes -= len(message)
            _close(descriptors)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._to)
        self._is_waiting = False
        self._send_queue()

    def _on_pause_over(self) -> None:
        self._later = None
        self._send_queue()


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
