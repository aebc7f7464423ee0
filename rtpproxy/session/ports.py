"""Allocation of RTP ports: which are free, and the order in which they are tried (protocol.md 7.1, 16 item 5)."""

import random
from array import array
from collections.abc import Collection, Iterator

_FREE = b"\x00"
_TAKEN = 1


class PortAllocator:
    """The even RTP ports from `first` to `last`, walked cyclically in a fixed order.

    A walk starts after the port taken last, so a port that was just freed is offered last. The caller opens a
    candidate, goes on to the next one where the port is busy, and takes the one that it could open. A pair with a port
    in `exclude` is never offered.
    """

    __slots__ = ("_first", "_last_taken", "_order", "_positions", "_taken", "taken")

    def __init__(
        self, first: int, last: int, is_sequential: bool, seed: random.Random, exclude: Collection[int] = ()
    ) -> None:
        ports = list(range(first, last + 1, 2))
        if not is_sequential:
            seed.shuffle(ports)
        self._first = first
        self._order = array("H", ports)
        # The place of a port in the order, by its distance from the first port in pairs.
        self._positions = array("H", bytes(2 * len(ports)))
        for position, port in enumerate(ports):
            self._positions[(port - first) // 2] = position
        # One byte for each place: the next free one is found at the speed of memchr.
        self._taken = bytearray(len(ports))
        self._last_taken = len(ports) - 1
        self.taken = 0
        """Pairs in use."""
        for number in exclude:
            if first <= number <= last + 1:
                self._taken[self._position(number)] = _TAKEN

    def candidates(self, after: int | None = None) -> Iterator[int]:
        """Iterate over the free RTP ports in the order to try them, each at most once.

        The walk starts after the RTP port `after`, or after the one that was taken last.
        """
        before = self._last_taken if after is None else self._position(after)
        for start, end in ((before + 1, len(self._order)), (0, before + 1)):
            position = self._taken.find(_FREE, start, end)
            while position >= 0:
                yield self._order[position]
                position = self._taken.find(_FREE, position + 1, end)

    def next_free(self) -> int | None:
        """The first candidate, or None when there is none."""
        return next(self.candidates(), None)

    def take(self, port: int) -> None:
        """Mark an RTP port as in use. Raises ValueError if it is in use already, or excluded."""
        position = self._position(port)
        if self._taken[position]:
            raise ValueError(f"port {port} is taken")
        self._taken[position] = _TAKEN
        self._last_taken = position
        self.taken += 1

    def release(self, port: int) -> None:
        """Make a taken RTP port free again. Raises ValueError if it is free."""
        position = self._position(port)
        if not self._taken[position]:
            raise ValueError(f"port {port} is free")
        self._taken[position] = 0
        self.taken -= 1

    def _position(self, port: int) -> int:
        """The place in the order of the pair that a port, RTP or RTCP, belongs to."""
        index = (port - self._first) // 2
        if not 0 <= index < len(self._positions):
            raise ValueError(f"port {port} is not in the range")
        return self._positions[index]
