"""Holds the layout of each map's keys and values, as the compiled C header has it, and one fingerprint of them all.

Knows alone how numbers become bytes of a map; `maps` reads and writes by it. An array is given as its bytes in memory;
where its elements are in network order, these are the bytes that an address or a tag has on the wire (`network_order`).
"""

import hashlib
import json
import struct
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

NUMBER = ""
"""Name of the member of a key or a value that is one number, not a struct."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a struct, or of one number."""

    members: dict[str, tuple[str, int]]
    """Member to its form (a format character of `struct`, or `Ns` for an array of N bytes) and its offset in bytes."""
    size: int
    """Bytes."""

    def offset(self, member: str) -> int:
        """Offset of a member, in bytes."""
        return self.members[member][1]

    def member_bytes(self, member: str) -> int:
        """The size of a member."""
        return struct.calcsize("=" + self.members[member][0])

    def packer(self, *members: str) -> struct.Struct:
        """Make a struct of members, given in the order of their offsets; gaps are padding. It starts at the first."""
        form, position = "=", self.offset(members[0])
        for name in members:
            kind, offset = self.members[name]
            form += f"{offset - position}x{kind}"
            position = offset + self.member_bytes(name)
        return struct.Struct(form)

    def pack(self, members: Mapping[str, int | bytes]) -> bytes:
        """Pack members; those that are not given become 0. Raises KeyError for one that does not exist."""
        packed = bytearray(self.size)
        for name, value in members.items():
            form, offset = self.members[name]
            if isinstance(value, bytes) and len(value) > self.member_bytes(name):
                raise ValueError(f"{name} has {self.member_bytes(name)} bytes, not {len(value)}")
            struct.pack_into("=" + form, packed, offset, value)
        return bytes(packed)

    def pack_number(self, value: int) -> bytes:
        """The bytes of a key or a value that is one number."""
        return self.pack({NUMBER: value})

    def unpack(self, data: bytes) -> dict[str, int | bytes]:
        """All members."""
        return {name: struct.unpack_from("=" + form, data, offset)[0] for name, (form, offset) in self.members.items()}


class BitRing:
    """Layout of a set of numbers in an array: bit n % `bits` for number n."""

    def __init__(self, size_bytes: int) -> None:
        self._bytes = size_bytes
        self.bits = 8 * size_bytes
        self.empty = bytes(size_bytes)

    def pack(self, numbers: Collection[int]) -> bytes:
        """All bytes of the array."""
        word = 0
        for number in numbers:
            word |= 1 << number % self.bits
        return word.to_bytes(self._bytes, "little")

    def unpack(self, data: bytes, first: int, last: int) -> frozenset[int]:
        """Those of the numbers from `first` to `last` whose bits are set."""
        word = int.from_bytes(data, "little")
        if not word:
            return frozenset()
        return frozenset(number for number in range(first, last + 1) if word >> number % self.bits & 1)


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Layout of a map. Of a per-CPU map, `value` is that of one CPU."""

    key: Layout
    value: Layout
    entries: int
    """Number of elements that it has room for."""


def fingerprint(layouts: Mapping[str, MapLayout], geometry: Mapping[str, str]) -> str:
    """Sixteen characters that are equal for maps whose contents mean the same.

    They cover name, offset and size of every member of every key and value, the entries of every map, and `geometry`:
    the macros that tell which row belongs to which port.
    """
    maps = {name: asdict(layout) for name, layout in layouts.items()}
    told = {"maps": maps, "geometry": dict(geometry), "order": _ORDER}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


_ORDER = "every second port"
"""Order of the rows of a port space; part of the fingerprint."""


class ByPort:
    """Tables with a row for each media port of every port space: every second port first, then the others.

    So the RTP ports of all calls lie together (`row_of` in `bpf/maps.h`).
    """

    def __init__(self, first_port: int, last_port: int) -> None:
        self._first, self._span = first_port, last_port + 1 - first_port
        self._half = (self._span + 1) // 2

    def row(self, key: int) -> int:
        """The row of a port, given as a key that also tells its port space (`session.local`)."""
        offset = (key & 0xFFFF) - self._first
        return (key >> 16) * self._span + (self._half if offset & 1 else 0) + (offset >> 1)
