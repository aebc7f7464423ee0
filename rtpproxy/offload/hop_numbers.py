"""Gives out the numbers of next hop rows, and none again while an entry may still name it. Pure.

An entry that named a number of another neighbour would send a call's media to a stranger. So a number returns only when
no route uses it and no row of the port table names it, by what was really written there: whatever error came between.
"""

from collections.abc import Iterable


class HopNumbers:
    """Numbers from 0 to the capacity of the table. Ports come as keys."""

    def __init__(self, capacity: int) -> None:
        self._free = list(range(capacity - 1, -1, -1))
        self._in_use: set[int] = set()
        """Of rows that routes use."""
        self._by_key: dict[int, tuple[int, ...]] = {}
        """What the row of a port may name: one number, or two after a change that failed."""
        self._names: dict[int, int] = {}
        """How many rows of ports may name a number."""

    def take(self) -> int | None:
        """Give out a number; None when there is none left."""
        if not self._free:
            return None
        number = self._free.pop()
        self._in_use.add(number)
        return number

    def give_back(self, number: int) -> None:
        """Note that no route uses a number any more. It is free as soon as no row of a port names it."""
        self._in_use.remove(number)
        self._free_if_unused(number)

    def is_named_by(self, key: int) -> bool:
        """True if the row of a port may name a number."""
        return key in self._by_key

    def start_naming(self, key: int, number: int) -> None:
        """Note that the row of a port is about to be written, and may name a number from now on."""
        named = self._by_key.get(key, ())
        if number not in named:
            self._by_key[key] = (*named, number)
            self._names[number] = self._names.get(number, 0) + 1

    def named(self, key: int, number: int) -> None:
        """Note that the row of a port was written, and names this number alone."""
        before = self._by_key[key]
        self._by_key[key] = (number,)
        self._forget(other for other in before if other != number)

    def unnamed(self, key: int) -> None:
        """Note that the row of a port names no number any more."""
        self._forget(self._by_key.pop(key, ()))

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._names[number] -= 1
            if not self._names[number]:
                del self._names[number]
                self._free_if_unused(number)

    def _free_if_unused(self, number: int) -> None:
        if number not in self._in_use and number not in self._names:
            self._free.append(number)
