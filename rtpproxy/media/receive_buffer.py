"""The receive buffer of a media socket, where datagrams wait for userspace, kept from holding old ones.

While userspace finds the buffer empty again and again, nothing in it can be old, and nothing more is done. When that
was longer ago than half the limit, the kernel is asked to tell with each datagram when it arrived (it notes that
anyhow), and datagrams that waited too long are dropped. Reading and dropping one takes a sixth of the time of relaying
it, which is too much where far more arrives than can be relayed. So at the first old one the buffer is made as small as
what userspace reads within the limit. The kernel then drops the excess on arrival, which takes userspace no time.
"""

import logging
import math
import socket
import struct
from collections.abc import Callable

from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

Ancillary = list[tuple[int, int, bytes]]

FILL = 0.85
"""Share of the limit within which a full buffer should be read: the rest is for the unevenness of processor time."""
GROWTH = 1.25
"""A buffer that was made smaller, and is found empty again and again, grows by this factor within each limit."""
TIGHT = 0.3
"""Share of the limit: where datagrams wait for less, a buffer that was made smaller may grow again."""
MIN_BYTES = 2 << 10
"""A buffer is made no smaller than this, which is room for one to five datagrams, as drivers make them."""
STAMP_BYTES = 64
"""Room that a timestamp needs among the ancillary data of a datagram."""

_SO_TIMESTAMPING, _SO_MEMINFO = 37, 55
_RX_SOFTWARE, _SOFTWARE = 1 << 3, 1 << 4
"""Flags of SO_TIMESTAMPING: note when datagrams arrive; tell it with them (Documentation/networking/timestamping)."""
_STAMP = struct.Struct("@ll")
"""Seconds and nanoseconds; two more pairs follow, which are of no interest here."""
_MEMORY = struct.Struct("@9I")
"""Among them, first: bytes queued, with the kernel's own data; last: datagrams for which there was no room, or whose
checksum was wrong (linux/sock_diag.h)."""
_OVERHEAD = 2
"""The kernel makes room for twice as many bytes as it is asked for."""


class ReceiveBuffer:
    """The receive buffer of one socket.

    To be told of each turn at the socket that begins later than `watch_from` (`watch`), and when a turn found nothing
    more (`emptied`). In turns that are watched, `is_old` must be asked about what is taken at `fresh_until` or later.
    """

    __slots__ = (
        "_bytes",
        "_empty_at",
        "_full_bytes",
        "_half_s",
        "_is_watched",
        "_limit",
        "_now",
        "_owner",
        "_resize",
        "_resize_at",
        "fresh_until",
        "watch_from",
    )

    def __init__(
        self, owner: socket.socket, full_bytes: int, resize: Callable[[socket.socket, int], None], limit: AgeLimit
    ) -> None:
        """`resize` sets the buffer's size, which is `full_bytes` while userspace keeps up. Nothing may be in it yet."""
        self._owner = owner
        self._full_bytes = self._bytes = full_bytes
        self._resize = resize
        self._limit = limit
        self._half_s = limit.limit_s / 2
        self._is_watched = False
        self._now = self._empty_at = self._resize_at = limit.clock()
        self.watch_from = self._empty_at + self._half_s
        self.fresh_until = 0.0
        """Nothing that is taken before is old: datagrams are taken in the order in which they arrived."""
        resize(owner, full_bytes)
        if math.isfinite(limit.limit_s):
            owner.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE)

    def watch(self, now: float) -> None:
        """Begin a turn in which timestamps come with the datagrams."""
        if not self._is_watched:
            self._owner.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE)
            self._is_watched = True
            self.watch_from = -math.inf
        self._now = now
        self._limit.look_again(now)

    def is_old(self, ancillary: Ancillary) -> bool:
        """Tell whether a datagram that was just taken waited too long, and count it.

        Its timestamp, if it has one, comes before other ancillary data.
        """
        if not ancillary or ancillary[0][:2] != (socket.SOL_SOCKET, _SO_TIMESTAMPING):
            return False  # it arrived before the kernel noted when
        seconds, nanoseconds = _STAMP.unpack_from(ancillary[0][2])
        age = self._limit.age(seconds + nanoseconds * 1e-9, self._empty_at)
        is_old = self._limit.is_over(age)
        is_tight = self._bytes < self._full_bytes and age < TIGHT * self._limit.limit_s
        if (is_old or is_tight) and self._now >= self._resize_at:
            self._fit(age, is_old)
        if is_old:
            self._count()
        else:
            self.fresh_until = self._limit.fresh_until(age)
        return is_old

    def emptied(self, now: float) -> None:
        """Note that nothing waits any more in a turn that began at `now`."""
        if self._is_watched:
            is_again = now - self._empty_at <= self._half_s
            if is_again and self._bytes < self._full_bytes and now >= self._resize_at:
                self._resize_at = now + self._limit.limit_s
                self._set_bytes(min(int(GROWTH * self._bytes), self._full_bytes))
            if not is_again or self._bytes < self._full_bytes:
                self._empty_at = now
                return
            self._is_watched = False
            self._owner.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE)
        self._empty_at = now
        self.watch_from = now + self._half_s

    def no_room(self) -> int:
        """Count the datagrams that the kernel dropped since the socket was opened: no room, or a wrong checksum."""
        return self._memory()[-1]

    def _fit(self, age: float, is_old: bool) -> None:
        """Make the buffer as large as what userspace reads within the limit: what is in it came within `age`."""
        self._resize_at = self._now + self._limit.limit_s
        wanted = self._full_bytes
        if age > 0.0:
            wanted = int(self._memory()[0] / _OVERHEAD * FILL * self._limit.limit_s / age)
        if not is_old:
            wanted = max(wanted, self._bytes)
        self._set_bytes(min(max(wanted, MIN_BYTES), self._full_bytes))

    def _set_bytes(self, wanted: int) -> None:
        if wanted != self._bytes:
            self._resize(self._owner, wanted)
            self._bytes = wanted

    def _memory(self) -> tuple[int, ...]:
        return _MEMORY.unpack(self._owner.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size))

    def _count(self) -> None:
        limit = self._limit
        limit.dropped += 1
        if is_worth_a_line(limit.dropped):
            log.warning(
                "userspace does not keep up: packets dropped because they waited longer than %.0f ms: %d",
                1000 * limit.limit_s,
                limit.dropped,
            )
