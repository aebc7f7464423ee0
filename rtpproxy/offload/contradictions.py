"""Notices streams whose packets reach userspace although the kernel has an entry for them. Pure.

A few packets do so at any time: those that were on their way when the entry went in, and those that a program leaves to
userspace for a reason that it counts. A stream contradicts its entry when its packets keep coming up while the kernel's
count of it stands still. Times are seconds, monotonic.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

PACKETS = 3
"""So many packets must have come up since the kernel's count moved last."""
LONG_S = 0.5
"""The first of them must have come up so long ago. With a check every second, that is noticed within 2 s."""


@dataclass(slots=True)
class _Noted:
    """Packets of a port that came up since the kernel's count of it moved."""

    forwarded: int
    """The kernel's count at the first of them."""
    since: float
    packets: int = 1
    checked: int = 0
    """How many of the packets an earlier check has seen."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a check found, as keys of ports."""

    began: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()
    packets: int = 0
    """Packets that came up since the last check, of streams in contradiction."""


class Contradictions:
    """Compares packets that came up with what the kernel counted. Ports come as keys."""

    def __init__(self, forwarded: Callable[[int], int]) -> None:
        """`forwarded` reads the kernel's count of packets forwarded from a port."""
        self._forwarded = forwarded
        self._noted: dict[int, _Noted] = {}
        self._keys: set[int] = set()

    def __contains__(self, key: int) -> bool:
        """Tell if a port's stream contradicts its entry, by the last check."""
        return key in self._keys

    def __len__(self) -> int:
        """Count the streams in contradiction."""
        return len(self._keys)

    def __iter__(self) -> Iterator[int]:
        """Go over the ports whose streams contradict their entries."""
        return iter(self._keys)

    def came_up(self, key: int, now: float) -> None:
        """Note a packet in userspace that the entry of its port matches."""
        noted = self._noted.get(key)
        if noted is None:
            self._noted[key] = _Noted(self._forwarded(key), now)
        else:
            noted.packets += 1

    def forget(self, key: int) -> bool:
        """Begin anew with a port whose entry came, changed or went. Returns if its stream was in contradiction."""
        self._noted.pop(key, None)
        is_known = key in self._keys
        self._keys.discard(key)
        return is_known

    def check(self, now: float) -> Changes:
        """Find the contradictions that began and ended. To be called every second."""
        began, ended, packets = [], [], 0
        for key, noted in list(self._noted.items()):
            if self._forwarded(key) != noted.forwarded:
                del self._noted[key]
                if key in self._keys:
                    self._keys.discard(key)
                    ended.append(key)
                continue
            if key not in self._keys and noted.packets >= PACKETS and now - noted.since >= LONG_S:
                self._keys.add(key)
                began.append(key)
            if key in self._keys:
                packets += noted.packets - noted.checked
            noted.checked = noted.packets
        return Changes(tuple(began), tuple(ended), packets)
