"""The receive buffer of a media socket, where datagrams wait for userspace, kept from holding old ones.

While userspace finds the buffer empty again and again, nothing in it can be old, and nothing more is done. When that
was longer ago than half the limit, the kernel is asked when datagrams arrived (it notes that anyhow), and those that
waited too long are dropped. Reading and dropping one takes a sixth of the time of relaying it, which is too much where
far more arrives than can be relayed. So where there are old ones again after the time of the limit, the buffer is made
as small as what userspace reads within the limit. The kernel then drops the excess on arrival, which takes userspace no
time. Once a turn leaves nothing, and found nothing that had waited for half the limit, the buffer grows again. (A
buffer that is too small is found empty. While none is, userspace has no idle time.)
"""

import contextlib
import fcntl
import logging
import math
import socket
import struct
from collections.abc import Callable

from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

FILL = 0.85
"""Share of the limit within which a full buffer should be read: the rest is for the unevenness of processor time."""
GROWTH = 2
"""A buffer that was made smaller grows by this factor, at most once within the limit."""
LASTING = 5
"""Old datagrams are of one overload if no more time than so many limits is between them. One pause of a busy machine
makes some old, too, but for no longer than the limit: the buffer stays as large as it is then."""
MIN_BYTES = 2 << 10
"""A buffer is made no smaller than this, which is room for one to five datagrams, as drivers make them."""
SLACK_S = 0.005
"""A datagram may be this much older before it is looked at. Looking takes a quarter of the time of relaying one: where
all have waited for just the limit and each was looked at, so much less could be relayed."""

_SIOCGSTAMPNS = 0x8907
"""Asks for the timestamp of the datagram that was taken last, and has the kernel note those of the next (socket(7)).
That takes 800 ns, and nothing where nobody asks. Timestamps that come with the datagrams (SO_TIMESTAMPING) take 170 ns,
wanted or not."""
_STAMP = struct.Struct("@ll")
"""Seconds and nanoseconds."""
_ROOM = bytearray(_STAMP.size)
"""What a stamp is put into; the kernel is asked in half the time if this may be written to."""
_NS_PER_S = 1_000_000_000
_SO_MEMINFO = 55
_MEMORY = struct.Struct("@9I")
"""Among them, first: bytes queued, with the kernel's own data; last: datagrams for which there was no room, or whose
checksum was wrong (linux/sock_diag.h)."""
_OVERHEAD = 2
"""The kernel makes room for twice as many bytes as it is asked for."""


class ReceiveBuffer:
    """The receive buffer of one socket.

    To be told of each turn at the socket that begins later than `watch_from` (`watch`), and when a turn found nothing
    more (`emptied`). In turns that are watched, `is_old` must be asked about what is taken at `fresh_until` or later.
    It and `stamp` are about the datagram that was taken last.
    """

    __slots__ = (
        "_bytes",
        "_descriptor",
        "_empty_at",
        "_full_bytes",
        "_half_s",
        "_is_watched",
        "_limit",
        "_longest_s",
        "_now",
        "_overload_until",
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
        self._descriptor = owner.fileno()
        self._full_bytes = self._bytes = full_bytes
        self._resize = resize
        self._limit = limit
        self._half_s = limit.limit_s / 2
        self._is_watched = False
        self._now = self._empty_at = self._resize_at = limit.clock()
        self._overload_until = -math.inf
        self._longest_s = 0.0
        """The longest time that a datagram of this turn waited."""
        self.watch_from = self._empty_at + self._half_s
        self.fresh_until = 0.0
        """Nothing that is taken before is old: datagrams are taken in the order in which they arrived."""
        resize(owner, full_bytes)
        if limit.is_noted:
            with contextlib.suppress(FileNotFoundError):  # nothing was taken yet; the kernel notes from now on
                self.stamp_ns()

    def watch(self, now: float) -> None:
        """Begin a turn in which datagrams are looked at for their age."""
        self._is_watched = True
        self.watch_from = -math.inf
        self._now = now
        self._longest_s = self.fresh_until = 0.0
        self._limit.look_again(now)

    def stamp_ns(self) -> int:
        """Return when the kernel noted the datagram, in nanoseconds since 1970; now, if it did not note that yet."""
        fcntl.ioctl(self._descriptor, _SIOCGSTAMPNS, _ROOM)
        seconds, nanoseconds = _STAMP.unpack(_ROOM)
        noted_ns: int = seconds * _NS_PER_S + nanoseconds
        return noted_ns

    def stamp(self) -> tuple[int, float]:
        """Return when the kernel noted the datagram, and a time when the buffer was empty: monotonic, in seconds."""
        return self.stamp_ns(), self._empty_at

    def is_old(self) -> bool:
        """Tell whether the datagram waited too long, and count it."""
        age = self._limit.age(self.stamp_ns() * 1e-9, self._empty_at)
        self._longest_s = max(self._longest_s, age)
        if not self._limit.is_over(age):
            self.fresh_until = self._limit.fresh_until(age, SLACK_S)
            return False
        self._count()
        if self._now > self._overload_until:
            self._resize_at = self._now + self._limit.limit_s
        elif self._now >= self._resize_at:
            self._fit(age)
        self._overload_until = self._now + LASTING * self._limit.limit_s
        return True

    def emptied(self, now: float) -> None:
        """Note that nothing waits any more in a turn that began at `now`."""
        is_again = now - self._empty_at <= self._half_s
        self._empty_at = now
        if self._bytes < self._full_bytes:
            if self._longest_s <= self._half_s and now >= self._resize_at:
                self._set_bytes(GROWTH * self._bytes)
            return
        if self._is_watched:
            if not is_again:
                return
            self._is_watched = False
        self.watch_from = now + self._half_s

    def no_room(self) -> int:
        """Count the datagrams that the kernel dropped since the socket was opened: no room, or a wrong checksum."""
        return self._memory()[-1]

    def _fit(self, age: float) -> None:
        """Make the buffer as large as what userspace reads within the limit: what is in it came within `age`."""
        self._set_bytes(int(self._memory()[0] / _OVERHEAD * FILL * self._limit.limit_s / age))

    def _set_bytes(self, wanted: int) -> None:
        self._bytes = min(max(wanted, MIN_BYTES), self._full_bytes)
        self._resize(self._owner, self._bytes)
        self._resize_at = self._now + self._limit.limit_s

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
